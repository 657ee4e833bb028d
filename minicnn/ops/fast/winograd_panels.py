"""Winograd's convolution of few tiles with many filters, a panel of filters at a time.

The equations and letters are those of winograd.py. There a worker takes a block of tiles through
all filters, so the transformed kernel u, four times as large as the kernel, goes to memory and
comes back once for every block. With few tiles and hundreds of channels that is most of the time,
and with fewer tiles than a worker's block there is nothing to share.

Design. All tiles are transformed first; they are few enough to stay in the third-level cache. Then
a worker takes a panel of filters: it transforms its part of the kernel, which stays in its own
second-level cache, multiplies all tiles by it, and transforms the outputs. Nothing is transformed
twice, u never leaves the processor that made it, and the panels are what workers share.

Measured, forward and dx, two cores of a Xeon without its tile unit, in turns with blocks of tiles
(and with one thread), 2026-11-28: 8 pictures 14 x 14, 512 to 512 channels, 0.79 and 0.62 of the
time (0.75 and 0.66), 256 to 256 0.97 and 0.85 (0.96 and 0.88); one picture 14 x 14, 512 to 512,
0.69 and 0.46, 256 to 256 0.81 and 0.63, 128 to 128 0.73 and 0.71, 64 to 64 0.95 and 0.85 (1.08 and
1.0); one picture 7 x 7, 512 to 512, 0.62 and 0.46. On the tile unit `amx_winograd_rows` takes its
place where there are more tiles than one worker's block.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import gemm, sharing, simd, threads, winograd
from minicnn.ops.fast.direct import INPUT_GRAD
from minicnn.ops.fast.gemm import ROWS
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.winograd import AHEAD, CHANNELS, ELEMENTS, ENTRIES, FILTERS, TILES

MOST_TILES = 160  # their sums with a panel of filters are 740 kB of float32
LEAST_BYTES = 8 << 20  # of the transformed kernel: 256 x 256 has 9.4 MB


@parallel_kernel
def panels_product(size, g, taps, row_step, column_step, x, table, x_places, y_places, scale, start,
                   y, pooled, index, streaming, code, slope, zeros, outside, v, addresses, u, m,
                   taken):  # fmt: skip
    """y = activation(scale (x * g) + bias), or its maxima."""
    parts = (table[TILES] + ROWS - 1) // ROWS
    sharing.open_tasks(taken)
    for part in prange(parts):
        _transform_tiles(np.int64(part), size, x, table, x_places, y_places, y, pooled, index,
                         zeros, outside, v, addresses)  # fmt: skip
    for worker in prange(len(u)):
        _worker_panels(np.int64(worker), size, g, taps, row_step, column_step, table, scale, start,
                       y, pooled, index, streaming, code, slope, zeros, v, addresses, u, m,
                       taken)  # fmt: skip
    if code > gemm.FLOOR:
        for part in prange(parts):
            first, count = _tiles(np.int64(part), table)
            winograd._activate_tiles(size, y, table, first, count, code, slope)


@kernel
def _tiles(part, table):
    """(first tile, how many) of a part."""
    return part * ROWS, min(ROWS, table[TILES] - part * ROWS)


@kernel
def _steps(table, lanes):
    """(row of v, distance of its elements, and of those of m)."""
    v_row = (table[CHANNELS] + lanes - 1) // lanes * lanes
    v_step, m_step = winograd.block_steps(
        table[TILES], v_row, min(2 * lanes, table[FILTERS]), lanes
    )
    return v_row, v_step, m_step


@kernel
def _transform_tiles(part, size, x, table, x_places, y_places, y, pooled, index, zeros, outside, v,
                     addresses):  # fmt: skip
    """v of some tiles; then their addresses are those of their outputs."""
    v_row, v_step, _ = _steps(table, simd.VECTOR_BYTES // x.itemsize)
    x_picture, y_picture = winograd._picture_sizes(table)
    first, count = _tiles(part, table)
    own = addresses[first:]
    winograd._addresses(x, x_picture, x_places, zeros, table, first, count, own)
    winograd._transform_inputs(size, zeros, own, -AHEAD, count, count, 0, table[CHANNELS],
                               v[first * v_row :], v_row, v_step)  # fmt: skip
    winograd._addresses(y, y_picture, y_places, outside, table, first, count, own)
    if pooled:
        winograd._pooled_addresses(size, y, index, outside, table, first, count, own)


@kernel
def _worker_panels(worker, size, g, taps, row_step, column_step, table, scale, start, y, pooled,
                   index, streaming, code, slope, zeros, v, addresses, us, ms, taken):  # fmt: skip
    """One worker's part of the panels."""
    lanes = simd.VECTOR_BYTES // y.itemsize
    channels, filters, tiles = table[CHANNELS], table[FILTERS], table[TILES]
    v_row, v_step, m_step = _steps(table, lanes)
    u_step = winograd.panel_step(channels, lanes)
    u, m = us[worker], ms[worker]
    to_floor = start.size // 2 if code == gemm.FLOOR else 0
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(us), taken)
        if task < 0:
            continue
        f = task * 2 * lanes
        columns = min(2 * lanes, filters - f)
        width = lanes if columns <= lanes else 2 * lanes
        for strip in range((channels + lanes - 1) // lanes):
            winograd._transform_strip(size, g[f * column_step :], taps, row_step, column_step,
                                      strip, channels, columns, u)  # fmt: skip
        for e in range(ELEMENTS):
            gemm.block_product(
                v, e * v_step, v_row, gemm.ADJACENT, tiles, u, e * u_step, width, channels, m,
                e * m_step, width, zeros, gemm.ORIGIN, gemm.WHOLE, gemm.LINEAR, slope, zeros,
            )  # fmt: skip
        for q in range(tiles):
            for j in range(0, columns, lanes):
                winograd._transform_output(
                    size, m, q * width + j, m_step, scale, start, f + j, f + j + to_floor,
                    columns - j, addresses, q * ENTRIES, pooled, index, streaming, code, slope,
                )  # fmt: skip
    simd.end_of_stream(y)


# -- The products ----------------------------------------------------------------------------------


def pays(shape, product, on_unit):
    """Whether this is quicker than blocks of tiles, whose products may be on the tile unit."""
    channels, filters, tiles = sizes(shape, product)
    is_large = ELEMENTS * channels * filters * 4 >= LEAST_BYTES and tiles <= MOST_TILES
    alone = tiles <= ROWS  # a block of winograd.py's, which one worker does
    several = filters > 2 * simd.lanes(np.dtype(np.float32))  # panels
    return several and (alone or (is_large and not on_unit))


def sizes(shape, product):
    """(channels, filters, tiles) of a group as a forward pass or an input gradient sees them."""
    _, _, channels, filters = shape.kernel_shape
    filters //= shape.groups
    seen = shape.output_shape
    if product == INPUT_GRAD:
        channels, filters, seen = filters, channels, shape.input_shape
    lengths = zip(seen[1:3], shape.dilation, shape.kernel_shape[:2], strict=True)
    return channels, filters, seen[0] * math.prod(len(winograd.tile_starts(*a)) for a in lengths)


def _product(right, x, plan, scale, bias, activation, y, pooled=winograd.UNPOOLED,
             index=winograd.NO_PLACES):  # fmt: skip
    """As `winograd._product`."""
    channels, filters, tiles = plan.sizes
    lanes = simd.lanes(x.dtype)
    sizes = _sizes(channels, filters, tiles, lanes, x.dtype, threads.count())
    ending = winograd._ending(plan, scale, bias, activation, y, pooled, index)
    panels_product(*right, x, *plan.tables, *ending, sizes.zeros, sizes.outside,
                   *arena.scratch(*sizes.scratch))  # fmt: skip


convolve, convolve_input_grad = winograd.by(_product)


class _Sizes(NamedTuple):
    """Of a launch, as in winograd.py."""

    zeros: np.ndarray
    outside: np.ndarray
    scratch: tuple


@functools.lru_cache(maxsize=256)
def _sizes(channels, filters, tiles, lanes, dtype, most_workers):
    panels = -(-filters // (2 * lanes))
    workers = min(most_workers, panels)
    v_row = -(-channels // lanes) * lanes
    v_step, m_step = winograd.block_steps(tiles, v_row, min(2 * lanes, filters), lanes)
    scratch = (
        ((ELEMENTS * v_step + ROWS * v_row,), dtype),
        ((tiles, ENTRIES), np.int64),
        arena.rows(workers, ELEMENTS * winograd.panel_step(channels, lanes), dtype),
        arena.rows(workers, ELEMENTS * m_step, dtype),
        ((panels,), np.int64),
    )
    zeros = winograd._zeros(channels + 2 * lanes, dtype)
    return _Sizes(zeros, winograd._outside(filters, dtype), scratch)
