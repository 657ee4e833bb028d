"""The last line of every reference op: a new array, or the one that the caller brought."""

import numpy as np


def deliver(y, dtype, out):
    """y as `dtype` in memory of its own, or written into `out` where that is given."""
    if out is None:
        return np.array(y, dtype, order="C")
    out[...] = y
    return out
