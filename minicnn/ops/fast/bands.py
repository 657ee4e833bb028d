"""Convolutions that gather nothing: a product whose left matrix is two tables of offsets.

    y[p, f]  = activation(bias[f] + sum_t s[pixels[p] + taps[t]] b[t, f])
    dK[t, f] = sum_p s[pixels[p] + taps[t]] dy[p, f]
    dx       = the first equation with dy for x, once for each phase, see `_input_grad_plan`

s        a band of the picture: the rows that some rows of the output see, copied with a border of
         zeros; or the picture itself, where no window leaves it and windows do not overlap
p, t     position in the band's output; cell (row, column, channel) of the kernel
pixels   where in s the window of p begins; the same for every band of every picture
taps     where in a window cell t lies
outs     where in y the outputs of p lie, from the band's beginning
b        the kernel, in panels of columns

Design. `direct.py` writes the window of every position as a row of a matrix: many short copies,
which take longer than the arithmetic where channels are few (9 numbers each for a 3x3 kernel on a
picture of three colours), and as many numbers as the kernel has cells for every one of x. Here a
number of s is broadcast from where it lies, at the sum of two offsets, whatever strides, dilation
and row ends are in between. Forward, a tile of positions by filters stays in registers while t
runs; in the gradient of the kernel it is a tile of taps by filters, while p runs over a band. Rows
of the kernel that see nothing but border are left out. Filters that fill no two vectors are
multiplied by one vector, and by half a vector of AVX-512, which some processors execute two at a
time. Measured beside `direct.py` (two cores of an EPYC with Zen 4): gradient of the input of 32
pictures 56 x 56, 64 channels to 128, stride 2: 18.6 ms, not 26.8; of the kernel of 16 pictures
28 x 28, 7x7, 32 channels to 32: 5.8 ms, not 11.1.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import gemm, sharing, simd, threads
from minicnn.ops.fast.channel_sums import add_rows, fold_sums
from minicnn.ops.fast.direct import KERNEL_GRAD
from minicnn.ops.fast.gemm import ROWS, TILE
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.pooling import max_of_row, rectify, spans, spread_row
from minicnn.ops.fast.tiles import (
    HALVES,
    LOW,
    MIDDLE,
    RUN,
    positions_half,
    positions_one,
    positions_one_even,
    positions_two,
    taps_half,
    taps_half_low,
    taps_half_middle,
    taps_one,
    taps_one_low,
    taps_one_middle,
    taps_one_runs,
    taps_two,
    taps_two_low,
)
from minicnn.ops.shapes import PAIRS

BAND_BYTES = 192 * 1024  # of s: leaves most of a second cache of 1 MB to the kernel and dy
WIDEST = 128 * 1024  # elements of the rows that an output row sees: half of a second cache
APART = 128  # elements; pixels that lie so far apart share few sets of the first cache
BAND = 1024  # positions; also what is summed up in one piece in the gradient of the kernel
STORED = 0  # for an argument of kernels, see gemm.ORIGIN: not past the caches
SIDE = PAIRS[0][0]  # of the windows whose maxima are taken while a band is in the caches
WORTH_LOOKING = 128  # taps, of which those that see only border are searched for
TASKS, FEWEST = 8, 64  # bands of all pictures, if they have as many positions
PIECES = 16  # of a kernel gradient: enough for as many threads, with little to add up
PARTIAL_BYTES = 2 << 20  # all segments of a kernel gradient together

(IMAGES, HEIGHT, ROW, OUT_HEIGHT, STEP_Y, BAND_HEIGHT, BAND_ROW, FIRST_ROW, FIRST_COLUMN, SEEN,
 IN_PLACE, Y_IMAGE, Y_ROW, COVERED) = range(14)  # fmt: skip
# Of a phase: its place in `pixels` and `outs`, its size, its place in `taps`, the rows of its
# kernel and their place in `tap_rows`, and the taps of each.
FIRST_PIXEL, PHASE_WIDTH, PHASE_HEIGHT, FIRST_TAP, TAP_ROWS, FIRST_TAP_ROW, ROW_TAPS = range(7)


# -- Kernels ---------------------------------------------------------------------------------------


@kernel
def _bands(table):
    """Of a picture."""
    return (table[OUT_HEIGHT] + table[BAND_HEIGHT] - 1) // table[BAND_HEIGHT]


@kernel
def _band(x, table, image, row, s):
    """What the output rows from `row` on see of x: a part of x, or copied into s with a border."""
    band_row, length = table[BAND_ROW], table[ROW]
    y = row * table[STEP_Y] + table[FIRST_ROW]
    if table[IN_PLACE]:
        return x[(image * table[HEIGHT] + y) * length :]
    skip = min(max(-table[FIRST_COLUMN], 0), band_row)
    begin = max(table[FIRST_COLUMN], 0)
    count = max(min(length - begin, band_row - skip), 0)
    rows = min(table[BAND_HEIGHT], table[OUT_HEIGHT] - row)
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
    return s


@kernel
def _seen_rows(table, phase, tap_rows, first, last):
    """(first, last) of the kernel's rows that see more than border from output rows first..last."""
    begin, end = np.int64(0), phase[TAP_ROWS]
    at = phase[FIRST_TAP_ROW]
    while begin < end and last * table[STEP_Y] + tap_rows[at + begin] < 0:
        begin += 1
    while end > begin and first * table[STEP_Y] + tap_rows[at + end - 1] >= table[HEIGHT]:
        end -= 1
    return begin, end


@kernel
def _panel(left, lanes):
    """Vectors of the next panel, in halves, where `left` columns are left."""
    if HALVES:
        if 2 * left > 3 * lanes:
            return 4
        return 2 if 2 * left > lanes else 1
    return 4 if left > lanes else 2


@parallel_kernel
def _products(x, table, phases, pixels, outs, taps, tap_rows, matrix, starts, step, filters,
              packed, start, y, code, slope, streaming, scratch, taken):  # fmt: skip
    sharing.open_tasks(taken)
    for number in prange(len(starts)):
        _pack(np.int64(number), phases, matrix, starts, step, filters, packed)
    for worker in prange(len(scratch)):
        _worker_products(np.int64(worker), x, table, phases, pixels, outs, taps, tap_rows, packed,
                         filters, start, y, code, slope, streaming, scratch, taken)  # fmt: skip


@kernel
def _worker_products(worker, x, table, phases, pixels, outs, taps, tap_rows, b, filters, start, y,
                     code, slope, streaming, scratches, taken):  # fmt: skip
    bands = _bands(table)
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(scratches), taken)
        if task < 0:
            continue
        image, band = divmod(task, bands)
        row = band * table[BAND_HEIGHT]
        _band_products(x, table, image, row, phases, pixels, outs, taps, tap_rows, b, filters,
                       start, y, image * table[Y_IMAGE] + row * table[Y_ROW], code, slope,
                       streaming, scratches[worker])  # fmt: skip
    if streaming:
        simd.end_of_stream(y)


@kernel
def _band_products(x, table, image, row, phases, pixels, outs, taps, tap_rows, b, filters, start, y,
                   c0, code, slope, streaming, scratch):  # fmt: skip
    """The outputs of the band that begins with an output row of a picture, from y[c0] on."""
    s = _band(x, table, image, row, scratch)
    if not table[COVERED]:
        size = min(table[BAND_HEIGHT] * table[Y_ROW], table[Y_IMAGE] - row * table[Y_ROW])
        y[c0 : c0 + size] = 0
    packed_at = 0
    for i in range(len(phases)):
        phase = phases[i]
        positions = min(table[BAND_HEIGHT], phase[PHASE_HEIGHT] - row) * phase[PHASE_WIDTH]
        depth = phase[TAP_ROWS] * phase[ROW_TAPS]
        if depth:
            _phase_products(s, table, row, phase, positions, pixels, outs, taps, tap_rows, b,
                            packed_at, filters, start, y, c0, code, slope, streaming)  # fmt: skip
        packed_at += depth * _packed_columns(filters, simd.VECTOR_BYTES // y.itemsize)
        if code > gemm.FLOOR:
            gemm.activate_row(y, c0, positions * filters, code, slope)


@parallel_kernel
def _pooled_products(x, table, phases, pixels, outs, taps, tap_rows, matrix, starts, step, filters,
                     packed, start, code, slope, streaming, scratch, taken, bands, down, across,
                     side, y, index):  # fmt: skip
    """y and index: the maxima of windows of side x side and their places."""
    sharing.open_tasks(taken)
    for number in prange(len(starts)):
        _pack(np.int64(number), phases, matrix, starts, step, filters, packed)
    for worker in prange(len(scratch)):
        _worker_maxima(np.int64(worker), x, table, phases, pixels, outs, taps, tap_rows, packed,
                       filters, start, code, slope, streaming, scratch, taken, bands[worker], down,
                       across, side, y, index)  # fmt: skip


@kernel
def _worker_maxima(worker, x, table, phases, pixels, outs, taps, tap_rows, b, filters, start, code,
                   slope, streaming, scratches, taken, band, down, across, side, y,
                   index):  # fmt: skip
    """The outputs of a band, which holds whole windows, stay in the caches until it is pooled."""
    bands, line = _bands(table), len(across) * filters
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(scratches), taken)
        if task < 0:
            continue
        image, number = divmod(task, bands)
        row = number * table[BAND_HEIGHT]
        _band_products(x, table, image, row, phases, pixels, outs, taps, tap_rows, b, filters,
                       start, band, gemm.ORIGIN, code, slope, streaming,
                       scratches[worker])  # fmt: skip
        for i in range(row // side, min((row + table[BAND_HEIGHT]) // side, len(down))):
            max_of_row(band, -row * table[Y_ROW], down[i], across, table[Y_ROW] // filters, filters,
                       side, y, index, (image * len(down) + i) * line)  # fmt: skip


@kernel
def _phase_products(s, table, row, phase, positions, pixels, outs, taps, tap_rows, b, packed_at,
                    filters, start, y, c0, code, slope, streaming):  # fmt: skip
    lanes = simd.VECTOR_BYTES // y.itemsize
    to_floor = start.size // 2 if code == gemm.FLOOR else 0  # see gemm.start_vector
    depth, out_width = phase[TAP_ROWS] * phase[ROW_TAPS], phase[PHASE_WIDTH]
    column = 0
    while column < filters:
        left = filters - column
        panel = _panel(left, lanes)
        used = min(left, panel * lanes // 2)
        width = panel * lanes // 2
        height = TILE if panel == 4 else ROWS
        for i in range(0, positions, height):
            valid = min(height, positions - i)
            begin, end = np.int64(0), phase[TAP_ROWS]
            if depth >= WORTH_LOOKING:
                begin, end = _seen_rows(table, phase, tap_rows, row + i // out_width,
                                        row + (i + valid - 1) // out_width)  # fmt: skip
                if begin == end:
                    begin, end = 0, phase[TAP_ROWS]
            t = begin * phase[ROW_TAPS]
            count = end * phase[ROW_TAPS] - t
            t0, p = phase[FIRST_TAP] + t, phase[FIRST_PIXEL] + i
            b0 = packed_at + column * depth + t * width
            if panel == 4:
                positions_two(s, pixels, outs, p, valid, taps, t0, count, b, b0, width,
                              used - lanes, y, c0 + column, start, column, column + to_floor, code,
                              slope, streaming)  # fmt: skip
            elif panel == 2 and _is_even(pixels, p):
                positions_one_even(s, pixels, outs, p, valid, taps, t0, count, b, b0, width, used,
                                   y, c0 + column, start, column, column + to_floor, code, slope,
                                   streaming)  # fmt: skip
            elif panel == 2:
                positions_one(s, pixels, outs, p, valid, taps, t0, count, b, b0, width, used, y,
                              c0 + column, start, column, column + to_floor, code, slope,
                              streaming)  # fmt: skip
            else:
                positions_half(s, pixels, outs, p, valid, taps, t0, count, b, b0, width, used, y,
                               c0 + column, start, column, column + to_floor, code, slope,
                               streaming)  # fmt: skip
        column += used


@kernel
def _is_even(pixels, p):
    """Whether the pixels of a tile are equally far apart: a tile over the end of a row has one
    other distance among its own."""
    return pixels[p + ROWS - 1] - pixels[p] == (ROWS - 1) * (pixels[p + 1] - pixels[p])


@kernel
def _packed_columns(filters, lanes):
    """Of all panels."""
    columns = 0
    while columns < filters:
        columns += _panel(filters - columns, lanes) * lanes // 2
    return columns


@kernel
def _pack(number, phases, matrix, starts, step, filters, packed):
    """Row `number` of b, of all phases' rows, matrix[starts[number] + j * step], into panels."""
    lanes = simd.VECTOR_BYTES // packed.itemsize
    columns, t, packed_at = _packed_columns(filters, lanes), number, 0
    for phase in range(len(phases)):
        depth = phases[phase, TAP_ROWS] * phases[phase, ROW_TAPS]
        if t < depth:
            break
        t -= depth
        packed_at += depth * columns
    column = 0
    while column < filters:
        width = _panel(filters - column, lanes) * lanes // 2
        at, source = packed_at + column * depth + t * width, starts[number] + column * step
        used = min(width, filters - column)
        for j in range(used):
            packed[at + j] = matrix[source + j * step]
        for j in range(used, width):
            packed[at + j] = 0
        column += width


@parallel_kernel
def _gradients(x, table, phases, pixels, taps, tap_rows, count, dy, index, maxima, slope, down,
               across, filters, width, heights, pieces, dk, partial, scratch, taken, panels_at,
               spread, sums, total):  # fmt: skip
    """dk; with an index of winners dy is the gradient of `maxima`, and total (1, f) its sum before
    the rectifier."""
    sharing.open_tasks(taken)
    sums[:] = 0
    for worker in prange(len(scratch)):
        _worker_gradients(np.int64(worker), x, table, phases[0], pixels, taps, tap_rows, count, dy,
                          index, maxima, slope, down, across, filters, width, heights, pieces,
                          partial, scratch, taken, panels_at, spread[worker], sums)  # fmt: skip
    for t in prange(count):
        _add_segments(np.int64(t), partial, width, filters, dk)
    if index.size:
        fold_sums(sums, total)


@kernel
def _worker_gradients(worker, x, table, phase, pixels, taps, tap_rows, count, dy, index, maxima,
                      slope, down, across, filters, width, heights, pieces, partials, scratches,
                      taken, panels_at, spread, sums):  # fmt: skip
    bands, out_width = _bands(table), phase[PHASE_WIDTH]
    panels = scratches[worker, panels_at:]
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(scratches), taken)
        if task < 0:
            continue
        segment, piece = divmod(task, pieces)
        first, last = gemm.share(segment, len(partials), table[IMAGES] * bands)
        for number in range(first, last):
            image, band = divmod(number, bands)
            row = band * table[BAND_HEIGHT]
            s = _band(x, table, image, row, scratches[worker])
            rows = min(table[BAND_HEIGHT], table[OUT_HEIGHT] - row)
            b, b0 = dy, (image * table[OUT_HEIGHT] + row) * out_width * filters
            if index.size:
                b, b0 = spread, np.int64(0)
                _spread_band(dy, index, maxima, slope, down, across, image, row, rows, out_width,
                             filters, spread, sums[segment, piece])  # fmt: skip
            _band_gradients(s, table, row, rows, phase, pixels, taps, tap_rows, count, b, b0,
                            panels, filters, width, heights, piece, pieces, partials[segment],
                            number > first)  # fmt: skip


@kernel
def _spread_band(dy, index, maxima, slope, down, across, image, row, rows, w, c, spread,
                 sums):  # fmt: skip
    """The gradient of `rows` output rows from that of the maxima of their windows, which is dy,
    times slope where a maximum is not positive; that is added to `sums`, too."""
    line, last = len(across) * c, len(across) - 1
    first, end = row // SIDE, min((row + rows + SIDE - 1) // SIDE, len(down))
    covered = across[last, 0] + across[last, 2]
    if covered < w or first == end or down[end - 1, 0] + down[end - 1, 2] < row + rows:
        spread[: rows * w * c] = 0
    g, group = np.empty(line, dy.dtype), np.empty(c, dy.dtype)
    for i in range(first, end):
        at = (image * len(down) + i) * line
        rectify(dy[at : at + line], maxima[at : at + line], slope, g)
        add_rows(g, gemm.ORIGIN, line, sums, group)
        spread_row(g, index[at : at + line], gemm.ORIGIN, down[i], across, w, c, SIDE, spread,
                   -row * w * c, STORED)  # fmt: skip


@kernel
def _band_gradients(s, table, row, rows, phase, pixels, taps, tap_rows, count, dy, dy0, panels,
                    filters, width, heights, piece, pieces, c, add):  # fmt: skip
    lanes = simd.VECTOR_BYTES // c.itemsize
    out_width, row_taps = phase[PHASE_WIDTH], phase[ROW_TAPS]
    packed = filters > 2 * lanes  # else the rows of the only panel lie side by side
    if packed:
        for p in range(rows * out_width):
            gemm.pack_row(dy, dy0 + p * filters, gemm.ADJACENT, filters, panels, gemm.ORIGIN, p,
                          rows * out_width)  # fmt: skip
    column = 0
    while column < filters:
        left = filters - column
        panel = _panel(left, lanes)
        if panel == 4:
            used, height = min(left - lanes, lanes), heights[0]
        else:
            used, height = min(left, panel * lanes // 2), heights[1]
        b, b_start, b_row = dy, dy0 + column, filters
        if packed:
            begun = column // (2 * lanes) * 2 * lanes
            b_row = 2 * lanes if filters - begun > lanes else lanes
            b, b_start = panels, begun * rows * out_width + column - begun
        first_tile, last_tile = gemm.share(piece, pieces, (count + height - 1) // height)
        for t in range(first_tile * height, last_tile * height, height):
            # Output rows from which the rows of the kernel in this tile see the picture.
            begin, end = np.int64(0), rows
            last_row = tap_rows[(min(t + height, count) - 1) // row_taps]
            while begin < end - 1 and (row + begin) * table[STEP_Y] + last_row < 0:
                begin += 1
            first_row = tap_rows[t // row_taps]
            while end > begin + 1 and (row + end - 1) * table[STEP_Y] + first_row >= table[HEIGHT]:
                end -= 1
            seen, positions = pixels[begin * out_width :], (end - begin) * out_width
            at, b0 = t * width + column, b_start + begin * out_width * b_row
            if panel == 4 and height == TILE:
                taps_two(s, seen, positions, taps, t, height, b, b0, b_row, used, c, at, width,
                         add)  # fmt: skip
            elif panel == 4:
                taps_two_low(s, seen, positions, taps, t, height, b, b0, b_row, used, c, at,
                             width, add)  # fmt: skip
            elif panel == 2 and height == ROWS and _in_runs(taps, t):
                taps_one_runs(s, seen, positions, taps, t, height, b, b0, b_row, used, c, at, width,
                              add)  # fmt: skip
            elif panel == 2 and height == ROWS:
                taps_one(s, seen, positions, taps, t, height, b, b0, b_row, used, c, at, width,
                         add)  # fmt: skip
            elif panel == 2 and height == MIDDLE:
                taps_one_middle(s, seen, positions, taps, t, height, b, b0, b_row, used, c, at,
                                width, add)  # fmt: skip
            elif panel == 2:
                taps_one_low(s, seen, positions, taps, t, height, b, b0, b_row, used, c, at,
                             width, add)  # fmt: skip
            elif height == ROWS:
                taps_half(s, seen, positions, taps, t, height, b, b0, b_row, used, c, at, width,
                          add)  # fmt: skip
            elif height == MIDDLE:
                taps_half_middle(s, seen, positions, taps, t, height, b, b0, b_row, used, c, at,
                                 width, add)  # fmt: skip
            else:
                taps_half_low(s, seen, positions, taps, t, height, b, b0, b_row, used, c, at,
                              width, add)  # fmt: skip
        column += used + lanes if panel == 4 else used


@kernel
def _in_runs(taps, t):
    """Whether the taps of a tile lie side by side, RUN at a time."""
    for i in range(t, t + ROWS, RUN):
        last = min(i + RUN, t + ROWS) - 1
        if taps[last] - taps[i] != last - i:
            return False
    return True


@kernel
def _add_segments(t, partial, width, filters, dk):
    for j in range(filters):
        total = partial[0, t * width + j]
        for segment in range(1, len(partial)):
            total += partial[segment, t * width + j]
        dk[t * filters + j] = total


# -- Plans: the tables for the kernels, made in Python once per shape ------------------------------


class Plan(NamedTuple):
    table: np.ndarray
    phases: np.ndarray
    pixels: np.ndarray
    outs: np.ndarray
    taps: np.ndarray  # of all phases; all these tables have a tile more than is used
    tap_rows: np.ndarray  # rows of x that the kernels' rows see, from row * step on
    starts: np.ndarray  # where in the kernel the row of b for each tap begins
    scratch: int  # elements of s
    tasks: int  # bands of all pictures


class Phase(NamedTuple):
    """Outputs that see the same taps: all, or of an input's gradient those of one residue."""

    size: tuple  # outputs, in rows and columns
    start: int  # where in y the first one lies
    rows: list  # (row of x that the first output sees, row of the kernel)
    columns: list  # the same for columns


def _plan(images, size, channels, steps, phases, y_strides, tap_start, step, itemsize, unit=1):
    """Tables for windows of `channels` x rows x columns of each phase.

    `tap_start(i, j)` is where in the kernel tap (i, j) begins, `step` from channel to channel; the
    height of a band is a multiple of `unit`.
    """
    (height, width), (y_image, y_row, y_pixel) = size, y_strides
    out_height, out_width = (max(phase.size[axis] for phase in phases) for axis in (0, 1))
    rows = [y for phase in phases for y, _ in phase.rows] or [0]
    columns = [x for phase in phases for x, _ in phase.columns] or [0]
    first_row, first_column = min(rows), min(columns)
    seen = max(rows) - first_row + 1
    band_row = ((out_width - 1) * steps[1] + max(columns) - first_column + 1) * channels
    in_place = unit == 1 and _is_in_place(size, (out_height, out_width), steps, rows, columns)
    if in_place:
        first_row, first_column, band_row = 0, 0, width * channels
    even = max(images * out_height // TASKS, FEWEST // out_width)  # some for every thread
    fitting = (BAND_BYTES // (band_row * itemsize) - seen) // steps[0] + 1
    most = max(1, min(fitting, BAND // out_width, out_height, even))
    least = min(most, seen // steps[0])  # with fewer, most rows are copied for two bands

    def tiles(height):
        bands, rest = divmod(out_height, height)
        return bands * -(-height * out_width // TILE) + -(-rest * out_width // TILE)

    heights = [h for h in range(most, max(1, least) - 1, -1) if h % unit == 0]
    band = min(heights, key=tiles, default=unit)  # of equal ones the highest
    if in_place:  # no band is lower than the others: nothing below the picture is read
        band = max(height for height in range(1, most + 1) if out_height % height == 0)
    table = (images, height, width * channels, out_height, steps[0], band, band_row, first_row,
             first_column * channels, seen, in_place, y_image, y_row,
             all(phase.rows and phase.columns for phase in phases))  # fmt: skip
    tables = [[], [], [], [], [], []]
    described, pixels, outs, taps, tap_rows, starts = tables
    channel = np.arange(channels)
    for phase in phases:
        y, x = np.arange(band)[:, None], np.arange(phase.size[1])
        row_taps = len(phase.columns) * channels
        described.append((len(pixels), phase.size[1], phase.size[0], len(taps), len(phase.rows),
                          len(tap_rows), row_taps))  # fmt: skip
        pixels += [*(y * steps[0] * band_row + x * steps[1] * channels).flat, *[0] * ROWS]
        outs += [*(y * y_row + x * y_pixel + phase.start).flat, *[0] * ROWS]
        tap_rows += [row for row, _ in phase.rows]
        for row, i in phase.rows:
            for column, j in phase.columns:
                offset = (row - first_row) * band_row + (column - first_column) * channels
                taps += list(offset + channel)
                starts += list(tap_start(i, j) + channel * step)
    scratch = ((band - 1) * steps[0] + seen) * band_row + 2 * simd.VECTOR_BYTES // itemsize
    taps += [0] * ROWS
    return Plan(
        *(np.array(each, np.int64) for each in (table, *tables)),
        0 if in_place else scratch,
        images * -(-out_height // band),
    )


def _is_in_place(size, out_size, steps, rows, columns):
    """Whether a copy would be larger than what is seen of it, and no window leaves the picture."""
    for length, count, step, seen in zip(size, out_size, steps, (rows, columns), strict=True):
        if min(seen) < 0 or (count - 1) * step + max(seen) >= length:
            return False
    return len(rows) * len(columns) < steps[0] * steps[1]


@functools.lru_cache(maxsize=256)
def _forward_plan(shape, itemsize, unit=1):
    n, h, w, c = shape.input_shape
    (top, _), (left, _) = shape.padding
    kh, kw, _, filters = shape.kernel_shape
    _, oh, ow, _ = shape.output_shape
    rows = [(i * shape.dilation[0] - top, i) for i in range(kh)]
    columns = [(j * shape.dilation[1] - left, j) for j in range(kw)]
    phase = Phase((oh, ow), 0, rows, columns)
    strides = oh * ow * filters, ow * filters, filters
    return _plan(n, (h, w), c, shape.strides, [phase], strides,
                 lambda i, j: (i * kw + j) * c * filters, filters, itemsize, unit)  # fmt: skip


@functools.lru_cache(maxsize=256)
def _input_grad_plan(shape, itemsize):
    """A phase for each residue of the input pixel modulo the stride.

    dx[q] collects dy[o] kernel[t]^T over the taps t with o * stride + t * dilation - before = q.
    Pixels q = phase + stride * j use those taps for which o is an integer, and for such a tap o
    is j plus a constant: a convolution of dy without stride. Pixels without taps are zero.
    """
    n, h, w, c = shape.input_shape
    kh, kw, _, filters = shape.kernel_shape

    def seen(axis, phase):
        size, stride, rate = shape.kernel_shape[axis], shape.strides[axis], shape.dilation[axis]
        shifts = [(phase + shape.padding[axis][0] - t * rate, t) for t in reversed(range(size))]
        return [(shift // stride, t) for shift, t in shifts if shift % stride == 0]

    steps = shape.strides
    phases = [
        Phase((-(-(h - y) // steps[0]), -(-(w - x) // steps[1])), (y * w + x) * c,
              seen(0, y), seen(1, x))
        for y in range(min(steps[0], h))
        for x in range(min(steps[1], w))
    ]  # fmt: skip
    strides = h * w * c, steps[0] * w * c, steps[1] * c
    return _plan(n, shape.output_shape[1:3], filters, (1, 1), phases, strides,
                 lambda i, j: (i * kw + j) * c * filters, 1, itemsize)  # fmt: skip


# -- The three products ----------------------------------------------------------------------------


def convolve(x, kernel, bias, shape, activation, y, pooled_shape=None, index=None):
    """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None.

    With pooled_shape y has that shape and holds the maxima of 2x2 windows, and `index`, if given,
    their places in them.
    """
    filters = shape.kernel_shape[3]
    if pooled_shape is None:
        shape = _as_one_column(shape)
        plan = _forward_plan(shape, x.itemsize)
        _run(plan, x, kernel, 1, filters, bias, activation, y)
        return
    plan = _forward_plan(shape, x.itemsize, SIDE)
    outputs = int(plan.table[BAND_HEIGHT] * plan.table[Y_ROW]) + 2 * simd.lanes(x.dtype)
    places = y.shape if index is None else (0,)
    arguments, code, slope, scratch, taken, band, nowhere = _prepared(
        plan, x, kernel, 1, filters, bias, activation,
        arena.rows(_workers(plan), outputs, x.dtype), (places, np.uint8),
    )  # fmt: skip
    _pooled_products(*arguments, code, slope, False, scratch, taken, band,
                     *_spans(shape, pooled_shape), SIDE, y,
                     nowhere if index is None else index)  # fmt: skip


@functools.lru_cache(maxsize=64)
def _spans(shape, pooled_shape):
    """The tables of pooling.py for 2x2 windows of the outputs."""
    sizes = zip(shape.output_shape[1:3], pooled_shape[1:3], strict=True)
    return [spans(length, SIDE, SIDE, 0, count) for length, count in sizes]


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat arrays of one dtype."""
    shape = _as_one_column(shape)
    _, _, channels, filters = shape.kernel_shape
    _run(_input_grad_plan(shape, dy.itemsize), dy, kernel, filters, channels, None, None, dx)


def _as_one_column(shape):
    """The same product with all pixels below each other, where each is seen by itself."""
    (kh, kw, channels, filters), (n, oh, ow, _) = shape.kernel_shape, shape.output_shape
    if (kh, kw) != (1, 1) or shape.input_shape[:3] != (n, oh, ow) or any(map(any, shape.padding)):
        return shape
    pixels = n * oh * ow
    return shape._replace(
        input_shape=(1, pixels, 1, channels),
        output_shape=(1, pixels, 1, filters),
        strides=(1, 1),
        padding=((0, 0), (0, 0)),
    )


def _run(plan, x, kernel, step, columns, bias, activation, y):
    given = plan, x, kernel, step, columns, bias, activation
    arguments, code, slope, scratch, taken = _prepared(*given)
    streaming = code <= gemm.FLOOR and simd.streams(y, columns, simd.LATE_STREAM_BYTES, 2)
    _products(*arguments, y, code, slope, streaming, scratch, taken)


def _workers(plan):
    return min(threads.count(), plan.tasks)


def _prepared(plan, x, kernel, step, columns, bias, activation, *more):
    """What both kernels take first, the activation's code and number, room for the bands, for what
    is taken and, with the shapes and dtypes in `more`, for other things."""
    packed, *scratch = arena.scratch(
        ((len(plan.starts) * (columns + 2 * simd.lanes(x.dtype)),), x.dtype),
        arena.rows(_workers(plan), plan.scratch, x.dtype),
        ((plan.tasks,), np.int64),
        *more,
    )
    start = gemm.start_vector(bias, activation, columns, x.dtype)
    arguments = (x, plan.table, plan.phases, plan.pixels, plan.outs, plan.taps, plan.tap_rows,
                 kernel, plan.starts, step, columns, packed, start)  # fmt: skip
    return arguments, *gemm.activation_code(activation, x.dtype), *scratch


def _height(count, heights):
    """That of the tiles which cover `count` taps in the shortest time."""
    return min(heights, key=lambda height: -(-count // height) * (height + 2))


def convolve_kernel_grad(x, dy, shape, dk, pooled=None):
    """dk from x and dy; flat arrays of one dtype.

    With pooled, (shape, index, maxima, slope, total), dy is the gradient of the maxima of 2x2
    windows of that shape, and that of a rectifier with this slope is applied to it; total (1, f)
    becomes its sum.
    """
    plan = _forward_plan(shape, x.itemsize, 1 if pooled is None else SIDE)
    count, filters, lanes = len(plan.starts), shape.kernel_shape[3], simd.lanes(x.dtype)
    width = -(-filters // lanes) * lanes
    size = (count + ROWS) * width + lanes
    segments = max(1, min(PIECES, plan.tasks, PARTIAL_BYTES // (size * x.itemsize)))
    pieces = -(-PIECES // segments)
    panels_at = plan.scratch + -plan.scratch % lanes
    panel_size = (int(plan.table[BAND_HEIGHT]) * shape.output_shape[2] + 1) * (width + lanes)
    workers, spread = min(threads.count(), segments * pieces), 0
    if pooled is None:
        windows, total = (_NO_PLACES, dy, x.dtype.type(1), _NO_SPANS, _NO_SPANS), _NO_TOTAL
    else:
        pooled_shape, index, maxima, slope, total = pooled
        windows = index, maxima, slope, *_spans(shape, pooled_shape)
        spread = int(plan.table[BAND_HEIGHT] * plan.table[Y_ROW]) + 2 * lanes
    partial, scratch, taken, *more = arena.scratch(
        ((segments, size), x.dtype),
        arena.rows(workers, panels_at + panel_size, x.dtype),
        ((segments * pieces,), np.int64),
        arena.rows(workers, spread, x.dtype),
        ((segments, pieces, filters), np.float64),
    )
    heights = _height(count, (TILE, LOW)), _height(count, (ROWS, MIDDLE, TILE))
    _gradients(x, plan.table, plan.phases, plan.pixels, plan.taps, plan.tap_rows, count, dy,
               *windows, filters, width, heights, pieces, dk, partial, scratch, taken, panels_at,
               *more, total)  # fmt: skip


_NO_PLACES, _NO_SPANS = np.empty(0, np.uint8), np.empty((0, 3), np.int64)
_NO_TOTAL = np.empty((1, 0))


def is_defined(shape, product):
    """Whether there are kernels for it."""
    return shape.groups == 1


def pays(shape, product):
    """Whether this is quicker than `direct` (on a Zen 4: gradients of the input with stride 1.4 to
    2.2 times, 7x7 with 32 channels 1.2 to 1.9 times, 3x3 with 3 channels 1.3 to 3.5 times)."""
    kh, kw, channels, _ = shape.kernel_shape
    width = shape.input_shape[2]
    if not is_defined(shape, product) or kh * shape.dilation[0] * width * channels > WIDEST:
        return False
    if (kh, kw) == (1, 1) == shape.strides:  # nothing to gather: for outputs past the caches only
        is_large = 4 * math.prod(shape.output_shape) >= simd.LATE_STREAM_BYTES
        return product != KERNEL_GRAD and is_large
    return product != KERNEL_GRAD or shape.strides[1] * channels < APART
