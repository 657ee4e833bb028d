"""The products of dense layers whose operands fit into the second cache.

    y = activation(x K + bias)      dx = dy K^T      dK = x^T dy

The tiles of `tiles.py` with the simplest tables: windows are the rows of x, taps its columns. The
right matrix is packed in panels of columns, once for all rows, in squares of vectors where it has
to be transposed; where it has not, a last panel of one vector is read in place. The gradient of the
kernel reads both where they lie and writes its sums once: a batch of up to MOST_ROWS is one sum.
Nothing depends on the number of threads but who does it.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import gemm, simd, threads
from minicnn.ops.fast.gemm import ROWS, TILE
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.tiles import (
    LOW,
    positions_one_low,
    positions_two,
    positions_two_low,
    taps_one,
    taps_one_low,
    taps_two,
    taps_two_low,
)

FEWEST_ROWS = 32  # with fewer, packing takes longer than multiplying
MOST_ROWS = 512  # of x, that are added up in one piece
PANEL_BYTES = 512 * 1024  # of two vectors by depth: half of a second cache of 1 MB
PACKED = 256  # rows of a panel that are packed by one thread
ALIASED = 2048  # bytes; at multiples of it few rows fit side by side into a first cache


def fits(rows, depth, itemsize):
    """Whether a product of `rows` sums over `depth` is one for this file."""
    return rows >= FEWEST_ROWS and depth * 2 * simd.VECTOR_BYTES <= PANEL_BYTES


@simd.vector_intrinsic
def transpose_square(v, matrix, at, step, rows, columns, result, to, to_step):
    """result[to + j * to_step + i] = matrix[at + i * step + j] for j < columns and all lanes i.

    Of the matrix only `rows` rows are read, the last one again for the lanes beyond them.
    """
    builder = v.builder
    half = v.lanes // 2

    def clamped(i, count):
        final = builder.sub(count, v.integer(1))
        inside = builder.icmp_signed("<", v.integer(i), final)
        return builder.select(inside, v.integer(i), final)

    vectors = []
    for i in range(v.lanes):
        row = builder.add(at, builder.mul(step, clamped(i, rows)))
        vectors.append(v.load_first(matrix, row, columns))
    kind = ir.VectorType(ir.IntType(32), v.lanes)
    zip_low = [i // 2 + i % 2 * v.lanes for i in range(v.lanes)]
    low, high = ir.Constant(kind, zip_low), ir.Constant(kind, [i + half for i in zip_low])
    for _ in range(v.lanes.bit_length() - 1):  # each step zips the first half with the second
        vectors = [
            builder.shuffle_vector(vectors[i], vectors[i + half], which)
            for i in range(half)
            for which in (low, high)
        ]
    for j in reversed(range(v.lanes)):  # those beyond the last go where it is written afterwards
        row = builder.add(to, builder.mul(to_step, clamped(j, columns)))
        v.store(vectors[j], result, row)


@kernel
def _pack(unit, pieces, matrix, row, step, depth, columns, packed):
    """A piece of a panel of b[k, j] = matrix[k * row + j * step]; `row` or `step` is 1."""
    lanes = simd.VECTOR_BYTES // packed.itemsize
    panel, piece = divmod(unit, pieces)
    column = panel * 2 * lanes
    count = min(2 * lanes, columns - column)
    width = lanes if count <= lanes else 2 * lanes
    first, last = piece * PACKED, min(piece * PACKED + PACKED, depth)
    panel0 = column * depth
    if step == 1:
        for k in range(first, last):
            simd.copy_run(packed, panel0 + k * width, matrix, k * row + column, count)
        return
    for j in range(0, width, lanes):
        for k in range(first, last, lanes):
            transpose_square(matrix, (column + j) * step + k, step, min(lanes, count - j),
                              min(lanes, last - k), packed, panel0 + k * width + j,
                              width)  # fmt: skip


@parallel_kernel
def _products(x, spread, pixels, outs, taps, matrix, row, step, columns, packed, tiles, low_tiles,
              start, y, code, slope, workers):  # fmt: skip
    depth = len(taps)
    lanes = simd.VECTOR_BYTES // y.itemsize
    panels = (columns + 2 * lanes - 1) // (2 * lanes)
    pieces = (depth + PACKED - 1) // PACKED
    narrow = (columns - 1) % (2 * lanes) < lanes
    in_place = narrow and step == 1  # the last panel is read where it lies
    packing = (panels - in_place) * pieces
    for unit in prange(packing + len(spread)):
        if unit < packing:
            _pack(np.int64(unit), pieces, matrix, row, step, depth, columns, packed)
        else:
            i = np.int64(unit) - packing
            simd.copy_run(spread[i], gemm.ORIGIN, x, i * depth, depth)
    rows = spread.reshape(-1) if len(spread) else x
    for worker in prange(workers):
        _worker_products(np.int64(worker), workers, rows, pixels, outs, taps, matrix, in_place,
                         columns, packed, tiles, low_tiles, start, y, code, slope)  # fmt: skip


@kernel
def _panels(columns, lanes, tiles, low_tiles):
    """Panels before the last, and the tiles of the last, which may be narrow."""
    whole = (columns - 1) // (2 * lanes)
    return whole, tiles if columns - whole * 2 * lanes > lanes else low_tiles


@kernel
def _tile(task, whole, lanes, tiles, last_tiles):
    """(first column, first row, height) of tile number `task`, panel after panel."""
    if task < whole * len(tiles):
        panel, number = divmod(task, len(tiles))
        return panel * 2 * lanes, tiles[number, 0], tiles[number, 1]
    number = task - whole * len(tiles)
    return whole * 2 * lanes, last_tiles[number, 0], last_tiles[number, 1]


@kernel
def _worker_products(worker, workers, x, pixels, outs, taps, matrix, in_place, columns, packed,
                     tiles, low_tiles, start, y, code, slope):  # fmt: skip
    depth, rows = len(taps), len(outs)
    lanes = simd.VECTOR_BYTES // y.itemsize
    whole, last_tiles = _panels(columns, lanes, tiles, low_tiles)
    first, last = gemm.share(worker, workers, whole * len(tiles) + len(last_tiles))
    for task in range(first, last):
        column, i, height = _tile(task, whole, lanes, tiles, last_tiles)
        count = min(columns - column, 2 * lanes)
        valid = min(height, rows - i)
        if count <= lanes and in_place:
            positions_one_low(x, pixels, outs, i, valid, taps, gemm.ORIGIN, depth, matrix, column,
                              columns, count, y, column, start, column, column, code, slope,
                              0)  # fmt: skip
        elif count <= lanes:
            positions_one_low(x, pixels, outs, i, valid, taps, gemm.ORIGIN, depth, packed,
                              column * depth, lanes, count, y, column, start, column, column, code,
                              slope, 0)  # fmt: skip
        elif height == TILE:
            positions_two(x, pixels, outs, i, valid, taps, gemm.ORIGIN, depth, packed,
                          column * depth, 2 * lanes, count - lanes, y, column, start, column,
                          column, code, slope, 0)  # fmt: skip
        else:
            positions_two_low(x, pixels, outs, i, valid, taps, gemm.ORIGIN, depth, packed,
                              column * depth, 2 * lanes, count - lanes, y, column, start, column,
                              column, code, slope, 0)  # fmt: skip
        if code > gemm.FLOOR:
            for k in range(i, i + valid):
                gemm.activate_row(y, outs[k] + column, count, code, slope)


@parallel_kernel
def _gradients(x, pixels, taps, dy, columns, tiles, low_tiles, dk, workers):
    for worker in prange(workers):
        _worker_gradients(np.int64(worker), workers, x, pixels, taps, dy, columns, tiles,
                          low_tiles, dk)  # fmt: skip


@kernel
def _worker_gradients(worker, workers, x, pixels, taps, dy, columns, tiles, low_tiles, dk):
    rows, depth = len(pixels), len(taps) - ROWS
    lanes = simd.VECTOR_BYTES // x.itemsize
    whole, last_tiles = _panels(columns, lanes, tiles, low_tiles)
    first, last = gemm.share(worker, workers, whole * len(tiles) + len(last_tiles))
    for task in range(first, last):
        column, t, height = _tile(task, whole, lanes, tiles, last_tiles)
        count = min(columns - column, 2 * lanes)
        valid, at = min(height, depth - t), t * columns + column
        if count <= lanes:
            if height == ROWS:
                taps_one(x, pixels, rows, taps, t, valid, dy, column, columns, count, dk, at,
                         columns, 0)  # fmt: skip
            else:
                taps_one_low(x, pixels, rows, taps, t, valid, dy, column, columns, count, dk, at,
                             columns, 0)  # fmt: skip
        elif height == TILE:
            taps_two(x, pixels, rows, taps, t, valid, dy, column, columns, count - lanes, dk, at,
                     columns, 0)  # fmt: skip
        else:
            taps_two_low(x, pixels, rows, taps, t, valid, dy, column, columns, count - lanes, dk,
                         at, columns, 0)  # fmt: skip


def _tiles(length, high, low):
    """(first, height) of tiles of two heights that cover `length` and as little more as can be."""
    most = -(-length // high)
    highs, lows = min(
        ((i, max(0, -(-(length - i * high) // low))) for i in range(most + 1)),
        key=lambda number: number[0] * (high + 1) + number[1] * (low + 1),
    )
    heights = np.array([high] * highs + [low] * lows, np.int64)
    return np.stack((np.cumsum(heights) - heights, heights), axis=1)


@functools.lru_cache(maxsize=64)
def _tables(rows, depth, row):
    """Offsets of rows that lie `row` apart and of columns; tiles over rows and over columns."""
    pixels, taps = np.arange(rows) * row, np.arange(depth)
    end_of_pixels, end_of_taps = np.full(ROWS, pixels[-1]), np.full(ROWS, taps[-1])
    return (
        np.concatenate((pixels, end_of_pixels)).astype(np.int64),
        np.concatenate((taps, end_of_taps)).astype(np.int64),
        _tiles(rows, TILE, LOW),
        _tiles(rows, TILE, TILE),
        _tiles(depth, TILE, LOW),
        _tiles(depth, ROWS, TILE),
    )


def multiply(x, matrix, transposed, bias, sizes, activation, y):
    """y (m, n) = activation(x (m, k) @ matrix + bias), flat; matrix (k, n), transposed (n, k)."""
    m, k, n = sizes
    lanes = simd.lanes(x.dtype)
    row, spread = k, 0
    if k * x.itemsize % ALIASED == 0:
        row, spread = k + lanes, m
    pixels, taps, tiles, low_tiles, _, _ = _tables(m, k, row)
    outs = _tables(m, n, n)[0][:m]
    start = gemm.start_vector(bias, activation, n, x.dtype)
    packed, copy = arena.scratch(((k * (n + 2 * lanes),), x.dtype), ((spread, k + lanes), x.dtype))
    code, slope = gemm.activation_code(activation, x.dtype)
    row, step = (1, k) if transposed else (n, 1)
    _products(x, copy, pixels, outs, taps[:k], matrix, row, step, n, packed, tiles, low_tiles,
              start, y, code, slope, threads.count())  # fmt: skip


def kernel_gradient(x, dy, sizes, dk):
    """dk (k, n) = x (m, k)^T @ dy (m, n), flat."""
    m, k, n = sizes
    pixels, taps, _, _, tiles, low_tiles = _tables(m, k, k)
    _gradients(x, pixels[:m], taps, dy, n, tiles, low_tiles, dk, threads.count())
