"""Metrics against Keras: three batches, with and without sample weights, the result after each."""

import inspect
import re

import jax
import keras
import numpy as np
import pytest
from oracle import as_keras, close, disagreements, numbers

from minicnn import metrics

BATCHES, N, K = 3, 8, 4


def data(kind):
    """(y_true, y_pred) of all batches, each (batches, n, ...)."""
    logits = 2 * numbers(BATCHES, N, K)
    labels = np.random.default_rng(1).integers(0, K, (BATCHES, N))
    one_hot = np.eye(K, dtype=np.float32)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    probabilities = numbers(BATCHES, N, K, seed=2, low=0, high=1)
    # some predictions lie exactly on thresholds: 0.5 is not above 0.5
    probabilities[:, ::3, 0] = 0.5
    return {
        "numbers": (numbers(BATCHES, N, K, seed=3), numbers(BATCHES, N, K, seed=4)),
        "positive": (
            numbers(BATCHES, N, K, seed=3, low=0.1, high=2),
            numbers(BATCHES, N, K, seed=4, low=0.1, high=2),
        ),
        "classes": (one_hot, shares),
        "class logits": (one_hot, logits),
        "labels": (labels, shares),
        "labels in a column": (labels[..., None], shares),
        "label logits": (labels, logits),
        "sorted labels": (labels, np.argsort(-logits, axis=-1)),
        "equal labels": (labels % 2, labels // 2),
        "yes or no": (labels[..., None] > 1, probabilities[..., :1]),
        "flat yes or no": (labels > 1, probabilities[..., 0]),
        "several yes or no": (probabilities[::-1] > 0.4, probabilities),
        "yes or no logits": (one_hot, logits),
        "signs": (np.sign(logits), numbers(BATCHES, N, K, seed=6)),
        "pixels": (labels.reshape(BATCHES, 2, 2, 2), shares.reshape(BATCHES, 2, 2, 2, K)),
    }[kind]


CASES = [
    ("Accuracy", {}, "equal labels"),
    ("BinaryAccuracy", {}, "yes or no"),
    ("BinaryAccuracy", dict(threshold=0.3), "several yes or no"),
    ("CategoricalAccuracy", {}, "classes"),
    ("SparseCategoricalAccuracy", {}, "labels"),
    ("SparseCategoricalAccuracy", {}, "labels in a column"),
    ("SparseCategoricalAccuracy", {}, "pixels"),
    ("TopKCategoricalAccuracy", dict(k=2), "classes"),
    ("SparseTopKCategoricalAccuracy", dict(k=3), "labels"),
    ("SparseTopKCategoricalAccuracy", dict(k=2, from_sorted_ids=True), "sorted labels"),
    ("TruePositives", {}, "yes or no"),
    ("FalsePositives", dict(thresholds=[0.2, 0.5, 0.7]), "several yes or no"),
    ("TrueNegatives", dict(thresholds=0.3), "several yes or no"),
    ("FalseNegatives", {}, "flat yes or no"),
    ("Precision", {}, "yes or no"),
    ("Precision", dict(thresholds=[0.2, 0.5, 0.7]), "several yes or no"),
    ("Precision", dict(top_k=2), "classes"),
    ("Precision", dict(class_id=1), "classes"),
    ("Recall", {}, "several yes or no"),
    ("Recall", dict(top_k=2, class_id=3), "classes"),
    ("AUC", {}, "yes or no"),
    ("AUC", dict(curve="PR", num_thresholds=20), "several yes or no"),
    ("AUC", dict(curve="PR", summation_method="minoring"), "yes or no"),
    ("AUC", dict(summation_method="majoring", thresholds=[0.1, 0.5, 0.6]), "yes or no"),
    ("AUC", dict(multi_label=True, num_labels=K), "several yes or no"),
    (
        "AUC",
        dict(multi_label=True, num_labels=K, label_weights=[1.0, 2.0, 0.5, 1.0]),
        "several yes or no",
    ),
    ("AUC", dict(from_logits=True), "yes or no logits"),
    ("F1Score", {}, "classes"),
    ("F1Score", dict(average="macro", threshold=0.4), "several yes or no"),
    ("FBetaScore", dict(beta=2.0, average="weighted"), "classes"),
    ("FBetaScore", dict(beta=0.5, average="micro"), "classes"),
    ("MeanSquaredError", {}, "numbers"),
    ("RootMeanSquaredError", {}, "numbers"),
    ("MeanAbsoluteError", {}, "numbers"),
    ("MeanAbsolutePercentageError", {}, "positive"),
    ("MeanSquaredLogarithmicError", {}, "positive"),
    ("LogCoshError", {}, "numbers"),
    ("CosineSimilarity", {}, "numbers"),
    ("Poisson", {}, "positive"),
    ("KLDivergence", {}, "classes"),
    ("Hinge", {}, "signs"),
    ("SquaredHinge", {}, "signs"),
    ("CategoricalHinge", {}, "classes"),
    ("BinaryCrossentropy", dict(label_smoothing=0.1), "several yes or no"),
    ("BinaryCrossentropy", dict(from_logits=True), "yes or no logits"),
    ("CategoricalCrossentropy", {}, "classes"),
    ("CategoricalCrossentropy", dict(from_logits=True, label_smoothing=0.1), "class logits"),
    ("SparseCategoricalCrossentropy", {}, "labels"),
    ("SparseCategoricalCrossentropy", dict(ignore_class=1), "labels"),
    ("R2Score", {}, "numbers"),
    ("R2Score", dict(class_aggregation="variance_weighted_average"), "numbers"),
    ("R2Score", dict(class_aggregation=None, num_regressors=2), "numbers"),
]
# Arguments that Keras takes and its get_config forgets.
LEFT_OUT_BY_KERAS = {
    "CosineSimilarity": {"axis"},
    "SparseTopKCategoricalAccuracy": {"from_sorted_ids"},
}

each_case = pytest.mark.parametrize(
    ("name", "options", "kind"), CASES, ids=[f"{n}-{d}-{o}" for n, o, d in CASES]
)


def results(metric, batches, weights):
    """Ours after each batch."""
    metric.reset_state()
    found = []
    for i in range(BATCHES):
        y_true, y_pred = (part[i] for part in batches)
        metric.update_state(y_true, y_pred, None if weights is None else weights[i])
        found.append(metric.result())
    return found


@each_case
def test_metric(name, options, kind):
    batches = data(kind)
    weights = numbers(BATCHES, *batches[0].shape[1:2], seed=9, low=0.1, high=2)
    if kind == "pixels":
        weights = numbers(BATCHES, 2, 2, 2, seed=9, low=0.1, high=2)
    ours = getattr(metrics, name)(**options)
    theirs = getattr(keras.metrics, name)(**options)
    assert ours.name == re.sub(r"_\d+$", "", theirs.name)  # Keras numbers some of its metrics
    if hasattr(theirs, "_build"):  # its variables are made by the first batch
        theirs.update_state(batches[0][0], batches[1][0])
        theirs.reset_state()
    start = [v.value for v in theirs.variables]
    no_weights = None
    if "ignore_class" in options:
        # Without weights Keras divides by the number of all samples, with weights by the weights
        # of those that are not ignored, as we do in either case.
        no_weights = np.ones_like(weights)

    def keras_step(state, y_true, y_pred, weight):
        state = theirs.stateless_update_state(state, y_true, y_pred, weight)
        return state, theirs.stateless_result(state)

    if name != "R2Score":  # which looks at its values
        keras_step = jax.jit(keras_step)
    expected = []
    for series in (no_weights, weights):
        state = start
        for i in range(BATCHES):
            weight = None if series is None else series[i]
            state, result = keras_step(state, batches[0][i], batches[1][i], weight)
            expected.append(result)
    values = results(ours, batches, None) + results(ours, batches, weights)
    for i, (value, expected_value) in enumerate(zip(values, expected, strict=True)):
        close(value, expected_value, what=f"batch {i % BATCHES}, weights {i >= BATCHES}")


@each_case
def test_config_is_read_by_keras(name, options, kind):
    config = getattr(metrics, name)(**options).get_config()
    theirs = getattr(keras.metrics, name).from_config(as_keras(config))
    found = disagreements(config, theirs.get_config())
    assert set(found) <= LEFT_OUT_BY_KERAS.get(name, set())


@pytest.mark.parametrize("name", ["Mean", "Sum"])
@pytest.mark.parametrize("shape", [(), (5,), (5, 3)])
def test_reductions(name, shape):
    ours, theirs = getattr(metrics, name)(), getattr(keras.metrics, name)()
    for i in range(2):
        values = numbers(*shape, seed=i)
        weights = numbers(*shape[:1], seed=10 + i, low=0, high=2)
        for metric in (ours, theirs):
            metric.update_state(values, weights)
        close(ours.result(), theirs.result())


def test_wrapped_functions():
    def largest(y_true, y_pred):
        return abs(y_true - y_pred).max(axis=-1)

    ours = metrics.MeanMetricWrapper(largest, name="largest")
    theirs = keras.metrics.MeanMetricWrapper(largest, name="largest")
    y_true, y_pred = data("numbers")
    for metric in (ours, theirs):
        metric.update_state(y_true[0], y_pred[0], sample_weight=np.arange(N, dtype=np.float32))
    assert ours.name == theirs.name
    close(ours.result(), theirs.result())


@pytest.mark.parametrize(
    "identifier",
    ["mse", "MSE", "mae", "mape", "msle", "binary_accuracy", "categorical_accuracy", "auc", "AUC"]
    + ["sparse_categorical_accuracy", "top_k_categorical_accuracy", "Precision", "precision"]
    + ["Recall", "recall", "mean_squared_error", "cosine_similarity", "hinge", "f1_score"]
    + ["categorical_crossentropy", "binary_crossentropy", "kl_divergence", "poisson"]
    + ["root_mean_squared_error", "r2_score", "true_positives", "MeanSquaredError"],
)
def test_names(identifier):
    """A name stands for the same metric in both libraries."""
    theirs = keras.metrics.get(identifier)
    if isinstance(theirs, keras.metrics.Metric):
        assert type(metrics.get(identifier)).__name__ == type(theirs).__name__
    else:  # a function
        y_true, y_pred = (part[0] for part in data("classes"))
        ours = metrics.get(identifier)
        ours.update_state(y_true, y_pred)
        close(ours.result(), np.mean(theirs(y_true, y_pred)))


def functions():
    names = [f.__name__ for f in metrics.base.functions if hasattr(keras.metrics, f.__name__)]
    return sorted(set(names))


@pytest.mark.parametrize("name", functions())
def test_function(name):
    kind = "labels" if name.startswith("sparse") else "classes"
    y_true, y_pred = (part[0] for part in data(kind))
    options = {"k": 2} if "top_k" in name else {}
    ours, theirs = getattr(metrics, name), getattr(keras.metrics, name)
    close(ours(y_true, y_pred, **options), theirs(y_true, y_pred, **options))


def test_every_metric_is_compared():
    ours = {
        name
        for name in metrics.__all__
        if inspect.isclass(getattr(metrics, name)) and hasattr(keras.metrics, name)
    }
    assert ours - {name for name, _, _ in CASES} == {"Mean", "Sum", "Metric", "MeanMetricWrapper"}
