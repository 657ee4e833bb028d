"""Every layer of tests/cases.py against Keras's layer of that name, with the same weights."""

import functools
import inspect

import cases
import jax
import keras
import numpy as np
import pytest
from oracle import as_keras, close, disagreements, numbers

from minicnn import activations, layers
from minicnn.context import Context

BATCH = 3

# Sums of up to 300 products in float32: 1e-5 of the largest number. Kernel gradients add over all
# pixels of the batch, and Winograd's transforms cost them another digit of the last two.
FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = 1e-5, 1e-5, 3e-5

CASES = {
    f"{cls.__name__}-{i}": (cls, arguments, shape)
    for cls, entries in cases.LAYERS.items()
    for i, (arguments, shape) in enumerate(entries)
}
# What all other constructors of Keras take: whoever writes a file for Keras leaves it out.
REFUSED_BY_KERAS = {"SpatialDropout2D": {"trainable"}}

each_case = pytest.mark.parametrize("case", CASES)


def make(cls, arguments):
    return cls(**arguments) if isinstance(arguments, dict) else cls(*arguments)


def make_theirs(cls, arguments):
    """Keras's layer; it does not know its function l1_l2 by that name, which is ours by habit."""
    if isinstance(arguments, dict):
        arguments = {k: "l1l2" if v == "l1_l2" else v for k, v in arguments.items()}
    return make(getattr(keras.layers, cls.__name__), arguments)


def as_list(value):
    return value if isinstance(value, list | tuple) else [value]


class Pair:
    """Our layer and Keras's, built for one shape, with equal weights."""

    def __init__(self, case, **attributes):
        cls, arguments, shape = CASES[case]
        self.ours = make(cls, arguments)
        self.theirs = make_theirs(cls, arguments)
        if isinstance(shape, list):
            self.x = [numbers(BATCH, *one, seed=i) for i, one in enumerate(shape)]
            self.shape = [one.shape for one in self.x]
        else:
            self.x = numbers(BATCH, *shape)
            self.shape = self.x.shape
        self.ours.ensure_built(self.shape)
        self.theirs.build(self.shape)
        for name, value in attributes.items():
            setattr(self.ours, name, value)
            setattr(self.theirs, name, value)
        weights = [
            np.abs(w) + 0.5 if "variance" in p.name else w
            for i, p in enumerate(self.ours.weights)
            for w in [numbers(*p.shape, seed=100 + i) / 2]
        ]
        self.ours.set_weights(weights)
        self.theirs.set_weights(weights)
        if hasattr(self.theirs, "finalize_state"):  # a Normalization reads its weights here only
            self.theirs.finalize_state()
        self.dy = numbers(*self.ours.compute_output_shape(self.shape), seed=50)

    def our_pass(self, training):
        """y, dx, gradients of the trainable weights."""
        y, saved = self.ours.forward(self.x, Context(training=training, keep=True, seed=1))
        dx = self.ours.backward(self.dy, saved, True)
        return y, as_list(dx), [p.grad for p in self.ours.trainable_weights]

    def their_pass(self, training):
        """The same, and the weights that are not trained as they are afterwards."""
        layer, mode = self.theirs, {"training": training}
        if "training" not in inspect.signature(layer.call).parameters:
            mode = {}

        @jax.jit
        def run(trained, fixed, x, dy):
            def forward(trained, x):
                return layer.stateless_call(trained, fixed, x, **mode)

            y, pull, after = jax.vjp(forward, trained, x, has_aux=True)
            dweights, dx = pull(dy)
            return y, as_list(dx), dweights, after

        trained = [v.value for v in layer.trainable_variables]
        fixed = [v.value for v in layer.non_trainable_variables]
        return run(trained, fixed, self.x, self.dy)


@functools.cache
def pair(case):
    return Pair(case)


def compare(pair, training):
    y, dx, dweights = pair.our_pass(training)
    their_y, their_dx, their_dweights, after = pair.their_pass(training)
    close(y, their_y, FORWARD, "y")
    for ours, theirs in zip(dx, their_dx, strict=True):
        close(ours, theirs, INPUT_GRADIENT, "dx")
    names = [p.name for p in pair.ours.trainable_weights]
    for name, ours, theirs in zip(names, dweights, their_dweights, strict=True):
        close(ours, theirs, WEIGHT_GRADIENT, name)
    return after


@each_case
def test_weights_have_the_same_names_shapes_and_order(case):
    ours, theirs = pair(case).ours.weights, pair(case).theirs.weights
    assert [(p.name.split("/")[-1], p.shape, p.trainable) for p in ours] == [
        (v.name, v.shape, v.trainable) for v in theirs
    ]


@each_case
def test_shapes(case):
    ours, theirs, shape = pair(case).ours, pair(case).theirs, pair(case).shape
    assert tuple(ours.compute_output_shape(shape)) == tuple(theirs.compute_output_shape(shape))
    assert ours.count_params() == theirs.count_params()
    unknown = [without_sizes(ours, one) for one in (shape if isinstance(shape, list) else [shape])]
    unknown = unknown if isinstance(shape, list) else unknown[0]
    assert tuple(ours.compute_output_shape(unknown)) == tuple(theirs.compute_output_shape(unknown))


def without_sizes(layer, shape):
    """The shape with batch and, where a layer may live with that, image sizes unknown."""
    if len(shape) == 4 and getattr(layer, "axis", -1) == -1:
        return (None, None, None, shape[3])
    return (None, *shape[1:])


@each_case
def test_config_is_read_by_keras(case):
    ours = pair(case).ours
    refused = REFUSED_BY_KERAS.get(type(ours).__name__, ())
    config = {key: value for key, value in ours.get_config().items() if key not in refused}
    theirs = type(pair(case).theirs).from_config(as_keras(config))
    assert not disagreements(config, theirs.get_config())


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")  # Keras's MixUp
@pytest.mark.parametrize("case", [case for case in CASES if "RandomCrop" not in case])
def test_inference_and_gradients(case):
    """Keras's RandomCrop leaves pictures as they are, against its documentation: ours resizes."""
    compare(pair(case), training=False)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("BatchNorm")])
def test_batch_normalization_in_training(case):
    both = Pair(case)
    after = compare(both, training=True)
    for ours, theirs in zip(both.ours.non_trainable_weights, after, strict=True):
        close(ours.value, theirs, what=ours.name)


def test_frozen_batch_normalization_uses_the_moving_statistics_in_training():
    both = Pair("BatchNormalization-0", trainable=False)
    before = both.ours.get_weights()
    compare(both, training=True)
    for old, ours in zip(before, both.ours.get_weights(), strict=True):
        np.testing.assert_array_equal(old, ours)


@pytest.mark.parametrize("case", [case for case in CASES if "Dropout" in case])
def test_dropout_in_training(case):
    """The draws differ; what is drawn per element or per map, and how the rest is scaled, not."""
    both = Pair(case)
    both.x = np.ones_like(both.x)
    ours, theirs = both.our_pass(True)[0], np.asarray(both.their_pass(True)[0])
    kept = 1 / (1 - both.ours.rate)
    for y in (ours, theirs):
        close(np.unique(y), [0, kept])
    for axis in range(1, ours.ndim):
        shared = [np.ptp(y, axis=axis).max() == 0 for y in (ours, theirs)]
        assert shared[0] == shared[1], f"axis {axis}"


@pytest.mark.parametrize("name", ["MaxPooling2D", "GlobalMaxPooling2D"])
def test_equal_maxima(name):
    """The gradient goes to the first; of a global maximum Keras gives each of them its share."""
    x = np.ones((1, 4, 4, 1), np.float32)
    ours, theirs = getattr(layers, name)(), getattr(keras.layers, name)()
    ours.ensure_built(x.shape)
    y, saved = ours.forward(x, Context(keep=True))
    dx = ours.backward(np.ones_like(y), saved, True)
    expected = np.asarray(jax.grad(lambda x: theirs(x).sum())(x))
    if name == "GlobalMaxPooling2D":
        assert np.unique(expected) == 1 / 16
        expected = np.eye(1, 16).reshape(x.shape)
    np.testing.assert_array_equal(dx, expected)


def activation_functions():
    return [
        name
        for name, value in vars(activations).items()
        if hasattr(value, "make") and hasattr(keras.activations, name)
    ]


def test_every_activation_and_its_derivative():
    x, dy = 3 * numbers(4, 6), numbers(4, 6, seed=1)
    names = activation_functions()
    assert len(names) >= 20

    @jax.jit
    def theirs(x, dy):
        results = {}
        for name in names:
            y, pull = jax.vjp(getattr(keras.activations, name), x)
            results[name] = (y, pull(dy)[0])
        return results

    expected = theirs(x, dy)
    for name in names:
        activation = activations.get(name)
        y, saved = activation.forward(x)
        close(y, expected[name][0], what=name)
        close(activation.backward(dy, saved), expected[name][1], what=f"{name} derivative")
        assert activations.serialize(name) == keras.activations.serialize(
            getattr(keras.activations, name)
        )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("relu", dict(negative_slope=0.1, max_value=2.0, threshold=0.5)),
        ("leaky_relu", dict(negative_slope=0.3)),
        ("elu", dict(alpha=0.7)),
        ("celu", dict(alpha=0.7)),
        ("gelu", dict(approximate=True)),
        ("softmax", dict(axis=0)),
        ("log_softmax", dict(axis=1)),
    ],
)
def test_arguments_of_activations(name, arguments):
    x = 3 * numbers(4, 6)
    ours, theirs = getattr(activations, name), getattr(keras.activations, name)
    close(ours(x, **arguments), theirs(x, **arguments))


def test_every_layer_is_compared():
    """Classes of ours that Keras lacks would be a mistake: the names are Keras's."""
    assert all(inspect.isclass(getattr(keras.layers, cls.__name__)) for cls in cases.LAYERS)
