"""Layers that do the work of those above in one pass: the same numbers as one after another."""

import numpy as np
import pytest

from minicnn import (
    Input,
    Model,
    Sequential,
    check_gradients,
    config,
    ops,
    set_random_seed,
)
from minicnn.context import Context
from minicnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Flatten,
    Layer,
    LeakyReLU,
    MaxPooling2D,
    ReLU,
)
from minicnn.layers.normalization import Normalized

CHAINS = {  # layers of a chain -> how many passes remain
    "batch_norm": ([BatchNormalization], 1),
    "batch_norm, relu": ([BatchNormalization, ReLU], 1),
    "batch_norm, sigmoid": ([BatchNormalization, lambda: Activation("sigmoid")], 1),
    "batch_norm, gelu": ([BatchNormalization, lambda: Activation("gelu")], 2),
    "relu": ([ReLU], 1),
    "relu, batch_norm": ([ReLU, BatchNormalization], 1),
    "leaky, batch_norm": ([LeakyReLU, BatchNormalization], 2),
    "relu, batch_norm, relu": ([ReLU, BatchNormalization, ReLU], 2),
    "batch_norm, pool": ([BatchNormalization, MaxPooling2D], 1),
    "batch_norm, relu, pool": ([BatchNormalization, ReLU, MaxPooling2D], 1),
    "relu, pool": ([ReLU, MaxPooling2D], 1),
    "gelu, pool": ([lambda: Activation("gelu"), MaxPooling2D], 3),
    "pool, relu": ([MaxPooling2D, ReLU], 2),
    "pool of three": ([ReLU, lambda: MaxPooling2D(3)], 2),
    "padded pool": ([lambda: MaxPooling2D(padding="same")], 1),
    "two batch_norms": ([BatchNormalization, BatchNormalization], 1),
}


def shaken(model):
    """Its weights and moving statistics made unlike their beginnings."""
    generator = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([w + generator.uniform(0.1, 0.5, w.shape) for w in layer.get_weights()])
    return model


def calls(model, x, monkeypatch, context=None):
    """The output, and the layers whose forward ran."""
    ran = []
    for kind in dict.fromkeys(kind for layer in model.layers for kind in type(layer).__mro__):
        if "forward" in kind.__dict__ and kind is not Layer:
            plain = kind.forward

            def forward(self, x, context, plain=plain):
                ran.append(self)
                return plain(self, x, context)

            monkeypatch.setattr(kind, "forward", forward)
    y, _ = model.forward(x, context or Context())
    return y, [layer for layer in dict.fromkeys(ran) if layer in model.layers]


def apart(model, x):
    """What the layers give one after another: those who watch them want every output."""
    return model.forward(x, Context(watch=lambda layer, y: None))[0]


@pytest.mark.parametrize(
    "settings, chosen",
    [
        ({"padding": "same"}, "winograd"),
        ({"padding": "valid"}, "winograd"),
        ({"kernel_size": 5, "padding": "same"}, "winograd"),
        ({"groups": 2}, "winograd"),
        ({}, "direct"),
        ({"strides": 2}, "auto"),
        ({"kernel_size": 5}, "auto"),
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("chain", CHAINS)
def test_prediction(chain, activation, settings, chosen):
    makers, _ = CHAINS[chain]
    settings = {"kernel_size": 3, "dtype": "float64", **settings}
    model = Sequential([Input((13, 10, 16)), Conv2D(18, activation=activation, **settings)])
    for make in makers:
        model.add(make())
    shaken(model)
    x = np.random.default_rng(1).standard_normal((2, 13, 10, 16))
    with config.using(convolution=chosen):
        expected, y = apart(model, x), model.forward(x, Context())[0]
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chain", CHAINS)
def test_number_of_passes(chain, monkeypatch):
    makers, passes = CHAINS[chain]
    model = shaken(Sequential([Input((5, 5, 3)), Conv2D(4, 3), *(make() for make in makers)]))
    _, ran = calls(model, np.ones((1, 5, 5, 3), np.float32), monkeypatch)
    assert len(ran) == passes


def two_readers():
    x = Input((5, 5, 3))
    y = Conv2D(4, 3, activation="relu")(x)
    return Model(x, [BatchNormalization()(y), MaxPooling2D()(y)])


def output_below():
    x = Input((5, 5, 3))
    y = Conv2D(4, 3, activation="relu")(x)
    return Model(x, [y, BatchNormalization()(y)])


def negative_scale():
    model = Sequential([Input((5, 5, 3)), Conv2D(4, 3, activation="relu"), BatchNormalization()])
    shaken(model).layers[1].gamma.assign([1, -1, 2, 0])
    return model


class Doubled(BatchNormalization):
    def forward(self, x, context):
        y, saved = super().forward(x, context)
        return 2 * y, saved


CASES = {
    "an output with two readers": two_readers,
    "an output of the model": output_below,
    "a scale below zero": negative_scale,
    "a subclass with a forward of its own": lambda: Sequential(
        [Input((5, 5, 3)), Conv2D(4, 3), Doubled()]
    ),
    "an activity regulariser": lambda: Sequential(
        [Input((5, 5, 3)), Conv2D(4, 3, activity_regularizer="l2"), BatchNormalization()]
    ),
    "a call in training mode": lambda: Model(
        x := Input((5, 5, 3)), BatchNormalization()(Conv2D(4, 3)(x), training=True)
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_that_stay_apart(case, monkeypatch):
    model = CASES[case]()
    if case != "a scale below zero":
        shaken(model)
    x = np.random.default_rng(1).standard_normal((3, 5, 5, 3)).astype(np.float32)
    expected = apart(model, x)
    y, ran = calls(model, x, monkeypatch)
    assert any(isinstance(layer, BatchNormalization) for layer in ran)
    both = [one if isinstance(one, list) else [one] for one in (y, expected)]
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one, other)


TRAINED = {  # layers -> how many of them run in training, Flatten among them
    "relu": (lambda: [Conv2D(4, 3), ReLU()], 2),
    "gelu": (lambda: [Conv2D(4, 3), Activation("gelu")], 3),
    "norm, relu": (lambda: [Conv2D(4, 3), BatchNormalization(), ReLU()], 3),
    "norm, leaky": (lambda: [Conv2D(4, 3), BatchNormalization(), LeakyReLU(0.1)], 3),
    "norm, elu": (lambda: [Conv2D(4, 3), BatchNormalization(), Activation("elu")], 4),
    "norm, pool": (lambda: [Conv2D(4, 3), BatchNormalization(), MaxPooling2D()], 3),
    "norm, relu, pool": (
        lambda: [Conv2D(4, 3), BatchNormalization(), ReLU(), MaxPooling2D()],
        3,
    ),
    "relu, norm, pool": (
        lambda: [Conv2D(4, 3, activation="relu"), BatchNormalization(), MaxPooling2D()],
        3,
    ),
    "tanh, norm, pool": (
        lambda: [Conv2D(4, 3, activation="tanh"), BatchNormalization(), MaxPooling2D()],
        4,
    ),
    "odd, norm, pool": (lambda: [Conv2D(4, 2), BatchNormalization(), MaxPooling2D()], 4),
    "norm, pool of three": (lambda: [Conv2D(4, 3), BatchNormalization(), MaxPooling2D(3)], 4),
    "pool": (lambda: [Conv2D(4, 3), MaxPooling2D()], 2),
    "relu, pool": (lambda: [Conv2D(4, 3, activation="relu"), MaxPooling2D()], 2),
    "leaky layer, padded pool": (
        lambda: [Conv2D(4, 2, use_bias=False), LeakyReLU(0.1), MaxPooling2D(padding="same")],
        2,
    ),
    "sigmoid, pool": (lambda: [Conv2D(4, 3, activation="sigmoid"), MaxPooling2D()], 2),
    "gelu, pool": (lambda: [Conv2D(4, 3, activation="gelu"), MaxPooling2D()], 3),
    "pool, relu": (lambda: [Conv2D(4, 3), MaxPooling2D(), ReLU()], 3),
    "relu, pool, norm": (
        lambda: [Conv2D(4, 3, activation="relu"), MaxPooling2D(), BatchNormalization()],
        3,
    ),
    "frozen norm, pool": (
        lambda: [Conv2D(4, 3), BatchNormalization(trainable=False), MaxPooling2D()],
        4,
    ),
}


@pytest.mark.parametrize("convolution", ["auto", "winograd"])
@pytest.mark.parametrize("case", TRAINED)
def test_training(case, convolution, monkeypatch):
    """Gradients through what was taken over, and the same step as with layers apart."""
    set_random_seed(3)
    monkeypatch.setattr(config, "convolution", convolution)
    make, passes = TRAINED[case]
    model = Sequential([Input((8, 8, 2), dtype="float64"), *make(), Flatten()])
    generator = np.random.default_rng(0)
    x = generator.standard_normal((4, 8, 8, 2))
    dy = generator.standard_normal((4, *model.output_shape[1:]))
    context = Context(training=True, keep=True, frozen_state=True)
    _, ran = calls(model, x, monkeypatch, context)
    assert len(ran) == passes
    gradients = []
    for watch in (None, lambda layer, y: None):
        context = Context(training=True, keep=True, frozen_state=True, watch=watch)
        y, saved = model.forward(x, context)
        for parameter in model.trainable_weights:
            parameter.grad = None
        dx = model.backward(dy, saved, True)
        gradients.append([y, dx, *(p.grad.copy() for p in model.trainable_weights)])
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
        assert np.any(one)


@pytest.mark.parametrize("activation", [None, "relu", LeakyReLU, "tanh", "gelu"])
@pytest.mark.parametrize("pool", ["valid", "same"])
def test_a_first_layer_with_maxima(pool, activation):
    """Nobody wants the gradient of x: that of the convolution's outputs is not written."""
    set_random_seed(0)
    fused = activation if isinstance(activation, str) else None
    chain = [Conv2D(6, 3, activation=fused), *([activation()] if fused != activation else [])]
    chain += [MaxPooling2D(padding=pool), Flatten()]
    model = Sequential([Input((9, 10, 3), dtype="float64"), *chain])
    generator = np.random.default_rng(0)
    x = generator.standard_normal((4, 9, 10, 3))
    dy = generator.standard_normal((4, *model.output_shape[1:]))
    gradients = []
    for needs_dx in (False, True):
        _, saved = model.forward(x, Context(training=True, keep=True))
        for parameter in model.trainable_weights:
            parameter.grad = None
        model.backward(dy, saved, needs_dx)
        gradients.append([p.grad.copy() for p in model.trainable_weights])
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
        assert np.any(one)


def test_gradients_by_differences():
    set_random_seed(0)
    model = Sequential(
        [
            Input((7, 7, 2)),
            Conv2D(3, 3),
            BatchNormalization(),
            ReLU(),
            Conv2D(4, 2),
            LeakyReLU(0.1),
            Flatten(),
        ]
    )
    model.compile("sgd", "mse")
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((3, 7, 7, 2)), generator.standard_normal((3, 64))
    assert check_gradients(model, x, y).passed


def test_the_floor_of_a_rectifier_below_a_batch_normalisation(monkeypatch):
    """One call of conv2d and nothing after it."""
    model = shaken(
        Sequential([Input((5, 5, 3)), Conv2D(4, 3, activation="relu"), BatchNormalization()])
    )
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 3)).astype(np.float32)
    expected = apart(model, x)
    monkeypatch.setattr(ops, "batch_norm_inference", None)
    np.testing.assert_allclose(model.forward(x, Context())[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("below", [Conv2D(1, 3), BatchNormalization()], ids=lambda one: one.name)
def test_a_loss_on_logits_gets_logits(below):
    """The last activation is left out, not moved into the layer below it."""
    model = Sequential([Input((6, 6, 1)), below, Activation("sigmoid")])
    model.compile("sgd", "binary_crossentropy")
    assert model.heads[0].from_logits
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, 6, 6, 1)).astype(np.float32)
    p = model.predict(x, verbose=0)
    t = generator.integers(0, 2, p.shape).astype(np.float32)
    crossentropy = -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))
    np.testing.assert_allclose(model.evaluate(x, t, verbose=0), crossentropy, rtol=1e-5)
    assert check_gradients(model, x, t).passed


def residual(after):
    """A block whose sum is followed by the layers `after`."""
    x = Input((6, 5, 3))
    short = Conv2D(4, 1, dtype="float64")(x)
    y = Conv2D(4, 3, padding="same", dtype="float64")(short)
    y = Add(dtype="float64")([y, short])
    for layer in after:
        y = layer(y)
    return Model(x, Flatten(dtype="float64")(y))


@pytest.mark.parametrize(
    "after, taken",
    [
        ([], False),
        ([ReLU(dtype="float64")], True),
        ([LeakyReLU(dtype="float64")], True),
        ([ReLU(dtype="float64"), BatchNormalization(dtype="float64")], True),
        ([ReLU(max_value=1, dtype="float64")], False),
        ([Activation("sigmoid", dtype="float64")], False),
    ],
    ids=["nothing", "relu", "leaky", "relu, batch_norm", "bounded", "sigmoid"],
)
def test_sum_and_rectifier(after, taken, monkeypatch):
    model = residual(after)
    x = np.random.default_rng(0).standard_normal((3, 6, 5, 3))
    np.testing.assert_array_equal(model.forward(x, Context())[0], apart(model, x))
    assert check_gradients(model, x).passed
    _, ran = calls(model, x, monkeypatch)
    assert (len(ran) == len(model.layers) - 2) == taken  # Input never runs


@pytest.mark.parametrize("rectifier", [None, ReLU(dtype="float64")], ids=["none", "relu"])
def test_a_sum_adds_the_gradients_of_those_that_read_it(rectifier, monkeypatch):
    """Two blocks: the first one's sum is read by the second one's convolution and its shortcut."""
    x = Input((6, 5, 3))
    first = Conv2D(3, 3, padding="same", dtype="float64")(x)
    first = Add(dtype="float64")([first, x])
    y = first if rectifier is None else rectifier(first)
    second = Conv2D(3, 3, padding="same", dtype="float64")(y)
    model = Model(x, Flatten(dtype="float64")(Add(dtype="float64")([second, y])))
    x = np.random.default_rng(0).standard_normal((3, 6, 5, 3))
    added, plain = [], Add.backward

    def backward(self, dy, saved, needs_dx):
        added.append(len(dy))
        return plain(self, dy, saved, needs_dx)

    monkeypatch.setattr(Add, "backward", backward)
    y, saved = model.forward(x, Context(training=True, keep=True))
    model.backward(np.ones_like(y), saved, False)
    assert added == [1, 2]
    assert check_gradients(model, x).passed


def test_no_more_than_two_gradients_of_a_value_wait(monkeypatch):
    x = Input((4,))
    y = Add()([x, x])
    model = Model(x, Add()([y] * 5))
    given, plain = [], Add.backward

    def backward(self, dy, saved, needs_dx):
        given.append(len(dy))
        return plain(self, dy, saved, needs_dx)

    monkeypatch.setattr(Add, "backward", backward)
    y, saved = model.forward(np.ones((2, 4), np.float32), Context(keep=True))
    np.testing.assert_array_equal(model.backward(np.ones_like(y), saved, True), 10)
    assert given == [1, 2]


def test_a_sum_of_ones_own_gets_one_gradient(monkeypatch):
    """A subclass with a backward of its own knows nothing of lists."""

    class Halved(Add):
        def backward(self, dy, saved, needs_dx):
            assert isinstance(dy, np.ndarray)
            return super().backward(dy, saved, needs_dx)

    x = Input((4,))
    y = Halved()([x, x])
    model = Model(x, Add()([y, y]))
    y, saved = model.forward(np.ones((2, 4), np.float32), Context(keep=True))
    np.testing.assert_array_equal(model.backward(np.ones_like(y), saved, True), 4)


def normalized_paths(make, first=BatchNormalization, second=None, **settings):
    """A block whose paths end with normalizations, which `make(paths)` puts together."""
    x = Input((6, 5, 3))
    short = Conv2D(4, 1, dtype="float64")(x)
    y = Conv2D(4, 3, padding="same", dtype="float64")(short)
    y = first(dtype="float64", **settings)(y)
    if second is not None:
        short = second(dtype="float64")(short)
    outputs = make([y, short])
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return Model(x, [Flatten(dtype="float64")(one) for one in outputs])


def summed(paths):
    return Add(dtype="float64")(paths)


def rectified(paths):
    return ReLU(dtype="float64")(summed(paths))


def read_twice(paths):
    """Two gradients of the rectified sum."""
    y = rectified(paths)
    return [y, Conv2D(2, 3, dtype="float64")(y)]


JOINED = {  # arguments of normalized_paths, how many normalizations are finished by the sum
    "sum": ({"make": summed}, 1),
    "rectified": ({"make": rectified}, 1),
    "rectified, two readers": ({"make": read_twice}, 1),
    "the other first": ({"make": lambda paths: rectified(paths[::-1])}, 1),
    "both": ({"make": rectified, "second": BatchNormalization}, 2),
    "both, two readers": ({"make": read_twice, "second": BatchNormalization}, 2),
    "without scale and centre": ({"make": rectified, "scale": False, "center": False}, 1),
    "frozen": ({"make": rectified, "trainable": False}, 0),
    "another axis": ({"make": rectified, "axis": 1}, 0),
    "a subclass": ({"make": rectified, "first": Doubled}, 0),
    "three terms": ({"make": lambda paths: rectified([*paths, paths[1]])}, 0),
    "twice the same": ({"make": lambda paths: rectified([paths[0], paths[0]])}, 0),
    "an output": ({"make": lambda paths: [rectified(paths), paths[0]]}, 0),
    "an activity regulariser": ({"make": rectified, "activity_regularizer": "l2"}, 0),
}


@pytest.mark.parametrize("case", JOINED)
def test_a_sum_finishes_normalizations(case, monkeypatch):
    """The same numbers and gradients as apart, in training; recorded steps repeat them."""
    set_random_seed(1)
    arguments, joined = JOINED[case]
    model = shaken(normalized_paths(**arguments))
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, 6, 5, 3))
    given, plain = [], Add.forward

    def forward(self, x, context):
        given.extend(isinstance(one, Normalized) for one in x)
        return plain(self, x, context)

    monkeypatch.setattr(Add, "forward", forward)
    results = []
    for watch in (None, lambda layer, y: None):
        context = Context(training=True, keep=True, frozen_state=True, watch=watch)
        y, saved = model.forward(x, context)
        y = y if isinstance(y, list) else [y]
        dy = [np.random.default_rng(2).standard_normal(one.shape) for one in y]
        for parameter in model.trainable_weights:
            parameter.grad = None
        dx = model.backward(dy if len(dy) > 1 else dy[0], saved, True)
        gradients = [p.grad for p in model.trainable_weights if p.grad is not None]
        results.append([*y, dx, *(one.copy() for one in gradients)])
        assert sum(given) == joined
        joined = 0
        given.clear()
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    if case != "a subclass":  # whose backward does not fit its forward
        assert check_gradients(model, x).passed


def test_training_with_joined_normalizations(monkeypatch):
    """Steps recorded, not recorded, and in passes of their own: the same weights and moving
    statistics, bit for bit."""
    weights = []
    for run_eagerly, apart in ((False, False), (True, False), (True, True)):
        set_random_seed(1)
        model = normalized_paths(read_twice, second=BatchNormalization)
        plan = model.graph
        assert sum(step.joins for step in plan.steps) == 2
        if apart:
            monkeypatch.setattr(BatchNormalization, "leaves_normalized", False)
            assert not any(step.joins for step in plan.steps)
        model.compile("sgd", ["mse", "mse"], run_eagerly=run_eagerly)
        generator = np.random.default_rng(0)
        x = generator.standard_normal((24, 6, 5, 3))
        y = [generator.standard_normal((24, *shape[1:])) for shape in model.output_shape]
        model.fit(x, y, batch_size=4, epochs=2, verbose=0)
        weights.append(model.get_weights())
    for one in weights[1:]:
        for a, b in zip(weights[0], one, strict=True):
            np.testing.assert_array_equal(a, b)
