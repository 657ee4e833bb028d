"""Compiled batch normalization equals the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import config, ops
from minicnn.ops.fast import elementwise, simd
from minicnn.ops.fast import normalization as fast
from minicnn.ops.reference import normalization as reference

quick = settings(max_examples=25, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])
RECTIFIERS = [None, ("relu",), ("leaky_relu", 0.25), ("leaky_relu", 0.0)]
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
    activation=st.sampled_from(RECTIFIERS),
)
def test_batch_norm(agree, shape, dtype, seed, affine, centre, activation):
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
        lambda x, out=None: fast.batch_norm_train(x, gamma, beta, epsilon, activation, out),
        lambda x: reference.batch_norm_train(x, gamma, beta, epsilon, activation),
        x,
        tolerance=tolerance,
    )
    _, mean, variance = reference.batch_norm_train(x, gamma, beta, epsilon)
    rest = (gamma, mean, variance, epsilon)
    y = reference.batch_norm_inference(x, gamma, beta, mean, variance, epsilon)
    dy[np.abs(y) < 1e-3] = 0  # the sign may be another one where rounding decides
    for name in ("batch_norm_train_grad", "batch_norm_inference_grad"):
        f, g = getattr(fast, name), getattr(reference, name)
        agree(
            lambda dy, x, out=None, f=f: f(dy, x, *rest, beta, activation, out),
            lambda dy, x, g=g: g(dy, x, *rest, beta, activation),
            dy,
            x,
            tolerance=tolerance * (1 + abs(centre)),
        )
    agree(
        lambda x, out=None: fast.batch_norm_inference(
            x, gamma, beta, mean, variance, epsilon, activation, out
        ),
        lambda x: reference.batch_norm_inference(
            x, gamma, beta, mean, variance, epsilon, activation
        ),
        x,
        tolerance=tolerance * (1 + abs(centre)),
    )


BELOW = [("relu",), ("leaky_relu", 0.25), ("tanh",)]


@quick
@given(
    shape=shapes,
    dtype=dtypes,
    seed=st.integers(0, 99),
    below=st.sampled_from(BELOW),
    activation=st.sampled_from(RECTIFIERS),
)
def test_batch_norm_between_activations(agree, shape, dtype, seed, below, activation):
    z, dy = normal(*shape, dtype=dtype, seed=seed), normal(*shape, dtype=dtype, seed=seed + 1)
    gamma, beta = normal(2, shape[-1], dtype=dtype, seed=seed + 2)
    x = elementwise.activate(z, below)
    y, mean, variance = reference.batch_norm_train(x, gamma, beta, 1e-3)
    dy[np.abs(y) < 1e-3] = 0
    rest = (gamma, mean, variance, 1e-3, below, beta, activation)
    agree(
        lambda dy, x, out=None: fast.batch_norm_activation_grad(dy, x, *rest, out),
        lambda dy, x: reference.batch_norm_activation_grad(dy, x, *rest),
        dy,
        x,
        tolerance=near(dtype) * 2,
    )


@quick
@given(
    shape=shapes,
    dtype=dtypes,
    seed=st.integers(0, 99),
    centre=st.sampled_from([0, 1e4]),
    activation=st.sampled_from(RECTIFIERS[1:]),
)
def test_a_rectifier_within_is_the_one_after(shape, dtype, seed, centre, activation):
    """Equal bits, where y is near zero, too: forward and gradients see the same sign."""
    x, dy = normal(2, *shape, dtype=dtype, seed=seed)
    x += dtype(centre)
    gamma, beta = normal(2, shape[-1], dtype=dtype, seed=seed + 1)
    y, mean, variance = fast.batch_norm_train(x, gamma, beta, 1e-3)
    beta -= y.reshape(-1, shape[-1])[0]  # one pixel lies at the kink, up to rounding
    y, mean, variance = fast.batch_norm_train(x, gamma, beta, 1e-3)
    activated = fast.batch_norm_train(x, gamma, beta, 1e-3, activation)[0]
    np.testing.assert_array_equal(activated, elementwise.activate(y, activation))
    statistics = (mean, variance, 1e-3)
    np.testing.assert_array_equal(y, fast.batch_norm_inference(x, gamma, beta, *statistics))
    np.testing.assert_array_equal(
        activated, fast.batch_norm_inference(x, gamma, beta, *statistics, activation)
    )
    before = elementwise.activate_grad(dy, activated, activation)
    for grad in (fast.batch_norm_train_grad, fast.batch_norm_inference_grad):
        within = grad(dy, x, gamma, *statistics, beta, activation)
        for a, b in zip(within, grad(before, x, gamma, *statistics), strict=True):
            np.testing.assert_array_equal(a, b)
    for below in BELOW:
        within = fast.batch_norm_activation_grad(dy, x, gamma, *statistics, below, beta, activation)
        apart = fast.batch_norm_activation_grad(before, x, gamma, *statistics, below)
        for a, b in zip(within, apart, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ops", [fast, reference])
def test_only_rectifiers_are_within(ops):
    x, row = np.ones((4, 3), np.float32), np.ones(3, np.float32)
    for call in (
        lambda **a: ops.batch_norm_train(x, None, None, 1e-3, **a),
        lambda **a: ops.batch_norm_inference(x, None, None, row, row, 1e-3, **a),
        lambda **a: ops.batch_norm_train_grad(x, x, None, row, row, 1e-3, **a),
        lambda **a: ops.batch_norm_inference_grad(x, x, None, row, row, 1e-3, **a),
        lambda **a: ops.batch_norm_activation_grad(x, x, None, row, row, 1e-3, ("relu",), **a),
    ):
        with pytest.raises(ValueError, match="'tanh' cannot be a part"):
            call(activation=("tanh",))


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
    np.testing.assert_array_equal(mean, s / 4096)
    np.testing.assert_array_equal(variance, (q * 4096 - s**2) / 4096**2)
    dy = np.random.default_rng(1).integers(-8, 9, x.shape).astype(np.float32)
    zero, one = np.zeros(6, np.float32), np.ones(6, np.float32)
    _, dgamma, dbeta = fast.batch_norm_inference_grad(dy, x, None, zero, one, 0.0)
    np.testing.assert_array_equal(dgamma, (dy * x).reshape(-1, 6).sum(axis=0))
    np.testing.assert_array_equal(dbeta, dy.reshape(-1, 6).sum(axis=0))


def test_an_empty_batch():
    x, row = np.ones((0, 2, 3), np.float32), np.ones(3, np.float32)
    for activation in RECTIFIERS:
        y = fast.batch_norm_inference(x, row, row, row, row, 1e-3, activation)
        assert y.shape == x.shape
        results = fast.batch_norm_inference_grad(x, x, row, row, row, 1e-3, row, activation)
        assert [a.shape for a in results] == [x.shape, (3,), (3,)]
        np.testing.assert_array_equal(results[1:], 0)


def test_a_constant_channel_has_variance_zero():
    x = np.full((100, 3), 0.1, np.float32)
    y, mean, variance = fast.batch_norm_train(x, None, None, 1e-3)
    np.testing.assert_array_equal(variance, 0)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(mean, x[0])


@pytest.mark.parametrize("shape", [(13, 65, 61, 32), (5, 64, 130, 48)], ids=str)
def test_results_past_the_caches(shape, monkeypatch):
    """Large enough for `stream`, whole rows and what is left of them: the same bits."""
    x, dy = (normal(*shape, dtype=np.float32, seed=seed) for seed in (0, 1))
    assert x.nbytes >= simd.STREAM_BYTES
    gamma, beta = (normal(shape[-1], dtype=np.float32, seed=seed) for seed in (2, 3))
    results = []
    for least in (simd.STREAM_BYTES, 1 << 40):
        monkeypatch.setattr(simd, "STREAM_BYTES", least)
        y, mean, variance = fast.batch_norm_train(x, gamma, beta, 1e-3, ("relu",))
        given = fast.batch_norm_inference(x, gamma, beta, mean, variance, 1e-3)
        norm = (gamma, mean, variance, 1e-3)
        grads = fast.batch_norm_activation_grad(dy, x, *norm, ("relu",), beta, ("relu",))
        results.append([y, given, *grads])
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


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
        with pytest.raises(ValueError, match="gamma has shape"):
            fast.batch_norm_train(x, gamma, None, 1e-3)
    with pytest.raises(ValueError, match="mean"):
        fast.batch_norm_inference(x, None, None, np.ones(2), np.ones(3), 1e-3)
    with pytest.raises(ValueError, match="dy"):
        fast.batch_norm_train_grad(x[:3], x, None, x[0], x[0], 1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["batch_norm_train", "batch_norm_max_pool"])
def test_moving_averages_move(name, dtype):
    """In place, in both sets of operations, and nothing else changes."""
    generator = np.random.default_rng(0)
    x = (3 + generator.standard_normal((4, 6, 8, 5))).astype(dtype)
    before = generator.standard_normal((2, 5)).astype(dtype)
    for op_set in ("fast", "reference"):
        with config.using(ops=op_set):
            op = getattr(ops, name)
            expected = op(x, None, None, 1e-3)
            moving = before.copy()
            results = op(x, None, None, 1e-3, moving=(*moving, 0.75))
        for one, other in zip(results, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        wanted = 0.75 * before + 0.25 * np.stack(results[-2:])
        np.testing.assert_allclose(moving, wanted, rtol=1e-6 if dtype == np.float32 else 1e-14)
    with pytest.raises(ValueError, match=r"out has shape \(4,\)"):
        getattr(ops, name)(x, None, None, 1e-3, moving=(moving[0, 1:], moving[1], 0.75))
