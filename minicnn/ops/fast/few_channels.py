"""Convolutions with few channels: a matrix product whose left matrix is two tables of offsets.

    y[p, f]  = activation(bias[f] + sum_t s[pixels[p] + taps[t]] b[t, f])
    dK[t, f] = sum_p s[pixels[p] + taps[t]] dy[p, f]

s        a band of the picture: the rows that some rows of the output see, copied with a border of
         zeros, small enough for the first cache
p, t     position in the band's output; cell (row, column, channel) of the kernel
pixels   where in s the window of p begins; the same for every band of every picture
taps     where in a window cell t lies
b        the kernel, in panels of columns

Design. `direct.py` writes the window of every position as a row of a matrix. With few channels
these are many short copies (9 numbers each for a 3x3 kernel on a picture of three colours), which
took longer than the arithmetic. Here a number of s is broadcast from where it lies, at the sum of
two offsets, whatever strides, dilation and row ends are in between. Forward, a tile of positions
by filters stays in registers while t runs; in the gradient of the kernel it is a tile of taps by
filters, while p runs over a band. Filters that fill no two vectors are multiplied by one vector,
and by half a vector of AVX-512, which some processors execute two at a time.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import direct, gemm, simd, threads
from minicnn.ops.fast.gemm import ROWS, TILE
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.tiles import (
    HALVES,
    LOW,
    MIDDLE,
    positions_half,
    positions_one,
    positions_two,
    taps_half,
    taps_half_low,
    taps_half_middle,
    taps_one,
    taps_one_low,
    taps_one_middle,
    taps_two,
    taps_two_low,
)

BAND_BYTES = 40 * 1024  # of s, of which a few rows are in use at a time
BAND = 1024  # positions; also what is summed up in one piece in the gradient of the kernel
STREAM_BYTES = 16 << 20  # outputs of 6 MB were quicker in the third cache
TASKS, FEWEST = 8, 64  # bands of all pictures, if they have as many positions
SEGMENTS = 16  # of a kernel gradient: enough for as many threads, with little to add up

(IMAGES, HEIGHT, ROW, OUT_HEIGHT, OUT_WIDTH, STEP_Y, BAND_HEIGHT, BAND_ROW, FIRST_ROW,
 FIRST_COLUMN, SEEN, PIXEL) = range(12)  # fmt: skip


# -- Kernels ---------------------------------------------------------------------------------------


@kernel
def _bands(table):
    """Of all pictures."""
    return table[IMAGES] * ((table[OUT_HEIGHT] + table[BAND_HEIGHT] - 1) // table[BAND_HEIGHT])


@kernel
def _copy_band(x, table, number, s):
    """The rows of x that the output rows of a band see, with zeros outside the picture, into s.

    Returns the first of the band's positions, counted through all pictures, and how many there are.
    """
    image, band = divmod(number, _bands(table) // table[IMAGES])
    row = band * table[BAND_HEIGHT]
    rows = min(table[BAND_HEIGHT], table[OUT_HEIGHT] - row)
    band_row, length = table[BAND_ROW], table[ROW]
    skip = min(max(-table[FIRST_COLUMN], 0), band_row)
    begin = max(table[FIRST_COLUMN], 0)
    count = max(min(length - begin, band_row - skip), 0)
    y = row * table[STEP_Y] + table[FIRST_ROW]
    seen = (rows - 1) * table[STEP_Y] + table[SEEN]
    for i in range(seen):
        at = i * band_row
        if y + i < 0 or y + i >= table[HEIGHT]:
            simd.zero_run(s, at, band_row)
        else:
            simd.zero_run(s, at, skip)
            source = (image * table[HEIGHT] + y + i) * length + begin
            simd.copy_run(s, at + skip, x, source, count)
            simd.zero_run(s, at + skip + count, band_row - skip - count)
    return (image * table[OUT_HEIGHT] + row) * table[OUT_WIDTH], rows * table[OUT_WIDTH]


@kernel
def _panel(left, lanes):
    """Vectors of the next panel, in halves, where `left` columns are left."""
    if HALVES:
        if 2 * left > 3 * lanes:
            return 4
        return 2 if 2 * left > lanes else 1
    return 4 if left > lanes else 2


@parallel_kernel
def _products(x, table, pixels, taps, count, b, filters, start, y, code, slope, streaming,
              scratch):  # fmt: skip
    for worker in prange(len(scratch)):
        _worker_products(np.int64(worker), x, table, pixels, taps, count, b, filters, start, y,
                         code, slope, streaming, scratch)  # fmt: skip


@kernel
def _worker_products(worker, x, table, pixels, taps, count, b, filters, start, y, code, slope,
                     streaming, scratches):  # fmt: skip
    s = scratches[worker]
    lanes = simd.VECTOR_BYTES // y.itemsize
    to_floor = start.size // 2 if code == gemm.FLOOR else 0  # see gemm.start_vector
    first, last = gemm.share(worker, len(scratches), _bands(table))
    for task in range(first, last):
        position, positions = _copy_band(x, table, task, s)
        c0 = position * filters
        column = 0
        while column < filters:
            left = filters - column
            panel = _panel(left, lanes)
            b0 = column * count
            if panel == 4:
                used = min(left - lanes, lanes)
                for p in range(0, positions, TILE):
                    positions_two(s, pixels, p, min(TILE, positions - p), taps, count, b, b0,
                                   2 * lanes, used, y, c0 + p * filters + column, filters, start,
                                   column, column + to_floor, code, slope, streaming)  # fmt: skip
                used += lanes
            elif panel == 2:
                used = min(left, lanes)
                for p in range(0, positions, ROWS):
                    positions_one(s, pixels, p, min(ROWS, positions - p), taps, count, b, b0,
                                   lanes, used, y, c0 + p * filters + column, filters, start,
                                   column, column + to_floor, code, slope, streaming)  # fmt: skip
            else:
                used = left
                for p in range(0, positions, ROWS):
                    positions_half(s, pixels, p, min(ROWS, positions - p), taps, count, b, b0,
                                    lanes // 2, used, y, c0 + p * filters + column, filters, start,
                                    column, column + to_floor, code, slope, streaming)  # fmt: skip
            column += used
        if code > gemm.FLOOR:
            gemm.activate_row(y, c0, positions * filters, code, slope)
    if streaming:
        simd.end_of_stream(y)


@parallel_kernel
def _gradients(x, table, pixels, taps, count, dy, filters, width, heights, dk, partial, scratch):
    for worker in prange(len(scratch)):
        _worker_gradients(np.int64(worker), x, table, pixels, taps, count, dy, filters, width,
                          heights, partial, scratch)  # fmt: skip
    for t in prange(count):
        _add_segments(np.int64(t), partial, width, filters, dk)


@kernel
def _worker_gradients(worker, x, table, pixels, taps, count, dy, filters, width, heights,
                      partials, scratches):  # fmt: skip
    s = scratches[worker]
    lanes = simd.VECTOR_BYTES // x.itemsize
    first_segment, last_segment = gemm.share(worker, len(scratches), len(partials))
    for segment in range(first_segment, last_segment):
        first, last = gemm.share(segment, len(partials), _bands(table))
        c = partials[segment]
        for task in range(first, last):
            position, positions = _copy_band(x, table, task, s)
            b0 = position * filters
            add = task > first
            column = 0
            while column < filters:
                left = filters - column
                panel = _panel(left, lanes)
                if panel == 4:
                    used, height = min(left - lanes, lanes), heights[0]
                elif panel == 2:
                    used, height = min(left, lanes), heights[1]
                else:
                    used, height = left, heights[1]
                for t in range(0, count, height):
                    at = t * width + column
                    if panel == 4 and height == TILE:
                        taps_two(s, pixels, positions, taps, t, height, dy, b0 + column,
                                 filters, used, c, at, width, add)  # fmt: skip
                    elif panel == 4:
                        taps_two_low(s, pixels, positions, taps, t, height, dy, b0 + column,
                                     filters, used, c, at, width, add)  # fmt: skip
                    elif panel == 2 and height == ROWS:
                        taps_one(s, pixels, positions, taps, t, height, dy, b0 + column,
                                 filters, used, c, at, width, add)  # fmt: skip
                    elif panel == 2 and height == MIDDLE:
                        taps_one_middle(s, pixels, positions, taps, t, height, dy, b0 + column,
                                        filters, used, c, at, width, add)  # fmt: skip
                    elif panel == 2:
                        taps_one_low(s, pixels, positions, taps, t, height, dy, b0 + column,
                                     filters, used, c, at, width, add)  # fmt: skip
                    elif height == ROWS:
                        taps_half(s, pixels, positions, taps, t, height, dy, b0 + column,
                                  filters, used, c, at, width, add)  # fmt: skip
                    elif height == MIDDLE:
                        taps_half_middle(s, pixels, positions, taps, t, height, dy, b0 + column,
                                         filters, used, c, at, width, add)  # fmt: skip
                    else:
                        taps_half_low(s, pixels, positions, taps, t, height, dy, b0 + column,
                                      filters, used, c, at, width, add)  # fmt: skip
                if panel == 4:
                    used += lanes
                column += used


@kernel
def _add_segments(t, partial, width, filters, dk):
    for j in range(filters):
        total = partial[0, t * width + j]
        for segment in range(1, len(partial)):
            total += partial[segment, t * width + j]
        dk[t * filters + j] = total


@kernel
def _pack(matrix, taps, inner, outer_step, inner_step, columns, step, packed):
    """Panels of row t = matrix[t // inner * outer_step + t % inner * inner_step + j * step]."""
    lanes = simd.VECTOR_BYTES // packed.itemsize
    column = 0
    while column < columns:
        width = _panel(columns - column, lanes) * lanes // 2
        for t in range(taps):
            at = column * taps + t * width
            source = t // inner * outer_step + t % inner * inner_step + column * step
            for j in range(width):
                packed[at + j] = matrix[source + j * step] if column + j < columns else 0
        column += width


# -- Plans: the tables for the kernels, made in Python once per shape ------------------------------


class Plan(NamedTuple):
    table: np.ndarray
    pixels: np.ndarray
    taps: np.ndarray
    count: int  # taps, without those that fill the last tile
    scratch: int  # elements of s


def _plan(images, size, channels, out_size, steps, rows, columns, itemsize):
    """Tables for windows that see row `rows[i]` + y * step, column `columns[j]` + x * step."""
    (height, width), (out_height, out_width) = size, out_size
    first_row, first_column = min(rows), min(columns)
    band_row = ((out_width - 1) * steps[1] + max(columns) - first_column + 1) * channels
    seen = max(rows) - first_row + 1
    even = max(images * out_height // TASKS, FEWEST // out_width)  # some for every thread
    fitting = (BAND_BYTES // (band_row * itemsize) - seen) // steps[0] + 1
    band = max(1, min(fitting, BAND // out_width, out_height, even))
    band = -(-out_height // -(-out_height // band))
    table = np.array(
        (images, height, width * channels, out_height, out_width, steps[0], band, band_row,
         first_row, first_column * channels, seen, channels),
        np.int64,
    )  # fmt: skip
    y, x = np.arange(band)[:, None] * steps[0], np.arange(out_width) * steps[1]
    pixels = (y * band_row + x * channels).reshape(-1)
    offsets = [
        (i - first_row) * band_row + (j - first_column) * channels for i in rows for j in columns
    ]
    taps = (np.array(offsets)[:, None] + np.arange(channels)).reshape(-1)
    more = np.zeros(ROWS, np.int64)
    scratch = ((band - 1) * steps[0] + seen) * band_row + 2 * simd.VECTOR_BYTES // itemsize
    return Plan(
        table,
        np.concatenate((pixels, more)).astype(np.int64),
        np.concatenate((taps, more)).astype(np.int64),
        len(taps),
        scratch,
    )


@functools.lru_cache(maxsize=256)
def _forward_plan(shape, itemsize):
    n, h, w, c = shape.input_shape
    (top, _), (left, _) = shape.padding
    kh, kw = shape.kernel_shape[:2]
    rows = [i * shape.dilation[0] - top for i in range(kh)]
    columns = [j * shape.dilation[1] - left for j in range(kw)]
    return _plan(n, (h, w), c, shape.output_shape[1:3], shape.strides, rows, columns, itemsize)


@functools.lru_cache(maxsize=256)
def _input_grad_plan(shape, itemsize):
    """dx[q] = sum over taps t of dy[q + before - t * dilation] kernel[t]^T, at stride 1."""
    n, h, w, _ = shape.input_shape
    (top, _), (left, _) = shape.padding
    kh, kw, _, filters = shape.kernel_shape
    rows = [top - i * shape.dilation[0] for i in range(kh)]
    columns = [left - j * shape.dilation[1] for j in range(kw)]
    return _plan(n, shape.output_shape[1:3], filters, (h, w), (1, 1), rows, columns, itemsize)


# -- The three products ----------------------------------------------------------------------------


def convolve(x, kernel, bias, shape, activation, y):
    """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None."""
    plan, columns = _forward_plan(shape, x.itemsize), shape.kernel_shape[3]
    _run(plan, x, (kernel, plan.count, 1, columns, 0, columns, 1), bias, activation, y)


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel at stride 1; flat arrays of one dtype."""
    plan = _input_grad_plan(shape, dy.itemsize)
    _, _, channels, filters = shape.kernel_shape
    matrix = kernel, plan.count, filters, channels * filters, 1, channels, filters
    _run(plan, dy, matrix, None, None, dx)


def _run(plan, x, matrix, bias, activation, y):
    table, lanes, columns = plan.table, simd.lanes(x.dtype), matrix[5]
    packed = arena.empty((plan.count * (columns + 2 * lanes),), x.dtype)
    _pack(*matrix, packed)
    start = gemm.start_vector(bias, activation, columns, x.dtype)
    tasks = table[IMAGES] * -(-table[OUT_HEIGHT] // table[BAND_HEIGHT])
    scratch = arena.empty((int(min(threads.count(), tasks)), plan.scratch), x.dtype)
    code, slope = gemm.activation_code(activation, x.dtype)
    streaming = code <= gemm.FLOOR and y.nbytes >= STREAM_BYTES and simd.streams(y, columns)
    _products(x, table, plan.pixels, plan.taps, plan.count, packed, columns, start, y, code, slope,
              streaming, scratch)  # fmt: skip


def _height(count, heights):
    """That of the tiles which cover `count` taps in the shortest time."""
    return min(heights, key=lambda height: -(-count // height) * (height + 2))


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat arrays of one dtype."""
    plan = _forward_plan(shape, x.itemsize)
    table, filters, lanes = plan.table, shape.kernel_shape[3], simd.lanes(x.dtype)
    width = -(-filters // lanes) * lanes
    tasks = table[IMAGES] * -(-table[OUT_HEIGHT] // table[BAND_HEIGHT])
    segments = int(min(SEGMENTS, tasks))
    size = (plan.count + ROWS) * width + lanes
    partial = arena.empty((segments, size), x.dtype)
    scratch = arena.empty((min(threads.count(), segments), plan.scratch), x.dtype)
    heights = _height(plan.count, (TILE, LOW)), _height(plan.count, (ROWS, MIDDLE, TILE))
    _gradients(x, table, plan.pixels, plan.taps, plan.count, dy, filters, width, heights, dk,
               partial, scratch)  # fmt: skip


def is_defined(shape, product):
    """Whether there are kernels for it."""
    return shape.groups == 1 and (product != direct.INPUT_GRAD or shape.strides == (1, 1))


def pays(shape, product):
    """Whether this is quicker than `direct`: with few numbers to copy for a position (measured on
    a Zen 4: 3x3 with 3 channels 1.3 to 3.5 times, with 32 channels 1.1 to 1.7 times)."""
    kh, kw, channels, filters = shape.kernel_shape
    if not is_defined(shape, product) or (kh, kw) == (1, 1):
        return False
    if product == direct.KERNEL_GRAD:
        return kh * kw * channels <= (800 if shape.strides == (1, 1) else 150)
    if product == direct.INPUT_GRAD:
        channels = filters
    return channels <= (32 if shape.dilation == (1, 1) else 16)
