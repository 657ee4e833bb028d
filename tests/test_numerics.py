"""Numbers that are not finite, logits of any size, reads and writes outside of arrays."""

import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_cases import as_list, data, each_case, make, randomize

import minicnn
from minicnn import Model, Sequential, activations, config, losses, optimizers, set_random_seed
from minicnn.callbacks import TerminateOnNaN
from minicnn.context import Context
from minicnn.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    ReLU,
)


@pytest.fixture(autouse=True)
def seed():
    set_random_seed(0)


# -- NaN is not lost on the way: no layer hides it -------------------------------------------------

SELECTING = {"Dropout", "SpatialDropout2D"}  # in training they may drop the NaN with its neighbours


def built(cls, arguments, shape):
    layer, x = make(cls, arguments), data(shape)
    layer.ensure_built([one.shape for one in x] if isinstance(x, list) else x.shape)
    randomize(layer)
    return layer, x


MIXING = ("CutMix", "MixUp")  # in training they make one sample of two


@each_case
@pytest.mark.parametrize("ops", ["fast", "reference"])
def test_nan_in_x_reaches_y(cls, arguments, shape, ops):
    layer, x = built(cls, arguments, shape)
    for array in as_list(x):
        before = array.copy()
        array[1, ..., 0] = np.nan
        for training in (False, True):
            context = Context(training=training, seed=1, frozen_state=True)
            with config.using(ops=ops), np.errstate(invalid="ignore"):
                y = layer.forward(x, context)[0]
            if not (training and cls.__name__ in SELECTING):
                assert np.isnan(y[1]).any()
            statistics = training and cls.__name__ == "BatchNormalization"
            if not (training and cls.__name__ in MIXING):
                assert np.isnan(y[[0, 2]]).any() == statistics  # it stays in its sample
        array[...] = before


@each_case
@pytest.mark.parametrize("ops", ["fast", "reference"])
def test_nan_in_dy_reaches_dx(cls, arguments, shape, ops):
    layer, x = built(cls, arguments, shape)
    context = Context(training=True, keep=True, seed=1, frozen_state=True)
    with config.using(ops=ops), np.errstate(invalid="ignore"):
        y, saved = layer.forward(x, context)
        dx = layer.backward(np.full_like(y, np.nan), saved, True)
    for one in as_list(dx):
        assert np.isnan(one).any()
    for parameter in layer.trainable_weights:
        assert np.isnan(parameter.grad).any()


@pytest.mark.parametrize("name", sorted(activations._DEFAULTS))
@pytest.mark.parametrize("ops", ["fast", "reference"])
def test_activations_of_nan_infinity_and_large_numbers(name, ops):
    with config.using(ops=ops), np.errstate(all="ignore"):
        function = activations.get(name)
        y = function(np.array([[np.nan, 1.0, 2.0], [1e4, -1e4, 0.0]], np.float32))
        assert np.isnan(y[0, 0])
        if name != "exponential":  # exp(1e4) is infinite
            assert np.isfinite(y[1]).all()
        x = np.array([[1e4, -1e4, 0.5]], np.float32)
        dx = function.backward(np.ones_like(x), function.forward(x)[1])
        assert np.isfinite(dx).all() or name == "exponential"


def test_compilers_may_not_assume_that_numbers_are_finite():
    from minicnn.ops.fast import jit

    flags = jit.OPTIONS["fastmath"]
    assert isinstance(flags, set) and not flags & {"fast", "nnan", "ninf", "reassoc"}
    for file in (Path(minicnn.__file__).parent / "ops" / "fast").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"fastmath\s*=|\b(nnan|ninf|nsz)\b", text), file


# -- and its origin is named -----------------------------------------------------------------------


def network():
    """One layer of each kind that passes pictures on; the names are those of the test ids."""
    x = Input((8, 8, 2), name="x")
    h = Conv2D(4, 3, padding="same", name="conv")(x)
    h = BatchNormalization(name="norm")(h)
    h = ReLU(name="relu")(h)
    h = Add(name="add")([h, Conv2D(4, 1, name="short")(x)])
    h = MaxPooling2D(name="max")(h)
    h = Dropout(0.2, name="drop")(h)
    h = AveragePooling2D(name="mean")(h)
    h = Activation("tanh", name="tanh")(h)
    h = Flatten(name="flat")(h)
    model = Model(x, Dense(3, activation="softmax", name="probs")(h))
    model.compile(optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    return model


NAMES = ["conv", "norm", "relu", "short", "add", "max", "drop", "mean", "tanh", "flat", "probs"]


def fit(model, **more):
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 2)).astype(np.float32)
    return model.fit(x, np.arange(8) % 3, batch_size=4, verbose=0, **more)


def spoil(layer, method, at_call):
    """Let the layer's method return NaN at one number of its call `at_call`."""
    original, calls = getattr(layer, method), []

    def spoiled(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append(None)
        # The diagnosis runs the step once more: the mistake must be there again.
        if len(calls) >= at_call:
            array = result[0] if isinstance(result, tuple | list) else result
            array = np.array(array)
            array.reshape(-1)[1] = np.nan
            if isinstance(result, tuple):
                return (array, *result[1:])
            return [array, *result[1:]] if isinstance(result, list) else array
        return result

    setattr(layer, method, spoiled)


@pytest.mark.parametrize("name", NAMES)
def test_nan_that_arises_in_forward_is_reported_with_its_layer(name):
    model = network()
    layer = model.get_layer(name)
    spoil(layer, "forward", 2)
    kind = type(layer).__name__
    with pytest.warns(RuntimeWarning, match=rf"loss is nan at step 1.*layer '{name}' \({kind}\)"):
        fit(model)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("conv", "short")])
def test_nan_that_arises_in_backward_is_reported_with_its_layer(name):
    model = network()
    layer = model.get_layer(name)
    spoil(layer, "backward", 2)
    kind = type(layer).__name__
    message = rf"gradient is not finite at step 1: first in the gradient of layer '{name}' \({kind}"
    with pytest.warns(RuntimeWarning, match=message):
        fit(model)


@pytest.mark.parametrize("name", ["conv", "norm", "short", "probs"])
def test_nan_in_a_gradient_of_weights_is_reported_with_its_layer(name):
    model = network()
    layer = model.get_layer(name)
    original = layer.backward

    def spoiled(dy, saved, needs_dx):
        dx = original(dy, saved, needs_dx)
        layer.trainable_weights[0].grad.reshape(-1)[0] = np.nan
        return dx

    layer.backward = spoiled
    with pytest.warns(RuntimeWarning, match=f"not finite|weight '{name}/") as seen:
        fit(model)
    assert f"'{name}" in str(seen[0].message)


@pytest.mark.parametrize("name", ["conv", "norm", "short", "probs"])
def test_nan_in_weights_is_reported_with_their_name(name):
    model = network()
    layer = model.get_layer(name)
    weights = layer.get_weights()
    weights[0].reshape(-1)[0] = np.nan
    layer.set_weights(weights)
    with pytest.warns(RuntimeWarning, match=f"loss is nan at step 0: first in the weight '{name}/"):
        fit(model)


def test_nan_is_reported_once_per_fit_and_can_end_it(capsys):
    model = network()
    spoil(model.get_layer("tanh"), "forward", 1)
    with pytest.warns(RuntimeWarning) as seen:
        fit(model, epochs=3)
    assert len(seen) == 1 and seen[0].filename == __file__
    model = network()
    spoil(model.get_layer("tanh"), "forward", 2)
    with pytest.warns(RuntimeWarning, match="TerminateOnNaN stops here"):
        history = fit(model, epochs=3, callbacks=[TerminateOnNaN()])
    assert len(history.history["loss"]) == 1
    assert "terminating training" in capsys.readouterr().out


def test_the_diagnosis_changes_nothing():
    """The same training with and without it: moving statistics, gradients, metrics."""

    def run(explain):
        set_random_seed(3)
        model = network()
        spoil(model.get_layer("conv"), "forward", 2)
        if not explain:
            model._explain_non_finite = lambda *arguments: None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            history = fit(model)
        return [*model.get_weights(), np.array(history.history["loss"])]

    for a, b in zip(run(True), run(False), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_rate_that_is_far_too_large_is_explained():
    model = Sequential([Input((4,)), Dense(8), BatchNormalization(), Dense(1)])
    model.compile(optimizers.SGD(1e25), "mse")
    x = np.random.default_rng(0).normal(size=(16, 4))
    message = r"the loss is (nan|inf) .*learning rate 1e\+25: lower the rate, clip gradients"
    with pytest.warns(RuntimeWarning, match=message) as seen:
        model.fit(x, np.ones(16), batch_size=4, epochs=5, verbose=0)
    assert len(seen) == 1  # and none of NumPy's own


# -- losses at the ends ----------------------------------------------------------------------------


def one_layer(units, activation, loss, *after):
    """x -> activation(x): what reaches the activation is what the test gives."""
    layer = Dense(units, activation, kernel_initializer="identity")
    model = Sequential([Input((units,)), layer, *after])
    model.compile(optimizers.SGD(1.0), loss)
    return model


LOGITS = {
    "large": [1e4, -1e4, 0.0],
    "all large": [1e4, 1e4, 1e4],
    "all very negative": [-1e4, -1e4, -1e4],
    "equal": [0.0, 0.0, 0.0],
    "close and large": [1e4, 1e4 - 1, -1e4],
}


@pytest.mark.parametrize("x", LOGITS.values(), ids=LOGITS)
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("kind", ["sparse", "categorical", "binary"])
def test_loss_and_gradient_of_any_logits(x, label, kind):
    """Against 80-bit numbers: the logarithms, never the probabilities, are what is added."""
    t, z = np.eye(3)[label], np.array(x, np.longdouble)
    if kind == "binary":
        softplus = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
        loss, gradient = np.mean(softplus - t * z), (1 / (1 + np.exp(-z)) - t) / 3
        model = one_layer(3, "sigmoid", "binary_crossentropy")
        y = t[None]
    else:
        shifted = z - z.max()
        log_sum = np.log(np.sum(np.exp(shifted)))
        loss, gradient = log_sum - shifted[label], np.exp(shifted - log_sum) - t
        name = "sparse_categorical" if kind == "sparse" else kind
        model = one_layer(3, "softmax", f"{name}_crossentropy")
        y = np.array([label]) if kind == "sparse" else t[None]
    x = np.array([x], np.float32)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(float(loss), rel=1e-6, abs=1e-7)
    model.fit(x, y, verbose=0)
    moved = -model.get_weights()[1]  # the bias, by one step of rate 1
    np.testing.assert_allclose(moved, gradient.astype(float), rtol=1e-6, atol=1e-7)


def test_probabilities_of_exactly_zero_and_one():
    """Without fusion (a layer follows the softmax): clipped as in Keras, and finite."""
    for label in range(3):
        model = one_layer(3, "softmax", "sparse_categorical_crossentropy", Flatten())
        assert not model.heads[0].from_logits
        loss = model.evaluate(np.array([[1e4, -1e4, 0]], np.float32), [label], verbose=0)
        assert loss == pytest.approx(-np.log(1 - 1e-7) if label == 0 else -np.log(1e-7), rel=1e-4)
        model.fit(np.array([[1e4, -1e4, 0]], np.float32), [label], verbose=0)
        assert all(np.isfinite(w).all() for w in model.get_weights())


def test_training_goes_on_after_a_perfect_fit():
    set_random_seed(1)
    x, y = np.eye(4, dtype=np.float32), np.arange(4)
    for loss in ("sparse_categorical_crossentropy", losses.SparseCategoricalCrossentropy()):
        model = Sequential([Input((4,)), Dense(4, activation="softmax")])
        model.compile(optimizers.SGD(1e4), loss)
        history = model.fit(x, y, epochs=200, verbose=0).history["loss"]
        assert 0 <= history[-1] < 1e-12
        assert all(np.isfinite(w).all() for w in model.get_weights())


def test_batches_of_one_and_constant_channels():
    model = Sequential([Input((4, 4, 2)), BatchNormalization(), GlobalAveragePooling2D(), Dense(2)])
    model.compile("sgd", "mse")
    x = np.full((6, 4, 4, 2), 1e6, np.float32)  # variance 0, a huge mean
    model.fit(x, np.zeros((6, 2)), batch_size=1, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


# -- inside the arrays -----------------------------------------------------------------------------

CHECKED = """
import numpy as np
from minicnn import Model, config, layers as L, set_random_seed
from minicnn.ops.fast import jit, threads

threads.serial_only = True  # errors inside a parallel loop would be lost

@jit.kernel
def outside(x, i):
    return x[i]

try:
    outside(np.ones(3), 3)
except IndexError:
    pass  # the check is on
else:
    raise SystemExit("bounds are not checked")

def run():
    set_random_seed(0)
    x = L.Input((7, 9, 3))
    h = L.ZeroPadding2D(((0, 1), (2, 0)))(L.Rescaling(0.5)(x))
    h = L.Conv2D(5, 3, strides=2, activation="relu")(h)
    h = L.BatchNormalization()(h)
    h = L.UpSampling2D()(L.MaxPooling2D(3, 2, "same")(h))
    h = L.Concatenate()([L.UpSampling2D(interpolation="bilinear")(L.AveragePooling2D()(h)), h])
    h = L.Add()([L.LeakyReLU()(h), L.Activation("gelu")(h)])
    h = L.SpatialDropout2D(0.2)(L.Conv2D(4, 3, padding="same", groups=2)(h))
    h = L.Concatenate()([L.GlobalAveragePooling2D()(h), L.GlobalMaxPooling2D()(h)])
    model = Model(x, L.Dense(5, activation="softmax")(L.Dropout(0.2)(h)))
    model.compile("adam", "sparse_categorical_crossentropy")
    data = np.random.default_rng(0).normal(size=(5, 7, 9, 3))
    model.fit(data, np.arange(5), batch_size=3, epochs=2, verbose=0)
    return model.predict(data, verbose=0)

fast = run()
config.ops = "reference"
np.testing.assert_allclose(fast, run(), rtol=2e-3, atol=2e-4)
print("inside")
"""


def test_kernels_stay_inside_their_arrays():
    """Every plain kernel once with Numba's check of indices; the intrinsics have guard bands."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHECKED)],
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip().endswith("inside"), run.stderr
