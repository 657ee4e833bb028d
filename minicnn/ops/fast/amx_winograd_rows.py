"""Winograd's convolution of few tiles with many filters, with its products on the tile unit.

    m[e] = v[e] u[e] for the 36 elements e, then Y = A^T m A; u = G (g G^T), see `winograd`

v, u, m   transformed inputs, kernel, and their products as in winograd.py; v and u are split into
          parts as in amx_winograd.py when their turn comes
row       six elements that lie beside each other: a row of u is one row of G times g G^T
slice     some channels: those of a row of v, split, stay in the second-level cache
chunk     CHUNK steps of a slice, of which 32 filters of a row of u are made at a time

Design. A block of tiles that goes through all elements, as in amx_winograd.py, needs all of u, 56
MB of parts for 512 x 512 channels, once a block. Here a worker takes a row of elements instead, and
of it a slice of v, then goes through the filters: a chunk of u is made in its own cache, multiplied
with all tiles at once, and forgotten, so u is never written to memory at all. For that the kernel
is read once for each of the six rows; it is packed first, so that a chunk lies behind the one
before it (read where they are, pieces of 128 bytes 2 kB apart, making the chunks took 1.5 to 2
times as long). m goes to memory, a quarter of u, and comes back for the outputs.

Measured, forward and dx, two cores of a Xeon, 2026-11-28, in turns with `winograd_panels` (and, in
brackets, `amx_winograd`): 8 pictures 14 x 14, 512 to 512 channels, 0.72 and 0.74 (0.74 and 0.83),
256 to 256 0.65 and 0.68 (0.95 and 0.90); one picture 28 x 28, 256 to 256, 0.78 and 0.78 (0.90 and
0.78). With the tiles of 32 pictures 14 x 14 it is no quicker than `amx_winograd`, with those of one
no quicker than `winograd_panels` (0.95 to 1.15).
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import amx, amx_winograd, gemm, sharing, simd, threads, winograd
from minicnn.ops.fast import winograd_panels as panels
from minicnn.ops.fast.amx import BLOCK, CHUNK, LINE, PANEL, PARTS, STEP, TILE_BYTES
from minicnn.ops.fast.amx_winograd import HALF, SIZE, SQUARE, TAPS
from minicnn.ops.fast.gemm import ROWS
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.winograd import CHANNELS, ELEMENTS, ENTRIES, FILTERS, TILE, TILES

# Of a slice of v, split: 0.66 to 0.7 of the time of `winograd_panels` with 320 or 640 kB, 0.8 with
# 1280 or 2560, beside neighbours that use a part of the second-level cache of 2 MB.
SLICE_BYTES = 640 << 10
LEAST_TILES = ROWS + 1  # fewer are one worker's block, which `winograd_panels` shares as well
# Of the transformed kernel for each tile: 256 x 256 with 196 tiles (48 kB) 0.87 and 0.93 of the
# time of `amx_winograd`, with 256 (36 kB) 0.99 to 1.03, with 392 1.01 and 1.09.
LEAST_OF_A_TILE = 48 << 10
# The same of all tiles: less is little to gain, and kernels to be compiled for a last batch.
LEAST_BYTES = 4 << 20

A_PART = BLOCK * LINE  # from a part of 32 tiles of v to the next
A_STEP = PARTS * A_PART
ROW = TILE * STEP  # numbers of a pair of rows of the transformed kernel
FACTORS = np.array(winograd.G[TAPS], np.float32)


@parallel_kernel
def rows_product(g, taps, row_step, column_step, x, table, x_places, y_places, scale, start, y,
                 pooled, index, streaming, code, slope, factors, depth, pieces, zeros, outside,
                 offsets, packed, v, addresses, lines, u, m, taken):  # fmt: skip
    """y = activation(scale (x * g) + bias), or its maxima."""
    parts = (table[TILES] + ROWS - 1) // ROWS
    sharing.open_tasks(taken)
    for part in prange(parts):
        panels._transform_tiles(np.int64(part), SIZE, x, table, x_places, y_places, y, pooled,
                                index, zeros, outside, v, addresses)  # fmt: skip
    for piece in prange(packed.shape[1] * len(taps)):
        step, tap = divmod(np.int64(piece), len(taps))
        _pack_kernel(step, tap, g, taps[tap], row_step, column_step, table[CHANNELS],
                     table[FILTERS], packed)  # fmt: skip
    for worker in prange(len(u)):
        _rows_product(np.int64(worker), packed, table, factors, depth, pieces, offsets, v, lines, u,
                      m, taken)  # fmt: skip
    for piece in prange(len(m) * parts):
        panel, part = divmod(np.int64(piece), parts)
        _transform_outputs(panel, part, table, scale, start, y, pooled, index, streaming, code,
                           slope, m[panel], addresses)  # fmt: skip
    if code > gemm.FLOOR:
        for part in prange(parts):
            first, count = panels._tiles(np.int64(part), table)
            winograd._activate_tiles(SIZE, y, table, first, count, code, slope)


@kernel
def _pack_kernel(step, tap, g, first, row_step, column_step, rows, columns, packed):
    """packed (panel, step, half of the panel, tap, row, column), one tap of a step of all panels,
    of g[first + row * row_step + column * column_step]."""
    height = min(STEP, rows - step * STEP)
    first += step * STEP * row_step
    if column_step == 1 and height == STEP and columns % PANEL == 0:
        for row in range(STEP):
            at, source = tap * SQUARE + row * HALF, first + row * row_step
            for panel in range(len(packed)):
                for i in range(HALF):
                    packed[panel, step, 0, at + i] = g[source + i]
                    packed[panel, step, 1, at + i] = g[source + HALF + i]
                source += PANEL
        return
    here = np.zeros(1, np.int64)
    for column in range(0, columns, HALF):
        square = packed[column // PANEL, step, column % PANEL // HALF, tap * SQUARE :]
        amx_winograd._gather(g, here, first + column * column_step, row_step, height, column_step,
                             min(HALF, columns - column), square)  # fmt: skip


@kernel
def _rows_product(worker, packed, table, factors, depth, pieces, offsets, v, lines, us, m,
                  taken):  # fmt: skip
    """One worker's part of m (panel, element, tile, filter); a task is a row of elements and a
    piece of the panels."""
    channels, filters, tiles = table[CHANNELS], table[FILTERS], table[TILES]
    u, a = us[worker], lines[worker].ctypes.data
    m_step = _m_step(tiles)
    transformed = np.empty(HALF * ROW + HALF, np.float32)
    transformed = transformed[(-transformed.ctypes.data) % LINE // 4 :]
    amx.begin()
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(us), taken)
        if task < 0:
            continue
        row, piece = divmod(task, pieces)
        first_panel, last_panel = gemm.share(piece, pieces, len(m))
        for first in range(0, channels, depth):
            own = min(depth, channels - first)
            _split_slice(row, first, own, table, v, a)
            steps = (own + STEP - 1) // STEP
            for panel in range(first_panel, last_panel):
                columns = min(PANEL, filters - panel * PANEL)
                sums = m[panel].ctypes.data + 4 * row * TILE * m_step
                for begin in range(0, steps, CHUNK):
                    count = min(CHUNK, steps - begin)
                    for step in range(count):
                        _split_kernel(row, factors, packed[panel, first // STEP + begin + step],
                                      columns, transformed, u.ctypes.data, step, count)  # fmt: skip
                    _multiply(a + begin * A_STEP, steps * A_STEP, offsets, count, u.ctypes.data,
                              columns, tiles, sums, m_step, first == 0 and begin == 0)  # fmt: skip
    amx.end()


@kernel
def _split_slice(row, first, channels, table, v, a):
    """Lines (element, 32 tiles, step, part, tile) of some channels of a row of v."""
    tiles, steps = table[TILES], (channels + STEP - 1) // STEP
    v_row, v_step, _ = panels._steps(table, HALF)
    blocks = (tiles + BLOCK - 1) // BLOCK
    for e in range(TILE):
        source = v.ctypes.data + 4 * ((row * TILE + e) * v_step + first)
        for q in range(tiles):
            at = a + (e * blocks + q // BLOCK) * steps * A_STEP + q % BLOCK * LINE
            for step in range(steps):
                done = step * STEP
                amx.split_first(source + 4 * done, channels - done, at + step * A_STEP, A_PART)
            source += 4 * v_row


@kernel
def _split_kernel(row, factors, packed, columns, transformed, u, step, steps):
    """A step of a row of u, lines as `amx.block_product` takes them."""
    tiles = 2 if columns > HALF else 1
    for tile in range(tiles):
        for i in range(STEP):
            winograd._transform_kernel_row(SIZE, factors, row, packed[tile], i * HALF, SQUARE,
                                           transformed, i % HALF * ROW + i // HALF * HALF,
                                           STEP)  # fmt: skip
        for e in range(TILE):
            low = transformed.ctypes.data + e * LINE * 2
            at = u + e * amx.packed_panel(steps) + (step * PARTS * tiles + tile) * TILE_BYTES
            for _ in range(HALF):
                amx.split_pair(low, low + LINE, at, tiles * TILE_BYTES)
                low += ROW * 4
                at += LINE


@kernel
def _multiply(a, a_block, offsets, steps, u, columns, tiles, sums, m_step, is_first):
    """The sums of a row of elements with a panel of filters = or += a chunk of v u."""
    for e in range(TILE):
        right = u + e * amx.packed_panel(steps)
        target = sums + 4 * e * m_step
        for _ in range(0, tiles, BLOCK):
            if is_first:
                amx.block_product(a, LINE, A_PART, offsets.ctypes.data, steps, right, columns,
                                  target, 4 * PANEL, 0, 0)  # fmt: skip
            elif columns > HALF:
                amx.add_whole_panel(a, LINE, A_PART, A_STEP, steps, right, LINE, 2 * TILE_BYTES,
                                    PARTS * 2 * TILE_BYTES, TILE_BYTES, target, 4 * PANEL, 0, 0,
                                    0)  # fmt: skip
            else:
                amx.add_half_panel(a, LINE, A_PART, A_STEP, steps, right, LINE, TILE_BYTES,
                                   PARTS * TILE_BYTES, TILE_BYTES, target, 4 * PANEL, 0, 0,
                                   0)  # fmt: skip
            a += a_block
            target += 4 * BLOCK * PANEL


@kernel
def _m_step(tiles):
    """Distance of the elements of m: whole blocks, and a vector as in `winograd.block_steps`."""
    return (tiles + BLOCK - 1) // BLOCK * BLOCK * PANEL + HALF


@kernel
def _transform_outputs(panel, part, table, scale, start, y, pooled, index, streaming, code, slope,
                       m, addresses):  # fmt: skip
    """Y of some tiles, a panel of filters."""
    first, count = panels._tiles(part, table)
    m_step = _m_step(table[TILES])
    to_floor = start.size // 2 if code == gemm.FLOOR else 0
    f = panel * PANEL
    columns = min(PANEL, table[FILTERS] - f)
    for q in range(first, first + count):
        for j in range(0, columns, HALF):
            winograd._transform_output(
                SIZE, m, q * PANEL + j, m_step, scale, start, f + j, f + j + to_floor, columns - j,
                addresses, q * ENTRIES, pooled, index, streaming, code, slope,
            )  # fmt: skip
    simd.end_of_stream(y)


# -- The products ----------------------------------------------------------------------------------


def pays(shape, product):
    """Whether this is quicker than `amx_winograd` and `winograd_panels`."""
    channels, filters, tiles = panels.sizes(shape, product)
    size = ELEMENTS * channels * filters * 4
    return (
        shape.kernel_shape[0] == TAPS
        and channels > HALF
        and amx_winograd.pays(channels, filters)
        and tiles >= LEAST_TILES
        and size >= max(LEAST_OF_A_TILE * tiles, LEAST_BYTES)
    )


def _product(right, x, plan, scale, bias, activation, y, pooled=winograd.UNPOOLED,
             index=winograd.NO_PLACES):  # fmt: skip
    """As `winograd._product`."""
    sizes = _sizes(*plan.sizes, threads.count())
    ending = winograd._ending(plan, scale, bias, activation, y, pooled, index)
    rows_product(*right[1:], x, *plan.tables, *ending, FACTORS, sizes.depth, sizes.pieces,
                 sizes.zeros, sizes.outside, _OFFSETS, *arena.scratch(*sizes.scratch))  # fmt: skip


convolve, convolve_input_grad = winograd.by(_product)
_OFFSETS = np.arange(CHUNK) * A_STEP  # bytes from the first step of a to each


class _Sizes(NamedTuple):
    """Of a launch."""

    depth: int  # channels of a slice
    pieces: int  # of the panels
    zeros: np.ndarray  # as in `winograd`
    outside: np.ndarray
    scratch: tuple


@functools.lru_cache(maxsize=256)
def _sizes(channels, filters, tiles, most_workers):
    dtype = np.dtype(np.float32)
    steps, all_panels, blocks = -(-channels // STEP), -(-filters // PANEL), -(-tiles // BLOCK)
    most = max(SLICE_BYTES // (TILE * blocks * A_STEP), 1)
    depth = -(-steps // -(-steps // most))  # slices of equal depth
    pieces = min(all_panels, most_workers)
    workers = min(most_workers, TILE * pieces)
    v, addresses, *_ = panels._sizes(channels, filters, tiles, HALF, dtype, most_workers).scratch
    scratch = (
        ((all_panels, steps, 2, TAPS * TAPS * SQUARE), dtype),
        v,
        addresses,
        arena.rows(workers, TILE * blocks * depth * A_STEP // 4, dtype),
        arena.rows(workers, TILE * CHUNK * PARTS * 2 * TILE_BYTES // 4, dtype),
        ((all_panels, ELEMENTS * _m_step(tiles)), dtype),
        ((TILE * pieces,), np.int64),
    )
    zeros = winograd._zeros(channels + 2 * HALF, dtype)
    return _Sizes(depth * STEP, pieces, zeros, winograd._outside(filters, dtype), scratch)
