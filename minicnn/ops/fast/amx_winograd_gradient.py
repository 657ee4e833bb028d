"""Winograd's gradient of a kernel with its 36 products on the tile unit.

    dg = G^T [(B^T d B)^T * (A dY A^T)] G      see `winograd`, whose transforms these are

v, m     transformed inputs and output gradients, float32: (element, tile of the picture, channel
         or filter)
a        one element of v, turned and split: (step, part, channel), a line each
b        one element of m, split: (panel, step, part, 16 filters), a tile each
sums     float32: (element, channel, filter) of a piece of dk
step     32 tiles of the picture, over which the unit adds up

Design. What bounds a gradient of many channels is memory: the sums of a piece are larger than the
second-level cache (128 x 128: 2.4 MB) and read and written once a block of tiles, v and m are
written and read once a tile. Pieces and blocks are therefore large, though nothing but a part of an
element stays in that cache then: the unit sums up over 64 or 128 tiles at once, what is split is
used for a whole piece, and while an element is multiplied the next one's v, m and sums are asked
for (0.92 to 0.94 of the time for 256 channels). Measured beside `winograd` (a Xeon, 2026-11-28, of
its time with two threads, and one): 128 to 128 channels, 64 pictures of 8 x 8, 0.90 to 1.09, 0.82
to 0.98; 32 of 32 x 32, 0.74 to 0.79, 0.69 to 0.74; 64 to 256, 15 x 15, 0.87 to 0.90, 0.75 to 0.81;
192 to 192, 0.72, 0.61; 512 to 512, 8 of 14 x 14, 0.61 with two. With fewer channels turning and
splitting v costs what the products save: 64 to 128 0.96 to 1.15, 64 to 64 1.2 times as long.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import amx, gemm, sharing, threads, winograd
from minicnn.ops.fast.amx import BLOCK, LINE, PANEL, PARTS, STEP, TILE_BYTES
from minicnn.ops.fast.amx_winograd import HALF, SIZE, TAPS
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.winograd import AHEAD, ELEMENTS, ENTRIES

BLOCK_BYTES = 5 << 20  # of v and m; half of it takes 1.1 times as long, twice as much the same
SIDE = 256  # channels and filters of a piece of dk, at most
SEGMENT = 128  # tiles, at least; half of it for the sake of four segments
PARTIAL_BYTES = 16 << 20  # sums of all segments, after their transform
LEAST, LEAST_PRODUCTS = 64, 128 * 128  # channels and filters, and their product
LEAST_WORK = 256 * 128 * 128  # the same times tiles


@parallel_kernel
def tiles_gradient(x, table, x_places, dy_places, dy, dk, block, part, split, zeros, offsets, sums,
                   partial, v, m, a, b, addresses, taken):  # fmt: skip
    """dk (3, 3, channels, filters), as `winograd.tiles_gradient`."""
    sharing.open_tasks(taken)
    for worker in prange(len(v)):
        _tiles_gradient(np.int64(worker), x, table, x_places, dy_places, dy, dk, block, part, split,
                        zeros, offsets, sums, partial, v, m, a, b, addresses, taken)  # fmt: skip
    filters, dk_row = table[winograd.FILTERS], table[winograd.OUT_PIXEL]
    if partial.size:
        for row in prange(9 * table[winograd.CHANNELS]):
            number = np.int64(row)
            gemm.add_segments(partial, number * filters, filters, dk, number * dk_row)


@kernel
def _tiles_gradient(worker, x, table, x_places, dy_places, dy, dk, block, part, split, zeros,
                    offsets, all_sums, partial, vs, ms, lines, tiles, tables, taken):  # fmt: skip
    """One worker's part of the tasks (segment of the tiles, piece of dk)."""
    x_picture, dy_picture = winograd._picture_sizes(table)
    sums, v, m, addresses = all_sums[worker], vs[worker], ms[worker], tables[worker]
    a, b = lines[worker].ctypes.data, tiles[worker].ctypes.data
    v_row = (part + HALF - 1) // HALF * HALF
    v_step, m_step, sums_step = _distances(block, part, split)
    amx.begin()
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(vs), taken)
        if task < 0:
            continue
        segment, first, last, c0, channels, f, columns = winograd.gradient_task(
            task, part, split, partial, table
        )
        begin, is_first = -AHEAD, True
        while first < last:
            count = min(block, last - first)
            known = min(count + AHEAD, last - first)
            winograd._addresses(x, x_picture, x_places, zeros, table, first, known, addresses)
            winograd._transform_inputs(SIZE, zeros, addresses, begin, count, known, c0, channels, v,
                                       v_row, v_step)  # fmt: skip
            winograd._addresses(dy, dy_picture, dy_places, zeros, table, first, known, addresses)
            for q in range(begin, count):
                if q + AHEAD < known:
                    winograd._prefetch_output_grad(SIZE, dy, addresses, (q + AHEAD) * ENTRIES, f,
                                                   columns)  # fmt: skip
                for j in range(0, columns if q >= 0 else 0, HALF):
                    winograd._transform_output_grad(SIZE, addresses, q * ENTRIES, f + j,
                                                    columns - j, m, q * split + j,
                                                    m_step)  # fmt: skip
            steps = (count + STEP - 1) // STEP
            for e in range(ELEMENTS):
                left = v.ctypes.data + 4 * e * v_step
                right = m.ctypes.data + 4 * e * m_step
                target = sums.ctypes.data + 4 * e * sums_step
                ahead = left + 4 * v_step, right + 4 * m_step, target + 4 * sums_step
                missing = steps * STEP - count
                amx.zero_lines(left + 4 * count * v_row, missing * v_row * 4 // LINE)
                amx.zero_lines(right + 4 * count * split, missing * split * 4 // LINE)
                _element_product(left, v_row, channels, right, split, columns, steps, offsets,
                                 target, is_first, a, b, ahead)  # fmt: skip
            begin, is_first = 0, False
            first += count
        winograd.finish_piece(SIZE, sums, split, sums_step, c0, channels, f, columns, segment,
                              partial, table, dk)  # fmt: skip
    amx.end()


@kernel
def _distances(block, part, split):
    """Numbers from one element to the next in v, m and the sums: an odd number of lines."""
    tiles = (block + STEP - 1) // STEP * STEP
    v_row, rows = (part + HALF - 1) // HALF * HALF, (part + BLOCK - 1) // BLOCK * BLOCK
    return tiles * v_row + HALF, tiles * split + HALF, rows * split + HALF


@kernel
def _element_product(v, v_row, channels, m, split, columns, steps, offsets, sums, is_first, a, b,
                     ahead):  # fmt: skip
    """sums (channel, filter) of one element = or += v^T m; all addresses, as those in `ahead`: v, m
    and sums of the next element, of which a piece is asked for with every product."""
    next_v, next_m, next_sums = ahead
    asked = 0
    panel_bytes = amx.packed_panel(steps)
    squares = a + steps * PARTS * BLOCK * LINE
    for panel in range(0, columns, PANEL):
        tiles = 2 if columns - panel > HALF else 1
        for step in range(steps):
            for tile in range(tiles):
                source = m + 4 * (step * STEP * split + panel + tile * HALF)
                target = b + panel // PANEL * panel_bytes
                target += (step * PARTS * tiles + tile) * TILE_BYTES
                for row in range(HALF):
                    low = source + 4 * row * split
                    amx.split_pair(low, low + 4 * HALF * split, target + row * LINE,
                                   tiles * TILE_BYTES)  # fmt: skip
    for i in range(0, channels, BLOCK):
        for step in range(steps):
            for half in range(0, min(BLOCK, channels - i), HALF):
                amx.split_columns(v + 4 * (step * STEP * v_row + i + half), 4 * v_row, squares,
                                  a + offsets[step] + half * LINE, BLOCK * LINE)  # fmt: skip
        for panel in range(0, columns, PANEL):
            right, c = b + panel // PANEL * panel_bytes, sums + 4 * (i * split + panel)
            tiles = 2 if columns - panel > HALF else 1
            if is_first:
                amx.block_product(a, LINE, BLOCK * LINE, offsets.ctypes.data, steps, right,
                                  columns - panel, c, 4 * split, 0, 0)  # fmt: skip
            elif tiles == 2:
                amx.asking_add_whole_panel(a, LINE, BLOCK * LINE, PARTS * BLOCK * LINE, steps,
                                           right, LINE, 2 * TILE_BYTES, PARTS * 2 * TILE_BYTES,
                                           TILE_BYTES, c, 4 * split, next_v + asked,
                                           next_m + asked, next_sums + asked)  # fmt: skip
                asked += steps * amx.ASKED * LINE
            else:
                amx.add_half_panel(a, LINE, BLOCK * LINE, PARTS * BLOCK * LINE, steps, right, LINE,
                                   TILE_BYTES, PARTS * TILE_BYTES, TILE_BYTES, c,
                                   4 * split, 0, 0, 0)  # fmt: skip


# -- The product -----------------------------------------------------------------------------------


def pays(shape):
    """Whether this is quicker than `winograd`."""
    _, _, channels, filters = shape.kernel_shape
    filters //= shape.groups
    *_, tiles = winograd.forward_plan(shape).sizes
    products = channels * filters
    large = products >= LEAST_PRODUCTS and products * tiles >= LEAST_WORK
    return large and min(channels, filters) >= LEAST


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat float32 arrays."""
    _, _, channels, all_filters = shape.kernel_shape
    filters = all_filters // shape.groups
    plan = winograd.forward_plan(shape)
    cut = _sizes(*plan.sizes, threads.count())
    scratch = arena.scratch(*cut.scratch)
    for g in range(shape.groups):
        own = slice(g * filters, None)
        tiles_gradient(x[g * channels :], *plan.tables, dy[own], dk[own], cut.block, cut.part,
                       cut.split, cut.zeros, cut.offsets, *scratch)  # fmt: skip


class _Sizes(NamedTuple):
    """Of a launch."""

    block: int  # tiles
    part: int  # channels
    split: int  # filters
    zeros: np.ndarray
    offsets: np.ndarray  # bytes from the first step of a to each
    scratch: tuple


def _division(tiles, channels, filters):
    """(segments of the tiles, channels and filters of a piece of dk), by the shape alone.

    A piece transforms, turns and splits its tiles anew, so it is as large as can be: 256 x 256
    takes 0.80 to 0.95 of the time of four of 128 x 128, though its sums are 9 MB; but 512 x 512
    takes 1.1 to 1.8 times as long as four of 256 x 256.
    """
    most = PARTIAL_BYTES // (TAPS * TAPS * 4 * channels * filters)
    enough = max(tiles // SEGMENT, min(4, 2 * tiles // SEGMENT))
    for side in (SIDE, SIDE // 2, SIDE // 4):  # smaller ones so that four threads have some
        part, split = (
            -(-number // -(-number // side) // BLOCK) * BLOCK for number in (channels, filters)
        )
        pieces = -(-channels // part) * -(-filters // split)
        segments = max(1, min(winograd.TASKS // pieces, enough, most))
        segments = 1 << segments.bit_length() - 1  # equal shares for 2, 4 and 8 threads
        if segments * pieces >= 4:
            break
    return segments, min(part, channels), split


@functools.lru_cache(maxsize=256)
def _sizes(channels, filters, tiles, most_workers):
    dtype = np.dtype(np.float32)
    segments, part, split = _division(tiles, channels, filters)
    pieces = -(-channels // part) * -(-filters // split)
    share = -(-tiles // segments)
    most = max(BLOCK_BYTES // (ELEMENTS * (part + split) * 4) // STEP, 1) * STEP
    block = -(-share // -(-share // most))  # blocks of equal length
    block += -block % STEP
    workers = min(most_workers, segments * pieces)
    steps = block // STEP
    v_step, m_step, sums_step = _distances(block, part, split)
    scratch = (
        arena.rows(workers, ELEMENTS * sums_step, dtype),
        winograd.partial_sums(segments, TAPS, channels * filters, dtype),
        arena.rows(workers, ELEMENTS * v_step, dtype),
        arena.rows(workers, ELEMENTS * m_step, dtype),
        arena.rows(workers, (steps * PARTS * BLOCK * LINE + 2 * TILE_BYTES) // 4, dtype),
        arena.rows(workers, -(-split // PANEL) * amx.packed_panel(steps) // 4, dtype),
        ((workers, block + AHEAD, ENTRIES), np.int64),
        ((segments * pieces,), np.int64),
    )
    zeros = winograd._zeros(max(channels, filters) + 2 * HALF, dtype)
    offsets = np.arange(steps) * PARTS * BLOCK * LINE
    return _Sizes(block, part, split, zeros, offsets, scratch)
