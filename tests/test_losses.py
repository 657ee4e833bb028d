"""Losses: values, hand-written gradients, extreme inputs, and targets that are refused."""

import math
import warnings

import numpy as np
import pytest

from minicnn import losses

T = np.array([[0, 1, 0], [0, 0, 1.0]])
P = np.array([[0.05, 0.9, 0.05], [0.1, 0.7, 0.2]])
X = np.array([[-1.0, 2.0, 0.5], [0.3, -0.2, 1.1]])
B = np.array([[0, 1, 1], [1, 0, 0.0]])
R = np.array([[0.2, 1.3, -0.4], [0.0, 2.0, 0.7]])
C = np.array([1, 2])
W = np.array([0.3, 0.7])

# Loss, options, y_true, y_pred, and the value without and with sample weights W, from Keras 3.15.
CASES = [
    ("CategoricalCrossentropy", {}, T, P, [0.85739921, 0.57910735]),
    ("CategoricalCrossentropy", {"label_smoothing": 0.1}, T, P, [0.94441801, 0.60148221]),
    ("CategoricalCrossentropy", {"from_logits": True}, T, X, [0.39235842, 0.22638863]),
    ("SparseCategoricalCrossentropy", {}, C, P, [0.85739921, 0.57910735]),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, C, X, [0.39235842, 0.22638863]),
    ("SparseCategoricalCrossentropy", {"ignore_class": 2}, C, P, [0.10536052, 0.031608155]),
    ("BinaryCrossentropy", {}, B, P, [1.1470147, 0.59275119]),
    (
        "BinaryCrossentropy",
        {"from_logits": True, "label_smoothing": 0.2},
        B,
        X,
        [0.62401602, 0.35252676],
    ),
    ("BinaryFocalCrossentropy", {}, B, P, [0.86146611, 0.42270426]),
    (
        "BinaryFocalCrossentropy",
        {"apply_class_balancing": True, "from_logits": True},
        B,
        X,
        [0.12267227, 0.083581404],
    ),
    ("CategoricalFocalCrossentropy", {}, T, P, [0.12888673, 0.090168033]),
    ("KLDivergence", {}, T, P, [0.85739642, 0.57910592]),
    ("Poisson", {}, B, P, [1.2339458, 0.59035602]),
    ("MeanSquaredError", {}, R, X, [1.305, 0.73083335]),
    ("MeanAbsoluteError", {}, R, X, [0.95000005, 0.47833335]),
    ("MeanAbsolutePercentageError", {}, B, X, [383333400.0, 201666700.0]),
    ("MeanSquaredLogarithmicError", {}, B, P, [0.18207065, 0.099435624]),
    ("Huber", {"delta": 0.5}, R, X, [0.35416667, 0.17958334]),
    ("LogCosh", {}, R, X, [0.47035655, 0.25053027]),
    ("CosineSimilarity", {}, R, X, [-0.42462802, -0.15755708]),
    ("Hinge", {}, B, X, [0.68333336, 0.44500002]),
    ("SquaredHinge", {}, B, X, [0.96500001, 0.65883334]),
    ("CategoricalHinge", {}, T, X, [0.1, 0.07]),
]
NAMES = sorted({case[0] for case in CASES})
IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options, *_ in CASES]


def make(name, options=None, **more):
    return getattr(losses, name)(**(options or {}), **more)


def test_every_loss_has_a_case():
    assert set(NAMES) == set(losses.table.classes)


@pytest.mark.parametrize(("name", "options", "y", "p", "values"), CASES, ids=IDS)
def test_values_of_keras(name, options, y, p, values):
    loss = make(name, options)
    assert loss(y, p) == pytest.approx(values[0], rel=3e-6)
    assert loss(y, p, W) == pytest.approx(values[1], rel=3e-6)
    assert loss(y, p) == loss.value_and_grad(y, p)[0]


def numeric_gradient(f, x, epsilon=1e-6):
    gradient = np.empty_like(x)
    for at in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[at] += epsilon
        below[at] -= epsilon
        gradient[at] = (f(above) - f(below)) / (2 * epsilon)
    return gradient


def data(name, options, shape=(4, 5)):
    """Random targets and predictions, away from the kinks and the clipping."""
    random = np.random.default_rng(8)
    predictions = random.normal(size=shape)
    if not options.get("from_logits"):
        if "entropy" in name or "Divergence" in name:
            predictions = random.uniform(0.05, 0.95, shape)
        elif name in ("Poisson", "MeanSquaredLogarithmicError"):
            predictions = random.uniform(0.5, 2, shape)
    classes = random.integers(0, shape[-1], shape[:-1])
    if name == "SparseCategoricalCrossentropy":
        return classes, predictions
    if name == "KLDivergence":
        soft = random.random(shape)
        return soft / soft.sum(-1, keepdims=True), predictions
    if name.startswith("Categorical"):
        return np.eye(shape[-1])[classes], predictions
    if name.startswith("Binary") or "Hinge" in name:
        return random.integers(0, 2, shape).astype(float), predictions
    return random.uniform(0.2, 1, shape), predictions


GRADIENT_CASES = [(name, options) for name, options, *_ in CASES] + [
    ("CategoricalFocalCrossentropy", {"from_logits": True, "gamma": 0.5, "label_smoothing": 0.1}),
    ("CategoricalFocalCrossentropy", {"gamma": 0.0, "alpha": 0.6}),
    ("BinaryFocalCrossentropy", {"from_logits": True, "gamma": 0.5}),
    ("BinaryFocalCrossentropy", {"gamma": 0.0, "label_smoothing": 0.3}),
    ("SparseCategoricalCrossentropy", {"from_logits": True, "ignore_class": 1}),
    ("Huber", {"delta": 3.0}),
]


@pytest.mark.parametrize(("name", "options"), GRADIENT_CASES)
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_agree_with_central_differences(name, options, reduction, weighted):
    y, p = data(name, options)
    weights = np.array([0.5, 0.0, 2.0, 1.0]) if weighted else None
    loss = make(name, options, reduction=reduction)
    value, gradient = loss.value_and_grad(y, p, weights)
    numeric = numeric_gradient(lambda moved: loss(y, moved, weights), p)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())
    assert gradient.dtype == np.float64 and np.abs(gradient).max() > 1e-4
    assert value == loss(y, p, weights)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 3, 2, 5)])
def test_per_sample_values_for_any_number_of_axes(name, shape):
    y, p = data(name, {}, shape)
    values = make(name).values(y, p)
    assert np.shape(values) == shape[:-1]
    loss = make(name)
    _, gradient = loss.value_and_grad(y, p)
    numeric = numeric_gradient(lambda moved: loss(y, moved), p)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())
    assert loss(y, p) == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    "name",
    [
        "CategoricalCrossentropy",
        "SparseCategoricalCrossentropy",
        "BinaryCrossentropy",
        "BinaryFocalCrossentropy",
        "CategoricalFocalCrossentropy",
        "CosineSimilarity",
    ],
)
def test_another_class_axis(name):
    y, p = data(name, {}, (3, 4, 5))
    moved_y = y if y.ndim == 2 else np.moveaxis(y, -1, 1)
    value, gradient = make(name).value_and_grad(y, p)
    moved_value, moved = make(name, axis=1).value_and_grad(moved_y, np.moveaxis(p, -1, 1))
    assert moved_value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(np.moveaxis(moved, 1, -1), gradient, rtol=1e-12)


@pytest.mark.parametrize(("name", "options", "y", "p", "values"), CASES, ids=IDS)
def test_float32_predictions(name, options, y, p, values):
    loss = make(name, options)
    value, gradient = loss.value_and_grad(y.astype(np.uint8), p.astype(np.float32))
    exact, exact_gradient = loss.value_and_grad(y.astype(np.uint8), p)
    assert value == pytest.approx(exact, rel=1e-6)
    assert gradient.dtype == np.float32 and gradient.flags.c_contiguous
    np.testing.assert_allclose(gradient, exact_gradient, rtol=2e-5, atol=1e-6)


# -- extremes --------------------------------------------------------------------------------------

LOGIT_LOSSES = [
    ("CategoricalCrossentropy", np.array([[1, 0, 0.0]])),
    ("SparseCategoricalCrossentropy", np.array([0])),
    ("CategoricalFocalCrossentropy", np.array([[1, 0, 0.0]])),
    ("BinaryCrossentropy", np.array([[1, 0, 0.0]])),
    ("BinaryFocalCrossentropy", np.array([[1, 0, 0.0]])),
]


@pytest.mark.parametrize(("name", "y"), LOGIT_LOSSES)
def test_logits_of_ten_thousand(name, y):
    loss = make(name, {"from_logits": True})
    factor = 0.25 if name == "CategoricalFocalCrossentropy" else 1.0
    right = np.array([[1e4, -1e4, -1e4]])
    value, gradient = loss.value_and_grad(y, right)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((1, 3)))
    value, gradient = loss.value_and_grad(y, -right)
    if name.startswith("Binary"):
        assert value == 1e4
        np.testing.assert_array_equal(gradient, np.array([[-1, 1, 1]]) / 3)
    else:
        # log q of the right class: -2e4 - log 2; the two others share the probability
        assert value == pytest.approx(factor * (2e4 + math.log(2)), rel=1e-14)
        np.testing.assert_allclose(gradient, factor * np.array([[-1, 0.5, 0.5]]), rtol=1e-12)


@pytest.mark.parametrize(("name", "y"), LOGIT_LOSSES[:2])
def test_equal_and_infinite_logits(name, y):
    loss = make(name, {"from_logits": True})
    for level in (0.0, 1e4, -1e4):
        value, gradient = loss.value_and_grad(y, np.full((1, 3), level))
        assert value == pytest.approx(math.log(3), rel=1e-15)
        np.testing.assert_allclose(gradient, [[-2 / 3, 1 / 3, 1 / 3]], rtol=1e-15)
    value, gradient = loss.value_and_grad(y, np.array([[0.0, -np.inf, 0.0]]))
    assert value == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_allclose(gradient, [[-0.5, 0, 0.5]], rtol=1e-15)


def test_small_probabilities_lose_no_digits_in_logits():
    """log(1 + exp(-40)) is 4.2e-18: far below what 1 - probability could hold."""
    loss = make("BinaryCrossentropy", {"from_logits": True})
    assert loss([[1.0]], [[40.0]]) == pytest.approx(math.exp(-40), rel=1e-12)
    loss = make("CategoricalFocalCrossentropy", {"from_logits": True, "alpha": 1.0, "gamma": 1.0})
    assert loss([[1.0, 0.0]], [[20.0, 0.0]]) == pytest.approx(math.exp(-40), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_perfect_fit_and_log_of_zero_are_finite(name, dtype):
    labels = np.array([[1, 0, 0], [0, 0, 1.0]], dtype)
    y = labels.argmax(-1) if name.startswith("Sparse") else labels
    for p in (labels, 1 - labels, np.zeros_like(labels), np.ones_like(labels)):
        for weights in (None, np.zeros(2)):
            value, gradient = make(name).value_and_grad(y, p, weights)
            assert np.isfinite(value) and np.isfinite(gradient).all()
    assert np.isfinite(make(name).value_and_grad(y, labels)[0])


@pytest.mark.parametrize("name", NAMES)
def test_nan_reaches_value_and_gradient(name):
    y, p = data(name, {})
    p[1, 2] = np.nan
    value, gradient = make(name).value_and_grad(y, p)
    assert np.isnan(value) and np.isnan(gradient[1]).any()
    assert np.isfinite(gradient[[0, 2, 3]]).all()


@pytest.mark.parametrize("options", [{}, {"from_logits": True}])
def test_ignored_samples_neither_count_nor_move(options):
    y, p = data("SparseCategoricalCrossentropy", {}, (2, 3, 4))
    y[0, 1] = y[1, 2] = -1
    p[0, 1] = np.nan
    loss = make("SparseCategoricalCrossentropy", options, ignore_class=-1)
    kept = y != -1
    plain = make("SparseCategoricalCrossentropy", options)
    value, gradient = loss.value_and_grad(y, p)
    expected, expected_gradient = plain.value_and_grad(y[kept], p[kept])
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient[kept], expected_gradient, rtol=1e-12)
    assert not gradient[~kept].any()
    assert loss.value_and_grad(np.full((2, 3), -1), p)[0] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [-1, 1])
def test_crossentropies_from_logits_by_their_formulae(dtype, axis):
    """What one operation computes is what the formulae of their base class say."""
    x = np.random.default_rng(1).normal(size=(5, 3, 4)).astype(dtype)
    labels = np.random.default_rng(2).integers(0, 4, (5, 3)).astype(np.uint8)
    soft = np.random.default_rng(3).random((5, 3, 4))
    weights = np.array([0.5, 0.0, 2.0, 1.0, 3.0])
    for name, options, y in [
        ("SparseCategoricalCrossentropy", {}, labels),
        ("SparseCategoricalCrossentropy", {"ignore_class": 2}, labels),
        ("SparseCategoricalCrossentropy", {"ignore_class": -1}, labels),
        ("CategoricalCrossentropy", {"label_smoothing": 0.2}, soft),
        ("CategoricalCrossentropy", {}, soft),
    ]:
        loss = make(name, {"from_logits": True, **options}, axis=axis)
        values, slope = loss.per_sample(y.astype(np.float64), x.astype(np.float64))
        valid = loss.valid(y)
        factors = weights[:, None] / (15 if valid is None else valid.sum())
        factors = factors * (1 if valid is None else valid)
        slope = np.moveaxis(slope * factors[..., None], -1, axis)
        y = y if y.ndim == 2 else np.moveaxis(y, -1, axis)
        value, gradient = loss.value_and_grad(y, np.moveaxis(x, -1, axis), weights)
        assert value == pytest.approx(np.sum(values * factors), rel=1e-13) and value > 0.1
        near = 1e-7 if dtype == np.float32 else 1e-15
        np.testing.assert_allclose(gradient, slope, rtol=0, atol=near)
        assert gradient.dtype == dtype and gradient.flags.c_contiguous
        np.testing.assert_allclose(loss.values(y, np.moveaxis(x, -1, axis)), values, rtol=1e-13)


def test_a_subclass_keeps_its_own_formulae():
    class Twice(losses.CategoricalCrossentropy):
        def of_log(self, t, log_q, q):
            value, g = super().of_log(t, log_q, q)
            return 2 * value, 2 * g

    value, gradient = Twice(from_logits=True).value_and_grad(T, X)
    plain, slope = losses.CategoricalCrossentropy(from_logits=True).value_and_grad(T, X)
    assert value == pytest.approx(2 * plain)
    np.testing.assert_allclose(gradient, 2 * slope)


# -- reductions and weights ------------------------------------------------------------------------


def test_reductions():
    values, weights = np.mean(np.square(R - X), axis=-1), np.array([2.0, 0.5])
    expected = {
        "sum_over_batch_size": (values.mean(), (values * weights).mean()),
        "mean": (values.mean(), (values * weights).mean()),
        "sum": (values.sum(), (values * weights).sum()),
        "mean_with_sample_weight": (values.mean(), (values * weights).sum() / weights.sum()),
    }
    for reduction, (plain, weighted) in expected.items():
        loss = losses.MeanSquaredError(reduction=reduction)
        assert loss(R, X) == pytest.approx(plain) and loss(R, X, weights) == pytest.approx(weighted)
    for reduction in (None, "none"):
        loss = losses.MeanSquaredError(reduction=reduction)
        np.testing.assert_allclose(loss(R, X, weights), values * weights)
        with pytest.raises(ValueError, match="training needs one number"):
            loss.value_and_grad(R, X)


def test_weights_belong_to_samples_and_never_to_features():
    y, p = data("MeanSquaredError", {}, (3, 4, 3))
    loss = losses.MeanSquaredError()
    per_sample = np.mean(np.square(y - p), axis=(1, 2))
    weights = np.array([1.0, 2.0, 3.0])
    assert loss(y, p, weights) == pytest.approx(np.mean(per_sample * weights))
    assert loss(y, p, weights[:, None]) == pytest.approx(np.mean(per_sample * weights))
    assert loss(y, p, np.tile(weights[:, None], 4)) == pytest.approx(np.mean(per_sample * weights))
    with pytest.raises(ValueError, match=r"sample_weight has shape \(4,\).*one weight per sample"):
        loss(y, p, np.ones(4))


def test_nothing_given_is_written():
    for name, options, y, p, _ in CASES:
        kept = y.copy(), p.copy(), W.copy()
        for array in (y, p, W):
            array.flags.writeable = False
        make(name, options).value_and_grad(y, p, W)
        np.testing.assert_array_equal(
            np.concatenate([a.ravel() for a in (y, p, W)]),
            np.concatenate([a.ravel() for a in kept]),
        )


# -- identifiers, functions, configs ---------------------------------------------------------------


def test_functions_give_a_value_per_sample():
    values = losses.categorical_crossentropy(T, P)
    np.testing.assert_allclose(values, [-math.log(0.9), -math.log(0.2)])
    np.testing.assert_allclose(losses.mse(R, X), np.mean(np.square(R - X), axis=-1))
    np.testing.assert_allclose(losses.huber(R, X, 0.5), losses.Huber(delta=0.5).values(R, X))
    smooth = losses.binary_crossentropy(B, X, True, label_smoothing=0.1)
    expected = losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1).values(B, X)
    np.testing.assert_allclose(smooth, expected)


@pytest.mark.parametrize("name", NAMES)
def test_names_functions_classes_and_configs(name):
    cls = getattr(losses, name)
    loss = cls()
    by_function = [f for f, of in losses.base.functions.items() if of is cls]
    assert len(by_function) == 1
    for identifier in (name, by_function[0].__name__, loss.name, cls, by_function[0], loss):
        assert type(losses.get(identifier)) is cls
    config = losses.serialize(cls(reduction="sum", name="mine"))
    again = losses.deserialize(config)
    assert type(again) is cls and again.reduction == "sum" and again.name == "mine"
    assert again.get_config() == config["config"]


def test_aliases():
    for alias, name in {
        "mse": "MeanSquaredError", "MAE": "MeanAbsoluteError",
        "mape": "MeanAbsolutePercentageError", "msle": "MeanSquaredLogarithmicError",
        "bce": "BinaryCrossentropy", "kld": "KLDivergence",
        "kullback_leibler_divergence": "KLDivergence", "logcosh": "LogCosh", "huber": "Huber",
    }.items():  # fmt: skip
        assert type(losses.get(alias)).__name__ == name
    assert losses.get(None) is None


class Cubed(losses.Loss):
    """A loss of a user's own."""

    def per_sample(self, y_true, y_pred):
        difference = y_pred - y_true
        return np.sum(np.abs(difference) ** 3, axis=-1), 3 * difference * np.abs(difference)


def test_own_losses():
    loss = losses.get(Cubed())
    value, gradient = loss.value_and_grad(R, X, W)
    numeric = numeric_gradient(lambda moved: loss(R, moved, W), X)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6)

    class Half:
        def value_and_grad(self, y_true, y_pred, sample_weight=None):
            return 0.5 * float(np.sum(y_pred)), np.full(y_pred.shape, 0.5)

    given = losses.get(Half())
    assert given(R, X) == 0.5 * X.sum() and given.fuses is None
    assert given.value_and_grad(R, X.astype(np.float32))[1].dtype == np.float32


def test_fusion():
    for name, activation in {
        "CategoricalCrossentropy": "softmax",
        "SparseCategoricalCrossentropy": "softmax",
        "CategoricalFocalCrossentropy": "softmax",
        "BinaryCrossentropy": "sigmoid",
        "BinaryFocalCrossentropy": "sigmoid",
        "MeanSquaredError": None,
    }.items():
        assert make(name).fuses == activation
    assert make("CategoricalCrossentropy", axis=1).fuses is None
    loss = make("CategoricalCrossentropy", {"label_smoothing": 0.1})
    twin = loss.on_logits()
    assert twin.from_logits and not loss.from_logits and twin.fuses is None
    e = np.exp(X)
    assert twin(T, X) == pytest.approx(loss(T, e / e.sum(-1, keepdims=True)), rel=1e-9)
    # probability p = sigmoid(x): dl/dx = dl/dp p (1 - p)
    binary, p = make("BinaryFocalCrossentropy"), 1 / (1 + np.exp(-X))
    _, gradient = binary.value_and_grad(B, p)
    np.testing.assert_allclose(
        binary.on_logits().value_and_grad(B, X)[1], gradient * p * (1 - p), rtol=1e-9
    )


# -- targets that do not fit -----------------------------------------------------------------------

ONE_HOT = np.eye(10)[np.arange(20) % 10]
LABELS = np.arange(20) % 10
SPARSE, CATEGORICAL = "sparse_categorical_crossentropy", "categorical_crossentropy"

REFUSED = [
    (SPARSE, ONE_HOT, 10, "one-hot rows.*use categorical_crossentropy"),
    (SPARSE, ONE_HOT[:, :4], 10, r"has shape \(20, 4\).*one integer label per sample"),
    (SPARSE, LABELS + 1, 10, r"is 10 at index 9: .* 10 classes, labels are 0\.\.9; .* use y - 1"),
    (SPARSE, LABELS[:, None] - 1, 10, r"is -1 at index \(0, 0\)"),
    (SPARSE, LABELS * 2, 10, "is 10 at index 5: .*give the last layer 19 units"),
    (SPARSE, LABELS + 0.5, 10, "is 0.5 at index 0: labels are integers"),
    (SPARSE, np.where(LABELS == 3, np.nan, LABELS), 10, "is nan at index 3"),
    (SPARSE, LABELS.astype(str), 10, "not numbers: map class names to integers"),
    (SPARSE, LABELS.astype(object), 10, "not numbers: .*astype"),
    (SPARSE, LABELS, 1, "1 class, .* use binary_crossentropy"),
    (CATEGORICAL, LABELS, 10, "integer labels.*use sparse_categorical_crossentropy"),
    (CATEGORICAL, LABELS[:, None], 10, "integer labels.*to_categorical"),
    (CATEGORICAL, ONE_HOT[:, :5], 10, r"shape \(20, 5\); .* \((n|20), 10\)"),
    (CATEGORICAL, np.where(ONE_HOT == 1, np.inf, 0), 10, r"is inf at index \(0, 0\)"),
    ("categorical_focal_crossentropy", LABELS, 10, "integer labels"),
    ("binary_crossentropy", LABELS % 2, 10, "one number per sample"),
    ("mse", LABELS, 10, "one number per sample"),
    ("mse", LABELS[:, None], 10, "one number per sample"),
    ("mae", ONE_HOT, 1, "y of the same shape"),
    ("huber", ONE_HOT[:, :3], 10, "y of the same shape"),
    ("kl_divergence", LABELS, 10, "one number per sample"),
]


@pytest.mark.parametrize(("name", "y", "units", "message"), REFUSED)
def test_targets_that_are_refused(name, y, units, message):
    loss = losses.get(name)
    with pytest.raises(ValueError, match=message) as caught:
        loss.check(y, (None, units), "scores")
    assert "\n" not in str(caught.value) and "'scores'" in str(caught.value)
    with pytest.raises(ValueError, match=message):
        loss(y, np.full((20, units), 0.1))


@pytest.mark.parametrize("name", NAMES)
def test_no_loss_broadcasts(name):
    """Every pair of shapes is computed as it stands, or refused: (n,) against (n, k) never runs."""
    n, k = 6, 3
    loss = make(name)
    for y_shape in [(n,), (n, 1), (n, k), (1, k), (1,), (), (n - 1,), (n, k, 1), (n, 1, k)]:
        for p_shape in [(n, 1), (n, k), (n, 2, k)]:
            y, p = np.zeros(y_shape, int), np.full(p_shape, 0.5)
            element_wise = p_shape if not name.startswith("Sparse") else p_shape[:-1]
            same = math.prod(y_shape) == math.prod(element_wise) and y_shape != (n, 1, k)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # softmax over one class
                if same:
                    assert np.isfinite(loss(y, p))
                else:
                    with pytest.raises(ValueError, match="y_true|labels"):
                        loss(y, p)
                    with pytest.raises(ValueError, match="y_true"):
                        loss.value_and_grad(y, p)


def test_accepted_targets():
    losses.get(SPARSE).check(LABELS, (None, 10))
    losses.get(SPARSE).check(LABELS[:, None].astype(np.float32), (None, 10))
    losses.get(SPARSE).check(LABELS > 4, (None, 2))
    losses.SparseCategoricalCrossentropy(ignore_class=255).check(
        np.where(LABELS == 3, 255, LABELS), (None, 10)
    )
    losses.get(CATEGORICAL).check(ONE_HOT.astype(bool), (None, 10))
    losses.get("binary_crossentropy").check(LABELS % 2, (None, 1))
    losses.get("mse").check(np.zeros((20, 4, 4)), (None, None, None, 1))
    losses.get("mse").check(np.zeros((0, 3)), (None, 3))


@pytest.mark.parametrize(
    ("name", "y", "units", "message"),
    [
        (CATEGORICAL, ONE_HOT * 255, 10, "is 255.0 at index"),
        (CATEGORICAL, np.ones((20, 1)), 1, "single class"),
        ("binary_crossentropy", LABELS[:, None], 1, "divide pixels by 255"),
        (SPARSE, LABELS > 4, 10, "booleans, but the output has 10 classes"),
    ],
)
def test_targets_that_run_but_are_probably_wrong(name, y, units, message):
    with pytest.warns(UserWarning, match=message):
        losses.get(name).check(y, (None, units), "scores")


@pytest.mark.parametrize(
    ("name", "options", "activation", "units", "message"),
    [
        (CATEGORICAL, {}, "linear", 10, r"ends in linear.*from_logits=True"),
        (CATEGORICAL, {"from_logits": True}, "softmax", 10, "softmax again"),
        (CATEGORICAL, {}, "softmax", 1, "always 1"),
        (SPARSE, {}, "sigmoid", 10, "treats every class by itself"),
        (SPARSE, {}, "relu", 10, "expects probabilities"),
        ("binary_crossentropy", {}, "linear", 1, "end in sigmoid"),
        ("binary_crossentropy", {"from_logits": True}, "sigmoid", 1, "sigmoid again"),
        ("binary_crossentropy", {}, "softmax", 1, "always 1"),
    ],
)
def test_activations_that_contradict_the_loss(name, options, activation, units, message):
    loss = type(losses.get(name))(**options)
    with pytest.warns(UserWarning, match=message):
        loss.check_activation(activation, (None, units), "scores")


def test_activations_that_fit_the_loss():
    for name, options, activation, units in [
        (CATEGORICAL, {}, "softmax", 10), (CATEGORICAL, {"from_logits": True}, "linear", 10),
        (SPARSE, {}, None, 10), ("binary_crossentropy", {}, "sigmoid", 1),
        ("binary_crossentropy", {}, "softmax", 10), ("mse", {}, "linear", 1),
    ]:  # fmt: skip
        type(losses.get(name))(**options).check_activation(activation, (None, units), "scores")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: losses.get("categorical_crosentropy"), "Did you mean 'categorical_crossentropy'"),
        (lambda: losses.get(lambda y, p: 0), "has no gradient: give a subclass of"),
        (lambda: losses.get(7), "no loss"),
        (lambda: losses.MeanSquaredError(reduction="average"), "reduction is one of"),
        (lambda: losses.CategoricalCrossentropy(label_smoothing=1.5), r"number in \[0, 1\]"),
        (lambda: losses.Loss().value_and_grad(R, X), "defines no per_sample"),
        (lambda: losses.Huber.from_config({"detla": 1}), "Did you mean 'delta'"),
    ],
)
def test_errors(act, message):
    with pytest.raises((ValueError, TypeError), match=message):
        act()
