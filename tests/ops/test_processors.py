"""Other processors' instructions, chosen by Numba's variables: lanes, right numbers, equal bits."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SSE2 = "+cmov,+cx8,+fxsr,+mmx,+sse,+sse2"
AVX2 = SSE2 + (
    ",+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe,+xsave"
)
PROGRAM = """
import sys
import numpy as np
from minicnn import config, ops
from minicnn.ops.fast import simd

assert simd.VECTOR_BYTES == int(sys.argv[1] or simd.VECTOR_BYTES), simd.VECTOR_BYTES
draw = np.random.default_rng(0).standard_normal


def normal(*shape):
    return draw(shape).astype("float32")


def results():
    yield from convolution(normal(2, 9, 7, 20), normal(3, 3, 20, 18), "same", (1, 1))  # Winograd
    yield from convolution(normal(2, 9, 7, 20), normal(5, 5, 20, 18), "same", (1, 1))
    yield from convolution(normal(2, 9, 8, 3), normal(5, 5, 3, 17), "valid", (2, 1))
    for columns in (19, 10):
        x, kernel, bias = normal(5, 37), normal(37, columns), normal(columns)
        y = ops.dense(x, kernel, bias, activation=("relu",))
        yield from (y, ops.dense_input_grad(y, kernel), ops.dense_kernel_grad(x, y))
    x = normal(3, 6, 6, 21)
    y, index = ops.max_pool2d(x, (2, 2), (2, 2), "valid")
    yield from (y, ops.max_pool2d_grad(y, index, x.shape, (2, 2), (2, 2), "valid"))
    gamma, beta = normal(21), normal(21)
    y, mean, variance = ops.batch_norm_train(x, gamma, beta, 1e-3)
    yield from (y, mean, variance)
    dy = normal(*x.shape)  # not y: its gradient would be what cancellation leaves
    yield from ops.batch_norm_train_grad(dy, x, gamma, mean, variance, 1e-3)


def convolution(x, kernel, padding, strides):
    y = ops.conv2d(x, kernel, normal(kernel.shape[3]), strides, padding, activation=("relu",))
    yield y
    yield ops.conv2d_input_grad(y, kernel, x.shape, strides, padding)
    yield ops.conv2d_kernel_grad(x, y, kernel.shape, strides, padding)


def computed(**settings):
    global draw
    draw = np.random.default_rng(0).standard_normal
    with config.using(**settings):
        return [np.array(one) for one in results()]


two, one = computed(), computed(threads=1)
expected = computed(ops="reference")
assert len(expected) == 23
for a, b, reference in zip(two, one, expected, strict=True):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, reference, rtol=0, atol=1e-4 * np.abs(reference).max())
"""

PROCESSORS = {"host": ("", {})}
if platform.machine().lower() in ("x86_64", "amd64"):
    PROCESSORS |= {
        "avx2": ("32", {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2}),
        "sse2": ("16", {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": SSE2}),
    }


@pytest.mark.parametrize("processor", PROCESSORS)
def test_operations(processor):
    vector_bytes, variables = PROCESSORS[processor]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, vector_bytes],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "NUMBA_NUM_THREADS": "2",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
