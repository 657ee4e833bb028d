"""Sums over all pixels, channel by channel: what a bias's gradient and normalization need.

    s[c] = sum_p x[p, c]

Design: several pixels are folded into a row of at least FOLDED numbers, and rows are taken GROUP at
a time: a few vectors of columns stay in registers while they run down the group, in x's own type.
Only the sum of a group goes into float64, which spares most of the conversions. Blocks of rows are
cut by the shape alone and added in order, so the bits do not depend on the number of threads.
Times: docs/kernels.md, "Sums over pixels".
"""

import functools
import math

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.simd import REGISTERS, Variable, vector_intrinsic

BLOCK = 8192  # numbers in a task, at least: 32 kB of float32 fit a level-1 cache
LARGEST_BLOCKS = 64  # adding up their sums is work of one thread
FEWEST_ROWS = 64  # in a block: the float64 of its sums are then few beside the numbers
GROUP = 8  # rows; a sum of 8 loses at most a few units in the last place of x's type
FOLDED = 128  # eight vectors of 16 numbers
TILE = REGISTERS // 4  # vectors of columns at a time: two sums and a coefficient each


def fold(rows, channels, length=FOLDED):
    """Pixels to treat as one, so that the loop over channels is long enough for full vectors.

    A loop over 3 channels runs 3 numbers at a time; 64 pixels of 3 channels are a row of 192.
    """
    factor = 1
    while factor * channels < length and rows % (2 * factor) == 0:
        factor *= 2
    return factor


@functools.lru_cache(maxsize=256)
class Rows:
    """How x (..., c) is cut: `factor` pixels to a row, `rows` rows to a block of sums.

    With `run`, every run of so many pixels is a whole number of rows, a block of runs.
    """

    def __init__(self, shape, run=None):
        self.channels = shape[-1]
        self.pixels = math.prod(shape[:-1])
        self.factor = fold(self.pixels if run is None else run, self.channels)
        self.width = self.factor * self.channels
        count = self.pixels // self.factor
        rows = max(FEWEST_ROWS, BLOCK // max(self.width, 1), -(-count // LARGEST_BLOCKS))
        step = GROUP if run is None else run // self.factor
        self.rows = -(-rows // step) * step
        self.blocks = -(-count // self.rows)

    def partial_sums(self, count):
        """Room for so many sums of every block, for the time of a launch."""
        return self.scratch(count, 0, np.float64)[0]

    def scratch(self, count, vectors, dtype):
        """The same, and `vectors` vectors (c,), each repeated to the length of a row."""
        return arena.scratch(
            ((self.blocks, count, self.width), np.float64), ((vectors, self.width), dtype)
        )


def across(v, width, visit, streaming=None, tile=TILE):
    """visit(columns, load, store) for the columns 0 ... width of a row, `tile` vectors at a time,
    then one by one; load and store touch no more than the columns that there are. Where the number
    `streaming` is not 0, what is stored `tile` vectors at a time goes past the caches."""
    builder, step = v.builder, tile * v.lanes
    whole = builder.and_(width, v.integer(-step))

    def visit_tiles(store):
        with v.count_up(whole, step) as (i, _):
            columns = [builder.add(i, v.integer(t * v.lanes)) for t in range(tile)]
            visit(columns, v.load, store)

    if streaming is None:
        visit_tiles(v.store)
    else:
        with builder.if_else(builder.icmp_signed("!=", streaming, v.integer(0))) as (yes, no):
            with yes:
                visit_tiles(v.stream)
            with no:
                visit_tiles(v.store)
    rest = builder.sub(width, whole)
    with v.count_up(rest, v.lanes) as (i, _):
        column = builder.add(whole, i)
        v.whole_or_first(builder.sub(rest, i), lambda load, store: visit([column], load, store))


class Sum(Variable):
    """A vector in a register to which a loop adds."""

    def __init__(self, v):
        super().__init__(v, v.constant(0))

    def add(self, x):
        self.value = self.v.add(self.value, x)

    def add_product(self, x, y):
        self.value = self.v.multiply_add(x, y, self.value)


@vector_intrinsic
def group_sums(v, x, first, rows, width, sums):
    """sums[i] = the sum of column i of `rows` rows of x from element `first` on."""

    def visit(columns, load, store):
        totals = [Sum(v) for _ in columns]
        with v.count_up(rows) as (r, _):
            at = v.builder.add(first, v.builder.mul(r, width))
            for i, total in zip(columns, totals, strict=True):
                total.add(load(x, v.builder.add(at, i)))
        for i, total in zip(columns, totals, strict=True):
            store(total.value, sums, i)

    across(v, width, visit)


@kernel
def add_to(sums, group):
    """sums += group, of another float type."""
    for i in range(sums.size):
        sums[i] += group[i]


@kernel
def add_rows(x, first, last, sums, group):
    """sums += the rows of x from element `first` to `last`; `group` is scratch as long as sums."""
    width = sums.size
    for start in range(first, last, GROUP * width):
        group_sums(x, start, min(GROUP, (last - start) // width), width, group)
        add_to(sums, group)


@kernel
def fold_sums(sums, total):
    """total (k, c) = the first k sums (width,) of all blocks and of the folded pixels, in order."""
    channels = total.shape[1]
    total[:] = 0
    for b in range(1, len(sums)):
        for k in range(sums.shape[1]):
            add_to(sums[0, k], sums[b, k])
    for k in range(len(total) if len(sums) else 0):
        for start in range(0, sums.shape[2], channels):
            for c in range(channels):
                total[k, c] += sums[0, k, start + c]


@parallel_kernel
def row_sums(x, sums, rows, total):
    """total (1, c) = sum of x, from the sums of blocks of `rows` rows."""
    size = rows * sums.shape[2]
    for b in prange(len(sums)):
        sums[b] = 0
        group = np.empty(sums.shape[2], x.dtype)
        add_rows(x, b * size, min((b + 1) * size, x.size), sums[b, 0], group)
    fold_sums(sums, total)


def channel_sums(x, shape):
    """The sums (c,) in float64 of flat x (..., c)."""
    cut = Rows(shape)
    if not x.size:
        return np.zeros(cut.channels)
    total = np.empty((1, cut.channels))
    row_sums(x, cut.partial_sums(1), cut.rows, total)
    return total[0]
