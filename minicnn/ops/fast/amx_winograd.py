"""Winograd's convolution with its 36 products on the tile unit.

    Y = A^T [(G g G^T) * (B^T d B)] A      see `winograd`, whose transforms these are

v        transformed inputs, float32: (element, tile of the picture, channel)
a        one element of v, split: (tile of the picture, step, part), a line each
u        transformed kernel, split: (panel, element, step, part), tiles as `amx.pack` makes them
m        the products, float32: (element, tile of the picture, filter), in the place of v where
         all filters are multiplied at once

Design. As `winograd`: a block of tiles is transformed, multiplied and transformed back within
the cache. v is split when its element's turn comes, into a place in the first-level cache: split
by the transform it would be half as large again and written where it is not cached. The splitting
is written between the products of the element before, instruction by instruction, so that the
vector units work while the tile unit does: with two tiles of sums and all in the first-level cache
32 rows of 16 channels take 103 ns to multiply, 74 to split, 176 both, one after the other, and 113
woven beside a busy neighbour, 44, 55, 112 and 85 without one (in a loop of its own between two
products splitting hardly paid: 0.95 to 1.04 of the time). What a block moves between
the caches is what is left, for which the products take the place of the inputs. Layers take 0.80 to
0.92 of the time that splitting before multiplying took for 32 to 128 channels, 0.95 for 256 and
0.96 to 1.0 for 16 (two cores of a Xeon, 2026-11-28); `winograd` was left behind by 1.0 to 1.15
times for 32 to 64 channels and 1.3 for 128 to 256 before that. 16 channels are half a step: two
parts of them fill a line, and three products do the work of six (`amx.SHORT_TERMS`): 1.04 to 1.12
times as fast as `winograd` for 16 to 32 filters, 1.35 for 64. A split kernel larger than the
second-level cache comes from beyond it for every block, so its next tiles are asked for between the
products of this one's: 0.86 to 0.93 of the time for 256 channels, 0.9 to 1.0 for 128.
`amx_winograd_gradient` does the gradient of the kernel, for which v has to be turned as well.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import amx, gemm, sharing, simd, threads, winograd
from minicnn.ops.fast.amx import BLOCK, LINE, PANEL, PARTS, STEP
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.winograd import AHEAD, ELEMENTS, ENTRIES

TAPS = 3
SIZE = winograd.SIZES[TAPS]

# Bytes of v and m of a block, least and most: a small transformed kernel stays in the second-level
# cache beside them; a large one is read anew for every block, which then is half as large.
LEAST_BYTES, MOST_BYTES = 160 << 10, 4 << 20
# Of the transformed kernel: with less, asking ahead costs more than it brings (32 to 64 channels,
# 440 kB: 1.0 to 1.08 of the time).
ASKED_BYTES = 768 << 10
GROUP = 4 * PANEL  # filters that are multiplied before their outputs are transformed back
HALF = STEP // 2  # channels that are transformed at once: a vector
SQUARE = STEP * HALF  # numbers of a tap of the kernel that are transformed at once
ROW = ELEMENTS * STEP  # numbers of a pair of rows of the transformed kernel


@kernel
def _split_kernel(g, taps, row_step, column_step, rows, columns, u, piece):
    """A step of a panel of u, of g[taps[t] + row * row_step + column * column_step]."""
    steps = (rows + STEP - 1) // STEP
    panel, step = divmod(piece, steps)
    width = min(PANEL, columns - panel * PANEL)
    tiles = 2 if width > HALF else 1
    height = min(STEP, rows - step * STEP)
    square = np.empty(SQUARE * len(taps) + HALF, np.float32)
    square = square[(-square.ctypes.data) % LINE // 4 :]
    transformed = np.empty(HALF * ROW, np.float32)
    for tile in range(tiles):
        start = step * STEP * row_step + (panel * PANEL + tile * HALF) * column_step
        length = min(HALF, width - tile * HALF)
        if column_step == 1 and length == HALF and height == STEP:
            source, first = g, taps[0] + start
            row_distance, tap_distance = row_step, taps[1] - taps[0]
        else:
            _gather(g, taps, start, row_step, height, column_step, length, square)
            source, first = square, np.int64(0)
            row_distance, tap_distance = HALF, SQUARE
        for row in range(STEP if rows > HALF else HALF):
            winograd._transform_kernel(SIZE, source, first + row * row_distance, tap_distance,
                                       transformed, row % HALF * ROW + row // HALF * HALF,
                                       STEP)  # fmt: skip
        # Element by element, so that lines are written one behind the other: nobody can tell what
        # comes next of lines that lie 24 kB apart, and a first-level cache holds few of them.
        for e in range(ELEMENTS):
            low = transformed.ctypes.data + e * LINE * 2
            at = u.ctypes.data + (panel * ELEMENTS + e) * amx.packed_panel(steps)
            at += (step * PARTS * tiles + tile) * amx.TILE_BYTES
            for _ in range(HALF):
                if rows > HALF:
                    amx.split_pair(low, low + LINE, at, tiles * amx.TILE_BYTES)
                else:
                    amx.split_short_column(low, at, tiles * amx.TILE_BYTES)
                low += ROW * 4
                at += LINE


@kernel
def _gather(g, taps, start, row_step, height, column_step, length, square):
    """square (tap, row, column) of a step and HALF columns, with zeros where there are none."""
    if row_step == 1 and length == HALF and height == STEP:
        for t in range(len(taps)):
            for half in range(0, STEP, HALF):
                amx.transpose(g.ctypes.data + 4 * (taps[t] + start + half), 4 * column_step,
                              square.ctypes.data + 4 * (t * SQUARE + half * HALF))  # fmt: skip
        return
    square[: len(taps) * SQUARE] = 0
    for t in range(len(taps)):
        for row in range(height):
            at, source = t * SQUARE + row * HALF, taps[t] + start + row * row_step
            for i in range(length):
                square[at + i] = g[source + i * column_step]


@parallel_kernel
def tiles_product(g, taps, row_step, column_step, u, x, table, x_places, y_places, offsets, scale,
                  start, y, pooled, index, streaming, code, slope, block, group, v_row, m_row,
                  a_row, zeros, outside, v, lines, m, addresses, taken):  # fmt: skip
    """y = activation(scale (x * g) + bias), or its maxima; the kernel is transformed first, into
    the one u of all workers, or into each one's own."""
    channels, filters = table[winograd.CHANNELS], table[winograd.FILTERS]
    sharing.open_tasks(taken)
    pieces = (filters + PANEL - 1) // PANEL * len(offsets)
    if len(u) == 1:
        for piece in prange(pieces):
            _split_kernel(g, taps, row_step, column_step, channels, filters, u[0], np.int64(piece))
    for worker in prange(len(v)):
        for piece in range(pieces if len(u) > 1 else 0):
            _split_kernel(g, taps, row_step, column_step, channels, filters, u[np.int64(worker)],
                          piece)  # fmt: skip
        _tiles_product(np.int64(worker), x, table, x_places, y_places, u, offsets, scale, start, y,
                       pooled, index, streaming, code, slope, block, group, v_row, m_row,
                       a_row, zeros, outside, v, lines, m, addresses, taken)  # fmt: skip


@kernel
def _tiles_product(worker, x, table, x_places, y_places, us, offsets, scale, start, y, pooled,
                   index, streaming, code, slope, block, group, v_row, m_row, a_row, zeros,
                   outside, vs, lines, ms, tables, taken):  # fmt: skip
    """One worker's part of the blocks of tiles."""
    lanes = simd.VECTOR_BYTES // x.itemsize
    channels, filters = table[winograd.CHANNELS], table[winograd.FILTERS]
    x_picture, y_picture = winograd._picture_sizes(table)
    u, v, m, addresses = us[worker % len(us)], vs[worker], ms[worker], tables[worker]
    steps = len(offsets)
    a, following = lines[worker].ctypes.data, lines[worker].ctypes.data + block * a_row
    v_step, m_step = block * v_row + lanes, block * m_row + lanes
    to_floor = start.size // 2 if code == gemm.FLOOR else 0
    known_to, is_short = -1, channels <= HALF
    asks = u.size * u.itemsize >= ASKED_BYTES
    amx.begin()
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(vs), taken)
        first, last = winograd.tiles_of(task, block, len(vs), taken.size, table[winograd.TILES])
        if task < 0 or first >= last:
            continue
        count = min(block, last - first)
        known = min(count + AHEAD, last - first)
        begin = 0 if first == known_to else -AHEAD
        winograd._addresses(x, x_picture, x_places, zeros, table, first, known, addresses)
        winograd._transform_inputs(SIZE, zeros, addresses, begin, count, known, 0, channels, v,
                                   v_row, v_step)  # fmt: skip
        winograd._addresses(y, y_picture, y_places, outside, table, first, count, addresses)
        if pooled:
            winograd._pooled_addresses(SIZE, y, index, outside, table, first, count, addresses)
        for f in range(0, filters, group):
            columns = min(group, filters - f)
            for q in range(count):
                source = v.ctypes.data + 4 * q * v_row
                if is_short:
                    amx.split_short_row(source, a + q * a_row)
                else:
                    amx.split_row(source, channels, a + q * a_row)
            for e in range(ELEMENTS):
                source = v.ctypes.data + 4 * min(e + 1, ELEMENTS - 1) * v_step
                for panel in range(0, columns, PANEL):
                    b = (f + panel) // PANEL * ELEMENTS + e
                    following_b = b + ELEMENTS
                    if panel + PANEL >= columns:
                        following_b = f // PANEL * ELEMENTS + min(e + 1, ELEMENTS - 1)
                    right = u.ctypes.data + b * amx.packed_panel(steps)
                    ahead = u.ctypes.data + following_b * amx.packed_panel(steps) if asks else 0
                    for q in range(0, count, BLOCK):
                        left = a + q * a_row
                        target = m.ctypes.data + 4 * (e * m_step + q * m_row + panel)
                        if panel == 0:
                            amx.woven_block_product(left, a_row, steps, right, columns, target,
                                                    4 * m_row, source + 4 * q * v_row, 4 * v_row,
                                                    channels, following + q * a_row,
                                                    ahead)  # fmt: skip
                        elif is_short:
                            amx.short_block_product(left, a_row, LINE, offsets.ctypes.data, steps,
                                                    right, columns - panel, target, 4 * m_row,
                                                    0)  # fmt: skip
                        else:
                            amx.block_product(left, a_row, LINE, offsets.ctypes.data, steps, right,
                                              columns - panel, target, 4 * m_row, 0,
                                              ahead)  # fmt: skip
                a, following = following, a
            for q in range(count):
                for j in range(0, columns, HALF):
                    winograd._transform_output(SIZE, m, q * m_row + j, m_step, scale, start, f + j,
                                               f + j + to_floor, columns - j, addresses,
                                               q * ENTRIES, pooled, index, streaming, code,
                                               slope)  # fmt: skip
        if code > gemm.FLOOR:
            winograd._activate_tiles(SIZE, y, table, first, count, code, slope)
        known_to = first + count
    amx.end()
    simd.end_of_stream(y)


# -- The products ----------------------------------------------------------------------------------


def pays(channels, filters):
    """Whether this is quicker than `winograd`: lines and tiles that are mostly full."""
    is_short = channels <= HALF
    step = HALF if is_short else STEP
    filled = channels / (-(-channels // step) * step)
    several = filters >= HALF or filled == 1
    return filled > 0.7 and several


def _product(right, x, plan, scale, bias, activation, y, pooled=winograd.UNPOOLED,
             index=winograd.NO_PLACES):  # fmt: skip
    """As `winograd._product`."""
    channels, filters, tiles = plan.sizes
    sizes = _sizes(channels, filters, tiles, threads.count())
    u, v, lines, addresses, taken, *m = arena.scratch(*sizes.scratch)
    tiles_product(
        *right[1:], u, x, *plan.tables, sizes.offsets,
        *winograd._ending(plan, scale, bias, activation, y, pooled, index), sizes.block,
        sizes.group, *sizes.rows, sizes.zeros, sizes.outside, v, lines, *(m or [v]), addresses,
        taken,
    )  # fmt: skip


convolve, convolve_input_grad = winograd.by(_product)


class _Sizes(NamedTuple):
    """Of a launch."""

    block: int  # tiles
    group: int  # filters
    rows: tuple  # from a tile of the picture to the next: numbers in v and in m, bytes in a
    offsets: np.ndarray  # bytes from the first step to each
    zeros: np.ndarray  # as in `winograd`
    outside: np.ndarray
    scratch: tuple


@functools.lru_cache(maxsize=256)
def _sizes(channels, filters, tiles, most_workers):
    steps, panels = -(-channels // STEP), -(-filters // PANEL)
    workers = min(most_workers, -(-tiles // BLOCK))
    v_row, m_row = (-(-number // HALF) * HALF for number in (channels, min(filters, GROUP)))
    group, in_place = m_row, filters <= GROUP
    if in_place:
        v_row = m_row = max(v_row, m_row)
    # An odd number of lines, or two, so that 16 rows do not fall into the same sets of the cache.
    a_row = (steps * PARTS | 1 if channels > HALF else 2) * LINE
    share = -(-tiles // workers)
    u_bytes = panels * ELEMENTS * steps * PARTS * 2 * amx.TILE_BYTES
    block_bytes = min(max(u_bytes // 2, LEAST_BYTES), MOST_BYTES)
    tile_bytes = ELEMENTS * 4 * (v_row if in_place else v_row + m_row)
    most = max(block_bytes // tile_bytes // BLOCK, 1) * BLOCK
    block = -(-share // -(-share // most))  # blocks of equal length
    block += -block % BLOCK
    scratch = (
        arena.rows(sharing.copies(workers, u_bytes), u_bytes // 4, np.float32),
        arena.rows(workers, ELEMENTS * (block * v_row + HALF), np.float32),
        arena.rows(workers, 2 * block * a_row // 4, np.float32),
        ((workers, block + AHEAD, ENTRIES), np.int64),
        ((workers * -(-share // block),), np.int64),
    )
    if not in_place:
        scratch += (arena.rows(workers, ELEMENTS * (block * m_row + HALF), np.float32),)
    dtype = np.dtype(np.float32)
    zeros = winograd._zeros(channels + 2 * HALF, dtype)
    offsets = np.arange(steps) * PARTS * LINE
    outside = winograd._outside(filters, dtype)
    return _Sizes(block, group, (v_row, m_row, a_row), offsets, zeros, outside, scratch)
