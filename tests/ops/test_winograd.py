"""Winograd convolution: its matrices are exact, its errors bounded, its memory accesses inside."""

import contextlib
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import config
from minicnn.ops.fast import bands, convolution, direct, grouped, winograd, winograd_panels
from minicnn.ops.fast.pooled_convolution import conv2d_max_pool

BAND = 300  # elements before and after an array that must not be touched

# Relative root mean square error in float32 at up to 256 channels, against float64.
FORWARD_BOUND = 2e-6
KERNEL_GRAD_BOUND = 2e-6


@pytest.mark.parametrize(
    ("points", "out", "taps"),
    [
        (winograd.POINTS, 4, 3),
        (winograd.POINTS, 2, 5),
        ((0, 1, -1), 2, 3),
        ((0, 1, -1, 2, -2), 4, 3),
        ((0, 1, -1, Fraction(1, 2)), 3, 3),
    ],
)
def test_matrices_compute_the_correlation_exactly(points, out, taps):
    """Both sides are linear in g and in d: equal on all unit vectors, they are equal."""
    a_t, g_matrix, b_t = winograd.matrices(points, out, taps)
    size = out + taps - 1
    for t in range(taps):
        for place in range(size):
            products = [g_row[t] * b_row[place] for g_row, b_row in zip(g_matrix, b_t, strict=True)]
            y = [sum(a * p for a, p in zip(row, products, strict=True)) for row in a_t]
            assert y == [int(i + t == place) for i in range(out)]


def products(x, kernel, bias, dy, padding, method, activation=None, dilation=(1, 1)):
    """(y, dx, dkernel) by one of the two algorithms."""
    geometry = {"padding": padding, "dilation": dilation}
    with config.using(convolution=method):
        return (
            convolution.conv2d(x, kernel, bias, **geometry, activation=activation),
            convolution.conv2d_input_grad(dy, kernel, x.shape, **geometry),
            convolution.conv2d_kernel_grad(x, dy, kernel.shape, **geometry),
        )


def random_case(x_shape, filters, padding, dtype=np.float32, dilation=(1, 1), taps=3):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(x_shape).astype(dtype)
    kernel = rng.standard_normal((taps, taps, x_shape[3], filters)).astype(dtype)
    kernel /= taps * dtype(x_shape[3]) ** 0.5  # outputs of size 1
    bias = rng.standard_normal(filters).astype(dtype)
    shape = direct.geometry(x_shape, kernel.shape, (1, 1), padding, dilation, 1).output_shape
    return x, kernel, bias, rng.standard_normal(shape).astype(dtype)


def relative_error(actual, exact):
    return np.sqrt(np.mean((actual - exact) ** 2) / np.mean(exact**2))


@pytest.mark.parametrize(
    ("x_shape", "filters"),
    [((4, 14, 14, 256), 256), ((8, 32, 32, 32), 32), ((3, 9, 7, 33), 65), ((1, 57, 43, 16), 24)],
    ids=str,
)
@pytest.mark.parametrize("taps", [3, 5])
def test_errors_are_bounded(x_shape, filters, taps):
    case = random_case(x_shape, filters, "same", taps=taps)
    exact = products(*(a.astype(np.float64) for a in case), "same", "direct")
    actual = products(*case, "same", "winograd")
    assert relative_error(actual[0], exact[0]) < FORWARD_BOUND
    assert relative_error(actual[1], exact[1]) < FORWARD_BOUND
    assert relative_error(actual[2], exact[2]) < KERNEL_GRAD_BOUND


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 5),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    taps=st.sampled_from([3, 5]),
    dilation=st.tuples(st.integers(1, 5), st.integers(1, 5)) | st.just((1, 1)),
    channels=st.sampled_from([1, 3, 8, 15, 16, 17, 40]),
    filters=st.sampled_from([1, 7, 16, 31, 32, 33, 70]),
    pads=st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_every_shape_within_its_bounds(batch, size, taps, dilation, channels, filters, pads, dtype):
    covered = [(taps - 1) * d + 1 for d in dilation]
    size = [max(s, c - sum(pad)) for s, c, pad in zip(size, covered, pads, strict=True)]
    case = random_case((batch, *size, channels), filters, pads, dtype, dilation, taps)
    exact = products(*(a.astype(np.float64) for a in case), pads, "direct", dilation=dilation)
    # NaN around everything that is read, a mark around everything that is written.
    x, kernel, bias, dy = (banded(a, np.nan)[1] for a in case)
    calls = (
        (convolution.conv2d, (x, kernel, bias)),
        (convolution.conv2d_input_grad, (dy, kernel, x.shape)),
        (convolution.conv2d_kernel_grad, (x, dy, kernel.shape)),
    )
    for (operation, arguments), result in zip(calls, exact, strict=True):
        buffer, out = banded(np.full(result.shape, np.nan, dtype), 77)
        with config.using(convolution="winograd"):
            operation(*arguments, padding=pads, dilation=dilation, out=out)
        scale = max(1, np.abs(result).max())
        tolerance = (2e-5 if dtype == np.float32 else 1e-13) * scale
        np.testing.assert_allclose(out, result, rtol=0, atol=tolerance)
        assert (buffer[: BAND + 1] == 77).all() and (buffer[-BAND:] == 77).all()


def banded(array, filling):
    """A copy of `array` inside a larger buffer of `filling`, not aligned to vectors."""
    buffer = np.full(array.size + 2 * BAND + 1, filling, array.dtype)
    inside = buffer[BAND + 1 : BAND + 1 + array.size].reshape(array.shape)
    inside[...] = array
    return buffer, inside


@pytest.mark.parametrize(
    "activation",
    [None, ("relu",), ("leaky_relu", 0.25), ("elu", 0.5), ("sigmoid",), ("tanh",)],
    ids=str,
)
@pytest.mark.parametrize(("taps", "dilation"), [(3, (1, 1)), (3, (2, 3)), (5, (1, 1))])
def test_bias_and_activation(activation, taps, dilation):
    case = random_case((2, 10, 11, 20), 37, "same", taps=taps)
    y, _, _ = products(*case, "same", "winograd", activation, dilation)
    case = [a.astype(np.float64) for a in case]
    exact, _, _ = products(*case, "same", "direct", activation, dilation)
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("activation", [None, ("relu",), ("leaky_relu", 0.25)], ids=str)
def test_nan_stays_and_minus_infinity_is_rectified(activation):
    x, kernel, bias, _ = random_case((1, 8, 8, 16), 16, "same")
    x[0, 1, 1] = np.nan
    bias[3] = -np.inf
    with config.using(convolution="winograd"):
        y = convolution.conv2d(x, kernel, bias, padding="same", activation=activation)
    assert np.isnan(y[0, :3, :3]).all()
    assert not np.isnan(y[0, 4:, 4:]).any()  # another tile
    assert (y[0, 4:, 4:, 3] == (0 if activation == ("relu",) else -np.inf)).all()


@pytest.mark.parametrize(("taps", "dilation"), [(3, (1, 1)), (3, (4, 2)), (5, (1, 1))])
@pytest.mark.parametrize(("x_shape", "filters"), [((5, 13, 9, 40), 70), ((64, 8, 8, 16), 16)])
def test_one_and_two_threads_give_the_same_bits(x_shape, filters, taps, dilation):
    case = random_case(x_shape, filters, "same", taps=taps)
    with config.using(threads=1):
        one = products(*case, "same", "winograd", dilation=dilation)
    with config.using(threads=2):
        two = products(*case, "same", "winograd", dilation=dilation)
    for a, b in zip(one, two, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("groups", "c", "f"), [(2, 32, 64), (8, 64, 64), (3, 48, 51)])
def test_groups(groups, c, f):
    x, kernel, bias, dy = random_case((3, 9, 11, c), f, "same")
    kernel = kernel[:, :, : c // groups].copy()
    parts = [np.split(a, groups, axis=-1) for a in (x, kernel, dy)]
    options = {"padding": "same", "groups": groups}
    with config.using(convolution="winograd"):
        y = convolution.conv2d(x, kernel, bias, activation=("elu", 1.0), **options)
        dx = convolution.conv2d_input_grad(dy, kernel, x.shape, **options)
        dk = convolution.conv2d_kernel_grad(x, dy, kernel.shape, **options)
    each = list(zip(*parts, strict=True))
    with config.using(convolution="direct"):
        one = [convolution.conv2d(a, k, padding="same") for a, k, _ in each]
        alone = np.concatenate(one, axis=-1) + bias
        alone = np.where(alone > 0, alone, np.expm1(alone))
        dxs = [convolution.conv2d_input_grad(g, k, a.shape, padding="same") for a, k, g in each]
        dks = [convolution.conv2d_kernel_grad(a, g, k.shape, padding="same") for a, k, g in each]
    np.testing.assert_allclose(y, alone, atol=3e-5)
    np.testing.assert_allclose(dx, np.concatenate(dxs, axis=-1), atol=3e-5)
    expected = np.concatenate(dks, axis=-1)
    np.testing.assert_allclose(dk, expected, atol=3e-5 * np.abs(expected).max())


@contextlib.contextmanager
def panels(used):
    """Winograd by panels of filters wherever it is used forward or for dx, or nowhere."""
    choice = mock.patch.object(winograd_panels, "pays", lambda *_: used)
    with choice, config.using(convolution="winograd", amx="off"):
        convolution._chosen.cache_clear()  # by the other function
        try:
            yield
        finally:
            convolution._chosen.cache_clear()


ENDS = {
    "linear": {},
    "relu": {"activation": ("relu",)},
    "tanh": {"activation": ("tanh",)},
    "floor": {"floor": np.linspace(-1, 1, 70)},
    "scale": {"scale": np.linspace(-1, 1, 70), "activation": ("leaky_relu", 0.25)},
    "maxima": {"pool": "same", "activation": ("relu",)},
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", [(1, 4, 4), (2, 9, 11), (3, 18, 13)])
@pytest.mark.parametrize("more", [{}, {"groups": 2}, {"dilation": (2, 1)}, {"taps": 5}], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_by_panels_or_by_blocks_the_bits_are_the_same(dtype, more, size, end):
    """And nothing outside of y is written, nor what lies around the arguments read."""
    more = dict(more)
    x, kernel, bias, _ = random_case((*size, 36), 70, "same", dtype, taps=more.pop("taps", 3))
    kernel = np.ascontiguousarray(kernel[:, :, : 36 // more.get("groups", 1)])
    options = {
        name: one.astype(dtype) if isinstance(one, np.ndarray) else one
        for name, one in ENDS[end].items()
    }
    x, kernel, bias = (banded(one, np.nan)[1] for one in (x, kernel, bias))
    results = []
    for used in (False, True):
        with panels(used):
            chosen = convolution.algorithm_for(
                direct.geometry(x.shape, kernel.shape, (1, 1), "same",
                                more.get("dilation", (1, 1)), more.get("groups", 1)),
                x.dtype, convolution.FORWARD,
            )  # fmt: skip
            assert chosen is (winograd_panels if used else winograd)
            y = convolution.conv2d(x, kernel, bias, padding="same", **more, **options)
            buffer, out = banded(np.zeros_like(y), 77)
            convolution.conv2d(x, kernel, bias, padding="same", **more, **options, out=out)
            np.testing.assert_array_equal(out, y)
            assert (buffer[: BAND + 1] == 77).all() and (buffer[-BAND:] == 77).all()
            dy = np.resize(y, (*size, 70))
            dx = convolution.conv2d_input_grad(dy, kernel, x.shape, padding="same", **more)
            places = ()
            if end == "maxima":
                places = conv2d_max_pool(
                    x, kernel, bias, padding="same", **more, activation=("relu",), pool="same"
                )
            with config.using(threads=1):
                alone = convolution.conv2d(x, kernel, bias, padding="same", **more, **options)
            np.testing.assert_array_equal(alone, y)
        results.append((y, dx, *places))
    assert np.isfinite(results[0][0]).all() and results[0][0].any() and results[0][1].any()
    for by_blocks, by_panels in zip(*results, strict=True):
        np.testing.assert_array_equal(by_panels, by_blocks)


def test_segments_and_pieces_of_a_kernel_gradient():
    def division(tiles, channels, filters):
        return winograd._division(tiles, channels, filters, 16, 4)

    assert division(864, 24, 40) == (4, 24, 64)  # not 2, of two pieces each
    segments, part, split = division(60, 300, 128)  # three pieces are not three segments
    assert (segments, -(-300 // part) * -(-128 // split)) == (1, 12)
    for tiles, channels, filters in ((5000, 16, 16), (864, 128, 128), (900, 250, 250)):
        segments, _, _ = division(tiles, channels, filters)
        assert segments in (1, 2, 4, 8)
        assert segments == 1 or segments * 36 * channels * filters * 4 <= winograd.PARTIAL_BYTES


def test_where_it_is_chosen(monkeypatch):
    monkeypatch.setattr(bands, "pays", lambda *_: False)  # direct, too: tested elsewhere

    def chosen(dtype=np.float32, c=32, f=32, kernel=(3, 3), size=(16, 16), n=8, **change):
        options = {"strides": (1, 1), "padding": "same", "dilation": (1, 1), "groups": 1} | change
        shape = direct.geometry((n, *size, c), (*kernel, c // options["groups"], f), **options)
        question = shape, np.dtype(dtype), convolution.FORWARD, config.convolution
        return convolution.choose(*question, on_unit=False)

    assert chosen() is winograd
    assert chosen(np.float64) is direct
    assert chosen(c=3) is direct
    assert chosen(c=16, f=16) is winograd
    assert chosen(kernel=(5, 5)) is winograd
    assert chosen(kernel=(5, 5), c=16, f=16) is direct
    assert chosen(kernel=(5, 3)) is direct
    assert chosen(kernel=(7, 7)) is direct
    assert chosen(strides=(2, 2)) is direct
    assert chosen(dilation=(2, 2)) is winograd
    assert chosen(dilation=(6, 6)) is direct  # phases of 2 or 3 outputs
    assert chosen(c=64, f=64, groups=2) is winograd
    assert chosen(groups=4, c=32, f=32) is grouped
    assert chosen(groups=2, c=48, f=48).algorithm is winograd  # both groups as one
    assert chosen(groups=2, c=48, f=48, kernel=(7, 7)).algorithm is direct
    assert chosen(c=64, f=8, groups=8, kernel=(1, 1)).m == 8
    assert chosen(c=512, f=32, groups=8) is direct  # wide on one side: zeros would cost too much
    assert chosen(size=(1, 1)) is direct
    assert chosen(n=1, f=64) is winograd_panels  # 16 tiles: one worker's block
    assert chosen(n=1, f=32) is winograd  # one panel
    assert chosen(c=512, f=512) is winograd_panels
    assert chosen(c=512, f=512, n=16) is winograd  # many tiles
    large = direct.geometry((8, 16, 16, 384), (3, 3, 384, 384), (1, 1), "same", (1, 1), 1)
    for on_unit in (False, True):  # which has other ways for it
        in_panels = winograd_panels.pays(large, convolution.FORWARD, on_unit)
        assert in_panels is not on_unit
    with config.using(convolution="direct"):
        assert chosen() is direct
    with config.using(convolution="winograd"):
        assert chosen(np.float64, c=3) is winograd
        assert chosen(strides=(2, 2)) is direct
