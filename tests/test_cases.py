"""Every check on every public layer; a class without a line in cases.py fails."""

import inspect
import json

import cases
import numpy as np
import pytest

from minicnn import Input, Model, check_gradients, config, layers
from minicnn.configurable import serialize
from minicnn.context import Context


def all_cases():
    for cls, entries in cases.LAYERS.items():
        for i, (arguments, shape) in enumerate(entries):
            yield pytest.param(cls, arguments, shape, id=f"{cls.__name__}-{i}")


each_case = pytest.mark.parametrize(("cls", "arguments", "shape"), list(all_cases()))


def make(cls, arguments, **more):
    if isinstance(arguments, dict):
        return cls(**arguments, **more)
    return cls(*arguments, **more)


def data(shape, n=3, dtype=np.float32, seed=0):
    """Normal numbers; no two equal, so that maxima are unique."""
    generator = np.random.default_rng(seed)
    if isinstance(shape, list):
        return [generator.normal(size=(n, *one)).astype(dtype) for one in shape]
    return generator.normal(size=(n, *shape)).astype(dtype)


def model_of(cls, arguments, shape):
    """A model with this layer alone in it."""
    if isinstance(shape, list):
        inputs = [Input(one) for one in shape]
    else:
        inputs = Input(shape)
    return Model(inputs, make(cls, arguments)(inputs))


def randomize(layer, seed=1):
    """Weights that are all different and positive where they are variances."""
    generator = np.random.default_rng(seed)
    for parameter in layer.weights:
        value = generator.normal(size=parameter.shape) * 0.5
        parameter.assign(np.abs(value) + 0.5 if "variance" in parameter.name else value)


def as_list(value):
    return value if isinstance(value, list) else [value]


def test_every_public_layer_has_a_case():
    classes = {
        value
        for value in vars(layers).values()
        if inspect.isclass(value) and issubclass(value, layers.Layer)
    }
    missing = {cls.__name__ for cls in classes} - {cls.__name__ for cls in cases.LAYERS}
    assert missing == cases.LAYERS_ELSEWHERE


@each_case
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_gradient_in_float64(cls, arguments, shape, training):
    layer = make(cls, arguments)
    x = data(shape, dtype=np.float64)
    layer.ensure_built([one.shape for one in x] if isinstance(x, list) else x.shape)
    randomize(layer)
    report = check_gradients(layer, x, training=training, entries=12, verbose=False)
    assert report.passed, list(report)
    assert report[0].largest > 0, "the check saw no gradient"
    assert len(report) == len(as_list(x)) + len(layer.trainable_weights)


def run(layer, x, training=True):
    """y, dx and parameter gradients of one pass."""
    context = Context(training=training, keep=True, seed=5, frozen_state=True)
    for parameter in layer.weights:
        parameter.grad = None
    y, saved = layer.forward(x, context)
    dy = np.random.default_rng(2).normal(size=y.shape).astype(y.dtype)
    dx = layer.backward(dy, saved, True)
    return [y, *as_list(dx), *(p.grad for p in layer.trainable_weights)]


@each_case
def test_fast_equals_reference(cls, arguments, shape):
    layer, x = make(cls, arguments), data(shape)
    layer.ensure_built([one.shape for one in x] if isinstance(x, list) else x.shape)
    randomize(layer)
    with config.using(ops="fast"):
        fast = run(layer, x)
    with config.using(ops="reference"):
        reference = run(layer, x)
    for a, b in zip(fast, reference, strict=True):
        assert a.dtype == b.dtype == np.float32
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * max(1, np.abs(b).max()))
    assert any(np.abs(one).max() > 0 for one in reference)


@each_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_type_and_arguments_are_kept(cls, arguments, shape, dtype):
    layer, x = make(cls, arguments, dtype=dtype), data(shape, dtype=dtype)
    layer.ensure_built([one.shape for one in x] if isinstance(x, list) else x.shape)
    before = [one.copy() for one in as_list(x)]
    for one in run(layer, x):
        assert one.dtype == np.dtype(dtype)
    for one, old in zip(as_list(x), before, strict=True):
        np.testing.assert_array_equal(one, old)


@each_case
def test_declared_shape_is_the_shape(cls, arguments, shape):
    layer, x = make(cls, arguments), data(shape)
    given = [one.shape for one in x] if isinstance(x, list) else x.shape
    layer.ensure_built(given)
    assert layer.forward(x, Context())[0].shape == tuple(layer.compute_output_shape(given))
    unknown = [(None, *one[1:]) for one in given] if isinstance(x, list) else (None, *given[1:])
    assert layer.compute_output_shape(unknown)[0] is None


@each_case
def test_config_round_trip(cls, arguments, shape):
    layer = make(cls, arguments)
    entry = json.loads(json.dumps(serialize(layer)))
    again = layers.deserialize(entry)
    assert type(again) is cls
    assert again.get_config() == layer.get_config()
    assert {"name", "trainable", "dtype"} <= set(layer.get_config())


@each_case
def test_file_round_trip(cls, arguments, shape, tmp_path):
    from minicnn import load_model

    model, x = model_of(cls, arguments, shape), data(shape)
    randomize(model)
    model.save(tmp_path / "layer.keras")
    again = load_model(tmp_path / "layer.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    for a, b in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@each_case
def test_parts_of_a_batch_predict_the_same(cls, arguments, shape):
    model, x = model_of(cls, arguments, shape), data(shape, n=5)
    randomize(model)
    whole = model.predict(x, batch_size=5, verbose=0)
    parts = model.predict(x, batch_size=2, verbose=0)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


@each_case
def test_eager_call_equals_predict(cls, arguments, shape):
    model, x = model_of(cls, arguments, shape), data(shape)
    np.testing.assert_array_equal(model(x), model.predict(x, verbose=0))
