"""Compiled pooling equals the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.ops.fast import pooling as fast
from minicnn.ops.fast import simd
from minicnn.ops.reference import pooling as reference

quick = settings(max_examples=25, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])


@st.composite
def poolings(draw):
    """(input_shape, pool_size, strides, padding)."""
    pool = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    strides = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    size = [draw(st.integers(k, 11)) for k in pool]
    padding = draw(st.sampled_from(["valid", "same", "explicit"]))
    if padding == "explicit":
        padding = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in pool)
    shape = (draw(st.integers(1, 3)), *size, draw(st.sampled_from([1, 3, 8, 17, 32])))
    return shape, pool, strides, padding


@st.composite
def tilings(draw):
    """The common case, with its own kernels: 2 x 2, stride 2, odd sizes too."""
    shape = tuple(draw(st.integers(low, 9)) for low in (1, 2, 2)) + (draw(st.integers(1, 40)),)
    return shape, (2, 2), (2, 2), "valid"


def ties(shape, dtype, seed=0):
    """Few different integers: many equal maxima, and sums that are exact in any order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def check_max_pool(agree, x, arguments):
    """Maxima, places and gradient of both sets of operations."""
    agree(
        lambda x, out=None: fast.max_pool2d(x, *arguments, out),
        lambda x: reference.max_pool2d(x, *arguments),
        x,
    )
    y, index = reference.max_pool2d(x, *arguments)
    agree(
        lambda dy, out=None: fast.max_pool2d_grad(dy, index, x.shape, *arguments, out),
        lambda dy: reference.max_pool2d_grad(dy, index, x.shape, *arguments),
        ties(y.shape, x.dtype, 1),
    )


@quick
@given(pooling=st.one_of(poolings(), tilings()), dtype=dtypes, seed=st.integers(0, 99))
def test_max_pool(agree, pooling, dtype, seed):
    shape, *arguments = pooling
    x = ties(shape, dtype, seed)
    x[np.random.default_rng(seed).random(shape) < 0.02] = np.nan
    x[np.random.default_rng(seed + 1).random(shape) < 0.3] = -np.inf
    check_max_pool(agree, x, arguments)


@quick
@given(
    pooling=st.one_of(poolings(), tilings()),
    dtype=dtypes,
    seed=st.integers(0, 99),
    activation=st.sampled_from([("relu",), ("leaky_relu", 0.25), ("tanh",)]),
)
def test_max_pool_above_an_activation(agree, pooling, dtype, seed, activation):
    shape, *arguments = pooling
    y, index = reference.max_pool2d(ties(shape, dtype, seed), *arguments)
    if activation == ("relu",):
        y = np.maximum(y, 0)
    agree(
        lambda dy, out=None: fast.max_pool2d_activation_grad(
            dy, index, y, activation, shape, *arguments, out
        ),
        lambda dy: reference.max_pool2d_activation_grad(
            dy, index, y, activation, shape, *arguments
        ),
        ties(y.shape, dtype, seed + 2),
        tolerance=1e-6 if dtype == np.float32 else 1e-14,
    )


@quick
@given(pooling=poolings(), dtype=dtypes, seed=st.integers(0, 99))
def test_average_pool(agree, pooling, dtype, seed):
    shape, *arguments = pooling
    near = 1e-6 if dtype == np.float32 else 1e-15
    x = ties(shape, dtype, seed)
    agree(
        lambda x, out=None: fast.average_pool2d(x, *arguments, out),
        lambda x: reference.average_pool2d(x, *arguments),
        x,
        tolerance=near,
    )
    dy = ties(reference.average_pool2d(x, *arguments).shape, dtype, seed + 1)
    agree(
        lambda dy, out=None: fast.average_pool2d_grad(dy, shape, *arguments, out),
        lambda dy: reference.average_pool2d_grad(dy, shape, *arguments),
        dy,
        tolerance=near,
    )


@pytest.mark.parametrize("pool_size", [(16, 16), (16, 17)])
def test_windows_of_more_than_256_cells(agree, pool_size):
    x = ties((2, 20, 20, 3), np.float32)
    arguments = (pool_size, (2, 3), "valid")
    check_max_pool(agree, x, arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 2)])
def test_gradients_that_go_past_the_caches(agree, dtype, strides, monkeypatch):
    """A gradient of 4 MB and more."""
    monkeypatch.setattr(simd, "LATE_STREAM_BYTES", 0)
    arguments = (2, 2), strides, "same"
    shape = (2, 255, 129, 32 if dtype == np.float32 else 16)
    x = ties(shape, dtype)
    y, index = reference.max_pool2d(x, *arguments)
    agree(
        lambda dy, out=None: fast.max_pool2d_grad(dy, index, shape, *arguments, out),
        lambda dy: reference.max_pool2d_grad(dy, index, shape, *arguments),
        ties(y.shape, dtype, 1),
    )
    agree(
        lambda dy, out=None: fast.average_pool2d_grad(dy, shape, *arguments, out),
        lambda dy: reference.average_pool2d_grad(dy, shape, *arguments),
        ties(y.shape, dtype, 2),
        tolerance=1e-6,
    )


@quick
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3, st.sampled_from([1, 3, 16, 33])),
    dtype=dtypes,
    seed=st.integers(0, 99),
)
def test_global_pooling(agree, shape, dtype, seed):
    n, h, w, c = shape
    x, dy = ties(shape, dtype, seed), ties((n, c), dtype, seed + 1)
    near = 1e-6 if dtype == np.float32 else 1e-15
    agree(fast.global_average_pool2d, reference.global_average_pool2d, x, tolerance=near)
    agree(
        lambda dy, out=None: fast.global_average_pool2d_grad(dy, shape, out),
        lambda dy: reference.global_average_pool2d_grad(dy, shape),
        dy,
        tolerance=near,
    )
    x[np.random.default_rng(seed).random(shape) < 0.02] = np.nan
    agree(fast.global_max_pool2d, reference.global_max_pool2d, x)
    index = reference.global_max_pool2d(x)[1]
    agree(
        lambda dy, out=None: fast.global_max_pool2d_grad(dy, index, shape, out),
        lambda dy: reference.global_max_pool2d_grad(dy, index, shape),
        dy,
    )


def test_nan_propagates():
    for size in (2, 3):
        x = np.zeros((1, 6, 6, 2), np.float32)
        x[0, 1, 1, 0] = np.nan
        for pool in (lambda *a: fast.max_pool2d(*a)[0], fast.average_pool2d):
            y = pool(x, (size, size), (size, size), "valid")
            assert np.isnan(y[0, 0, 0, 0]) and np.isnan(y).sum() == 1
    assert np.isnan(fast.global_average_pool2d(x)[0, 0])


def test_global_average_is_summed_in_float64():
    x = np.full((1, 1000, 1000, 1), 0.1, np.float32)
    assert fast.global_average_pool2d(x)[0, 0] == np.float32(0.1)


def test_empty_batch():
    x = np.empty((0, 4, 4, 3), np.float32)
    y, index = fast.max_pool2d(x, (2, 2), (2, 2), "valid")
    assert y.shape == index.shape == (0, 2, 2, 3)
    assert fast.max_pool2d_grad(y, index, x.shape, (2, 2), (2, 2), "valid").shape == x.shape
    assert fast.global_average_pool2d(x).shape == (0, 3)


@pytest.mark.parametrize(
    "pool_size, strides, padding, size",
    [
        ((3, 2), (1, 2), "same", (4, 6)),  # the first row of windows holds 2 of its 3 pixels
        ((3, 2), (3, 2), ((1, 0), (0, 0)), (5, 4)),
        ((2, 2), (2, 3), ((0, 0), (1, 0)), (4, 4)),  # the first column 1 of 2
        ((2, 2), (2, 2), ((1, 1), (1, 1)), (4, 4)),
        ((2, 2), (2, 2), "same", (5, 7)),
        ((2, 2), (1, 2), "valid", (5, 6)),
    ],
    ids=str,
)
def test_cut_windows_that_look_like_pairs(agree, pool_size, strides, padding, size):
    x, arguments = ties((2, *size, 19), np.float32, 0), (pool_size, strides, padding)
    check_max_pool(agree, x, arguments)


def test_no_gradient_where_no_window_fits():
    dy, index = np.empty((2, 0, 2, 3), np.float32), np.empty((2, 0, 2, 3), np.uint8)
    for strides in ((2, 2), (1, 3)):
        out = np.full((2, 1, 5, 3), 7, np.float32)
        assert not fast.max_pool2d_grad(dy, index, out.shape, (2, 2), strides, "valid", out).any()


def test_wrong_arguments_are_refused():
    dy, index = np.ones((1, 2, 2, 3), np.float32), np.zeros((1, 2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match="dy has shape"):
        fast.max_pool2d_grad(dy, index, (1, 8, 8, 3), (2, 2), (2, 2), "valid")
    with pytest.raises(ValueError, match="pad less than a window"):
        fast.average_pool2d(dy, (2, 2), (2, 2), ((0, 2), (0, 0)))
