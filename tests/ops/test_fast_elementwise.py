"""Compiled elementwise ops equal the reference."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from minicnn.ops.fast import elementwise as fast
from minicnn.ops.fast.exponential import erfc, exp, expm1, log1p
from minicnn.ops.fast.jit import kernel
from minicnn.ops.reference import elementwise as reference
from minicnn.ops.shapes import DERIVATIVE_FROM_OUTPUT

quick = settings(max_examples=25, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])
shapes = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    st.sampled_from([(8191,), (8193,), (3, 8192), (2, 65, 67, 3)]),  # around the blocks' ends
)
NUMBERS = {"leaky_relu": (0.2,), "relu_bounded": (0.1, 1.5, 0.5), "elu": (1.3,), "celu": (0.7,)}
NUMBER_TYPES = [np.float32, np.float64]


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def small_integers(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


def near(dtype):
    return 3e-6 if dtype == np.float32 else 1e-14


def test_both_sets_know_the_same_activations():
    assert list(fast.FUNCTIONS) == list(reference.ACTIVATIONS)


@pytest.mark.parametrize("dtype", NUMBER_TYPES)
@pytest.mark.parametrize("name", fast.FUNCTIONS)
def test_activation(agree, name, dtype):
    activation = (name, *NUMBERS.get(name, ()))
    size = 8192 + 77
    x = np.concatenate([np.linspace(-30, 30, size), np.linspace(-1, 1, 99), [0.0, -0.0, 1, -1]])
    x, dy = x.astype(dtype), normal(size + 103, dtype=dtype)
    saved = reference.activate(x, activation) if name in DERIVATIVE_FROM_OUTPUT else x
    tolerance = 1e-6 if name == "exponential" else near(dtype)
    if name == "exponential":
        x = np.minimum(x, 5).astype(dtype)
    agree(
        lambda x, out=None: fast.activate(x, activation, out),
        lambda x: reference.activate(x, activation),
        x,
        tolerance=tolerance,
    )
    agree(
        lambda dy, s, out=None: fast.activate_grad(dy, s, activation, out),
        lambda dy, s: reference.activate_grad(dy, s, activation),
        dy,
        saved,
        tolerance=near(dtype),
    )
    special = np.array([1e4, -1e4, np.nan], dtype)
    y = fast.activate(special, activation)
    np.testing.assert_allclose(y, reference.activate(special, activation), rtol=1e-6)
    assert np.isnan(y[2])
    dx = fast.activate_grad(np.array([np.nan] * 3, dtype), np.array([-1, 0, 1], dtype), activation)
    assert np.isnan(dx).all()


@pytest.mark.parametrize("shape", [(5000, 3), (7, 11, 13, 1), (2, 3, 4, 200), (0, 4), (40000, 7)])
def test_activation_gradient_with_its_channel_sums(shape):
    dy, y = small_integers(*shape, dtype=np.float32), small_integers(*shape, seed=1) > 0
    y = y.astype(np.float32)
    dx, sums = fast.activate_bias_grad(dy, y, ("relu",))
    np.testing.assert_array_equal(dx, dy * y)
    np.testing.assert_array_equal(sums, (dy * y).reshape(-1, shape[-1]).sum(axis=0))
    assert dx.dtype == sums.dtype == np.float32


def test_erfc():
    x = np.linspace(-9, 9, 20001).astype(np.float32)

    @kernel
    def fill(x, y):
        for i in range(x.size):
            y[i] = erfc(x[i])

    y = np.empty_like(x)
    fill(x, y)
    exact = special.erfc(x.astype(np.float64))
    # of the rounded square of x, at most 81, stay 5e-6 of the value
    np.testing.assert_allclose(y, exact, rtol=6e-6)
    near_zero = np.abs(x) < 1
    np.testing.assert_allclose(y[near_zero], exact[near_zero], rtol=6e-7)


def test_small_activations_keep_their_digits():
    x = np.array([1e-6, -1e-6, 3e-4, -3e-4], np.float32)
    exact = x.astype(np.float64)
    for name, f in {"tanh": np.tanh, "selu": None, "elu": None}.items():
        activation = (name, *NUMBERS.get(name, ()))
        expected = f(exact) if f else reference.activate(exact, activation)
        np.testing.assert_allclose(fast.activate(x, activation), expected, rtol=3e-7)
    deep = np.array([-20.0, -60.0], np.float32)
    np.testing.assert_allclose(
        fast.activate(deep, ("sigmoid",)), np.exp(deep.astype(np.float64)), rtol=2e-6
    )


@pytest.mark.parametrize("slope", [0, 0.0])
def test_slope_zero_of_minus_infinity_is_zero(slope):
    x = np.array([-np.inf, np.nan, 2, np.inf], np.float32)
    expected = np.array([0, np.nan, 2, np.inf], np.float32)
    np.testing.assert_array_equal(fast.activate(x, ("leaky_relu", slope)), expected)
    bounded = fast.activate(x, ("relu_bounded", slope, None, 0.0))
    np.testing.assert_array_equal(bounded, expected)
    np.testing.assert_array_equal(fast.activate(x, ("relu_bounded", slope, 1.0, 0.0))[2:], [1, 1])


@pytest.mark.parametrize("dtype", NUMBER_TYPES)
def test_exponential_functions(dtype):
    @kernel
    def table(x, y):
        for i in range(x.size):
            y[0, i], y[1, i] = exp(x[i]), expm1(x[i])
            y[2, i] = log1p(abs(x[i]) if abs(x[i]) <= 1 else 1 / abs(x[i]))

    lowest, highest = (-87, 88) if dtype == np.float32 else (-708, 709)
    x = np.concatenate([np.linspace(lowest, highest, 20001), np.linspace(-1, 1, 2001)])
    x = x.astype(dtype)
    y = np.empty((3, x.size), dtype)
    table(x, y)
    exact = x.astype(np.longdouble)
    small = np.where(np.abs(x) <= 1, np.abs(x), 1 / np.maximum(np.abs(x), 1)).astype(dtype)
    expected = (np.exp(exact), np.expm1(exact), np.log1p(small.astype(np.longdouble)))
    for values, right in zip(y, expected, strict=True):
        units = np.abs(values - right) / np.spacing(np.abs(right).astype(dtype))
        assert units.max() < 3
    special = np.array([-np.inf, -1000, np.nan], dtype)
    y = np.empty((3, 3), dtype)
    table(special, y)
    np.testing.assert_array_equal(y[:2], np.array([[0, 0, np.nan], [-1, -1, np.nan]], dtype))


@quick
@given(shape=shapes, dtype=dtypes, seed=st.integers(0, 99))
def test_softmax(agree, shape, dtype, seed):
    x, dy = 5 * normal(*shape, dtype=dtype, seed=seed), normal(*shape, dtype=dtype, seed=seed + 1)
    y, log_y = reference.softmax(x), reference.log_softmax(x)
    tolerance = 2e-5 if dtype == np.float32 else 1e-13
    agree(fast.softmax, reference.softmax, x, tolerance=tolerance)
    agree(fast.log_softmax, reference.log_softmax, x, tolerance=tolerance)
    agree(fast.softmax_grad, reference.softmax_grad, dy, y, tolerance=tolerance)
    agree(fast.log_softmax_grad, reference.log_softmax_grad, dy, log_y, tolerance=tolerance)


def test_softmax_of_extremes():
    y = fast.softmax(np.array([[1e4, -1e4, 1e4], [0, np.nan, 0], [-1e4, -1e4, -1e4]], np.float32))
    np.testing.assert_array_equal(y[0], [0.5, 0, 0.5])
    assert np.isnan(y[1]).all()
    np.testing.assert_allclose(y[2], 1 / 3, rtol=1e-7)
    y = fast.log_softmax(np.array([[1e4, -1e4]], np.float32))
    np.testing.assert_array_equal(y, [[0, -2e4]])


@quick
@given(
    shape=shapes,
    dtype=dtypes,
    kind=st.sampled_from(["uint8", "float", "int64"]),
    per_channel=st.booleans(),
)
def test_scale_shift(agree, shape, dtype, kind, per_channel):
    x = np.random.default_rng(0).integers(0, 256, shape)
    x = x.astype(dtype if kind == "float" else kind)
    scale, offset = 0.5, -3.0
    if per_channel:
        scale, offset = small_integers(shape[-1]) / 4, small_integers(shape[-1], seed=1)
    agree(
        lambda x, out=None: fast.scale_shift(x, scale, offset, dtype, out),
        lambda x: reference.scale_shift(x, scale, offset, dtype),
        x,
    )


def test_scale_shift_of_a_picture_without_channels():
    x = np.arange(12, dtype=np.uint8)
    np.testing.assert_array_equal(fast.scale_shift(x, 2, 1, np.float32), 2 * x + 1.0)


@quick
@given(shape=shapes, dtype=dtypes, count=st.integers(1, 4))
def test_add(agree, shape, dtype, count):
    xs = [normal(*shape, dtype=dtype, seed=i) for i in range(count)]
    agree(fast.add, reference.add, xs)
    assert not np.shares_memory(fast.add(xs), xs[0])
    same = fast.add([xs[0], xs[0]])
    np.testing.assert_array_equal(same, 2 * xs[0])


@quick
@given(
    shape=shapes,
    dtype=dtypes,
    count=st.integers(1, 3),
    activation=st.sampled_from([("relu",), ("leaky_relu", 0.3), ("leaky_relu", 0.0)]),
)
def test_add_and_rectifier(agree, shape, dtype, count, activation):
    xs = [normal(*shape, dtype=dtype, seed=i) for i in range(count)]
    agree(
        lambda xs, out=None: fast.add(xs, activation, out),
        lambda xs: reference.add(xs, activation),
        xs,
        tolerance=near(dtype),
    )
    expected = np.maximum(sum(xs), 0) + (activation + (0,))[1] * np.minimum(sum(xs), 0)
    np.testing.assert_allclose(fast.add(xs, activation), expected, rtol=near(dtype))


@quick
@given(
    shape=shapes,
    dtype=dtypes,
    count=st.integers(1, 3),
    activation=st.sampled_from([("relu",), ("leaky_relu", 0.3)]),
)
def test_the_gradients_of_all_that_read_a_rectified_sum(agree, shape, dtype, count, activation):
    dys = [normal(*shape, dtype=dtype, seed=i) for i in range(count)]
    y = reference.activate(normal(*shape, dtype=dtype, seed=9), activation)
    agree(
        lambda dys, out=None: fast.add_grad(dys, y, activation, out),
        lambda dys: reference.add_grad(dys, y, activation),
        dys,
        tolerance=near(dtype),
    )
    expected = sum(dys) * np.where(y > 0, 1, (activation + (0,))[1])
    np.testing.assert_allclose(reference.add_grad(dys, y, activation), expected, rtol=near(dtype))


@pytest.mark.parametrize("ops", [fast, reference])
def test_add_and_rectifier_of_special_numbers(ops):
    x, zero = np.array([np.nan, np.inf, -np.inf, -1, 2], np.float32), np.zeros(5, np.float32)
    np.testing.assert_array_equal(ops.add([x, zero], ("relu",)), [np.nan, np.inf, 0, 0, 2])
    np.testing.assert_array_equal(
        ops.add([x, zero], ("leaky_relu", 0.5)), [np.nan, np.inf, -np.inf, -0.5, 2]
    )
    with pytest.raises(ValueError, match="'gelu' cannot be a part"):
        ops.add([x, zero], ("gelu",))


keys = st.integers(0, 2**64 - 1)


@quick
@given(
    shape=shapes,
    dtype=dtypes,
    key=keys,
    rate=st.floats(0, 0.999),
    first=st.sampled_from([0, 1, 63, 2**20, 2**33 + 5]),
)
def test_dropout_has_the_same_bits(agree, shape, dtype, key, rate, first):
    x = normal(*shape, dtype=dtype) + 10
    agree(
        lambda x, out=None: fast.dropout(x, rate, key, first, None, out),
        lambda x: reference.dropout(x, rate, key, first),
        x,
    )
    agree(
        lambda x, out=None: fast.dropout_grad(x, rate, key, first, None, out),
        lambda x: reference.dropout_grad(x, rate, key, first),
        x,
    )


def test_dropout_where_the_counter_passes_32_bits(agree):
    x = np.ones((5, 1000, 33), np.float32)
    first = 2**32 // 33000 - 2
    assert first * 33000 < 2**32 < (first + 5) * 33000
    agree(
        lambda x, out=None: fast.dropout(x, 0.5, 99, first, None, out),
        lambda x: reference.dropout(x, 0.5, 99, first),
        x,
    )


@pytest.mark.parametrize("noise", [(4, 1, 1, 3), (1, 5, 6, 3), (4, 5, 1, 3), (4, 1, 1, 1)])
def test_dropout_noise_shape(agree, noise):
    x = normal(4, 5, 6, 3, dtype=np.float32) + 10
    agree(
        lambda x, out=None: fast.dropout(x, 0.5, 7, 3, noise, out),
        lambda x: reference.dropout(x, 0.5, 7, 3, noise),
        x,
    )


def test_dropout_passes_nan_and_refuses_bad_rates():
    x = np.full((4, 100), np.nan, np.float32)
    assert np.isnan(fast.dropout(x, 0.9, 1)).all()
    for rate in (-0.1, 1, 1.5):
        with pytest.raises(ValueError, match="0 <= rate < 1"):
            fast.dropout(x, rate, 1)


def test_empty_arrays():
    empty = np.empty((0, 3), np.float32)
    for y in (
        fast.activate(empty, ("relu",)),
        fast.softmax(empty),
        fast.scale_shift(empty, 1, 0, np.float32),
        fast.add([empty, empty]),
        fast.dropout(empty, 0.5, 1),
    ):
        assert y.shape == (0, 3)


def test_wrong_arguments_are_refused():
    x = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="shape"):
        fast.activate(x, ("relu",), out=np.empty((4, 4), np.float32))
    with pytest.raises(ValueError, match="shape"):
        fast.activate_grad(x, np.ones((4, 4), np.float32), ("relu",))
    with pytest.raises(ValueError, match="contiguous"):
        fast.activate(x, ("relu",), out=np.empty((4, 6), np.float32)[:, ::2])
    with pytest.raises(ValueError, match="shape"):
        fast.add([x, x[:3]])
    with pytest.raises(TypeError, match="int64"):
        fast.softmax(np.ones((4, 3), np.int64))


def test_no_warning_from_overflow():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = fast.activate(np.array([1000, -1000], np.float32), ("exponential",))
    np.testing.assert_array_equal(y, [np.inf, 0])
