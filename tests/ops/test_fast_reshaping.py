"""Compiled padding and upsampling equal the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.ops.fast import reshaping as fast
from minicnn.ops.reference import reshaping as reference

quick = settings(max_examples=25, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])
shapes = st.tuples(*[st.integers(1, 6)] * 3, st.sampled_from([1, 3, 16, 33]))
counts = st.integers(0, 3)


def small_integers(shape, dtype, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


@quick
@given(shape=shapes, dtype=dtypes, padding=st.tuples(*[st.tuples(counts, counts)] * 2))
def test_zero_pad(agree, shape, dtype, padding):
    x = small_integers(shape, dtype)
    agree(
        lambda x, out=None: fast.zero_pad2d(x, padding, out),
        lambda x: reference.zero_pad2d(x, padding),
        x,
    )
    dy = small_integers(reference.zero_pad2d(x, padding).shape, dtype, seed=1)
    agree(
        lambda dy, out=None: fast.zero_pad2d_grad(dy, padding, out),
        lambda dy: reference.zero_pad2d_grad(dy, padding),
        dy,
    )
    assert not np.shares_memory(fast.zero_pad2d(x, ((0, 0), (0, 0))), x)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@quick
@given(shape=shapes, dtype=dtypes, size=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_upsample(agree, interpolation, shape, dtype, size):
    near = 0 if interpolation == "nearest" else 1e-6 if dtype == np.float32 else 1e-14
    x = small_integers(shape, dtype)
    agree(
        lambda x, out=None: fast.upsample2d(x, size, interpolation, out),
        lambda x: reference.upsample2d(x, size, interpolation),
        x,
        tolerance=near,
    )
    n, h, w, c = shape
    dy = small_integers((n, h * size[0], w * size[1], c), dtype, seed=1)
    agree(
        lambda dy, out=None: fast.upsample2d_grad(dy, size, interpolation, out),
        lambda dy: reference.upsample2d_grad(dy, size, interpolation),
        dy,
        tolerance=near,
    )


def test_wrong_arguments_are_refused():
    x = np.ones((1, 4, 4, 2), np.float32)
    with pytest.raises(ValueError, match="bicubic"):
        fast.upsample2d(x, (2, 2), "bicubic")
    with pytest.raises(ValueError, match="dy has shape"):
        fast.upsample2d_grad(x, (3, 2), "nearest")
