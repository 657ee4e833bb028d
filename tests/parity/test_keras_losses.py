"""Losses against Keras: values per sample, reductions, sample weights, gradients."""

import jax
import keras
import numpy as np
import pytest
from oracle import as_keras, close, disagreements, numbers

from minicnn import losses

N, K = 6, 4


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


LABELS = np.random.default_rng(3).integers(0, K, N)
ONE_HOT = np.eye(K, dtype=np.float32)[LABELS]
LOGITS = 2 * numbers(N, K)
PIXELS = 2 * numbers(N, 3, 2, K, seed=1)
PIXEL_LABELS = np.random.default_rng(4).integers(0, K, (N, 3, 2))

# name -> (y_true, y_pred)
DATA = {
    "numbers": (numbers(N, K, seed=1), numbers(N, K, seed=2)),
    "images": (numbers(N, 3, 2, K, seed=1), numbers(N, 3, 2, K, seed=2)),
    "positive": (numbers(N, K, low=0.1, high=2), numbers(N, K, seed=1, low=0.1, high=2)),
    "classes": (ONE_HOT, softmax(LOGITS)),
    "unnormalised classes": (ONE_HOT, numbers(N, K, seed=5, low=0.1, high=2)),
    "soft classes": (softmax(numbers(N, K, seed=6)), softmax(LOGITS)),
    "certain classes": (ONE_HOT, np.eye(K, dtype=np.float32)[::-1][LABELS]),
    "class logits": (ONE_HOT, LOGITS),
    "large class logits": (ONE_HOT, 50 * LOGITS),
    "labels": (LABELS, softmax(LOGITS)),
    "labels in a column": (LABELS[:, None], softmax(LOGITS)),
    "label logits": (LABELS, LOGITS),
    "pixels": (np.eye(K, dtype=np.float32)[PIXEL_LABELS], softmax(PIXELS)),
    "pixels, classes first": (
        np.moveaxis(np.eye(K, dtype=np.float32)[PIXEL_LABELS], -1, 1),
        softmax(np.moveaxis(PIXELS, -1, 1), axis=1),
    ),
    "pixel labels": (PIXEL_LABELS, softmax(PIXELS)),
    "pixel label logits": (PIXEL_LABELS, PIXELS),
    "yes or no": ((LABELS > 1).astype(np.float32)[:, None], 1 / (1 + np.exp(-LOGITS[:, :1]))),
    "several yes or no": ((LOGITS > 0.5).astype(np.float32), numbers(N, K, low=0.01, high=0.99)),
    "yes or no logits": (ONE_HOT, LOGITS),
    "signs": (np.sign(numbers(N, K, seed=8)), numbers(N, K, seed=9)),
    "zeros and ones": (ONE_HOT, numbers(N, K, seed=9)),
}

CASES = [
    ("MeanSquaredError", {}, "numbers"),
    ("MeanSquaredError", {}, "images"),
    ("MeanAbsoluteError", {}, "numbers"),
    ("MeanAbsolutePercentageError", {}, "numbers"),
    ("MeanSquaredLogarithmicError", {}, "positive"),
    ("Huber", {}, "numbers"),
    ("Huber", dict(delta=0.3), "images"),
    ("LogCosh", {}, "numbers"),
    ("CosineSimilarity", {}, "numbers"),
    ("CosineSimilarity", dict(axis=1), "images"),
    ("Poisson", {}, "positive"),
    ("KLDivergence", {}, "soft classes"),
    ("Hinge", {}, "signs"),
    ("Hinge", {}, "zeros and ones"),
    ("SquaredHinge", {}, "signs"),
    ("CategoricalHinge", {}, "zeros and ones"),
    ("CategoricalCrossentropy", {}, "classes"),
    ("CategoricalCrossentropy", {}, "unnormalised classes"),
    ("CategoricalCrossentropy", {}, "certain classes"),
    ("CategoricalCrossentropy", dict(label_smoothing=0.1), "soft classes"),
    ("CategoricalCrossentropy", dict(from_logits=True), "class logits"),
    ("CategoricalCrossentropy", dict(from_logits=True), "large class logits"),
    ("CategoricalCrossentropy", dict(from_logits=True, label_smoothing=0.2), "class logits"),
    ("CategoricalCrossentropy", {}, "pixels"),
    ("CategoricalCrossentropy", dict(axis=1), "pixels, classes first"),
    ("SparseCategoricalCrossentropy", {}, "labels"),
    ("SparseCategoricalCrossentropy", {}, "labels in a column"),
    ("SparseCategoricalCrossentropy", dict(from_logits=True), "label logits"),
    ("SparseCategoricalCrossentropy", dict(ignore_class=1), "labels"),
    ("SparseCategoricalCrossentropy", {}, "pixel labels"),
    ("SparseCategoricalCrossentropy", dict(from_logits=True, ignore_class=0), "pixel label logits"),
    ("CategoricalFocalCrossentropy", {}, "classes"),
    ("CategoricalFocalCrossentropy", dict(from_logits=True, gamma=1.5, alpha=0.4), "class logits"),
    ("CategoricalFocalCrossentropy", dict(label_smoothing=0.1), "classes"),
    ("BinaryCrossentropy", {}, "yes or no"),
    ("BinaryCrossentropy", {}, "several yes or no"),
    ("BinaryCrossentropy", dict(label_smoothing=0.2), "several yes or no"),
    ("BinaryCrossentropy", dict(from_logits=True), "yes or no logits"),
    ("BinaryCrossentropy", {}, "certain classes"),
    ("BinaryFocalCrossentropy", {}, "several yes or no"),
    ("BinaryFocalCrossentropy", dict(apply_class_balancing=True, gamma=3.0), "yes or no"),
    ("BinaryFocalCrossentropy", dict(from_logits=True, label_smoothing=0.1), "yes or no logits"),
]
each_case = pytest.mark.parametrize(
    ("name", "options", "data"), CASES, ids=[f"{n}-{d}-{o}" for n, o, d in CASES]
)

# Arguments that Keras takes and its get_config forgets.
LEFT_OUT_BY_KERAS = {
    "Huber": {"delta"},
    "CosineSimilarity": {"axis"},
    "SparseCategoricalCrossentropy": {"axis"},
}

REDUCTIONS = ("sum_over_batch_size", "mean_with_sample_weight", "sum", None)
WEIGHTS = numbers(N, seed=20, low=0, high=2)

# float32 in Keras against float64 here.
TOLERANCE = 1e-5
# Keras clips to 1 - 1e-7, which float32 rounds to 1 - 1.19e-7; the logarithm of what is left to 1
# then is off by log(1.19).
WIDER = {("BinaryCrossentropy", "certain classes"): 1e-2}


def weightings(shape):
    """For values of this shape: none, one per sample in the forms that Keras takes, one each."""
    if len(shape) == 1:
        return [None, WEIGHTS, WEIGHTS[:, None]]
    return [None, WEIGHTS.reshape(N, 1, 1), numbers(*shape, low=0, high=2)]


@each_case
def test_loss(name, options, data):
    y_true, y_pred = DATA[data]
    ours, theirs = getattr(losses, name), getattr(keras.losses, name)
    weights = weightings(ours(**options, reduction=None)(y_true, y_pred).shape)

    @jax.jit
    def keras_says(y_true, y_pred, weights):
        def value(y_pred, reduction, weight):
            return theirs(**options, reduction=reduction)(y_true, y_pred, weight)

        values = [[value(y_pred, reduction, w) for reduction in REDUCTIONS] for w in weights]
        return values, [jax.grad(value)(y_pred, "sum_over_batch_size", w) for w in weights]

    for weight, values, expected in zip(weights, *keras_says(y_true, y_pred, weights), strict=True):
        what = "no weights" if weight is None else f"weights {weight.shape}"
        tolerance = WIDER.get((name, data), TOLERANCE)
        for reduction, value in zip(REDUCTIONS, values, strict=True):
            if reduction == "mean_with_sample_weight" and what == f"weights {(N, 1, 1)}":
                continue  # Keras divides by the sum of 6 weights where 36 values were weighted
            value_here = ours(**options, reduction=reduction)(y_true, y_pred, weight)
            # Weights in a column make Keras's values a column, too.
            value = np.reshape(value, np.shape(value_here))
            close(value_here, value, tolerance, f"{what}, {reduction}")
        _, gradient = ours(**options).value_and_grad(y_true, y_pred, weight)
        assert gradient.dtype == np.float32
        close(gradient, expected, tolerance, f"gradient, {what}")


@pytest.mark.parametrize(
    "reduction", ["mean", "none", "sum_over_batch_size", "mean_with_sample_weight", "sum", None]
)
def test_names_of_reductions(reduction):
    y_true, y_pred = DATA["numbers"]
    ours, theirs = (
        library.MeanSquaredError(reduction=reduction)(y_true, y_pred, WEIGHTS)
        for library in (losses, keras.losses)
    )
    close(ours, theirs, TOLERANCE)


@each_case
def test_config_is_read_by_keras(name, options, data):
    config = getattr(losses, name)(**options).get_config()
    theirs = getattr(keras.losses, name).from_config(as_keras(config))
    found = disagreements(config, theirs.get_config())
    assert set(found) <= LEFT_OUT_BY_KERAS.get(name, set())


def functions():
    return sorted(
        name
        for name in losses.__all__
        if getattr(losses, name) in losses.base.functions and hasattr(keras.losses, name)
    )


@pytest.mark.parametrize("name", functions())
def test_function(name):
    """The function of each loss gives one value per sample."""
    y_true, y_pred = DATA["labels" if name.startswith("sparse") else "soft classes"]
    expected = getattr(keras.losses, name)(y_true, y_pred)
    close(getattr(losses, name)(y_true, y_pred), expected, TOLERANCE)


@pytest.mark.parametrize(
    "identifier",
    ["mse", "MSE", "mae", "MAE", "mape", "msle", "kld", "KLD", "bce", "BCE", "huber", "log_cosh"]
    + ["cosine_similarity", "hinge", "squared_hinge", "categorical_hinge", "poisson"]
    + ["categorical_crossentropy", "sparse_categorical_crossentropy", "binary_crossentropy"]
    + ["mean_squared_error", "MeanSquaredError", "kl_divergence"],
)
def test_names(identifier):
    """A name stands for the same loss in both libraries."""
    theirs = keras.losses.get(identifier)
    y_true, y_pred = DATA["labels" if identifier.startswith("sparse") else "soft classes"]
    ours = losses.get(identifier)
    expected = theirs(y_true, y_pred)
    if isinstance(theirs, keras.losses.Loss):
        close(ours(y_true, y_pred), expected, TOLERANCE)
    else:
        close(ours.values(y_true, y_pred), expected, TOLERANCE)


def test_every_loss_is_compared():
    ours = {n for n in losses.__all__ if isinstance(getattr(losses, n), type)} - {"Loss"}
    assert ours == {name for name, _, _ in CASES}
