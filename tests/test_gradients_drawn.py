"""Gradients in float64 of geometries that hypothesis draws: strides, paddings, dilations."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minicnn import check_gradients, config, layers

sizes = st.integers(1, 9)
quick = settings(max_examples=40, deadline=None)
op_sets = st.sampled_from(["fast", "reference"])


def checked(layer, shape, op_set, seed):
    """Whether the layer's gradients agree with central differences on normal numbers."""
    x = np.random.default_rng(seed).normal(size=shape)
    with config.using(ops=op_set):
        report = check_gradients(layer, x, entries=6, seed=seed, verbose=False)
    assert report.passed, (layer.get_config(), shape, list(report))
    assert max(row.largest for row in report) > 0


def fits(layer, shape):
    """Skip geometries that leave no output pixel; those are refused, see test_bad_input."""
    layer.ensure_built(shape)
    try:
        layer.compute_output_shape(shape)
    except ValueError as error:
        assert "larger than its input" in str(error)
        assume(False)


@quick
@given(st.data())
def test_convolution(data):
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = (1, 1)
    if strides == (1, 1):
        dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    layer = layers.Conv2D(
        filters=groups * draw(st.integers(1, 5)),
        kernel_size=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        strides=strides,
        padding=draw(st.sampled_from(["valid", "same"])),
        dilation_rate=dilation,
        groups=groups,
        activation=draw(st.sampled_from([None, "tanh", "elu", "softplus"])),
        use_bias=draw(st.booleans()),
        kernel_regularizer="l2",
    )
    shape = (draw(st.integers(1, 3)), draw(sizes), draw(sizes), groups * draw(st.integers(1, 3)))
    fits(layer, shape)
    checked(layer, shape, draw(op_sets), draw(st.integers(0, 99)))


@quick
@given(st.data())
def test_pooling(data):
    draw = data.draw
    cls = draw(st.sampled_from([layers.MaxPooling2D, layers.AveragePooling2D]))
    layer = cls(
        pool_size=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        strides=draw(st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=draw(st.sampled_from(["valid", "same"])),
    )
    shape = (draw(st.integers(1, 3)), draw(sizes), draw(sizes), draw(st.integers(1, 20)))
    fits(layer, shape)
    checked(layer, shape, draw(op_sets), draw(st.integers(0, 99)))


@quick
@given(st.data())
def test_batch_normalization(data):
    draw = data.draw
    layer = layers.BatchNormalization(
        center=draw(st.booleans()), scale=draw(st.booleans()), epsilon=0.01
    )
    shape = (draw(st.integers(2, 4)), *draw(st.lists(sizes, max_size=2)), draw(st.integers(1, 20)))
    checked(layer, shape, draw(op_sets), draw(st.integers(0, 99)))


@quick
@given(st.data())
def test_dense(data):
    draw = data.draw
    layer = layers.Dense(
        draw(st.integers(1, 40)), activation=draw(st.sampled_from([None, "sigmoid", "softmax"]))
    )
    assume(layer.units > 1 or layer.activation.name != "softmax")  # constant: no gradient to see
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 40)))
    checked(layer, shape, draw(op_sets), draw(st.integers(0, 99)))
