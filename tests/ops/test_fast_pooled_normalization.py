"""Batch normalization and maxima in one pass: equal to the reference, and to the two apart."""

import numpy as np
import pytest

from minicnn import config
from minicnn.ops.fast import normalization, pooling, simd
from minicnn.ops.fast import pooled_normalization as fast
from minicnn.ops.reference import pooled_normalization as reference

SHAPES = [
    (3, 4, 6, 5),
    (1, 2, 2, 1),
    (2, 32, 32, 32),
    (5, 8, 8, 128),
    (2, 6, 10, 3),
    (70, 4, 2, 33),
]
CASES = [(None, None), (("relu",), None), (None, ("relu",)), (("leaky_relu", 0.25), ("relu",))]


def arrays(shape, dtype=np.float64):
    """x, dy, gamma, beta."""
    generator = np.random.default_rng(sum(shape))
    n, h, w, c = shape
    sizes = shape, (n, h // 2, w // 2, c), c, c
    return [generator.standard_normal(size).astype(dtype) for size in sizes]


@pytest.mark.parametrize("activation, below", CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_reference(shape, activation, below, dtype):
    x, dy, gamma, beta = arrays(shape, dtype)
    near = {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-11}
    y, index, mean, variance = fast.batch_norm_max_pool(x, gamma, beta, 1e-3, activation)
    expected = reference.batch_norm_max_pool(x, gamma, beta, 1e-3, activation)
    for one, other in zip((y, mean, variance), (expected[0], *expected[2:]), strict=True):
        np.testing.assert_allclose(one, other, **near)
    np.testing.assert_array_equal(index, expected[1])
    rest = (gamma, mean, variance, 1e-3, beta, activation, below)
    results = fast.batch_norm_max_pool_grad(dy, index, x, *rest)
    assert np.any(results[0])
    for one, other in zip(
        results, reference.batch_norm_max_pool_grad(dy, index, x, *rest), strict=True
    ):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, other, **near)


@pytest.mark.parametrize("shape", SHAPES[2:5], ids=str)
def test_equals_the_two_ops(shape):
    """Winners are those of max_pool2d on the output of batch_norm_train."""
    x, dy, gamma, beta = arrays(shape)
    y, index, mean, variance = fast.batch_norm_max_pool(x, gamma, beta, 1e-3, ("relu",))
    apart, *_ = normalization.batch_norm_train(x, gamma, beta, 1e-3, ("relu",))
    pooled, places = pooling.max_pool2d(apart, (2, 2), (2, 2), "valid")
    np.testing.assert_allclose(y, pooled, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(index, places)

    shape = (2, 4, 4, 3)
    x, dy, gamma, beta = arrays(shape)

    def loss(x, gamma, beta):
        return np.sum(dy * fast.batch_norm_max_pool(x, gamma, beta, 1e-3, ("relu",))[0])

    _, index, mean, variance = fast.batch_norm_max_pool(x, gamma, beta, 1e-3, ("relu",))
    dx, total, dgamma, dbeta = fast.batch_norm_max_pool_grad(
        dy, index, x, gamma, mean, variance, 1e-3, beta, ("relu",)
    )
    np.testing.assert_allclose(total, dx.sum(axis=(0, 1, 2)), atol=1e-12)
    for name, array, gradient in (("x", x, dx), ("gamma", gamma, dgamma), ("beta", beta, dbeta)):
        given = {"x": x, "gamma": gamma, "beta": beta}
        for place in np.ndindex(array.shape):
            step = np.zeros(array.shape)
            step[place] = 1e-6
            up, down = (loss(**{**given, name: array + sign * step}) for sign in (1, -1))
            np.testing.assert_allclose((up - down) / 2e-6, gradient[place], atol=2e-7)


def test_threads_do_not_matter():
    x, dy, gamma, beta = arrays((16, 16, 16, 40), np.float32)
    found = []
    for threads in (1, 2):
        with config.using(threads=threads):
            y, index, *statistics = fast.batch_norm_max_pool(x, gamma, beta, 1e-3)
            rest = (gamma, *statistics, 1e-3, beta, None, ("relu",))
            grads = fast.batch_norm_max_pool_grad(dy, index, x, *rest)
            found.append([y, index, *statistics, *grads])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradients_past_the_caches(monkeypatch):
    x, dy, gamma, beta = arrays((24, 48, 46, 32), np.float32)
    assert x.nbytes >= simd.STREAM_BYTES
    _, index, *statistics = fast.batch_norm_max_pool(x, gamma, beta, 1e-3)
    found = []
    for least in (simd.STREAM_BYTES, 1 << 40):
        monkeypatch.setattr(simd, "STREAM_BYTES", least)
        rest = (gamma, *statistics, 1e-3, beta, None, ("relu",))
        found.append(fast.batch_norm_max_pool_grad(dy, index, x, *rest))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nan_and_errors():
    x, _, gamma, beta = arrays((2, 4, 4, 3))
    x[0, 1, 1, 2] = np.nan
    y, *_ = fast.batch_norm_max_pool(x, gamma, beta, 1e-3)
    assert np.isnan(y[..., 2]).all() and not np.isnan(y[..., :2]).any()
    for op in (fast, reference):
        with pytest.raises(ValueError, match="even h and w"):
            op.batch_norm_max_pool(x[:, :3], gamma, beta, 1e-3)
        with pytest.raises(ValueError, match="cannot be a part"):
            op.batch_norm_max_pool(x, gamma, beta, 1e-3, ("tanh",))
