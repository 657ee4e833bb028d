"""Metrics against numbers of Keras, hand computations, and definitions written out as loops."""

import math

import numpy as np
import pytest

from minicnn import losses, metrics

Y = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 1]], np.float32)
P = np.array([[0.1, 0.6, 0.3], [0.8, 0.1, 0.4], [0.35, 0.5, 0.9], [0.2, 0.7, 0.65]], np.float32)
W = np.array([1.0, 2.0, 0.5, 0.25])

# Metric, options, and the result without and with sample weights W, from Keras 3.15.
KERAS = [
    ("AUC", {}, 0.8, 0.955466),
    ("AUC", {"curve": "PR"}, 0.833803, 0.958631),
    ("AUC", {"curve": "PR", "summation_method": "minoring"}, 0.673809, 0.876445),
    ("AUC", {"num_thresholds": 5, "summation_method": "majoring"}, 0.857143, 0.965587),
    ("AUC", {"multi_label": True}, 0.75, 0.950617),
    ("AUC", {"curve": "PRGAIN"}, 0.625889, 0.910488),
    ("Precision", {}, 0.8, 0.9375),
    ("Precision", {"thresholds": [0.6, 0.3]}, [0.75, 0.75], [0.916667, 0.892857]),
    ("Precision", {"top_k": 2}, 0.75, 0.833333),
    ("Recall", {}, 0.571429, 0.576923),
    ("Recall", {"class_id": 2, "thresholds": 0.65}, 0.333333, 0.181818),
    ("TruePositives", {}, 4.0, 3.75),
    ("FalsePositives", {"thresholds": [0.2, 0.4]}, [3.0, 1.0], [1.75, 0.25]),
    ("TrueNegatives", {}, 4.0, 4.5),
    ("FalseNegatives", {}, 3.0, 2.75),
    ("F1Score", {"threshold": 0.5}, [0.666667, 0.5, 0.8], [0.941176, 0.727273, 0.428571]),
    ("F1Score", {"average": "macro"}, 0.555556, 0.658714),
    ("FBetaScore", {"average": "weighted", "beta": 2.0, "threshold": 0.5}, 0.60771, 0.608861),
    ("R2Score", {}, 0.166944, 0.342014),
    ("RootMeanSquaredError", {}, 0.438273, 0.375278),
    ("CosineSimilarity", {}, 0.838416, 0.901176),
    ("LogCoshError", {}, 0.0904574, 0.0670546),
]


@pytest.mark.parametrize(("name", "options", "plain", "weighted"), KERAS)
def test_values_of_keras_in_one_batch_or_several(name, options, plain, weighted):
    for weights, expected in ((None, plain), (W, weighted)):
        metric = getattr(metrics, name)(**options)
        for cut in (slice(0, 4), slice(0, 1), slice(1, 4)):  # the first is reset away
            if cut.stop == 1:
                once = metric.result()
                metric.reset_state()
            metric.update_state(Y[cut], P[cut], None if weights is None else weights[cut])
        np.testing.assert_allclose(metric.result(), expected, rtol=2e-5)
        np.testing.assert_allclose(metric.result(), once, rtol=1e-12)
        assert type(metric.result()) is (np.ndarray if isinstance(plain, list) else float)


LOSSES = {
    "MeanSquaredError": losses.MeanSquaredError,
    "MeanAbsoluteError": losses.MeanAbsoluteError,
    "MeanAbsolutePercentageError": losses.MeanAbsolutePercentageError,
    "MeanSquaredLogarithmicError": losses.MeanSquaredLogarithmicError,
    "LogCoshError": losses.LogCosh,
    "Hinge": losses.Hinge,
    "SquaredHinge": losses.SquaredHinge,
    "CategoricalHinge": losses.CategoricalHinge,
    "KLDivergence": losses.KLDivergence,
    "Poisson": losses.Poisson,
    "BinaryCrossentropy": losses.BinaryCrossentropy,
    "CategoricalCrossentropy": losses.CategoricalCrossentropy,
    "SparseCategoricalCrossentropy": losses.SparseCategoricalCrossentropy,
}


@pytest.mark.parametrize(("name", "loss"), LOSSES.items())
def test_metrics_that_average_a_loss(name, loss):
    y = np.array([1, 0, 2, 1]) if name.startswith("Sparse") else Y
    metric = getattr(metrics, name)()
    metric.update_state(y[:3], P[:3])
    metric.update_state(y[3:], P[3:])
    assert metric.result() == pytest.approx(loss()(y, P), rel=1e-12)
    metric.reset_state()
    metric.update_state(y, P, W)
    expected = loss(reduction="mean_with_sample_weight")(y, P, W)
    assert metric.result() == pytest.approx(expected, rel=1e-12)


def test_crossentropy_options_and_ignored_class():
    x, y = np.log(P), np.array([1, 0, 2, 1])
    metric = metrics.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
    metric.update_state(y, x)
    expected = losses.SparseCategoricalCrossentropy(True, ignore_class=2)(y, x)
    assert metric.result() == pytest.approx(expected, rel=1e-12)
    metric = metrics.BinaryCrossentropy(from_logits=True, label_smoothing=0.2)
    metric.update_state(Y, x)
    assert metric.result() == pytest.approx(losses.BinaryCrossentropy(True, 0.2)(Y, x))


# -- means and accuracies --------------------------------------------------------------------------


def test_mean_and_sum():
    mean, total = metrics.Mean(), metrics.Sum()
    assert mean.result() == 0 and total.result() == 0
    for metric in (mean, total):
        metric.update_state([1.0, 2.0, 6.0])
        metric.update_state(4.0, 3)
        metric.update_state([8.0, 100.0], sample_weight=[1, 0])
    assert mean.result() == pytest.approx((9 + 12 + 8) / (3 + 3 + 1))
    assert total.result() == 29
    assert mean([[1.0, 3.0]]) == pytest.approx((29 + 2) / 8)  # a sample counts once
    mean.reset_state()
    assert mean.result() == 0


def test_sums_are_float64():
    metric = metrics.Mean()
    for _ in range(3):
        metric.update_state(np.full(1_000_000, 0.1, np.float32))
    assert metric.result() == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_accuracies_by_hand():
    scores = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    labels = np.array([0, 2, 1, 2])
    one_hot = np.eye(3)[labels]
    cases = [
        (metrics.SparseCategoricalAccuracy(), labels, scores, [1, 0, 1, 1]),
        (metrics.SparseCategoricalAccuracy(), labels[:, None], scores, [1, 0, 1, 1]),
        (metrics.CategoricalAccuracy(), one_hot, scores, [1, 0, 1, 1]),
        (metrics.TopKCategoricalAccuracy(k=2), one_hot, scores, [1, 1, 1, 1]),
        (metrics.SparseTopKCategoricalAccuracy(k=1), labels, scores, [1, 0, 1, 1]),
        (metrics.SparseTopKCategoricalAccuracy(k=2), 2 - labels, scores, [0, 0, 1, 0]),
        (metrics.BinaryAccuracy(), [0, 1, 1, 0], [0.5, 0.51, 0.2, 0.1], [1, 1, 0, 1]),
        (metrics.BinaryAccuracy(threshold=0.4), [[0], [1], [1], [0]], [[0.5], [0.51], [0.2], [0.1]],
         [0, 1, 0, 1]),
        (metrics.Accuracy(), [1, 2, 3, 4], [1, 2, 0, 4], [1, 1, 0, 1]),
    ]  # fmt: skip
    for metric, y, p, right in cases:
        assert metric(np.array(y), np.array(p)) == np.mean(right)
        metric.reset_state()
        assert metric(np.array(y), np.array(p), W) == pytest.approx(np.sum(W * right) / W.sum())


def test_pixels_count_within_their_sample():
    labels = np.array([[[0, 1], [1, 1]], [[0, 0], [0, 1]]])
    scores = np.stack([0.4 - 0 * labels, np.array([[[0, 1], [0, 1]], [[0, 0], [1, 1]]])], axis=-1)
    metric = metrics.SparseCategoricalAccuracy()
    assert metric(labels, scores) == 0.75
    metric.reset_state()
    assert metric(labels, scores, np.array([3.0, 1.0])) == 0.75
    np.testing.assert_array_equal(
        metrics.sparse_categorical_accuracy(labels, scores), [[[1, 1], [0, 1]], [[1, 1], [0, 1]]]
    )


def test_top_k_from_sorted_ids():
    ranked = np.array([[2, 0, 1], [1, 2, 0]])
    metric = metrics.SparseTopKCategoricalAccuracy(k=2, from_sorted_ids=True)
    assert metric(np.array([0, 0]), ranked) == 0.5


def test_shapes_that_would_broadcast_are_refused():
    for metric, y in [
        (metrics.CategoricalAccuracy(), np.array([1, 0, 2, 1])),
        (metrics.SparseCategoricalAccuracy(), Y),
        (metrics.BinaryAccuracy(), np.ones(4)),
        (metrics.Precision(), np.ones(4)),
        (metrics.MeanSquaredError(), np.ones((4, 1))),
        (metrics.F1Score(), np.ones((4, 1))),
        (metrics.R2Score(), np.ones(4)),
    ]:
        with pytest.raises(ValueError, match=r"\(4,|\(4, [13]\)"):
            metric.update_state(y, P)


NAN_CASES = [
    "BinaryAccuracy", "CategoricalAccuracy", "TopKCategoricalAccuracy", "Precision", "Recall",
    "TruePositives", "AUC", "MeanSquaredError", "RootMeanSquaredError", "BinaryCrossentropy",
    "CategoricalCrossentropy", "R2Score",
]  # fmt: skip


@pytest.mark.parametrize("name", NAN_CASES)
def test_nan_predictions_show(name):
    metric = getattr(metrics, name)()
    bad = P.copy()
    bad[1, 0] = np.nan
    metric.update_state(Y, bad)
    assert np.isnan(metric.result())
    metric.reset_state()
    metric.update_state(Y, P)
    assert np.isfinite(metric.result())


# -- counts ----------------------------------------------------------------------------------------


def count_by_definition(y, p, w, threshold):
    above = p > np.asarray(threshold, p.dtype)
    return [
        np.sum(w[y & above]), np.sum(w[~y & above]), np.sum(w[~y & ~above]), np.sum(w[y & ~above]),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_by_definition(dtype):
    random = np.random.default_rng(5)
    y = random.random((60, 4)) < 0.4
    p = (random.integers(0, 11, (60, 4)) / 10).astype(dtype)  # many lie on a threshold
    w = random.random(60)
    thresholds = [0.7, 0.0, 0.3, 1.0, 0.3]
    names = ["TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives"]
    wide = np.broadcast_to(w[:, None], y.shape)
    for i, name in enumerate(names):
        expected = [count_by_definition(y, p, wide, t)[i] for t in thresholds]
        result = getattr(metrics, name)(thresholds)(y, p, w)
        np.testing.assert_allclose(result, expected, rtol=1e-12)
    tp, fp, tn, fn = (getattr(metrics, name)(0.3)(y, p) for name in names)
    assert metrics.Precision(0.3)(y, p) == tp / (tp + fp)
    assert metrics.Recall(0.3)(y, p) == tp / (tp + fn)
    assert tp + fp + tn + fn == y.size


def test_area_under_the_roc_curve_is_the_share_of_ordered_pairs():
    """Mann and Whitney: the probability that a positive is predicted higher than a negative."""
    random = np.random.default_rng(6)
    y = random.random(300) < 0.4
    p = np.clip(random.integers(0, 150, 300) / 199 + 0.2 * y, 0, 1)
    positive, negative = p[y][:, None], p[~y][None]
    share = np.mean((positive > negative) + 0.5 * (positive == negative))
    thresholds = np.unique(p)
    assert metrics.AUC(thresholds=list(thresholds))(y, p) == pytest.approx(share, rel=1e-12)
    assert metrics.AUC()(y, p) == pytest.approx(share, abs=5e-3)  # 200 thresholds
    assert metrics.AUC()(y, y.astype(float)) == 1
    logits = np.log(np.clip(p, 1e-9, 1 - 1e-9) / (1 - np.clip(p, 1e-9, 1 - 1e-9)))
    assert metrics.AUC(from_logits=True)(y, logits) == pytest.approx(metrics.AUC()(y, p), abs=2e-3)


def test_area_of_several_labels():
    whole = metrics.AUC(multi_label=True, num_labels=3, label_weights=[1.0, 0.0, 3.0])(Y, P)
    single = [metrics.AUC()(Y[:, i], P[:, i]) for i in range(3)]
    assert whole == pytest.approx((single[0] + 3 * single[2]) / 4)
    assert metrics.AUC(multi_label=True)(Y, P) == pytest.approx(np.mean(single))


def test_metrics_without_data():
    for metric in (metrics.Precision(), metrics.Recall(), metrics.AUC(), metrics.AUC(curve="PR")):
        assert metric.result() == 0


def test_confusion_matrix():
    labels, predicted = np.array([0, 1, 2, 2, 1]), np.array([0, 2, 2, 1, 1])
    expected = [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    scores = np.eye(3)[predicted] * 0.8
    for y in (labels, labels[:, None], np.eye(3)[labels]):
        metric = metrics.ConfusionMatrix(3)
        metric.update_state(y[:2], scores[:2])
        metric.update_state(y[2:], scores[2:])
        assert metric.result().dtype == np.int64
        np.testing.assert_array_equal(metric.result(), expected)
    np.testing.assert_array_equal(metrics.ConfusionMatrix(3)(labels, predicted), expected)
    weights = np.array([0.5, 1, 1, 1, 2])
    weighted = metrics.ConfusionMatrix(3)(labels, scores, weights)
    np.testing.assert_array_equal(weighted, [[0.5, 0, 0], [0, 2, 1], [0, 1, 1]])
    binary = metrics.ConfusionMatrix(2)(np.array([0, 1, 1]), np.array([[0.2], [0.9], [0.5]]))
    np.testing.assert_array_equal(binary, [[1, 0], [1, 1]])


def test_f_scores_by_hand():
    # positives at 0.5: [0 1 0] [1 0 0] [0 0 1] [0 1 1]; micro: tp 4, fp 1, fn 3
    precision, recall = 4 / 5, 4 / 7
    micro = metrics.F1Score(average="micro", threshold=0.5)(Y, P)
    assert micro == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-6)
    half = metrics.FBetaScore(average="micro", threshold=0.5, beta=0.5)(Y, P)
    expected = 1.25 * precision * recall / (0.25 * precision + recall)
    assert half == pytest.approx(expected, rel=1e-6)


def test_r2_by_hand():
    t, p = np.array([[1.0], [2.0], [4.0], [5.0]]), np.array([[1.5], [2.0], [3.0], [5.5]])
    plain = 1 - 1.5 / 10
    assert metrics.R2Score()(t, p) == pytest.approx(plain)
    adjusted = metrics.R2Score(num_regressors=1)(t, p)
    assert adjusted == pytest.approx(1 - (1 - plain) * 3 / 2)
    with pytest.warns(UserWarning, match="cannot be adjusted"):
        assert metrics.R2Score(num_regressors=3)(t, p) == pytest.approx(plain)
    several = metrics.R2Score(class_aggregation=None)(np.hstack([t, t]), np.hstack([p, t]))
    np.testing.assert_allclose(several, [plain, 1])


# -- identifiers and configs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifier", "y_shape", "output", "expected"),
    [
        ("accuracy", (9, 1), (None, 1), "BinaryAccuracy"),
        ("acc", (9,), (None, 1), "BinaryAccuracy"),
        ("accuracy", (9,), (None, 4), "SparseCategoricalAccuracy"),
        ("accuracy", (9, 1), (None, 4), "SparseCategoricalAccuracy"),
        ("acc", (9, 4), (None, 4), "CategoricalAccuracy"),
        ("accuracy", (9, 5, 5), (None, 5, 5, 4), "SparseCategoricalAccuracy"),
        ("crossentropy", (9,), (None, 4), "SparseCategoricalCrossentropy"),
        ("ce", (9, 4), (None, 4), "CategoricalCrossentropy"),
        ("ce", (9, 1), (None, 1), "BinaryCrossentropy"),
        ("mse", (9, 4), (None, 4), "MeanSquaredError"),
        ("AUC", (9, 1), (None, 1), "AUC"),
        ("precision", (9, 1), (None, 1), "Precision"),
    ],
)
def test_resolving_names(identifier, y_shape, output, expected):
    metric = metrics.resolve(identifier, y_shape, output, losses.MeanSquaredError())
    assert type(metric).__name__ == expected and metric.name == identifier


def test_resolving_by_the_loss():
    sparse, logits = losses.SparseCategoricalCrossentropy(), losses.CategoricalCrossentropy(True)
    resolved = metrics.resolve("accuracy", None, (None, 4), sparse)
    assert type(resolved) is metrics.SparseCategoricalAccuracy
    resolved = metrics.resolve("accuracy", None, (None, 4), logits)
    assert type(resolved) is metrics.CategoricalAccuracy
    assert metrics.resolve("ce", (9, 4), (None, 4), logits).from_logits
    # a loss that training moved onto logits: the metric still gets probabilities
    assert not metrics.resolve("ce", (9,), (None, 4), sparse.on_logits()).from_logits


def test_functions_losses_and_objects_as_metrics():
    def largest_error(y_true, y_pred):
        return np.max(np.abs(y_true - y_pred), axis=-1)

    metric = metrics.resolve(largest_error, Y.shape, (None, 3))
    assert metric.name == "largest_error"
    assert metric(Y, P) == pytest.approx(np.mean(np.max(np.abs(Y - P), axis=-1)))
    with pytest.raises(ValueError, match="files cannot name"):
        metric.get_config()
    by_loss = metrics.resolve(losses.Huber(delta=0.1), Y.shape, (None, 3))
    assert by_loss.name == "huber_loss" and by_loss(Y, P) == pytest.approx(losses.Huber(0.1)(Y, P))
    own = metrics.Precision(name="mine")
    assert metrics.resolve(own, Y.shape, (None, 3)) is own


@pytest.mark.parametrize("name", sorted(metrics.table.classes))
def test_config_round_trip(name):
    arguments = {
        "ConfusionMatrix": dict(num_classes=3),
        "MeanMetricWrapper": dict(fn=metrics.binary_accuracy, threshold=0.25),
        "AUC": dict(thresholds=[0.2, 0.7], curve="pr", label_weights=[1.0, 2.0]),
        "Precision": dict(thresholds=[0.2, 0.7], top_k=2),
    }
    metric = getattr(metrics, name)(**arguments.get(name, {}), name="mine")
    config = metrics.serialize(metric)
    again = metrics.deserialize(config)
    assert type(again) is type(metric) and again.name == "mine"
    assert metrics.serialize(again) == config


def test_names():
    assert metrics.AUC().name == "auc" and metrics.Precision().name == "precision"
    assert metrics.F1Score().name == "f1_score" and metrics.Mean("loss").name == "loss"
    for alias in ("mse", "MAE", "mape", "msle", "bce", "kld", "logcosh", "fbeta_score", "Recall"):
        assert isinstance(metrics.get(alias), metrics.Metric)
    assert metrics.get(None) is None
    assert metrics.mse is losses.mse


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: metrics.get("accurracy"), "Did you mean 'accuracy'"),
        (lambda: metrics.get(3), "no metric"),
        (lambda: metrics.resolve("mean", (4, 3), (None, 3)), "collects values, not predictions"),
        (lambda: metrics.resolve(metrics.Sum(), (4, 3), (None, 3)), "MeanMetricWrapper"),
        (lambda: metrics.Precision(thresholds=1.5), r"thresholds lie in \[0, 1\]"),
        (lambda: metrics.AUC(curve="ROK"), "Did you mean 'ROC'"),
        (lambda: metrics.AUC(num_thresholds=1), "num_thresholds"),
        (lambda: metrics.AUC(num_labels=3), "multi_label=True"),
        (lambda: metrics.AUC(multi_label=True)(Y[:, 0], P[:, 0]), "samples, labels"),
        (lambda: metrics.AUC(summation_method="middle"), "summation_method is one of"),
        (lambda: metrics.Recall(class_id=1)(Y[:, 0], P[:, 0]), "class_id needs"),
        (lambda: metrics.F1Score(average="mean"), "average is None"),
        (lambda: metrics.FBetaScore(beta=0), "beta is a positive"),
        (lambda: metrics.FBetaScore(threshold=2.0), "threshold is None"),
        (lambda: metrics.R2Score(class_aggregation="sum"), "class_aggregation"),
        (lambda: metrics.R2Score(num_regressors=-1), "num_regressors"),
        (lambda: metrics.BinaryAccuracy(threshold=1.0), "between 0 and 1"),
        (lambda: metrics.ConfusionMatrix(1), "num_classes"),
        (lambda: metrics.ConfusionMatrix(3)(np.array([3]), P[:1]), r"holds 3\.\.3"),
        (lambda: metrics.ConfusionMatrix(3)(np.array([0]), P[:1] * np.nan), "NaN"),
        (lambda: metrics.ConfusionMatrix(3)(np.array([0, 1]), P[:1]), "2 labels, 1 predictions"),
        (lambda: metrics.Metric(), "defines no reset_state"),
        (lambda: metrics.MeanMetricWrapper.from_config({"fn": "os.system"}), "no function of"),
    ],
)
def test_errors(act, message):
    with pytest.raises((ValueError, TypeError), match=message):
        act()


def test_float_counts_are_exact_for_large_data():
    y = np.ones(3_000_000, bool)
    metric = metrics.TruePositives()
    for _ in range(7):
        metric.update_state(y, y.astype(np.float32))
    assert metric.result() == 21_000_000  # float32 would stop at 16,777,216
    assert math.isclose(metrics.Recall()(y, y.astype(np.float32)), 1.0)
