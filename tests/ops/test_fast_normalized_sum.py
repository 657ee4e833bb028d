"""Normalization within a sum: equal to the reference, and bit for bit to one after the other."""

import numpy as np
import pytest

from minicnn import config
from minicnn.ops.fast import elementwise, normalization
from minicnn.ops.fast import normalized_sum as fast
from minicnn.ops.reference import normalized_sum as reference

SHAPES = [(3, 4, 6, 5), (1, 2, 2, 1), (9, 3), (2, 32, 32, 16), (5, 7, 9, 33), (70, 8, 8, 64)]
ACTIVATIONS = [None, ("relu",), ("leaky_relu", 0.25)]
KINDS = ["first", "second", "both"]


def arrays(count, shape, dtype=np.float64):
    generator = np.random.default_rng(sum(shape))
    return [generator.standard_normal(shape).astype(dtype) for _ in range(count)]


def terms_of(kind, shape, dtype):
    """Two terms, and what they are as arrays."""
    terms, plain = [], []
    for place, x in zip(KINDS, arrays(2, shape, dtype), strict=False):
        x = (1 + 2 * x).astype(dtype)
        gamma, beta = arrays(2, shape[-1:], dtype)
        if place == "second":
            gamma, beta = None, beta if kind == "both" else None
        mean, variance = normalization.batch_norm_statistics(x)
        term = x, gamma, beta, mean, variance, 1e-3
        terms.append(term if kind in (place, "both") else x)
        plain.append(normalization.batch_norm_inference(*term) if kind in (place, "both") else x)
    return terms, plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("readers", [1, 2, 3])
def test_equals_the_reference_and_one_after_the_other(shape, activation, kind, dtype, readers):
    terms, plain = terms_of(kind, shape, dtype)
    near = {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-11}
    y = fast.add_normalized(terms, activation)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, elementwise.add(plain, activation))
    np.testing.assert_allclose(y, reference.add_normalized(terms, activation), **near)

    dys = arrays(readers, shape, dtype)
    dx, *sums = fast.add_normalized_grad(dys, y, activation, terms)
    expected, *expected_sums = reference.add_normalized_grad(dys, y, activation, terms)
    np.testing.assert_allclose(dx, expected, **near)
    if activation is not None:
        np.testing.assert_array_equal(dx, elementwise.add_grad(dys, y, activation))
    for term, known, also in zip(terms, sums, expected_sums, strict=True):
        assert isinstance(term, tuple) == (also is not None) == (known is not None)
        if also is None:
            continue
        scale = np.abs(dx).sum(axis=tuple(range(dx.ndim - 1))) * 4
        np.testing.assert_allclose((known - also) / scale, 0, atol=2 * near["atol"])
        x, gamma, beta, mean, variance, epsilon = term
        norm = x, gamma, mean, variance, epsilon, beta
        apart = normalization.batch_norm_train_grad(dx, *norm)
        for one, other in zip(
            normalization.batch_norm_train_grad(dx, *norm, sums=known), apart, strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_statistics_are_those_of_training():
    (x,) = arrays(1, (5, 7, 9, 33), np.float32)
    moving = np.zeros(33, np.float32), np.ones(33, np.float32), 0.9
    again = np.zeros(33, np.float32), np.ones(33, np.float32), 0.9
    _, *expected = normalization.batch_norm_train(x, None, None, 1e-3, moving=moving)
    got = normalization.batch_norm_statistics(x, moving=again)
    for one, other in zip([*got, *again[:2]], [*expected, *moving[:2]], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads_nor_on_the_memory(kind):
    shape = 3, 40, 33, 24
    terms, _ = terms_of(kind, shape, np.float32)
    dys = arrays(2, shape, np.float32)
    results = []
    for threads in (1, 2):
        with config.using(threads=threads):
            out, dout = (np.full(shape, np.nan, np.float32) for _ in range(2))
            y = fast.add_normalized(terms, ("relu",), out)
            dx, *sums = fast.add_normalized_grad(dys, y, ("relu",), terms, dout)
            assert y is out
            assert dx is dout
            results.append(
                [y, dx, *(s for s, t in zip(sums, terms, strict=True) if type(t) is tuple)]
            )
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_errors_name_the_argument():
    terms, _ = terms_of("both", (3, 4), np.float32)
    short = terms[0], terms[1][0][:2]
    with pytest.raises(ValueError, match=r"a term has shape \(2, 4\), expected \(3, 4\)"):
        fast.add_normalized(short)
    y = fast.add_normalized(terms)
    with pytest.raises(ValueError, match=r"dys\[0\] has shape \(2, 4\), expected \(3, 4\)"):
        fast.add_normalized_grad([y[:2]], y, ("relu",), terms)
