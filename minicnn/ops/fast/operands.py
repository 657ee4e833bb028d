"""Arguments of the fast ops as the kernels want them: flat, C-contiguous, writable, of one dtype.

Kernels trust their arguments (a wrong shape would read or write outside), so shapes are checked
here. One layout and one dtype per call also means one compiled variant per kernel and dtype.
"""

import numpy as np

from minicnn.ops import arena
from minicnn.ops.recording import noted

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def float_type(name, array):
    """The dtype of an op's main argument, which decides that of everything else."""
    if array.dtype not in FLOATS:
        raise TypeError(f"{name} has dtype {array.dtype}: pass float32 or float64")
    return array.dtype


def flat(name, array, shape, dtype):
    """`array` as 1-D memory that a kernel may read; copied only when it has to be."""
    if array.shape != tuple(shape):
        raise ValueError(f"{name} has shape {array.shape}, expected {tuple(shape)}")
    if array.dtype != dtype or not array.flags.carray:  # C-contiguous, aligned and writeable
        # A copy even if it is only read-only: Numba compiles a second variant for those.
        copy = np.empty(array.shape, dtype)
        noted(np.copyto, copy, array, "unsafe")
        array = copy
    return array.reshape(-1)


def rounded(sums, dtype):
    """A copy of what was added up in float64, in the type of what was added."""
    copy = np.empty(sums.shape, dtype)
    noted(np.copyto, copy, sums)
    return copy


def output(out, shape, dtype):
    """The array to write: `out`, or a new one from the arena."""
    if out is None:
        return arena.empty(shape, dtype)
    if out.shape != tuple(shape) or out.dtype != dtype:
        raise ValueError(
            f"out has shape {out.shape} and dtype {out.dtype}, expected {tuple(shape)} and {dtype}"
        )
    if not out.flags.carray:
        raise ValueError("out must be a writable C-contiguous array: pass out.copy() or None")
    return out
