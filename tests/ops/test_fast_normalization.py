"""Compiled batch normalization equals the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.ops.fast import normalization as fast
from minicnn.ops.reference import normalization as reference

quick = settings(max_examples=25, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])
shapes = st.one_of(
    st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple),
    st.sampled_from([(4, 33, 31, 3), (2, 32, 32, 32), (5000, 1), (3, 7, 129), (2, 300)]),
)


def normal(*shape, dtype, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def near(dtype):
    return 2e-6 if dtype == np.float32 else 1e-12


@quick
@given(
    shape=shapes,
    dtype=dtypes,
    seed=st.integers(0, 99),
    affine=st.booleans(),
    centre=st.sampled_from([0, 3, -100]),
)
def test_batch_norm(agree, shape, dtype, seed, affine, centre):
    x, dy = (
        normal(*shape, dtype=dtype, seed=seed) + dtype(centre),
        normal(*shape, dtype=dtype, seed=seed + 1),
    )
    c = shape[-1]
    gamma, beta = None, None
    if affine:
        gamma, beta = normal(c, dtype=dtype, seed=seed + 2), normal(c, dtype=dtype, seed=seed + 3)
    epsilon, tolerance = 1e-3, near(dtype)
    agree(
        lambda x, out=None: fast.batch_norm_train(x, gamma, beta, epsilon, out),
        lambda x: reference.batch_norm_train(x, gamma, beta, epsilon),
        x,
        tolerance=tolerance,
    )
    _, mean, variance = reference.batch_norm_train(x, gamma, beta, epsilon)
    for name in ("batch_norm_train_grad", "batch_norm_inference_grad"):
        f, g = getattr(fast, name), getattr(reference, name)
        agree(
            lambda dy, x, out=None, f=f: f(dy, x, gamma, mean, variance, epsilon, out),
            lambda dy, x, g=g: g(dy, x, gamma, mean, variance, epsilon),
            dy,
            x,
            tolerance=tolerance * (1 + abs(centre)),
        )
    agree(
        lambda x, out=None: fast.batch_norm_inference(x, gamma, beta, mean, variance, epsilon, out),
        lambda x: reference.batch_norm_inference(x, gamma, beta, mean, variance, epsilon),
        x,
        tolerance=tolerance * (1 + abs(centre)),
    )


@pytest.mark.parametrize("first", [0.0, 1e4])
def test_a_huge_mean_costs_no_digits(first):
    x = np.random.default_rng(0).standard_normal((30000, 5)) + 1e6
    x[0] += first  # the sums are taken relative to the first row: it may be far away
    x = x.astype(np.float32)
    exact = x.astype(np.float64)
    y, mean, variance = fast.batch_norm_train(x, None, None, 1e-3)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(variance, exact.var(axis=0), rtol=1e-6)
    u = (exact - exact.mean(axis=0)) / np.sqrt(exact.var(axis=0) + 1e-3)
    np.testing.assert_allclose(y, u, atol=1e-6, rtol=1e-6)
    dy = (u + 1).astype(np.float32)
    results = fast.batch_norm_train_grad(dy, x, None, mean, variance, 1e-3)
    expected = reference.batch_norm_train_grad(dy, x, None, mean, variance, 1e-3)
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_statistics_of_small_integers_are_exact():
    x = np.random.default_rng(0).integers(-8, 9, (16, 16, 16, 6)).astype(np.float32)
    _, mean, variance = fast.batch_norm_train(x, None, None, 1e-3)
    rows = x.reshape(-1, 6).astype(np.int64)
    s, q = rows.sum(axis=0), (rows**2).sum(axis=0)
    np.testing.assert_array_equal(mean, (s / 4096).astype(np.float32))
    np.testing.assert_array_equal(variance, ((q * 4096 - s**2) / 4096**2).astype(np.float32))
    dy = np.random.default_rng(1).integers(-8, 9, x.shape).astype(np.float32)
    zero, one = np.zeros(6, np.float32), np.ones(6, np.float32)
    _, dgamma, dbeta = fast.batch_norm_inference_grad(dy, x, None, zero, one, 0.0)
    np.testing.assert_array_equal(dgamma, (dy * x).reshape(-1, 6).sum(axis=0))
    np.testing.assert_array_equal(dbeta, dy.reshape(-1, 6).sum(axis=0))


def test_a_constant_channel_has_variance_zero():
    x = np.full((100, 3), 0.1, np.float32)
    y, mean, variance = fast.batch_norm_train(x, None, None, 1e-3)
    np.testing.assert_array_equal(variance, 0)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(mean, x[0])


def test_nan_stays_in_its_channel():
    x = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    x[123, 2] = np.nan
    y, mean, variance = fast.batch_norm_train(x, None, None, 1e-3)
    np.testing.assert_array_equal(np.isnan(mean), [False, False, True, False])
    assert np.isnan(y[:, 2]).all() and np.isnan(variance[2])
    assert not np.isnan(y[:, [0, 1, 3]]).any()


def test_wrong_arguments_are_refused():
    x = np.ones((4, 3), np.float32)
    for gamma in (np.ones(4, np.float32), np.ones(1, np.float32)):
        with pytest.raises(ValueError, match="gamma"):
            fast.batch_norm_train(x, gamma, None, 1e-3)
    with pytest.raises(ValueError, match="mean"):
        fast.batch_norm_inference(x, None, None, np.ones(2), np.ones(3), 1e-3)
    with pytest.raises(ValueError, match="dy"):
        fast.batch_norm_train_grad(x[:3], x, None, x[0], x[0], 1e-3)
