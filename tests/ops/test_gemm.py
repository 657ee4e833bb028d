"""The micro-kernel and its packing, on this processor and as compiled for lesser ones."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minicnn.ops.fast import gemm, simd


def product(a, b, start, mode=gemm.EXACT, code=gemm.LINEAR, slope=0.0, transposed=False, c=None):
    """block_product on matrices: packs b and gives a the room behind it that tiles need."""
    (m, k), n = a.shape, b.shape[1]
    dtype = a.dtype
    lanes = simd.lanes(dtype)
    packed_columns = -(-n // lanes) * lanes
    packed = np.full(k * packed_columns, np.nan, dtype)
    rows = np.arange(k, dtype=np.int64).reshape(1, k) * n
    gemm.pack_panels(b.reshape(-1), rows, 1, n, packed_columns, packed)
    if transposed:
        flat = np.full(k * m + gemm.ROWS, np.nan, dtype)
        flat[: k * m] = a.T.reshape(-1)
        a_row, a_step = 1, m
    else:
        flat = np.full((m + gemm.ROWS) * k, np.nan, dtype)
        flat[: m * k] = a.reshape(-1)
        a_row, a_step = k, 1
    begin = np.zeros(n + 2 * lanes, dtype)
    begin[:n] = start
    if c is None:
        c = np.full(m * n, 99, dtype)
    spare = np.empty(gemm.ROWS * lanes, dtype)
    width = n if mode == gemm.EXACT else packed_columns
    gemm.block_product(
        flat,
        0,
        a_row,
        a_step,
        m,
        packed,
        0,
        n,
        k,
        c,
        0,
        width,
        begin,
        0,
        mode,
        code,
        dtype.type(slope),
        spare,
    )
    return c.reshape(-1, width)


def integers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


SIZES = (1, 2, 5, 6, 7, 13, 14, 15, 16, 17, 28, 29, 31, 32, 33, 48, 49, 70)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", SIZES)
def test_products_of_every_edge(n, dtype):
    for m in SIZES:
        k = 1 + (m * n) % 9
        a, b = integers(m, k, dtype=dtype), integers(k, n, dtype=dtype, seed=1)
        start = integers(n, dtype=dtype, seed=2)
        for transposed in (False, True):
            np.testing.assert_array_equal(
                product(a, b, start, transposed=transposed), a @ b + start
            )


def test_sums_in_whole_tiles():
    m, k, n = 30, 11, 40
    a, b = integers(m, k), integers(k, n, seed=1)
    lanes = simd.lanes(a.dtype)
    c = np.zeros((m + 2 * gemm.ROWS) * (-(-n // lanes) * lanes), np.float32)
    for _ in range(3):
        c = product(a, b, 0, gemm.ADD, transposed=True, c=c.reshape(-1))
    np.testing.assert_array_equal(c[:m, :n], 3 * (a @ b))


@pytest.mark.parametrize("n", [3, 16, 32, 50])
def test_rectifiers(n):
    a, b = integers(20, 7), integers(7, n, seed=1)
    y = a @ b
    np.testing.assert_array_equal(product(a, b, 0, code=gemm.RELU), np.maximum(y, 0))
    np.testing.assert_array_equal(
        product(a, b, 0, code=gemm.LEAKY_RELU, slope=0.5), np.where(y < 0, 0.5 * y, y)
    )


def test_packing_of_a_transposed_matrix():
    lanes = simd.lanes(np.dtype(np.float32))
    k, n = 5, 2 * lanes + 3
    b = integers(n, k)
    packed = np.full(k * 3 * lanes, np.nan, np.float32)
    gemm.pack_panels(b.reshape(-1), np.arange(k).reshape(1, k), k, n, 3 * lanes, packed)
    whole = packed[: k * 2 * lanes].reshape(k, 2 * lanes)
    half = packed[k * 2 * lanes :].reshape(k, lanes)
    np.testing.assert_array_equal(whole, b.T[:, : 2 * lanes])
    np.testing.assert_array_equal(half[:, :3], b.T[:, 2 * lanes :])
    assert not half[:, 3:].any()


LESSER = """
import sys; sys.path.insert(0, {folder!r})
import numpy as np, test_gemm
from minicnn.ops.fast import simd
assert simd.VECTOR_BYTES == {vector_bytes}, simd.VECTOR_BYTES
for dtype in (np.float32, np.float64):
    for m, k, n in ((1, 3, 1), (13, 5, 9), (30, 40, 70)):
        a, b = (test_gemm.integers(*s, dtype=dtype) for s in ((m, k), (k, n)))
        assert (test_gemm.product(a, b, 0) == a @ b).all()
"""
PROCESSORS = {}
if platform.machine().lower() in ("x86_64", "amd64"):
    PROCESSORS = {  # Numba's name and features, bytes of a vector
        "sse": ("nocona", "+sse,+sse2,+sse3,+cx16", 16),
        "avx2": ("haswell", "+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+f16c,+lzcnt", 32),
    }


def test_compiled_for_lesser_processors(tmp_path):
    folder = Path(__file__).parent
    for name, features, vector_bytes in PROCESSORS.values():
        environment = {
            **os.environ,
            "NUMBA_CPU_NAME": name,
            "NUMBA_CPU_FEATURES": features,
            "PYTHONPATH": os.pathsep.join([str(folder.parents[1]), *sys.path]),
        }
        program = LESSER.format(folder=str(folder), vector_bytes=vector_bytes)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
