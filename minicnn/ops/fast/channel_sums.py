"""Sums over all pixels, channel by channel: what a bias's gradient and normalization need.

    s[c] = sum_p x[p, c]

Design: several pixels are folded into a row of at least 256 numbers. GROUP rows at a time are
added up in x's own type, while the compiler keeps a vector of columns in registers, and only their
sum goes into float64, which spares most of the conversions. Blocks of rows are cut by the shape
alone and added in order, so the bits do not depend on the number of threads. Times against float64
from the start, for few channels and for many: docs/kernels.md, "Sums over pixels".
"""

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast.jit import kernel, parallel_kernel

BLOCK = 8192  # numbers in a task, at least: 32 kB of float32 fit a level-1 cache
LARGEST_BLOCKS = 256  # bounds the memory of the partial sums: 256 blocks of 6 kB
GROUP = 8  # rows; a sum of 8 loses at most a few units in the last place of x's type


def fold(rows, channels):
    """Rows to treat as one, so that the loop over channels is long enough for full vectors.

    A loop over 3 channels runs 3 numbers at a time; 64 pixels of 3 channels are a row of 192.
    """
    factor = 1
    while factor * channels < 256 and rows % (2 * factor) == 0:
        factor *= 2
    return factor


class Rows:
    """How x (..., c) is cut: `factor` pixels to a row, `rows` rows to a block of sums."""

    def __init__(self, shape):
        self.channels = shape[-1]
        self.pixels = int(np.prod(shape[:-1]))
        self.factor = fold(self.pixels, self.channels)
        self.width = self.factor * self.channels
        count = self.pixels // self.factor
        rows = max(1, BLOCK // max(self.width, 1), -(-count // LARGEST_BLOCKS))
        self.rows = -(-rows // GROUP) * GROUP
        self.blocks = -(-count // self.rows)

    def spread(self, vector, dtype):
        """(c,) repeated to the length of a row."""
        return np.tile(np.asarray(vector, dtype), self.factor)

    def partial_sums(self, count):
        return arena.empty((self.blocks, count, self.width), np.float64)

    def total(self, sums):
        """(count, c): the blocks and the folded pixels added up, in order."""
        count = sums.shape[1]
        return sums.sum(axis=0).reshape(count, self.factor, self.channels).sum(axis=1)


# The inner loops over GROUP are unrolled by LLVM, which then vectorises the loop around them.


@kernel
def add_rows(x, s):
    """s += the sum of the rows of x, each as long as s."""
    width = s.size
    done = x.size // (GROUP * width) * (GROUP * width)
    for start in range(0, done, GROUP * width):
        _add_group(x[start : start + GROUP * width], s)
    for start in range(done, x.size, width):
        for i in range(width):
            s[i] += x[start + i]


@kernel
def _add_group(x, s):
    width = s.size
    for i in range(width):
        total = x[i]
        for row in range(1, GROUP):
            total += x[row * width + i]
        s[i] += total


@kernel
def add_moments(x, shift, s, q):
    """s += sum of d and q += sum of d^2 over the rows of x, d = x - shift."""
    width = s.size
    done = x.size // (GROUP * width) * (GROUP * width)
    for start in range(0, done, GROUP * width):
        _moments_group(x[start : start + GROUP * width], shift, s, q)
    for start in range(done, x.size, width):
        for i in range(width):
            d = x[start + i] - shift[i]
            s[i] += d
            q[i] += d * d


@kernel
def _moments_group(x, shift, s, q):
    width = s.size
    for i in range(width):
        a = b = x.dtype.type(0)
        for row in range(GROUP):
            d = x[row * width + i] - shift[i]
            a += d
            b += d * d
        s[i] += a
        q[i] += b


@kernel
def add_products(dy, x, mean, s, p, q):
    """s += sum of dy, p += sum of dy d, q += sum of d over the rows, d = x - mean."""
    width = s.size
    done = x.size // (GROUP * width) * (GROUP * width)
    for start in range(0, done, GROUP * width):
        rows = slice(start, start + GROUP * width)
        _products_group(dy[rows], x[rows], mean, s, p, q)
    for start in range(done, x.size, width):
        for i in range(width):
            d = x[start + i] - mean[i]
            s[i] += dy[start + i]
            p[i] += dy[start + i] * d
            q[i] += d


@kernel
def _products_group(dy, x, mean, s, p, q):
    width = s.size
    for i in range(width):
        a = b = e = x.dtype.type(0)
        for row in range(GROUP):
            g = dy[row * width + i]
            d = x[row * width + i] - mean[i]
            a += g
            b += g * d
            e += d
        s[i] += a
        p[i] += b
        q[i] += e


@parallel_kernel
def row_sums(x, sums, rows):
    """sums[b, 0] = sum of x over the block b of `rows` rows."""
    size = rows * sums.shape[2]
    for b in prange(len(sums)):
        sums[b] = 0
        add_rows(x[b * size : (b + 1) * size], sums[b, 0])


def channel_sums(x, shape):
    """The sums (c,) in float64 of flat x (..., c)."""
    cut = Rows(shape)
    if not x.size:
        return np.zeros(cut.channels)
    sums = cut.partial_sums(1)
    row_sums(x, sums, cut.rows)
    return cut.total(sums)[0]
