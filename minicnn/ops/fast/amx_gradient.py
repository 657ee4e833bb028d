"""Gradient of a direct convolution's kernel on the tile unit.

    dK[t, c, f] = sum over positions p of x[p + t, c] dy[p, f]

step     32 positions
a        dy, transposed and split: (step, part, filter), a line of positions each
b        planes of x as in `amx_direct`, but a line of pixel i and 16 channels holds the words
         (i, i + 16): 16 lines behind each other are a tile, for any distance of a tap
dK^T     partial sums: (filter, tap, channel), channels filled up to whole tiles

Design. The positions of a band are a row of pixels with zeros between the rows, where dy is zero
too, so a tap is a constant distance and nothing is gathered. x is split once for all taps (twice
as large, because every pixel is in two lines), dy transposed once for all taps. A few steps at a
time are multiplied, 32 channels and filters with all taps, and large pictures one by one, without
the zeros between them: 7x7 and 1x7 kernels take 0.88 to 0.91 of the time that whole bands took (two
cores of a Xeon with busy neighbours, 2026-11-28). Sums over bands are cut into segments, whose
borders depend on the shapes only, and added up in their order: any number of threads gives the same
bits. Measured (one core of a Xeon with AMX, against `direct`): 1.8 to 2.5 times as fast for 5x5 and
7x7, 1.3 to 1.8 for 1x1, strided and dilated 3x3.

A NaN or infinity of x reaches all taps of its channel.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import amx, amx_direct, gemm, sharing, simd, threads
from minicnn.ops.fast.amx import BLOCK, LINE, PANEL, PARTS, STEP
from minicnn.ops.fast.amx_direct import (
    ACROSS,
    BAND,
    CHANNELS,
    DOWN,
    FIRST_ROW,
    HEIGHT,
    LAST_ROW,
    LEAD,
    OUT_HEIGHT,
    OUT_WIDTH,
    PIXEL,
    PLANE,
    ROWS,
    STRIDE_X,
    STRIDE_Y,
    USED_ACROSS,
    USED_DOWN,
    WIDTH,
)
from minicnn.ops.fast.jit import kernel, parallel_kernel

BAND_BYTES = 512 * 1024  # of split pixels
PARTIAL_BYTES = 8 << 20  # all segments together
TASKS = 16
CHUNK = 4  # steps whose operands, 48 kB, stay in the first-level cache for all taps
# Of a segment: with 8 the segments of 1x7 kernels take longer to add up, with 32 the error of a sum
# is 1.7 times that of the vector units (3x3, 256 channels).
LEAST_STEPS = 16
HALF = PANEL // 2


class Plan(NamedTuple):
    """Tables for the kernels."""

    table: np.ndarray
    phases: np.ndarray
    offsets: np.ndarray  # bytes from a position to each tap
    channels: int  # of a group, filled up to whole tiles
    filters: int  # of a piece
    pieces: int
    segments: int
    pixels: int  # of a plane
    positions: int  # of a band, whole steps


@functools.lru_cache(maxsize=256)
def _plan(shape, workers):
    work = amx_direct.forward_pass(shape)
    if len(work.taps) == 1 and shape.strides == (1, 1) and not any(map(sum, shape.padding)):
        n, h, w, c = work.source  # pixels without neighbours: one picture of many rows
        work = work._replace(source=(n * h * w, 1, 1, c), size=(1, 1))
    lanes = -(-work.channels // HALF)
    pixel = (lanes * PARTS | 1) * LINE
    table, phases, taps = amx_direct.planes(work, pixel)
    row_bytes = int(table[ACROSS]) * pixel * len(phases)
    halo = int(table[LAST_ROW] - table[FIRST_ROW])
    rows = int(table[ROWS])
    taps_channels = len(taps) * lanes * HALF
    filters = -(-work.filters // BLOCK) * BLOCK
    segments = max(1, min(TASKS, PARTIAL_BYTES // (4 * filters * taps_channels * work.groups)))
    segments = min(segments, max(1, rows * int(table[ACROSS]) // (LEAST_STEPS * STEP)))
    segments = 1 << segments.bit_length() - 1  # equal shares for 2, 4 and 8 threads
    pieces = max(1, min(filters // BLOCK, workers // (segments * work.groups)))
    band = max(1, min(BAND_BYTES // row_bytes - halo, -(-rows // segments)))
    if table[ACROSS] == 1 and band > STEP:
        band -= band % STEP
    table[BAND] = band
    lead, last = int(table[LEAD]), max(0, max(work.columns) // work.strides[1])
    positions = -(-band * int(table[ACROSS]) // STEP) * STEP
    pixels = lead + halo * int(table[ACROSS]) + positions + last + STEP
    table[PLANE] = pixels * pixel
    offsets = [
        phase * pixels * pixel + (lead + row * int(table[ACROSS]) + column) * pixel
        for phase, row, column in taps
    ]
    return Plan(
        table, phases, np.array(offsets, np.int64), lanes * HALF,
        -(-filters // BLOCK // pieces) * BLOCK, pieces, segments, pixels, positions,
    )  # fmt: skip


# -- Kernels ---------------------------------------------------------------------------------------


@kernel
def _fill_plane(x, table, phase_y, phase_x, first, rows, channel, channels, padded, flat, pixels):
    """The pixels of a band in a row, `padded` channels each, with the zeros that taps see."""
    flat[: pixels * padded] = 0
    at = table[LEAD] * padded
    used = min(
        table[USED_ACROSS], (table[WIDTH] - phase_x + table[STRIDE_X] - 1) // table[STRIDE_X]
    )
    for row in range(first + table[FIRST_ROW], first + rows + table[LAST_ROW]):
        image, inside = divmod(row, table[DOWN])
        y = inside * table[STRIDE_Y] + phase_y
        if 0 <= row < table[ROWS] and inside < table[USED_DOWN] and y < table[HEIGHT]:
            source = ((image * table[HEIGHT] + y) * table[WIDTH] + phase_x) * table[
                CHANNELS
            ] + channel
            for column in range(used):
                start = source + column * table[STRIDE_X] * table[CHANNELS]
                simd.copy_run(flat, at + column * padded, x, start, channels)
        at += table[ACROSS] * padded


@kernel
def _split_pairs(flat, padded, pixels, alone, target, pixel):
    """Lines (pixel, 16 channels, part) of the words (pixel i, pixel i + 16).

    A tap that is `alone` needs the first 16 lines of a step only.
    """
    half = STEP // 2
    source = flat.ctypes.data
    for i in range(pixels - half):
        if alone and i & half:
            continue
        for c in range(0, padded, half):
            low = source + 4 * (i * padded + c)
            amx.split_pair(low, low + 4 * half * padded,
                           target + i * pixel + c // half * PARTS * LINE, LINE)  # fmt: skip
    amx.zero_lines(target + (pixels - half) * pixel, half * pixel // LINE)


@kernel
def _transpose_positions(dy, table, all_filters, first, rows, column, columns, padded, flat, square,
                         positions, target):  # fmt: skip
    """Lines (step, part, filter) of the positions of a band, zero where there is none."""
    source = flat.ctypes.data
    whole = table[ACROSS] == table[OUT_WIDTH] and table[DOWN] == table[OUT_HEIGHT]
    if whole and rows * table[ACROSS] == positions and columns == padded == all_filters:
        source = dy.ctypes.data + 4 * first * table[ACROSS] * all_filters
        rows = 0
    else:
        flat[: positions * padded] = 0
    for row in range(first, first + rows):
        image, y = divmod(row, table[DOWN])
        if y < table[OUT_HEIGHT]:
            start = (image * table[OUT_HEIGHT] + y) * table[OUT_WIDTH] * all_filters + column
            at = (row - first) * table[ACROSS] * padded
            for i in range(table[OUT_WIDTH]):
                simd.copy_run(flat, at + i * padded, dy, start + i * all_filters, columns)
    place = square.ctypes.data
    for step in range(positions // STEP):
        for f in range(0, padded, 16):
            amx.split_columns(source + 4 * (step * STEP * padded + f), 4 * padded, place,
                              target + (step * PARTS * padded + f) * LINE,
                              padded * LINE)  # fmt: skip


@parallel_kernel
def planes_gradient(x, table, phases, offsets, dy, sizes, group_sizes, flat, planes, lines, partial,
                    taken, dk):  # fmt: skip
    """dk by way of the partial sums (segment, filter, tap and channel)."""
    sharing.open_tasks(taken)
    for worker in prange(len(planes)):
        _planes_gradient(np.int64(worker), x, table, phases, offsets, dy, sizes, group_sizes,
                         flat[worker], planes[worker], lines[worker], len(planes), partial,
                         taken)  # fmt: skip
    for piece in prange(len(offsets) * group_sizes[0] * (sizes[0] // HALF)):
        _add_segments(np.int64(piece), partial, sizes, group_sizes, dk)


@kernel
def _planes_gradient(worker, x, table, phases, offsets, dy, sizes, group_sizes, flat, planes, lines,
                     workers, partial, taken):  # fmt: skip
    """One worker's part of the tasks (segment of the rows, group, piece of the filters)."""
    padded, piece_filters, pieces, pixels, positions = sizes
    groups, channels, filters = group_sizes
    segments = partial.shape[0]
    square, flat = flat[:512], flat[512:]
    alone = len(offsets) == 1
    in_place = (
        alone and groups == 1 and table[DOWN] == table[HEIGHT] and table[ACROSS] == table[WIDTH]
        and table[STRIDE_Y] == 1 and table[STRIDE_X] == 1
    )  # fmt: skip
    # Large pictures one by one: dy is zero between two of them.
    one_by_one = table[OUT_HEIGHT] * table[ACROSS] >= 8 * STEP
    amx.begin()
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, workers, taken)
        if task < 0:
            continue
        segment, part = divmod(task, groups * pieces)
        group, piece = divmod(part, pieces)
        f = piece * piece_filters
        columns = min(piece_filters, filters - f)
        high = (columns + BLOCK - 1) // BLOCK * BLOCK
        sums = partial[segment, group, f:]
        sums[:high] = 0
        first, last = gemm.share(segment, segments, table[ROWS])
        while first < last:
            rows = min(table[BAND], last - first)
            if one_by_one:
                _, y = divmod(first, table[DOWN])
                if y >= table[OUT_HEIGHT]:
                    first += table[DOWN] - y
                    continue
                rows = min(rows, table[OUT_HEIGHT] - y)
            used = (rows * table[ACROSS] + STEP - 1) // STEP * STEP
            seen = pixels - positions + used
            for phase in range(len(phases)):
                source = flat
                if in_place and rows * table[ACROSS] == used and channels == padded:
                    source = x[first * table[ACROSS] * channels :]
                else:
                    _fill_plane(x, table, phases[phase, 0], phases[phase, 1], first, rows,
                                group * channels, channels, padded, flat, seen)  # fmt: skip
                _split_pairs(source, padded, used if alone else seen, alone,
                             planes.ctypes.data + phase * table[PLANE], table[PIXEL])  # fmt: skip
            _transpose_positions(dy, table, groups * filters, first, rows, group * filters + f,
                                 columns, high, flat, square, used, lines.ctypes.data)  # fmt: skip
            for step in range(0, used // STEP, CHUNK):
                _add_chunk(planes.ctypes.data, lines.ctypes.data, table, offsets, step,
                           min(CHUNK, used // STEP - step), padded, high, sums)  # fmt: skip
            first += rows
    amx.end()


@kernel
def _add_chunk(planes, lines, table, offsets, step, steps, padded, high, sums):
    """Add the products of some steps up, all taps of 32 filters and channels, then the next."""
    row_bytes = 4 * len(offsets) * padded
    a_part = high * LINE
    lines += step * PARTS * a_part
    planes += step * STEP * table[PIXEL]
    for i in range(0, high, BLOCK):
        a = lines + i * LINE
        for c in range(0, padded, PANEL):
            target = sums.ctypes.data + i * row_bytes + 4 * c
            for tap in range(len(offsets)):
                b = planes + offsets[tap] + c // HALF * PARTS * LINE
                if c + HALF < padded:
                    amx.add_whole_panel(a, LINE, a_part, PARTS * a_part, steps, b, table[PIXEL],
                                        LINE, STEP * table[PIXEL], PARTS * LINE, target, row_bytes,
                                        0, 0, 0)  # fmt: skip
                else:
                    amx.add_half_panel(a, LINE, a_part, PARTS * a_part, steps, b, table[PIXEL],
                                       LINE, STEP * table[PIXEL], PARTS * LINE, target, row_bytes,
                                       0, 0, 0)  # fmt: skip
                target += 4 * padded


@kernel
def _add_segments(number, partial, sizes, group_sizes, dk):
    """Add the segments of 16 channels of one tap up, in order, and turn filters and channels."""
    groups, channels, filters = group_sizes
    padded = sizes[0]
    blocks = padded // HALF
    tap_group, block = divmod(number, blocks)
    tap, group = divmod(tap_group, groups)
    square = _squares()
    turned = square[HALF * HALF :]
    at = tap * padded + block * HALF
    for f in range(0, filters, HALF):
        for i in range(HALF):
            row = square[i * HALF : (i + 1) * HALF]
            row[:] = partial[0, group, f + i, at : at + HALF]
            for segment in range(1, len(partial)):
                row += partial[segment, group, f + i, at : at + HALF]
        amx.transpose(square.ctypes.data, LINE, turned.ctypes.data)
        for c in range(min(HALF, channels - block * HALF)):
            target = (tap * channels + block * HALF + c) * groups * filters + group * filters + f
            amx_direct.write_line(dk, target, turned, c * HALF, min(HALF, filters - f), 0,
                                  square[0])  # fmt: skip


@kernel
def _squares():
    """Two squares of 16 x 16 at the beginning of a line."""
    memory = np.empty(2 * HALF * HALF + HALF, np.float32)
    return memory[(-memory.ctypes.data) % LINE // 4 :]


# -- The product -----------------------------------------------------------------------------------


def pays(shape):
    """Whether this is quicker than `direct`: several taps that use what was split and transposed
    or pixels that need no copying, mostly full tiles, and enough positions."""
    kh, kw, channels, filters = shape.kernel_shape
    filters //= shape.groups
    n, height, width, _ = shape.output_shape
    return (
        (kh * kw >= 7 or (kh * kw == 1 and shape.strides == (1, 1)))
        and channels >= 2 * HALF
        and channels / (-(-channels // HALF) * HALF) > 0.6
        and filters / (-(-filters // BLOCK) * BLOCK) > 0.6
        and n * height * width >= 64 * STEP
        and kh * kw * channels * filters <= PARTIAL_BYTES // 16
    )


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat float32 arrays."""
    plan = _plan(shape, threads.count())
    _, _, channels, all_filters = shape.kernel_shape
    filters = all_filters // shape.groups
    workers = min(threads.count(), plan.segments * shape.groups * plan.pieces)
    flat = 528 + max(plan.pixels * plan.channels, plan.positions * plan.filters)
    rows = plan.pieces * plan.filters
    scratch = arena.scratch(
        arena.rows(workers, flat, np.float32),
        arena.rows(workers, len(plan.phases) * int(plan.table[PLANE]) // 4, np.float32),
        arena.rows(workers, plan.positions * plan.filters * PARTS // 2, np.float32),
        ((plan.segments, shape.groups, rows, len(plan.offsets) * plan.channels), np.float32),
        ((plan.segments * shape.groups * plan.pieces,), np.int64),
    )
    planes_gradient(
        x, plan.table, plan.phases, plan.offsets, dy,
        (plan.channels, plan.filters, plan.pieces, plan.pixels, plan.positions),
        (shape.groups, channels, filters),
        *scratch, dk,
    )  # fmt: skip
