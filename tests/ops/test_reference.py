"""The NumPy ops against what was not written here: SciPy, Keras's numbers, central differences."""

import importlib
import types

import numpy as np
import pytest
import scipy.special
from scipy.signal import correlate

from minicnn.ops import NAMES
from minicnn.ops.reference.convolution import col2im, im2col
from minicnn.ops.reference.elementwise import ACTIVATIONS, random_bits
from minicnn.ops.shapes import DERIVATIVE_FROM_OUTPUT, resolve_padding

ops = types.SimpleNamespace()
for _file, _names in NAMES.items():
    if _file != "updates":  # the optimisers' in-place steps have a test of their own
        _module = importlib.import_module(f"minicnn.ops.reference.{_file}")
        vars(ops).update({name: getattr(_module, name) for name in _names})


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def distinct(*shape, seed=0):
    """Numbers of which no two are nearer than 0.01: no maximum changes within a difference step."""
    size = int(np.prod(shape))
    return np.random.default_rng(seed).permutation(size).reshape(shape) * 0.01 - size * 0.005


def check_gradient(f, x, dx, dy, step=1e-6):
    """dx against central differences of sum(f(x) dy), element by element, in float64."""
    numeric = np.empty_like(x)
    for place in np.ndindex(x.shape):
        shifted = [x.copy(), x.copy()]
        shifted[0][place] += step
        shifted[1][place] -= step
        numeric[place] = np.sum((f(shifted[0]) - f(shifted[1])) * dy) / (2 * step)
    assert np.abs(numeric).max() > 1e-3, "the check saw no gradient"
    np.testing.assert_allclose(dx, numeric, rtol=1e-6, atol=1e-7)


GEOMETRIES = [
    # input (h, w), kernel, strides, padding, dilation, groups
    ((5, 6), (3, 3), (1, 1), "valid", (1, 1), 1),
    ((5, 6), (3, 3), (1, 1), "same", (1, 1), 1),
    ((7, 6), (3, 2), (2, 3), "same", (1, 1), 1),
    ((7, 8), (2, 3), (3, 2), "valid", (1, 1), 2),
    ((7, 8), (3, 3), (1, 1), "same", (2, 3), 2),
    ((9, 7), (2, 3), (2, 1), "same", (3, 2), 4),
    ((4, 5), (1, 1), (2, 2), "valid", (1, 1), 1),
    ((4, 5), (5, 4), (1, 2), ((2, 3), (0, 2)), (1, 1), 2),
    ((4, 5), (2, 2), (2, 2), ((0, 3), (4, 1)), (2, 1), 1),
]
CHANNELS, FILTERS = 4, 8


def correlate_by_scipy(x, kernel, strides, padding, dilation, groups):
    """Convolution by scipy.signal.correlate, one pair of channel and filter at a time."""
    kh, kw, c, f = kernel.shape
    pads = resolve_padding(padding, x.shape[1:3], (kh, kw), strides, dilation)
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    dilated = np.zeros(((kh - 1) * dilation[0] + 1, (kw - 1) * dilation[1] + 1, c, f))
    dilated[:: dilation[0], :: dilation[1]] = kernel
    images = []
    for image in x:
        maps = []
        for filter_ in range(f):
            first = filter_ // (f // groups) * c
            window = image[:, :, first : first + c]
            maps.append(correlate(window, dilated[..., filter_], mode="valid")[..., 0])
        images.append(np.stack(maps, axis=-1)[:: strides[0], :: strides[1]])
    return np.stack(images)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_conv2d_is_scipys_correlation(geometry):
    size, kernel_size, strides, padding, dilation, groups = geometry
    x = random(2, *size, CHANNELS)
    kernel = random(*kernel_size, CHANNELS // groups, FILTERS, seed=1)
    bias = random(FILTERS, seed=2)
    expected = correlate_by_scipy(x, kernel, strides, padding, dilation, groups) + bias
    y = ops.conv2d(x, kernel, bias, strides, padding, dilation, groups)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    y = ops.conv2d(
        x.astype(np.float32), kernel.astype(np.float32), None, strides, padding, dilation, groups
    )
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected - bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_conv2d_gradients(geometry):
    size, kernel_size, strides, padding, dilation, groups = geometry
    arguments = (strides, padding, dilation, groups)
    x = random(2, *size, CHANNELS)
    kernel = random(*kernel_size, CHANNELS // groups, FILTERS, seed=1)
    dy = random(*ops.conv2d(x, kernel, None, *arguments).shape, seed=2)
    dx = ops.conv2d_input_grad(dy, kernel, x.shape, *arguments)
    check_gradient(lambda x: ops.conv2d(x, kernel, None, *arguments), x, dx, dy)
    dkernel = ops.conv2d_kernel_grad(x, dy, kernel.shape, *arguments)
    check_gradient(lambda kernel: ops.conv2d(x, kernel, None, *arguments), kernel, dkernel, dy)


def test_conv2d_activation_and_bias():
    x, kernel, bias = random(1, 4, 4, 2), random(3, 3, 2, 3, seed=1), random(3, seed=2)
    y = ops.conv2d(x, kernel, bias, padding="same")
    activated = ops.conv2d(x, kernel, bias, padding="same", activation=("leaky_relu", 0.25))
    np.testing.assert_array_equal(activated, np.where(y > 0, y, 0.25 * y))
    np.testing.assert_allclose(
        y - ops.conv2d(x, kernel, padding="same"), np.broadcast_to(bias, y.shape), rtol=1e-9
    )


def test_im2col_holds_the_windows_and_col2im_is_its_transpose():
    x = random(2, 6, 7, 3)
    geometry = {"strides": (2, 1), "padding": ((1, 2), (0, 1)), "dilation": (1, 2)}
    windows = im2col(x, (3, 2), **geometry)
    padded = np.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)))
    assert windows.shape == (2, 4, 6, 3, 2, 3)
    for n, i, j, a, b, c in [(0, 0, 0, 0, 0, 0), (1, 3, 5, 2, 1, 2), (1, 2, 4, 1, 0, 1)]:
        assert windows[n, i, j, a, b, c] == padded[n, i * 2 + a, j + b * 2, c]
    w = random(*windows.shape, seed=1)
    assert np.sum(windows * w) == pytest.approx(np.sum(x * col2im(w, x.shape, **geometry)))
    assert not windows.flags.writeable


def test_dense():
    x, kernel, bias = random(3, 4), random(4, 5, seed=1), random(5, seed=2)
    y = ops.dense(x, kernel, bias)
    np.testing.assert_allclose(y, np.einsum("mk,kn->mn", x, kernel) + bias, rtol=1e-12)
    np.testing.assert_array_equal(ops.dense(x, kernel, bias, ("relu",)), np.maximum(y, 0))
    dy = random(3, 5, seed=3)
    check_gradient(lambda x: ops.dense(x, kernel), x, ops.dense_input_grad(dy, kernel), dy)
    check_gradient(lambda k: ops.dense(x, k), kernel, ops.dense_kernel_grad(x, dy), dy)
    check_gradient(lambda b: ops.dense(x, kernel, b), bias, ops.bias_grad(dy), dy)
    dy = random(2, 3, 4, 5)
    np.testing.assert_allclose(ops.bias_grad(dy), dy.sum(axis=(0, 1, 2)), rtol=1e-12)


POOLINGS = [
    ((6, 6), (2, 2), (2, 2), "valid"),
    ((7, 5), (2, 2), (2, 2), "valid"),
    ((7, 5), (2, 2), (2, 2), "same"),
    ((7, 8), (3, 2), (2, 1), "same"),
    ((5, 6), (3, 3), (1, 1), "same"),
    ((8, 7), (2, 1), (3, 2), "valid"),
    ((4, 5), (3, 3), (2, 2), ((2, 1), (0, 2))),
]


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_pooling(pooling):
    size, pool_size, strides, padding = pooling
    arguments = (pool_size, strides, padding)
    x = distinct(2, *size, 3)
    pads = resolve_padding(padding, size, pool_size, strides)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=np.nan)
    y, index = ops.max_pool2d(x, *arguments)
    average = ops.average_pool2d(x, *arguments)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            top, left = i * strides[0], j * strides[1]
            window = padded[:, top : top + pool_size[0], left : left + pool_size[1]]
            np.testing.assert_array_equal(y[:, i, j], np.nanmax(window, axis=(1, 2)))
            np.testing.assert_allclose(average[:, i, j], np.nanmean(window, axis=(1, 2)))
            a, b = index[:, i, j] // pool_size[1], index[:, i, j] % pool_size[1]
            for n in range(2):
                for c in range(3):
                    assert window[n, a[n, c], b[n, c], c] == y[n, i, j, c]
    dy = random(*y.shape, seed=1)
    dx = ops.max_pool2d_grad(dy, index, x.shape, *arguments)
    check_gradient(lambda x: ops.max_pool2d(x, *arguments)[0], x, dx, dy, step=1e-4)
    dx = ops.average_pool2d_grad(dy, x.shape, *arguments)
    check_gradient(lambda x: ops.average_pool2d(x, *arguments), x, dx, dy)


def test_max_pool_ties_nan_and_minus_infinity():
    x = np.zeros((1, 2, 2, 1))
    assert ops.max_pool2d(x, (2, 2), (2, 2), "valid")[1].item() == 0  # the first maximum
    x[0, 1, 0] = np.nan
    y, index = ops.max_pool2d(x, (2, 2), (2, 2), "valid")
    assert np.isnan(y.item()) and index.item() == 2
    y, index = ops.max_pool2d(np.full((1, 2, 2, 1), -np.inf), (2, 2), (2, 2), ((1, 1), (1, 1)))
    assert np.isneginf(y).all()
    np.testing.assert_array_equal(index.ravel(), [3, 2, 1, 0])  # the pixel, not the padding


def test_index_dtypes():
    x = random(1, 20, 20, 1)
    assert ops.max_pool2d(x, (16, 16), (1, 1), "valid")[1].dtype == np.uint8
    assert ops.max_pool2d(x, (16, 17), (1, 1), "valid")[1].dtype == np.int32
    assert ops.global_max_pool2d(x)[1].dtype == np.int32


def test_pooling_refuses_padding_as_large_as_the_window():
    with pytest.raises(ValueError, match="pad less than a window"):
        ops.average_pool2d(random(1, 4, 4, 1), (2, 2), (2, 2), ((0, 0), (2, 0)))


def test_global_pooling():
    x = distinct(2, 3, 4, 3)
    dy = random(2, 3, seed=1)
    np.testing.assert_allclose(ops.global_average_pool2d(x), x.mean(axis=(1, 2)))
    dx = ops.global_average_pool2d_grad(dy, x.shape)
    check_gradient(ops.global_average_pool2d, x, dx, dy)
    y, index = ops.global_max_pool2d(x)
    np.testing.assert_array_equal(y, x.max(axis=(1, 2)))
    dx = ops.global_max_pool2d_grad(dy, index, x.shape)
    check_gradient(lambda x: ops.global_max_pool2d(x)[0], x, dx, dy, step=1e-4)


@pytest.mark.parametrize("with_gamma", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (7, 4)])
def test_batch_norm(shape, with_gamma):
    x, dy = random(*shape) * 2 + 1, random(*shape, seed=1)
    gamma, beta = (random(4, seed=2), random(4, seed=3)) if with_gamma else (None, None)
    axes = tuple(range(len(shape) - 1))
    y, mean, variance = ops.batch_norm_train(x, gamma, beta, 1e-3)
    np.testing.assert_allclose(mean, x.mean(axis=axes))
    np.testing.assert_allclose(variance, x.var(axis=axes))
    u = (x - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(y, u * gamma + beta if with_gamma else u)
    np.testing.assert_allclose(y, ops.batch_norm_inference(x, gamma, beta, mean, variance, 1e-3))

    dx, dgamma, dbeta = ops.batch_norm_train_grad(dy, x, gamma, mean, variance, 1e-3)
    check_gradient(lambda x: ops.batch_norm_train(x, gamma, beta, 1e-3)[0], x, dx, dy)
    statistics = (random(4, seed=4), random(4, seed=5) ** 2, 1e-3)
    fixed = ops.batch_norm_inference_grad(dy, x, gamma, *statistics)
    check_gradient(lambda x: ops.batch_norm_inference(x, gamma, beta, *statistics), x, fixed[0], dy)
    if with_gamma:
        check_gradient(lambda g: ops.batch_norm_train(x, g, beta, 1e-3)[0], gamma, dgamma, dy)
        check_gradient(lambda b: ops.batch_norm_train(x, gamma, b, 1e-3)[0], beta, dbeta, dy)
        check_gradient(
            lambda g: ops.batch_norm_inference(x, g, beta, *statistics), gamma, fixed[1], dy
        )
        np.testing.assert_allclose(fixed[2], dbeta)


@pytest.mark.parametrize("activation", [("relu",), ("leaky_relu", 0.3)])
def test_batch_norm_and_a_rectifier(activation):
    x, dy = random(2, 3, 3, 4) * 2 + 1, random(2, 3, 3, 4, seed=1)
    gamma, beta = random(4, seed=2), random(4, seed=3)
    plain, mean, variance = ops.batch_norm_train(x, gamma, beta, 1e-3)
    assert np.abs(plain).min() > 1e-3  # no number on the kink
    y = ops.batch_norm_train(x, gamma, beta, 1e-3, activation)[0]
    np.testing.assert_array_equal(y, ops.activate(plain, activation))
    given = (gamma, mean, variance, 1e-3, beta, activation)
    dx, dgamma, dbeta = ops.batch_norm_train_grad(dy, x, *given)
    check_gradient(lambda x: ops.batch_norm_train(x, gamma, beta, 1e-3, activation)[0], x, dx, dy)
    check_gradient(
        lambda g: ops.batch_norm_train(x, g, beta, 1e-3, activation)[0], gamma, dgamma, dy
    )
    check_gradient(
        lambda b: ops.batch_norm_train(x, gamma, b, 1e-3, activation)[0], beta, dbeta, dy
    )

    def inference(x, gamma, beta):
        return ops.batch_norm_inference(x, gamma, beta, mean, variance, 1e-3, activation)

    dx, dgamma, dbeta = ops.batch_norm_inference_grad(dy, x, *given)
    check_gradient(lambda x: inference(x, gamma, beta), x, dx, dy)
    check_gradient(lambda g: inference(x, g, beta), gamma, dgamma, dy)
    check_gradient(lambda b: inference(x, gamma, b), beta, dbeta, dy)


def test_batch_norm_keeps_its_digits_at_a_huge_mean():
    x = (random(1000, 3) + 1e6).astype(np.float32)
    y, mean, variance = ops.batch_norm_train(x, None, None, 1e-3)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(variance, exact.var(axis=0), rtol=1e-6)
    u = (exact - exact.mean(axis=0)) / np.sqrt(exact.var(axis=0) + 1e-3)
    np.testing.assert_allclose(y, u, atol=1e-6)
    dy = (u + 1).astype(np.float32)
    _, dgamma, _ = ops.batch_norm_train_grad(dy, x, None, mean, variance, 1e-3)
    np.testing.assert_allclose(dgamma, (dy * u).sum(axis=0), rtol=1e-6)


NUMBERS = {"leaky_relu": (0.2,), "relu_bounded": (0.1, 1.5, 0.5), "elu": (1.3,), "celu": (0.7,)}
# From the definitions, at x = -4, -1, 0, 0.25, 1, 4 (sigmoid and friends by scipy and math).
X = np.array([-4.0, -1.0, 0.0, 0.25, 1.0, 4.0])
P = scipy.special.expit(X)
EXPECTED = {
    "relu": [0, 0, 0, 0.25, 1, 4],
    "leaky_relu": [-0.8, -0.2, 0, 0.25, 1, 4],
    "relu_bounded": [-0.45, -0.15, -0.05, -0.025, 1, 1.5],
    "elu": [1.3 * (np.exp(-4) - 1), 1.3 * (np.exp(-1) - 1), 0, 0.25, 1, 4],
    "selu": [-1.725898655, -1.111330738, 0, 0.262675247, 1.050700987, 4.202803949],
    "celu": [0.7 * (np.exp(-4 / 0.7) - 1), 0.7 * (np.exp(-1 / 0.7) - 1), 0, 0.25, 1, 4],
    "sigmoid": P,
    "tanh": 2 * scipy.special.expit(2 * X) - 1,
    "softplus": np.log(1 + np.exp(X)),
    "softsign": [-0.8, -0.5, 0, 0.2, 0.5, 0.8],
    "exponential": np.e**X,
    "silu": X * P,
    "gelu": X * scipy.special.ndtr(X),
    "gelu_tanh": [-7.024594819e-05, -0.158808009, 0, 0.1496753507, 0.8411919906, 3.999929754],
    "hard_sigmoid": [0, 1 / 3, 0.5, 0.25 / 6 + 0.5, 2 / 3, 1],
    "hard_silu": [0, -1 / 3, 0, 0.25 * (0.25 / 6 + 0.5), 2 / 3, 4],
    "hard_tanh": [-1, -1, 0, 0.25, 1, 1],
    "log_sigmoid": np.log(P),
    "mish": X * np.tanh(np.log(1 + np.exp(X))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    activation = (name, *NUMBERS.get(name, ()))
    np.testing.assert_allclose(ops.activate(X, activation), EXPECTED[name], rtol=1e-6, atol=1e-12)
    x = np.linspace(-5.03, 5.07, 102)  # no number on a kink
    dy = random(102)
    y = ops.activate(x, activation)
    dx = ops.activate_grad(dy, y if name in DERIVATIVE_FROM_OUTPUT else x, activation)
    check_gradient(lambda x: ops.activate(x, activation), x, dx, dy)
    y = ops.activate(np.array([1e4, -1e4, np.nan], np.float32), activation)
    assert y.dtype == np.float32
    assert np.isnan(y[2]) and not np.isnan(y[:2]).any()


def test_relu_bounded_without_bound():
    x = np.array([-np.inf, -3.0, 2.0, 100.0])
    y = ops.activate(x, ("relu_bounded", 0.0, None, 1.0))
    np.testing.assert_array_equal(y, [0, 0, 2, 100])


@pytest.mark.parametrize("shape", [(3, 5), (2, 2, 4)])
def test_softmax(shape):
    x, dy = random(*shape) * 3, random(*shape, seed=1)
    y, log_y = ops.softmax(x), ops.log_softmax(x)
    np.testing.assert_allclose(y, scipy.special.softmax(x, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(log_y, scipy.special.log_softmax(x, axis=-1), rtol=1e-12)
    check_gradient(ops.softmax, x, ops.softmax_grad(dy, y), dy)
    check_gradient(ops.log_softmax, x, ops.log_softmax_grad(dy, log_y), dy)
    np.testing.assert_array_equal(ops.softmax(np.array([1e4, -1e4, 1e4])), [0.5, 0, 0.5])


def test_scale_shift_and_add():
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    y = ops.scale_shift(x, 1 / 128, -1, np.float32)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, x / 128 - 1)
    y = ops.scale_shift(x, [1, 2, 3, 4], np.array([0, 0, 1, 1]), np.float64)
    np.testing.assert_array_equal(y, x * [1.0, 2, 3, 4] + [0, 0, 1, 1])
    xs = [random(2, 3, seed=i) for i in range(3)]
    np.testing.assert_array_equal(ops.add(xs), xs[0] + xs[1] + xs[2])
    assert not np.shares_memory(ops.add(xs[:1]), xs[0])


def random_bits_by_hand(counter, key):
    """The generator's definition in whole numbers, for one counter."""
    low, high = key & 0xFFFFFFFF, key >> 32
    h = (counter * 0x9E3779B1 + low) % 2**32
    h ^= (high + (counter >> 32) * 0x85EBCA77) % 2**32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ h >> shift) * factor % 2**32
    return h


def test_random_bits():
    counters = np.array([0, 1, 2**32 - 1, 2**32, 2**40 + 12345], np.uint64)
    key = 0xFEDCBA9876543210
    assert random_bits(counters, key).tolist() == [
        random_bits_by_hand(int(i), key) for i in counters
    ]


def test_dropout():
    x = np.ones((64, 10, 10, 3), np.float32)
    y = ops.dropout(x, 0.3, key=12345)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.7)}
    assert np.mean(y == 0) == pytest.approx(0.3, abs=0.01)  # 3 standard deviations
    np.testing.assert_array_equal(ops.dropout_grad(x, 0.3, key=12345), y)
    assert np.mean((ops.dropout(x, 0.3, key=12346) == 0) == (y == 0)) < 0.65  # 0.58 expected
    # The second half of a batch alone, told its place, draws what it drew in the whole.
    np.testing.assert_array_equal(ops.dropout(x[32:], 0.3, 12345, first_sample=32), y[32:])
    shared = ops.dropout(x, 0.5, 7, noise_shape=(64, 1, 1, 3))
    np.testing.assert_array_equal(shared, np.broadcast_to(shared[:, :1, :1], shared.shape))
    first = ops.dropout(x[:, :1, :1], 0.5, 7)
    np.testing.assert_array_equal(shared[:, :1, :1], first)
    for rate in (-0.1, 1, 1.5):
        with pytest.raises(ValueError, match="0 <= rate < 1"):
            ops.dropout(x, rate, 1)
    np.testing.assert_array_equal(ops.dropout(x, 0, 1), x)


def test_zero_pad():
    x, padding = random(2, 3, 4, 2), ((1, 2), (0, 3))
    y = ops.zero_pad2d(x, padding)
    assert y.shape == (2, 6, 7, 2)
    np.testing.assert_array_equal(y[:, 1:4, :4], x)
    assert np.abs(y).sum() == np.abs(x).sum()
    dy = random(*y.shape, seed=1)
    check_gradient(lambda x: ops.zero_pad2d(x, padding), x, ops.zero_pad2d_grad(dy, padding), dy)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(2, 2), (3, 1), (1, 4)])
def test_upsample_gradient(size, interpolation):
    x = random(2, 3, 4, 2)
    y = ops.upsample2d(x, size, interpolation)
    assert y.shape == (2, 3 * size[0], 4 * size[1], 2)
    dy = random(*y.shape, seed=1)
    dx = ops.upsample2d_grad(dy, size, interpolation)
    check_gradient(lambda x: ops.upsample2d(x, size, interpolation), x, dx, dy)


def test_upsample_is_keras():
    x = np.array([[0.0, 3.0], [6.0, 12.0]]).reshape(1, 2, 2, 1)
    nearest = ops.upsample2d(x, (2, 1))[0, :, :, 0]
    np.testing.assert_array_equal(nearest, [[0, 3], [0, 3], [6, 12], [6, 12]])
    # keras.layers.UpSampling2D((2, 3), interpolation="bilinear"), Keras 3 on JAX
    bilinear = ops.upsample2d(x, (2, 3), "bilinear")[0, :, :, 0]
    np.testing.assert_allclose(bilinear, KERAS_BILINEAR, atol=1e-6)
    with pytest.raises(ValueError, match="bicubic"):
        ops.upsample2d(x, (2, 2), "bicubic")


KERAS_BILINEAR = [
    [0.0, 0.0, 1.0, 2.0, 3.0, 3.0],
    [1.5, 1.5, 2.75, 4.0, 5.25, 5.25],
    [4.5, 4.5, 6.25, 8.0, 9.75, 9.75],
    [6.0, 6.0, 8.0, 10.0, 12.0, 12.0],
]


def every_op():
    """(name, arguments) of each op on small inputs."""
    x, dy, row = random(2, 4, 4, 2), random(2, 2, 2, 2, seed=1), random(2, seed=2)
    kernel, matrix, pool = random(3, 3, 2, 3), random(4, 5), ((2, 2), (2, 2), "valid")
    index = np.ones((2, 2, 2, 2), np.uint8)
    small, places = random(2, 1, 1, 3), np.ones((2, 1, 1, 3), np.uint8)
    return [
        ("conv2d", (x, kernel)),
        ("conv2d_input_grad", (random(2, 2, 2, 3), kernel, x.shape)),
        ("conv2d_kernel_grad", (x, random(2, 2, 2, 3), kernel.shape)),
        ("conv2d_max_pool", (x, kernel)),
        ("conv2d_max_pool_kernel_grad", (x, small, places, small, kernel.shape)),
        ("dense", (random(3, 4), matrix)),
        ("dense_input_grad", (random(3, 5), matrix)),
        ("dense_kernel_grad", (random(3, 4), random(3, 5))),
        ("bias_grad", (x,)),
        ("max_pool2d", (x, *pool)),
        ("max_pool2d_grad", (dy, index, x.shape, *pool)),
        ("max_pool2d_activation_grad", (dy, index, dy, ("relu",), x.shape, *pool)),
        ("average_pool2d", (x, *pool)),
        ("average_pool2d_grad", (dy, x.shape, *pool)),
        ("global_average_pool2d", (x,)),
        ("global_average_pool2d_grad", (random(2, 2), x.shape)),
        ("global_max_pool2d", (x,)),
        ("global_max_pool2d_grad", (random(2, 2), np.ones((2, 2), np.int32), x.shape)),
        ("batch_norm_train", (x, row, row, 1e-3)),
        ("batch_norm_statistics", (x,)),
        ("batch_norm_train_grad", (x, x, row, row, row**2, 1e-3)),
        ("batch_norm_activation_grad", (x, x, row, row, row**2, 1e-3, ("relu",))),
        ("batch_norm_inference", (x, row, row, row, row**2, 1e-3)),
        ("batch_norm_inference_grad", (x, x, row, row, row**2, 1e-3)),
        ("add_normalized", ([(x, row, row, row, row**2, 1e-3), x], ("relu",))),
        ("add_normalized_grad", ([x], x, ("relu",), [(x, row, row, row, row**2, 1e-3), x])),
        ("batch_norm_max_pool", (x, row, row, 1e-3)),
        ("batch_norm_max_pool_grad", (dy, index, x, row, row, row**2, 1e-3)),
        ("activate", (x, ("relu",))),
        ("activate_grad", (x, x, ("relu",))),
        ("activate_bias_grad", (x, x, ("tanh",))),
        ("softmax", (x,)),
        ("softmax_grad", (x, x)),
        ("log_softmax", (x,)),
        ("log_softmax_grad", (x, x)),
        ("softmax_crossentropy", (matrix, random(4, 5, seed=3), random(4, seed=4), 0.1)),
        ("scale_shift", (x, 2.0, 1.0, np.float64)),
        ("add", ([x, x, x],)),
        ("add_grad", ([x, x, x], x, ("relu",))),
        ("dropout", (x, 0.5, 3)),
        ("dropout_grad", (x, 0.5, 3)),
        ("zero_pad2d", (x, ((1, 1), (0, 2)))),
        ("zero_pad2d_grad", (x, ((1, 1), (0, 2)))),
        ("upsample2d", (x, (2, 2))),
        ("upsample2d_grad", (x, (2, 2))),
        *picture_ops(x),
    ]


def picture_ops(x):
    """The same for the operations on pictures."""
    rgb = random(2, 4, 4, 3, seed=3) % 1
    turn = np.array([[[0.8, 0.6, 0.1], [-0.6, 0.8, 2.0]]] * 2)
    places, boxes = np.array([[2, 0, -1, 3]] * 2), np.array([[0, 2, 1, 3]] * 2)
    swap, half = np.array([1, 0]), np.array([0.5, 0.25])
    levels, colours = (half + 1, half, -1.0, 1.0), (half, 0.0, 1.0)
    return [
        ("affine_transform", (x, turn)),
        ("affine_transform_grad", (x, turn)),
        ("gather_pixels", (x, places, places)),
        ("gather_pixels_grad", (x, places, places, x.shape)),
        ("resize", (x, (3, 5))),
        ("resize_grad", (x, (3, 5))),
        ("adjust_levels", (x, *levels)),
        ("adjust_levels_grad", (x, x, *levels)),
        ("adjust_saturation", (rgb, *colours)),
        ("adjust_saturation_grad", (rgb, rgb, *colours)),
        ("adjust_hue", (rgb, *colours)),
        ("adjust_hue_grad", (rgb, rgb, *colours)),
        ("erase_boxes", (x, boxes)),
        ("cut_mix", (x, swap, boxes)),
        ("cut_mix_grad", (x, swap, boxes)),
        ("mix", (x, swap, half, 1 - half)),
    ]


@pytest.mark.parametrize(
    ("name", "arguments"), every_op(), ids=lambda a: a if type(a) is str else ""
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_out_is_written_and_nothing_else(name, arguments, dtype):
    def cast(a):
        if isinstance(a, list | tuple):
            return type(a)(cast(b) for b in a)
        return a.astype(dtype) if getattr(a, "dtype", None) == np.float64 else a

    arguments = cast(list(arguments))
    if name == "scale_shift":
        arguments[3] = dtype
    before = [np.copy(a) for a in arguments if isinstance(a, np.ndarray)]
    for a in arguments:
        if isinstance(a, np.ndarray):
            a.flags.writeable = False
    written = 1 if name == "softmax_crossentropy" else 0  # its values come first
    first = results(getattr(ops, name)(*arguments))
    out = np.full_like(first[written], np.nan)
    second = results(getattr(ops, name)(*arguments, out=out))
    assert second[written] is out
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    main = first[written]
    assert main.dtype == (np.float64 if name == "batch_norm_statistics" else dtype)
    assert main.flags.c_contiguous and main.flags.owndata
    for a, b in zip([a for a in arguments if isinstance(a, np.ndarray)], before, strict=True):
        np.testing.assert_array_equal(a, b)


def results(value):
    return value if isinstance(value, tuple) else (value,)


def test_every_op_is_tried():
    tried = {name for name, _ in every_op()}
    assert tried == set(vars(ops))
