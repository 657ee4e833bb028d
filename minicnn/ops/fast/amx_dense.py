"""The products of dense layers on the tile unit.

    y = activation(x K + bias)      dx = dy K^T      dK = x^T dy

a        rows of the left matrix, split: (row, step, part), a line each; of x^T (step, part, row)
b        a panel of 32 columns of the right matrix, split: (step, part, 16 columns), a tile each
c        a block of 32 x 32 sums

Design. A batch is small and the kernel large, so the panels of the right matrix are divided among
the threads, and each is split where its thread needs it, into its own second-level cache, for all
rows at once; the batch is split once for all threads, or by each of two (`sharing.copies`). Sums
have the order of k, whoever computes them.
Measured beside `dense_products` (two cores of a Xeon, milliseconds of y, dx, dK): 128 x 784 by
784 x 512: 0.37, 0.33, 0.30, not 0.48, 0.64, 0.48; 256 x 1024 by 1024 x 1024: 1.9, 1.6, 1.5, not
3.7, 2.6, 3.0.
"""

import math

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import amx, gemm, sharing, simd, threads
from minicnn.ops.fast.amx import BLOCK, LINE, PANEL, PARTS, STEP, TILE_BYTES
from minicnn.ops.fast.jit import kernel, parallel_kernel

HALF = STEP // 2
LEFT_BYTES = 8 << 20  # of the split left matrix; larger ones were not measured
SQUARES, SUMS = 2 * TILE_BYTES, 4 * BLOCK * PANEL  # bytes of scratch before those of panels


@kernel
def _pack_panel(matrix, row, step, depth, columns, zeros, squares, b):
    """`columns` (16 or 32) columns of b[k, j] = matrix[k * row + j * step]; all are addresses and
    numbers of floats, `row` or `step` is 1."""
    tiles = columns // HALF
    for k in range(0, depth, STEP):
        for tile in range(tiles):
            target = b + (k // STEP * PARTS * tiles + tile) * TILE_BYTES
            low = matrix + 4 * (k * row + tile * HALF * step)
            whole = k + HALF < depth
            distance = 4 * row
            if row == 1:
                amx.transpose(low, 4 * step, squares)
                if whole:
                    amx.transpose(low + 4 * HALF, 4 * step, squares + TILE_BYTES)
                low, distance = squares, LINE
            high = low + HALF * distance if whole else zeros
            for _ in range(HALF):
                amx.split_pair(low, high, target, tiles * TILE_BYTES)
                low += distance
                high += distance if whole else 0
                target += LINE


@kernel
def _write(c, rows, columns, y, y0, y_row, code, slope):
    """The first rows and columns of a block to y[y0], through the activation."""
    for i in range(rows):
        at = y0 + i * y_row
        simd.copy_run(y, at, c, i * PANEL, columns)
        if code != gemm.LINEAR:
            gemm.activate_row(y, at, columns, code, slope)


@parallel_kernel
def _products(x, rows, depth, matrix, row, step, columns, start, zeros, offsets, lines, scratch, y,
              code, slope):  # fmt: skip
    if len(lines) == 1:
        for i in prange(rows):
            _split_rows(x, depth, np.int64(i), np.int64(i) + 1, lines[0])
    for worker in prange(len(scratch)):
        if len(lines) > 1:
            _split_rows(x, depth, 0, rows, lines[np.int64(worker)])
        _worker_products(np.int64(worker), rows, depth, matrix, row, step, columns, start, zeros,
                         offsets, lines, scratch, y, code, slope)  # fmt: skip


@kernel
def _split_rows(x, depth, first, last, lines):
    """Rows first : last of x, of `depth` numbers, to those of `lines`."""
    for i in range(first, last):
        amx.split_row(x.ctypes.data + 4 * i * depth, depth, lines[i].ctypes.data)


@kernel
def _worker_products(worker, rows, depth, matrix, row, step, columns, start, zeros, offsets,
                     all_lines, scratches, y, code, slope):  # fmt: skip
    scratch, lines = scratches[worker], all_lines[worker % len(all_lines)]
    a_row = lines.shape[1] * lines.itemsize
    squares = scratch.ctypes.data
    c, b = scratch[SQUARES // 4 :], squares + SQUARES + SUMS
    first, last = gemm.share(worker, len(scratches), (columns + PANEL - 1) // PANEL)
    amx.begin()
    for j in range(first * PANEL, min(last * PANEL, columns), PANEL):
        width = min(PANEL, columns - j)
        _pack_panel(matrix.ctypes.data + 4 * j * step, row, step, depth, width, zeros.ctypes.data,
                    squares, b)  # fmt: skip
        for i in range(0, rows, BLOCK):
            amx.block_product(lines.ctypes.data + i * a_row, a_row, LINE, offsets.ctypes.data,
                              len(offsets), b, width, squares + SQUARES, 4 * PANEL,
                              start.ctypes.data + 4 * j, 0)  # fmt: skip
            _write(c, min(BLOCK, rows - i), width, y, i * columns + j, columns, code, slope)
    amx.end()


@parallel_kernel
def _gradients(x, dy, rows, depth, columns, zeros, offsets, panels, scratch, dk):
    count = (columns + PANEL - 1) // PANEL
    if len(panels) == 1:
        for panel in prange(count):
            _pack_dy(dy, rows, columns, np.int64(panel), np.int64(panel) + 1, zeros, panels[0])
    for worker in prange(len(scratch)):
        if len(panels) > 1:
            _pack_dy(dy, rows, columns, 0, count, zeros, panels[np.int64(worker)])
        _worker_gradients(np.int64(worker), x, depth, columns, zeros, offsets, panels, scratch,
                          dk)  # fmt: skip


@kernel
def _pack_dy(dy, rows, columns, first, last, zeros, panels):
    """Panels first : last of the `columns` of dy."""
    for panel in range(first, last):
        j = panel * PANEL
        _pack_panel(dy.ctypes.data + 4 * j, columns, gemm.ADJACENT, rows, min(PANEL, columns - j),
                    zeros.ctypes.data, zeros.ctypes.data, panels[panel].ctypes.data)  # fmt: skip


@kernel
def _worker_gradients(worker, x, depth, columns, zeros, offsets, all_panels, scratches, dk):
    scratch, panels = scratches[worker], all_panels[worker % len(all_panels)]
    squares = scratch.ctypes.data
    c, a = scratch[SQUARES // 4 :], squares + SQUARES + SUMS
    blocks = (depth + BLOCK - 1) // BLOCK
    first, last = gemm.share(worker, len(scratches), blocks)
    amx.begin()
    for i in range(first * BLOCK, min(last * BLOCK, depth), BLOCK):
        high = min(BLOCK, depth - i)
        for step in range(len(offsets)):
            for half in range(0, high, HALF):
                source = x.ctypes.data + 4 * (step * STEP * depth + i + half)
                amx.split_columns(source, 4 * depth, squares, a + offsets[step] + half * LINE,
                                  BLOCK * LINE)  # fmt: skip
        for j in range(0, columns, PANEL):
            width = min(PANEL, columns - j)
            amx.block_product(a, LINE, BLOCK * LINE, offsets.ctypes.data, len(offsets),
                              panels[j // PANEL].ctypes.data, width, squares + SQUARES,
                              4 * PANEL, 0, 0)  # fmt: skip
            _write(c, high, width, dk, i * columns + j, columns, gemm.LINEAR, zeros[0])
    amx.end()


# -- The products ----------------------------------------------------------------------------------


def fits(rows, depth, columns):
    """Whether a product has whole tiles and a left matrix that stays near."""
    whole = depth % HALF == columns % HALF == 0
    return whole and rows >= BLOCK and rows * (-(-depth // STEP) * PARTS | 1) * LINE <= LEFT_BYTES


def fits_gradient(rows, depth, columns):
    """Whether a gradient of the kernel, which sums over the rows, has whole tiles."""
    return rows % STEP == depth % HALF == columns % HALF == 0


def multiply(x, matrix, transposed, bias, sizes, activation, y):
    """As `dense_products.multiply`; float32."""
    rows, depth, columns = sizes
    steps = -(-depth // STEP)
    start = gemm.start_vector(bias, activation, columns, x.dtype)
    code, slope = gemm.activation_code(activation, x.dtype)
    workers = min(threads.count(), -(-columns // PANEL))
    row, step = (1, depth) if transposed else (columns, 1)
    split = -(-rows // BLOCK) * BLOCK, (steps * PARTS | 1) * LINE // 4
    lines, scratch = arena.scratch(
        ((sharing.copies(workers, 4 * math.prod(split)), *split), np.float32),
        _of_workers(workers, amx.packed_panel(steps)),
    )
    _products(x, rows, depth, matrix, row, step, columns, start, _zeros(), _evenly(steps, LINE),
              lines, scratch, y, code, slope)  # fmt: skip


def kernel_gradient(x, dy, sizes, dk):
    """As `dense_products.kernel_gradient`; float32."""
    rows, depth, columns = sizes
    steps = rows // STEP
    workers = min(threads.count(), -(-depth // BLOCK))
    split = -(-columns // PANEL), amx.packed_panel(steps) // 4
    panels, scratch = arena.scratch(
        ((sharing.copies(workers, 4 * math.prod(split)), *split), np.float32),
        _of_workers(workers, steps * PARTS * BLOCK * LINE),
    )
    _gradients(x, dy, rows, depth, columns, _zeros(), _evenly(steps, BLOCK * LINE), panels,
               scratch, dk)  # fmt: skip


def _evenly(steps, part_bytes):
    """Where in a the steps begin."""
    return np.arange(steps) * PARTS * part_bytes


def _zeros():
    return np.zeros(HALF, np.float32)


def _of_workers(workers, byte_count):
    """Room for their squares, sums and so many bytes."""
    return arena.rows(workers, (SQUARES + SUMS + byte_count) // 4, np.float32)
