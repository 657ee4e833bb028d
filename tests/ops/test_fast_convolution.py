"""The compiled convolutions: exact on small integers, for every geometry, and nothing but `out`."""

import contextlib
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate

from minicnn import config
from minicnn.ops.fast import (
    bands,
    convolution,
    dense,
    dense_heads,
    dense_products,
    depthwise,
    few_filters,
    sharing,
    simd,
)
from minicnn.ops.fast.pooled_convolution import conv2d_max_pool, conv2d_max_pool_kernel_grad
from minicnn.ops.fast.pooling import max_pool2d
from minicnn.ops.reference.convolution import conv2d as reference_conv2d
from minicnn.ops.reference.pooled_convolution import (
    conv2d_max_pool_kernel_grad as reference_kernel_grad,
)
from minicnn.ops.shapes import conv2d_shape, resolve_padding

BAND = 300  # elements before and after an array that must not be touched


@pytest.fixture(autouse=True)
def direct():
    with config.using(convolution="direct"):
        yield


def integers(shape, dtype=np.float32, seed=0):
    """Small integers: every float32 sum of their products is exact in any order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def windows(x, kernel_shape, strides, padding, dilation):
    """For each tap (a, b) of a kernel the pixels it meets, as a view of the padded x."""
    kh, kw = kernel_shape[:2]
    pads = resolve_padding(padding, x.shape[1:3], (kh, kw), strides, dilation)
    _, oh, ow, _ = conv2d_shape(x.shape, kernel_shape, strides, padding, dilation)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    for a in range(kh):
        for b in range(kw):
            top, left = a * dilation[0], b * dilation[1]
            yield (
                a,
                b,
                padded[
                    :,
                    top : top + (oh - 1) * strides[0] + 1 : strides[0],
                    left : left + (ow - 1) * strides[1] + 1 : strides[1],
                ],
            )


def expected(x, kernel, dy, strides, padding, dilation, groups):
    """(y, dx, dkernel) in float64, tap by tap; dx through a scatter over pixel numbers."""
    x, kernel, dy = (a.astype(np.float64) for a in (x, kernel, dy))
    c, filters = kernel.shape[2], kernel.shape[3] // groups
    y, dk, dx = np.zeros(dy.shape), np.zeros(kernel.shape), np.zeros(x.size + 1)
    numbers = np.arange(1, x.size + 1).reshape(x.shape)  # padding has number 0
    seen = windows(x, kernel.shape, strides, padding, dilation)
    for (a, b, pixels), (_, _, places) in zip(
        seen, windows(numbers, kernel.shape, strides, padding, dilation), strict=True
    ):
        for g in range(groups):
            of_x, of_y = slice(g * c, (g + 1) * c), slice(g * filters, (g + 1) * filters)
            y[..., of_y] += pixels[..., of_x] @ kernel[a, b][:, of_y]
            dk[a, b][:, of_y] = np.tensordot(pixels[..., of_x], dy[..., of_y], ([0, 1, 2],) * 2)
            np.add.at(dx, places[..., of_x], dy[..., of_y] @ kernel[a, b][:, of_y].T)
    return y, dx[1:].reshape(x.shape), dk


def banded(array, filling):
    """A copy of `array` inside a larger buffer of `filling`, not aligned to vectors."""
    buffer = np.full(array.size + 2 * BAND + 1, filling, array.dtype)
    inside = buffer[BAND + 1 : BAND + 1 + array.size].reshape(array.shape)
    inside[...] = array
    return buffer, inside


def assert_bands(buffer, filling):
    assert (buffer[: BAND + 1] == filling).all() and (buffer[-BAND:] == filling).all()


@contextlib.contextmanager
def choosing(module, name, choice):
    """`module.name`, which says where an algorithm is used, replaced by a function or left."""
    with mock.patch.object(module, name, choice or getattr(module, name)):
        convolution._chosen.cache_clear()  # by the other function
        try:
            yield
        finally:
            convolution._chosen.cache_clear()


def test_a_choice_is_heeded():
    """Also where another algorithm was chosen for this shape before."""
    shape = convolution.geometry((2, 9, 9, 3), (3, 3, 3, 16), (1, 1), "same", (1, 1), 1)
    for used, algorithm in (("ever", bands), ("never", convolution.direct), ("ever", bands)):
        with choosing(bands, "pays", FEW_CHANNELS[used]), config.using(amx="off"):
            chosen = convolution.algorithm_for(shape, np.dtype("f4"), convolution.FORWARD)
        assert chosen is algorithm


# Where the algorithm for few channels is used: nowhere, where it can be, where it is chosen.
FEW_CHANNELS = {"never": lambda *_: False, "ever": bands.is_defined, "chosen": None}


def check(x_shape, kernel_shape, strides, padding, dilation, groups, dtype):
    x, kernel = integers(x_shape, dtype, 1), integers(kernel_shape, dtype, 2)
    bias = integers(kernel_shape[3:], dtype, 3)
    y_shape = conv2d_shape(x_shape, kernel_shape, strides, padding, dilation)
    dy = integers(y_shape, dtype, 4)
    y, dx, dk = expected(x, kernel, dy, strides, padding, dilation, groups)
    geometry = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    # NaN around everything that is read, a mark around everything that is written.
    x, kernel, bias, dy = (banded(a, np.nan)[1] for a in (x, kernel, bias, dy))
    for operation, arguments, result in (
        (convolution.conv2d, (x, kernel, bias), y + bias),
        (convolution.conv2d_input_grad, (dy, kernel, x_shape), dx),
        (convolution.conv2d_kernel_grad, (x, dy, kernel_shape), dk),
    ):
        buffer, out = banded(np.full(result.shape, np.nan, dtype), 77)
        assert operation(*arguments, **geometry, out=out) is out
        np.testing.assert_array_equal(out, result)
        assert_bands(buffer, 77)


@st.composite
def geometries(draw):
    small = st.integers(1, 4)
    kernel_size = draw(st.tuples(small, small))
    strides, dilation = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    per_group = draw(st.sampled_from([1, 2, 3, 5, 16, 17]))
    filters = groups * draw(st.sampled_from([1, 2, 7, 16, 20, 32, 33]))
    if draw(st.integers(0, 5)) == 0:  # depthwise
        groups, per_group = draw(st.sampled_from([2, 5, 16, 21])), 1
        filters = groups
    edge = st.integers(0, 4)
    pads = st.tuples(st.tuples(edge, edge), st.tuples(edge, edge))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), pads))
    least = [1 + (k - 1) * d for k, d in zip(kernel_size, dilation, strict=True)]
    if padding == "same":
        least = [1, 1]
    elif padding != "valid":
        least = [max(1, size - sum(p)) for size, p in zip(least, padding, strict=True)]
    size = [low + draw(st.integers(0, 7)) for low in least]
    batch = draw(st.integers(1, 4))
    return (
        (batch, *size, per_group * groups),
        (*kernel_size, per_group, filters),
        strides,
        padding,
        dilation,
        groups,
    )


@settings(deadline=None, max_examples=150)
@given(
    geometries(), st.sampled_from([np.float32, np.float64]), st.sampled_from(sorted(FEW_CHANNELS))
)
def test_every_geometry_is_exact_on_integers(geometry, dtype, few):
    with choosing(bands, "pays", FEW_CHANNELS[few]):
        check(*geometry, dtype)


LARGE = [
    # enough positions for several blocks, several segments and both tiles of the micro-kernel
    ((9, 32, 31, 3), (3, 3, 3, 32), (1, 1), "same", (1, 1), 1),
    ((5, 17, 19, 40), (3, 3, 40, 49), (1, 1), "same", (1, 1), 1),
    ((3, 30, 30, 64), (1, 1, 64, 96), (1, 1), "valid", (1, 1), 1),
    ((4, 28, 28, 16), (1, 1, 16, 20), (2, 2), "same", (1, 1), 1),
    ((2, 33, 35, 3), (7, 7, 3, 24), (2, 2), "same", (1, 1), 1),
    ((2, 40, 41, 12), (5, 5, 4, 24), (1, 1), "same", (2, 2), 3),
    ((6, 20, 21, 37), (3, 3, 1, 37), (2, 1), "same", (1, 1), 37),
    ((1, 1, 1, 700), (1, 1, 700, 150), (1, 1), "valid", (1, 1), 1),
    # depthwise and in groups: several bands and pieces, all tiles, edges, taps far outside
    ((1, 90, 47, 20), (5, 5, 1, 20), (1, 1), "same", (1, 1), 20),
    ((3, 61, 53, 33), (3, 4, 1, 33), (2, 3), "same", (1, 1), 33),
    ((2, 40, 22, 16), (3, 3, 1, 16), (1, 1), "same", (9, 30), 16),
    ((5, 30, 29, 40), (3, 3, 8, 40), (1, 1), "same", (1, 1), 5),
    ((1, 70, 33, 24), (3, 3, 12, 26), (3, 2), "same", (1, 1), 2),
    ((2, 21, 6, 12), (3, 2, 3, 20), (2, 1), "same", (1, 2), 4),
]


@pytest.mark.parametrize("geometry", LARGE, ids=str)
def test_large_shapes_are_exact_on_integers(geometry):
    check(*geometry, np.float32)


def test_is_scipys_correlation():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 9, 11, 5)), rng.standard_normal((4, 3, 5, 6))
    y = convolution.conv2d(x, kernel, strides=(2, 1))
    for n in range(2):
        for f in range(6):
            full = correlate(x[n], kernel[..., f], mode="valid")[::2, :, 0]
            np.testing.assert_allclose(y[n, :, :, f], full, rtol=1e-12, atol=1e-12)


ACTIVATIONS = {
    None: lambda x: x,
    ("relu",): lambda x: np.maximum(x, 0),
    ("leaky_relu", 0.25): lambda x: np.where(x < 0, 0.25 * x, x),
    ("elu", 0.5): lambda x: np.where(x < 0, 0.5 * np.expm1(np.minimum(x, 0)), x),
    ("sigmoid",): lambda x: 1 / (1 + np.exp(-x)),
    ("tanh",): np.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize(
    "groups, strides", [(1, 1), (18, 1), (18, 2)], ids=["direct", "depthwise", "strided"]
)
def test_bias_and_activation(activation, groups, strides):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 7, 8, 18), np.float32)
    kernel = rng.standard_normal((3, 3, 18 // groups, 18), np.float32) / 3
    bias = rng.standard_normal(18, np.float32)
    dy = np.zeros((3, -(-7 // strides), 8 // strides, 18))
    strides = strides, strides
    y, _, _ = expected(x, kernel, dy, strides, "same", (1, 1), groups)
    result = convolution.conv2d(
        x, kernel, bias, strides, padding="same", groups=groups, activation=activation
    )
    np.testing.assert_allclose(result, ACTIVATIONS[activation](y + bias), rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("channels", [2, 7, 16, 40, 64, 90])
@pytest.mark.parametrize(
    "cells, strides",
    [((3, 2), (2, 2)), ((3, 2), (1, 3)), ((3, 2), (3, 1)), ((2, 3), (1, 1)), ((3, 3), (1, 2)),
     ((4, 5), (1, 1)), ((2, 5), (2, 2))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("width", [3, 7, 13])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_depthwise_stays_within_its_arrays(dtype, width, cells, strides, channels):
    """And is exact for integers, with NaN around what it may read."""
    rng = np.random.default_rng(channels)
    x = rng.integers(-9, 10, (3, 10, width, channels)).astype(dtype)
    kernel = rng.integers(-9, 10, (*cells, 1, channels)).astype(dtype)
    where = strides, ((2, 1), (0, 3)), (1, 1), channels
    geometry = convolution.geometry(x.shape, kernel.shape, *where)
    assert convolution.algorithm_for(geometry, x.dtype, convolution.FORWARD) is depthwise
    dy = rng.integers(-9, 10, geometry.output_shape).astype(dtype)
    y, dx, dkernel = expected(x, kernel, dy, *where)
    x, kernel, dy = (banded(one, np.nan)[1] for one in (x, kernel, dy))
    for call, wanted in (
        (lambda out: convolution.conv2d(x, kernel, None, *where, out=out), y),
        (lambda out: convolution.conv2d_input_grad(dy, kernel, x.shape, *where, out=out), dx),
        (
            lambda out: convolution.conv2d_kernel_grad(x, dy, kernel.shape, *where, out=out),
            dkernel,
        ),
    ):
        buffer, out = banded(np.full(wanted.shape, 7, dtype), 77)
        np.testing.assert_array_equal(call(out), wanted)
        assert_bands(buffer, 77)


@pytest.mark.parametrize("filters", range(1, few_filters.MOST + 1))
@pytest.mark.parametrize(
    "channels, cells, strides, dilation",
    [(32, (3, 3), (1, 1), (1, 1)), (37, (5, 4), (2, 1), (1, 1)), (48, (1, 1), (1, 1), (1, 1)),
     (40, (2, 6), (1, 3), (1, 1)), (33, (3, 2), (1, 1), (2, 4))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("width", [3, 9])
def test_few_filters_stay_within_their_arrays(width, channels, cells, strides, dilation, filters):
    """And are exact for integers, with NaN around what they may read."""
    rng = np.random.default_rng(filters)
    x = rng.integers(-9, 10, (2, 7, width, channels)).astype(np.float32)
    kernel = rng.integers(-9, 10, (*cells, channels, filters)).astype(np.float32)
    bias = rng.integers(-9, 10, filters).astype(np.float32)
    where = strides, ((2, 1), (0, 3)), dilation, 1
    geometry = convolution.geometry(x.shape, kernel.shape, *where)
    taken = cells != (1, 1) or simd.VECTOR_BYTES == 64
    y, _, _ = expected(x, kernel, np.zeros(geometry.output_shape), *where)
    x, kernel = (banded(one, np.nan)[1] for one in (x, kernel))
    buffer, out = banded(np.full(y.shape, 7, np.float32), 77)
    algorithm = convolution.algorithm_for(geometry, x.dtype, convolution.FORWARD)
    assert (algorithm is few_filters) == taken
    convolution.conv2d(x, kernel, bias, *where, activation=("relu",), out=out)
    np.testing.assert_array_equal(out, np.maximum(y + bias, 0))
    assert_bands(buffer, 77)

    turned = rng.integers(-9, 10, (*cells, filters, channels)).astype(np.float32)
    geometry = convolution.geometry((2, 7, width, filters), turned.shape, *where)
    algorithm = convolution.algorithm_for(geometry, x.dtype, convolution.INPUT_GRAD)
    assert (algorithm is few_filters) == taken
    dy = rng.integers(-9, 10, geometry.output_shape).astype(np.float32)
    _, dx, _ = expected(np.zeros((2, 7, width, filters)), turned, dy, *where)
    turned, dy = (banded(one, np.nan)[1] for one in (turned, dy))
    buffer, out = banded(np.full(dx.shape, 7, np.float32), 77)
    convolution.conv2d_input_grad(dy, turned, dx.shape, *where, out=out)
    np.testing.assert_array_equal(out, dx)
    assert_bands(buffer, 77)


def test_where_few_filters_are_taken():
    def chosen(channels, filters, size, product=convolution.FORWARD, dtype=np.float32):
        shape = (2, 28, 28, channels), (size, size, channels, filters)
        geometry = convolution.geometry(*shape, (1, 1), "same", (1, 1), 1)
        return convolution.algorithm_for(geometry, np.dtype(dtype), product) is few_filters

    with config.using(convolution="auto"):
        assert chosen(64, 3, 3) and not chosen(32, 3, 3)  # Winograd is quicker
        assert chosen(32, 6, 5) and chosen(6, 16, 5, convolution.INPUT_GRAD)
        assert chosen(64, 8, 1) == (simd.VECTOR_BYTES == 64)
        assert not chosen(64, 9, 1) and not chosen(15, 3, 1) and not chosen(64, 3, 3, dtype="f8")
        assert not chosen(64, 3, 3, convolution.KERNEL_GRAD)
    with config.using(convolution="winograd"):
        assert not chosen(64, 3, 3)
    with config.using(convolution="direct"):
        assert chosen(32, 3, 3)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_bias_and_activation_of_few_filters(activation):
    rng = np.random.default_rng(0)
    x, bias = rng.standard_normal((2, 7, 8, 40), np.float32), rng.standard_normal(5, np.float32)
    kernel = rng.standard_normal((3, 3, 40, 5), np.float32) / 5
    dy = np.zeros((2, 7, 8, 5))
    y, _, _ = expected(x, kernel, dy, (1, 1), "same", (1, 1), 1)
    result = convolution.conv2d(x, kernel, bias, padding="same", activation=activation)
    np.testing.assert_allclose(result, ACTIVATIONS[activation](y + bias), rtol=2e-6, atol=6e-6)


@pytest.mark.parametrize("filters", [1, 3, 8])
def test_floor_and_scale_of_few_filters(filters):
    rng = np.random.default_rng(filters)
    x, kernel = rng.standard_normal((2, 7, 8, 40)), rng.standard_normal((3, 3, 40, filters)) / 9
    bias, floor, scale = rng.standard_normal((3, filters))
    x, kernel, bias, floor, scale = map(np.float32, (x, kernel, bias, floor, scale))
    ends = {"padding": "same", "floor": floor, "scale": scale}
    y = convolution.conv2d(x, kernel, bias, **ends)
    plain = reference_conv2d(x, kernel, bias, **ends)
    np.testing.assert_allclose(y, plain, rtol=2e-6, atol=6e-6)
    assert (y == floor).any() and (y > floor).any()


@pytest.mark.parametrize(
    "algorithm", ["direct", "few", "winograd", "depthwise", "strided", "grouped"]
)
@pytest.mark.parametrize("filters", [6, 16, 18, 48, 70])
def test_floor_of_every_filter(algorithm, filters):
    """max(z, floor) by every algorithm; NaN stays NaN."""
    generator = np.random.default_rng(filters)
    groups = {"depthwise": filters, "strided": filters, "grouped": 2}.get(algorithm, 1)
    channels = filters if groups > 1 else 17
    x = generator.standard_normal((2, 9, 11, channels))
    kernel = generator.standard_normal((3, 3, channels // groups, filters))
    bias, floor = generator.standard_normal((2, filters))
    x[1, 8, 10, 0] = np.nan
    geometry = {"padding": "same", "groups": groups}
    if algorithm == "strided":
        geometry["strides"] = 2, 2
    few = FEW_CHANNELS["ever" if algorithm == "few" else "never"]
    forced = config.using(convolution="winograd" if algorithm == "winograd" else "direct")
    with forced, choosing(bands, "pays", few):
        z = convolution.conv2d(x, kernel, bias, **geometry)
        y = convolution.conv2d(x, kernel, bias, **geometry, floor=floor)
        np.testing.assert_array_equal(y, np.maximum(z, floor))
        assert np.isnan(y).any() and (y == floor).any() and (y > floor).any()
        with pytest.raises(ValueError, match="activation or floor, not both"):
            convolution.conv2d(x, kernel, bias, **geometry, activation=("relu",), floor=floor)
    plain = reference_conv2d(x[:1], kernel, bias, **geometry, floor=floor)
    np.testing.assert_allclose(y[:1], plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("algorithm", ["direct", "few", "winograd", "depthwise", "grouped"])
@pytest.mark.parametrize("end", ["bias", "no bias", "floor", "pool"])
def test_scale_of_every_filter(algorithm, end):
    """The scale multiplies the sums, in the epilogue or with the kernel, which stays as it is."""
    generator = np.random.default_rng(1)
    filters = 36
    groups = {"depthwise": filters, "grouped": 2}.get(algorithm, 1)
    channels = filters if groups > 1 else 17
    x = generator.standard_normal((2, 9, 11, channels))
    kernel = generator.standard_normal((3, 3, channels // groups, filters))
    scale, bias, floor = generator.standard_normal((3, filters))
    before = kernel.copy(), scale.copy()
    more = {"padding": "same", "groups": groups}
    more |= {"floor": {"floor": floor}, "pool": {"pool": "same"}}.get(end, {})
    bias = None if end == "no bias" else bias
    few = FEW_CHANNELS["ever" if algorithm == "few" else "never"]
    forced = config.using(convolution="winograd" if algorithm == "winograd" else "direct")
    with forced, choosing(bands, "pays", few):
        y = convolution.conv2d(x, kernel, bias, **more, scale=scale)
        ones = convolution.conv2d(x, kernel, bias, **more, scale=np.ones(filters))
        np.testing.assert_array_equal(ones, convolution.conv2d(x, kernel, bias, **more))
        with pytest.raises(ValueError, match=r"scale has shape \(35,\), expected \(36,\)"):
            convolution.conv2d(x, kernel, bias, **more, scale=scale[1:])
    for array, copy in zip((kernel, scale), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    plain = reference_conv2d(x, kernel, bias, **more, scale=scale)
    np.testing.assert_allclose(y, plain, rtol=1e-9, atol=1e-11)
    scaled = reference_conv2d(x, kernel * scale, bias, **more)
    np.testing.assert_allclose(plain, scaled, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("activation", [None, ("relu",), ("tanh",), "floor"], ids=str)
@pytest.mark.parametrize("algorithm", ["winograd", "direct", "depthwise"])
@pytest.mark.parametrize("size", [(8, 8), (9, 11), (3, 18), (6, 13)])
@pytest.mark.parametrize("taps", [3, 5])
def test_maxima_of_windows(algorithm, activation, padding, size, taps):
    """conv2d(pool=...) is conv2d and then the maxima; every byte outside of y stays."""
    generator = np.random.default_rng(0)
    filters = groups = 20 if algorithm == "depthwise" else 1
    filters = 35 if groups == 1 else filters
    x = generator.standard_normal((3, *size, 20))
    x[2, size[0] - 1, size[1] - 1, 0] = np.nan
    kernel = generator.standard_normal((taps, taps, 20 // groups, filters))
    end = {"activation": activation}
    if activation == "floor":
        end = {"floor": generator.standard_normal(filters)}
    geometry = {"padding": "same", "groups": groups, **end}
    with config.using(convolution="winograd" if algorithm == "winograd" else "direct"):
        y = convolution.conv2d(x, kernel, **geometry)
        expected, _ = max_pool2d(y, (2, 2), (2, 2), padding)
        buffer, out = banded(np.full(expected.shape, 7.0), 77)
        assert convolution.conv2d(x, kernel, **geometry, pool=padding, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(out).any() or padding == "valid"
    assert_bands(buffer, 77)
    plain = reference_conv2d(x[:2], kernel, **geometry, pool=padding)
    np.testing.assert_allclose(out[:2], plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("activation", [None, ("relu",), ("tanh",)], ids=str)
@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize("size", [(8, 8), (9, 11), (3, 18), (67, 45)])
@pytest.mark.parametrize(
    "taps, channels, more",
    [
        (3, 20, {}),
        (3, 20, {"groups": 2}),
        (5, 20, {}),
        (3, 3, {}),
        (2, 3, {"strides": (2, 1)}),
        (1, 5, {"strides": (2, 2)}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_maxima_and_their_places(dtype, taps, channels, more, size, algorithm, activation, padding):
    """conv2d_max_pool is conv2d and then max_pool2d, with the same first winner among equals."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, *size, channels)).astype(dtype)
    x[2, size[0] - 1, size[1] - 1, 0] = np.nan
    per_group = channels // more.get("groups", 1)
    kernel = generator.standard_normal((taps, taps, per_group, 38)).astype(dtype)
    bias = generator.standard_normal(38).astype(dtype) - 4  # most of a ReLU's windows are all zero
    geometry = {"padding": "same", "activation": activation, **more}
    with config.using(convolution=algorithm):
        y = convolution.conv2d(x, kernel, bias, **geometry)
        expected, expected_index = max_pool2d(y, (2, 2), (2, 2), padding)
        buffer, out = banded(np.full(expected.shape, 7, dtype), 77)
        got, index = conv2d_max_pool(x, kernel, bias, **geometry, pool=padding, out=out)
    assert got is out and index.dtype == expected_index.dtype
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(index, expected_index)
    assert_bands(buffer, 77)


FIRST_LAYERS = [  # (n, h, w, c), (kh, kw, filters), strides, padding
    ((3, 33, 40, 3), (3, 3, 16), 1, "same"),
    ((2, 218, 178, 3), (3, 3, 16), 1, "same"),
    ((5, 7, 9, 3), (3, 3, 40), 1, "valid"),
    ((5, 28, 28, 1), (5, 5, 6), 1, "valid"),
    ((4, 17, 13, 3), (7, 7, 33), 2, "same"),
    ((3, 3, 3, 5), (3, 3, 5), 1, "valid"),  # one output: no window of 2x2 fits
    ((2, 9, 11, 20), (3, 3, 24), 1, "same"),  # not by bands
]


@pytest.mark.parametrize("pool", ["valid", "same"])
@pytest.mark.parametrize("activation", [None, ("relu",), ("leaky_relu", 0.3), ("tanh",)], ids=str)
@pytest.mark.parametrize("layer", FIRST_LAYERS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernel_grad_from_the_gradient_of_the_maxima(dtype, layer, activation, pool):
    """One pass gives what the gradients of pooling, activation and convolution give."""
    shape, (*size, filters), stride, padding = layer
    generator = np.random.default_rng(0)
    x = generator.standard_normal(shape).astype(dtype)
    kernel = generator.standard_normal((*size, shape[3], filters)).astype(dtype)
    more = {"strides": (stride, stride), "padding": padding, "activation": activation, "pool": pool}
    y, index = conv2d_max_pool(x, kernel, None, **more)
    dy = generator.standard_normal(y.shape).astype(dtype)
    buffer, out = banded(np.full(kernel.shape, 7, dtype), 77)
    given = index, y if activation else None, kernel.shape
    found = []
    for threads in (1, 2):
        with config.using(threads=threads):
            found.append(conv2d_max_pool_kernel_grad(x, dy, *given, **more, out=out.copy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    got, _ = conv2d_max_pool_kernel_grad(x, dy, *given, **more, out=out)
    assert got is out
    assert_bands(buffer, 77)
    np.testing.assert_array_equal(out, found[0][0])
    wide = [one.astype(np.float64) for one in (x, dy)], y.astype(np.float64) if activation else None
    expected = reference_kernel_grad(*wide[0], index, wide[1], kernel.shape, **more)
    for one, other in zip(found[0], expected, strict=True):
        assert one.dtype == dtype
        assert y.size == 0 or np.any(other)
        largest = np.max(np.abs(other), initial=1)
        tolerance = 2e-6 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * 10 * largest)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_nan_and_infinity_propagate(activation):
    x = np.ones((1, 5, 5, 3), np.float32)
    x[0, 1, 1, 0], x[0, 4, 4, 1] = np.nan, np.inf
    y = convolution.conv2d(x, np.ones((1, 1, 3, 2), np.float32), activation=activation)
    assert np.isnan(y[0, 1, 1]).all() and np.isnan(y).sum() == 2
    np.testing.assert_array_equal(y[0, 4, 4], ACTIVATIONS[activation](np.float32(np.inf)))


@pytest.mark.parametrize("geometry", [LARGE[1], LARGE[3], *LARGE[5:7], *LARGE[8:]], ids=str)
def test_one_and_two_threads_give_the_same_bits(geometry):
    x_shape, kernel_shape, strides, padding, dilation, groups = geometry
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal(x_shape, np.float32), rng.standard_normal(kernel_shape, "f")
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    results = []
    for threads in (1, 2):
        with config.using(threads=threads):
            y = convolution.conv2d(x, kernel, **options)
            results.append(
                (
                    y,
                    convolution.conv2d_input_grad(y, kernel, x_shape, **options),
                    convolution.conv2d_kernel_grad(x, y, kernel_shape, **options),
                )
            )
    for one, two in zip(*results, strict=True):
        assert one.tobytes() == two.tobytes()


def test_arguments_of_any_layout():
    x, kernel = integers((2, 6, 7, 4)), integers((3, 3, 4, 5))
    y = convolution.conv2d(x, kernel, padding="same")
    odd = np.asfortranarray(x)
    read_only = kernel.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(convolution.conv2d(odd, read_only, padding="same"), y)
    np.testing.assert_array_equal(
        convolution.conv2d(x, kernel.astype(np.float64), padding="same"), y
    )
    np.testing.assert_array_equal(
        convolution.conv2d(x[:, ::-1, ::-1], kernel[::-1, ::-1], padding="same"), y[:, ::-1, ::-1]
    )


def test_empty_batch():
    x, kernel = np.zeros((0, 6, 7, 4), np.float32), integers((3, 3, 4, 5))
    y = convolution.conv2d(x, kernel)
    assert y.shape == (0, 4, 5, 5)
    assert convolution.conv2d_input_grad(y, kernel, x.shape).shape == x.shape
    assert not convolution.conv2d_kernel_grad(x, y, kernel.shape).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 6, 7, 3), "f")}, "needs 4 input channels"),
        ({"x": np.zeros((6, 7, 4), "f")}, "both need 4 axes"),
        ({"x": np.zeros((2, 6, 7, 4), "i4")}, "dtype int32: pass float32 or float64"),
        ({"groups": 2}, "groups=2"),
        ({"dilation": (4, 1)}, "does not fit into a picture"),
        ({"bias": np.zeros(4, "f")}, "bias has shape"),
        ({"out": np.zeros((2, 4, 5, 4), "f")}, "out has shape"),
        ({"out": np.zeros((2, 4, 5, 5), "d")}, "dtype float64"),
        ({"out": np.zeros((2, 4, 5, 10), "f")[..., ::2]}, "C-contiguous"),
        ({"activation": ("gelu",)}, "cannot be fused"),
    ],
)
def test_errors(change, message):
    arguments = {"x": np.zeros((2, 6, 7, 4), "f"), "kernel": np.zeros((3, 3, 4, 5), "f"), **change}
    with pytest.raises((ValueError, TypeError), match=message):
        convolution.conv2d(**arguments)


DENSE_KINDS = ["heads", "small", "large"]


@settings(deadline=None, max_examples=60)
@given(
    *[st.integers(1, 150)] * 3,
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(DENSE_KINDS),
)
def test_dense_is_exact_on_integers(m, k, n, dtype, kind):
    check_dense(m, k, n, dtype, kind)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 300),
    st.integers(1, dense_heads.MOST_COLUMNS),
    st.sampled_from([np.float32, np.float64]),
)
def test_heads_are_exact_on_integers(m, k, n, dtype):
    check_dense(m, k, n, dtype, "heads")


@pytest.mark.parametrize("kind", DENSE_KINDS)
@pytest.mark.parametrize(
    ("m", "k", "n"), [(64, 2048, 10), (33, 512, 65), (300, 1024, 16), (512, 5, 31), (513, 7, 9)]
)
def test_large_dense_is_exact_on_integers(m, k, n, kind):
    check_dense(m, k, n, np.float32, kind)


def check_dense(m, k, n, dtype, kind):
    small = kind == "small"
    arrays = [integers(shape, dtype, i) for i, shape in enumerate([(m, k), (k, n), (n,), (m, n)])]
    # NaN around everything that is read, a mark around everything that is written.
    x, kernel, bias, dy = (banded(array, np.nan)[1] for array in arrays)
    sums = x @ kernel + bias
    most = mock.patch.object(dense_products, "MOST_ROWS", m if small else 0)
    heads = choosing(dense_heads, "fits", lambda n: kind == "heads" and n <= 16)
    with most, heads, choosing(dense_products, "fits", lambda *_: small):
        for operation, arguments, result in (
            (dense.dense, (x, kernel, bias), sums),
            (dense.dense, (x, kernel, bias, ("relu",)), np.maximum(sums, 0)),
            (dense.dense_input_grad, (dy, kernel), dy @ kernel.T),
            (dense.dense_kernel_grad, (x, dy), x.T @ dy),
        ):
            buffer, out = banded(np.full(result.shape, np.nan, dtype), 77)
            assert operation(*arguments, out=out) is out
            np.testing.assert_array_equal(out, result)
            assert_bands(buffer, 77)


def test_dense_activations_that_are_no_rectifier():
    x, kernel = integers((40, 30)).astype(np.float64) / 8, integers((30, 21), np.float64, 1) / 8
    y = dense.dense(x, kernel, None, ("tanh",))
    np.testing.assert_allclose(y, np.tanh(x @ kernel), rtol=1e-13)


@pytest.mark.parametrize("n", [75, 10])
def test_dense_gives_the_same_bits_on_any_number_of_threads(n, monkeypatch):
    draw = np.random.default_rng(0).standard_normal
    x, kernel, dy = (draw(shape, np.float32) for shape in [(70, 512), (512, n), (70, n)])
    results = []
    for number, few in ((1, 2), (2, 2), (2, 0)):  # two with copies of their own, and without
        monkeypatch.setattr(sharing, "FEW", few)
        with config.using(threads=number):
            results.append(
                [
                    dense.dense(x, kernel),
                    dense.dense_input_grad(dy, kernel),
                    dense.dense_kernel_grad(x, dy),
                ]
            )
    for again in results[1:]:
        for one, two in zip(results[0], again, strict=True):
            np.testing.assert_array_equal(one, two)
    exact = x.astype(np.float64) @ kernel.astype(np.float64)
    np.testing.assert_allclose(results[0][0], exact, rtol=0, atol=2e-5 * np.abs(exact).max())


def test_where_bands_are_chosen():
    def chosen(c, f, product, kernel=3, strides=1, groups=1, size=16):
        shape = convolution.geometry(
            (8, size, size, c),
            (kernel, kernel, c // groups, f),
            (strides,) * 2,
            "same",
            (1, 1),
            groups,
        )
        with config.using(amx="off"):
            return convolution.algorithm_for(shape, np.dtype(np.float32), product) is bands

    assert chosen(3, 64, convolution.FORWARD)
    assert chosen(3, 64, convolution.KERNEL_GRAD)
    assert chosen(64, 3, convolution.INPUT_GRAD)
    assert chosen(64, 128, convolution.INPUT_GRAD, strides=2)
    assert chosen(64, 64, convolution.KERNEL_GRAD, kernel=5)
    assert not chosen(128, 64, convolution.KERNEL_GRAD, kernel=5)
    assert chosen(16, 32, convolution.KERNEL_GRAD, kernel=1, strides=2)
    assert not chosen(16, 32, convolution.KERNEL_GRAD, kernel=1)
    assert not chosen(64, 256, convolution.FORWARD, kernel=1)
    assert chosen(64, 256, convolution.FORWARD, kernel=1, size=64)
    assert not chosen(64, 3, convolution.FORWARD, size=1024)
    assert not chosen(256, 256, convolution.FORWARD, groups=4)


BANDS = [
    # several bands a picture, of which the last is lower; rows of the kernel that see only border
    ((2, 90, 37, 5), (5, 3, 5, 40), (1, 1), ((7, 0), (1, 2)), (1, 1), 1),
    ((3, 61, 67, 16), (3, 3, 16, 18), (2, 2), "same", (1, 1), 1),
    ((2, 62, 45, 20), (2, 3, 20, 70), (3, 2), ((0, 1), (2, 0)), (2, 1), 1),
    ((3, 51, 33, 24), (1, 1, 24, 9), (2, 3), "valid", (1, 1), 1),
    ((1, 2, 3, 150), (1, 1, 150, 33), (2, 2), ((1, 0), (0, 0)), (1, 1), 1),
    ((40, 9, 9, 17), (1, 1, 17, 33), (1, 1), "valid", (1, 1), 1),
    ((2, 13, 9, 17), (3, 3, 17, 17), (2, 2), "same", (1, 1), 1),
    ((2, 40, 40, 8), (7, 7, 8, 8), (1, 1), "same", (2, 2), 1),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("geometry", BANDS, ids=str)
def test_bands_are_exact_on_integers(geometry, dtype):
    with choosing(bands, "pays", FEW_CHANNELS["ever"]):
        check(*geometry, dtype)


def test_bands_do_not_depend_on_the_number_of_threads():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, 40, 31, 20), np.float32)
    kernel = generator.standard_normal((5, 3, 20, 50), np.float32)
    dy = generator.standard_normal((3, 20, 16, 50), np.float32)
    geometry = {"strides": (2, 2), "padding": "same"}
    results = []
    for threads in (1, 2):
        with config.using(threads=threads), choosing(bands, "pays", FEW_CHANNELS["ever"]):
            results.append(
                (
                    convolution.conv2d(x, kernel, **geometry),
                    convolution.conv2d_input_grad(dy, kernel, x.shape, **geometry),
                    convolution.conv2d_kernel_grad(x, dy, kernel.shape, **geometry),
                )
            )
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_outputs_past_the_caches():
    """Large enough for `stream`: whole tiles and the last, lower ones."""
    x, kernel = integers((32, 97, 89, 3)), integers((3, 3, 3, 16), seed=1)
    y = convolution.conv2d(x, kernel, None, (1, 1), "same", activation=("relu",))
    assert y.nbytes >= simd.LATE_STREAM_BYTES
    with choosing(bands, "pays", FEW_CHANNELS["never"]):
        expected = convolution.conv2d(x, kernel, None, (1, 1), "same", activation=("relu",))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("shape", [(5000, 3), (7, 11, 13, 1), (2, 3, 4, 200), (0, 4), (1, 1)])
def test_bias_grad(shape):
    dy = integers(shape)
    with config.using(threads=2):
        np.testing.assert_array_equal(dense.bias_grad(dy), dy.reshape(-1, shape[-1]).sum(axis=0))


def test_dense_of_nothing():
    assert dense.dense(np.zeros((0, 3), "f"), np.zeros((3, 2), "f")).shape == (0, 2)
    assert not dense.dense_kernel_grad(np.zeros((0, 3), "f"), np.zeros((0, 2), "f")).any()
    with pytest.raises(ValueError, match="flatten x"):
        dense.dense(np.zeros((2, 3, 3), "f"), np.zeros((3, 2), "f"))


@pytest.mark.parametrize("vector_bytes, alone, pairs", [(64, True, True), (32, False, True)])
def test_only_whole_lines_go_past_the_caches(vector_bytes, alone, pairs):
    buffer, _ = banded(np.zeros(1 << 16, np.float32), 0)
    first = -buffer.ctypes.data % simd.LINE_BYTES // 4
    array, shifted = buffer[first : first + (1 << 16)], buffer[first + 1 : first + 1 + (1 << 16)]
    with mock.patch.object(simd, "VECTOR_BYTES", vector_bytes):
        assert simd.streams(array, 32, array.nbytes) == alone
        assert simd.streams(array, 32, array.nbytes, 2) == pairs
        assert not simd.streams(array, 24, array.nbytes, 2)  # rows begin within a line
        assert not simd.streams(shifted, 32, array.nbytes, 2)
        assert not simd.streams(array, 32, array.nbytes + 1, 2)
