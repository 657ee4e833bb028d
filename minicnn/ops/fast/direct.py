"""Direct convolution: a matrix product whose left matrix is never stored (implicit im2col).

    y[p, f]  = activation(bias[f] + sum_k patch[p, k] K[k, f])
    dK[k, f] = sum_p patch[p, k] dy[p, f]
    dx       = the first equation with dy for x and the kernel transposed, see `_input_grad_plan`

p        position (image, row, column) of the output
k        cell (row, column, channel) of the kernel
patch    the window of x that position p sees, as one row
run      neighbouring cells of a window that are neighbours in memory too: one row of the kernel,
         or a single pixel where dilation or groups tear it apart

Design. A block of patches is gathered run by run (vector copies, zeros where a window leaves the
picture) into a buffer that fits into the cache and multiplied at once by the packed kernel;
bias and activation are applied while the result is in registers. A 1x1 convolution without
stride reads x in place. The gradient of the kernel takes the same patches as transposed left
matrix. Its sum over p is cut into segments, whose number and borders depend on the shapes only,
and added up in their order: any number of threads gives the same bits. A forward sum runs over k
in one piece, so there the division of the work may follow the number of threads.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import gemm, sharing, simd, threads
from minicnn.ops.fast.gemm import ROWS, TILE
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.recording import noted
from minicnn.ops.shapes import effective_size, resolve_padding, window_output_size

PATCH_BYTES = 192 * 1024  # block of patches: leaves most of a 1 MB L2 cache to the packed kernel
PARTIAL_BYTES = 8 << 20  # all segments of a kernel gradient together
TASKS = 16  # pieces of a kernel gradient: enough for as many threads, with little to add up
SMALLEST_SEGMENT = 512  # positions; shorter sums are not worth a buffer of their own

FORWARD, INPUT_GRAD, KERNEL_GRAD = range(3)  # the three products of a convolution

# Columns of the integer tables that describe the work to the kernels.
RUN_ROW, RUN_START, RUN_LENGTH, RUN_AT = range(4)
(
    IMAGES,
    HEIGHT,
    ROW,
    OUT_HEIGHT,
    OUT_WIDTH,
    STEP_Y,
    STEP_X,
    Y_START,
    Y_IMAGE,
    Y_ROW,
    Y_PIXEL,
    IN_PLACE,
) = range(12)
(FIRST_RUN, LAST_RUN, DEPTH, PACKED_AT, COLUMN, COLUMNS, ROW_STRIDE) = range(7)


class Geometry(NamedTuple):
    """What a convolution looks like; hashable, so that plans are made once per shape."""

    input_shape: tuple
    kernel_shape: tuple
    output_shape: tuple
    strides: tuple
    padding: tuple
    dilation: tuple
    groups: int


def geometry(input_shape, kernel_shape, strides, padding, dilation, groups):
    """The checked geometry: shapes that fit each other, and at least one output pixel."""
    if not isinstance(padding, str):
        padding = tuple(map(tuple, padding))
    return _geometry(
        tuple(input_shape), tuple(kernel_shape), tuple(strides), padding, tuple(dilation), groups
    )


@functools.lru_cache(maxsize=1024)
def _geometry(input_shape, kernel_shape, strides, padding, dilation, groups):
    if len(input_shape) != 4 or len(kernel_shape) != 4:
        raise ValueError(
            f"x has shape {input_shape} and kernel {kernel_shape}: both need 4 axes, "
            "(n, h, w, channels) and (kh, kw, channels / groups, filters)"
        )
    channels, (kh, kw, per_group, filters) = input_shape[3], kernel_shape
    if 0 in kernel_shape:
        raise ValueError(f"kernel has shape {kernel_shape}: no axis may be empty")
    if channels != per_group * groups or filters % groups:
        raise ValueError(
            f"kernel {kernel_shape} with groups={groups} needs {per_group * groups} input "
            f"channels and filters divisible by {groups}; x has {channels} channels"
        )
    padding = resolve_padding(padding, input_shape[1:3], (kh, kw), strides, dilation)
    size = window_output_size(input_shape[1:3], (kh, kw), strides, padding, dilation)
    if min(size) < 1:
        covered = tuple(map(effective_size, (kh, kw), dilation))
        raise ValueError(
            f"a kernel that covers {covered} pixels does not fit into a picture of "
            f"{input_shape[1:3]} with padding {padding}: use padding='same'"
        )
    output_shape = (input_shape[0], *size, filters)
    return Geometry(input_shape, kernel_shape, output_shape, strides, padding, dilation, groups)


# -- Plans: the tables for the kernels, made in Python once per shape ------------------------------


def _runs(row_offsets, column_offsets, pixel, first_channel, channels, mergeable):
    """Table of runs for all taps (row_offsets x column_offsets) and the order of the taps in it.

    `mergeable`: the taps of a row whose columns follow each other are one run.
    """
    order = sorted(range(len(column_offsets)), key=lambda j: column_offsets[j])
    runs, taps, at = [], [], 0
    for i, row in enumerate(row_offsets):
        previous = None
        for j in order:
            column = column_offsets[j]
            if mergeable and previous == column - 1:
                runs[-1][RUN_LENGTH] += channels
            else:
                runs.append([row, column * pixel + first_channel, channels, at])
            previous = column
            taps.append((i, j))
            at += channels
    return np.array(runs, np.int64).reshape(-1, 4), taps


def _table(images, height, width, channels, out_size, steps, y_strides, y_start, in_place):
    table = np.zeros(12, np.int64)
    table[:] = (
        images,
        height,
        width * channels,
        *out_size,
        steps[0],
        steps[1] * channels,
        y_start,
        *y_strides,
        in_place,
    )
    return table


class Product(NamedTuple):
    """Tables of one pass of `patch_product`."""

    table: np.ndarray
    runs: np.ndarray
    parts: np.ndarray  # FIRST_RUN, LAST_RUN, DEPTH, PACKED_AT, COLUMN, COLUMNS per group
    b_starts: np.ndarray  # (groups, depth): where row k of a group's right matrix begins
    b_step: int  # distance of that matrix's columns
    columns: int
    packed_columns: int


def _product(
    table,
    groups,
    lanes,
    row_offsets,
    column_offsets,
    pixel,
    channels,
    columns,
    tap_start,
    channel_step,
    b_step,
    group_start,
):
    """Tables for y = patches @ b for each group; `tap_start(i, j)` is where tap (i, j) of b is."""
    packed_columns = -(-columns // lanes) * lanes
    all_runs, parts, starts = [], [], []
    depth = len(row_offsets) * len(column_offsets) * channels
    for g in range(groups):
        runs, taps = _runs(row_offsets, column_offsets, pixel, g * channels, channels, groups == 1)
        first = sum(len(r) for r in all_runs)
        all_runs.append(runs)
        parts.append(
            (first, first + len(runs), depth, g * depth * packed_columns, g * columns, columns)
        )
        tap_starts = np.array([tap_start(i, j) for i, j in taps], np.int64)
        starts.append(
            (tap_starts[:, None] + np.arange(channels) * channel_step).reshape(-1) + g * group_start
        )
    return Product(
        table,
        np.concatenate(all_runs),
        np.array(parts, np.int64),
        np.array(starts),
        b_step,
        columns,
        packed_columns,
    )


@functools.lru_cache(maxsize=256)
def _forward_plan(shape: Geometry, lanes):
    n, h, w, c = shape.input_shape
    kh, kw, per_group, filters = shape.kernel_shape
    _, oh, ow, _ = shape.output_shape
    columns = filters // shape.groups
    (top, _), (left, _) = shape.padding
    in_place = (kh, kw) == (1, 1) == shape.strides and shape.padding == ((0, 0), (0, 0))
    table = _table(
        n, h, w, c, (oh, ow), shape.strides, (oh * ow * filters, ow * filters, filters), 0, in_place
    )
    return _product(
        table,
        shape.groups,
        lanes,
        [i * shape.dilation[0] - top for i in range(kh)],
        [j * shape.dilation[1] - left for j in range(kw)],
        c,
        per_group,
        columns,
        tap_start=lambda i, j: (i * kw + j) * per_group * filters,
        channel_step=filters,
        b_step=1,
        group_start=columns,
    )


@functools.lru_cache(maxsize=256)
def _input_grad_plan(shape: Geometry, lanes):
    """One product for each residue of the input pixel modulo the stride (one in all at stride 1).

    dx[q] collects dy[o] kernel[t]^T over the taps t with o * stride + t * dilation - before = q.
    Pixels q = phase + stride * j use those taps for which o is an integer, and for such a tap o
    is j plus a constant: a convolution of dy without stride.
    """
    n, h, w, c = shape.input_shape
    kh, kw, per_group, filters = shape.kernel_shape
    _, oh, ow, _ = shape.output_shape
    columns = filters // shape.groups

    def taps(axis, phase):
        size, stride, rate = shape.kernel_shape[axis], shape.strides[axis], shape.dilation[axis]
        shifts = [phase + shape.padding[axis][0] - t * rate for t in range(size)]
        return [(t, s // stride) for t, s in enumerate(shifts) if s % stride == 0]

    products = []
    covered = True
    for phase_y in range(min(shape.strides[0], h)):
        for phase_x in range(min(shape.strides[1], w)):
            rows, cols = taps(0, phase_y), taps(1, phase_x)
            if not rows or not cols:
                covered = False
                continue
            steps = shape.strides
            size = (-(-(h - phase_y) // steps[0]), -(-(w - phase_x) // steps[1]))
            in_place = (kh, kw) == (1, 1) == shape.strides and shape.padding == ((0, 0), (0, 0))
            table = _table(
                n,
                oh,
                ow,
                filters,
                size,
                (1, 1),
                (h * w * c, steps[0] * w * c, steps[1] * c),
                (phase_y * w + phase_x) * c,
                in_place,
            )
            products.append(
                _product(
                    table,
                    shape.groups,
                    lanes,
                    [o for _, o in rows],
                    [o for _, o in cols],
                    filters,
                    columns,
                    per_group,
                    tap_start=lambda i, j, rows=rows, cols=cols: (
                        (rows[i][0] * kw + cols[j][0]) * per_group * filters
                    ),
                    channel_step=1,
                    b_step=filters,
                    group_start=columns,
                )
            )
    return products, covered


class KernelGradient(NamedTuple):
    """Tables of `patch_gradient`."""

    table: np.ndarray
    runs: np.ndarray
    parts: np.ndarray
    rows: np.ndarray  # (kernel cells, 3): where in a partial sum, where in dk, how many columns
    segments: int
    partial_size: int
    longest: int  # of the parts' patches
    columns: int


@functools.lru_cache(maxsize=256)
def _kernel_grad_plan(shape: Geometry, lanes, itemsize):
    n, h, w, c = shape.input_shape
    kh, kw, per_group, filters = shape.kernel_shape
    _, oh, ow, _ = shape.output_shape
    columns = filters // shape.groups
    packed_columns = -(-columns // lanes) * lanes
    (top, _), (left, _) = shape.padding
    depth = kh * kw * per_group
    table = _table(n, h, w, c, (oh, ow), shape.strides, (0, 0, 0), 0, 0)
    positions = n * oh * ow
    partial = shape.groups * depth * packed_columns * itemsize
    segments = min(TASKS, positions // SMALLEST_SEGMENT, PARTIAL_BYTES // partial)
    segments = max(1, segments)
    pieces = max(1, min(-(-TASKS // (segments * shape.groups)), depth // (4 * TILE)))
    longest = -(-depth // pieces)
    longest += -longest % TILE
    all_runs, parts, rows, at, count = [], [], [], 0, 0
    for g in range(shape.groups):
        runs, _ = _runs(
            [i * shape.dilation[0] - top for i in range(kh)],
            [j * shape.dilation[1] - left for j in range(kw)],
            c,
            g * per_group,
            per_group,
            shape.groups == 1,
        )
        for first in range(0, depth, longest):
            last = min(first + longest, depth)
            cut = _cut(runs, first, last)
            all_runs.append(cut)
            parts.append(
                (count, count + len(cut), last - first, at, g * columns, columns, packed_columns)
            )
            count += len(cut)
            rows += [
                (at + i * packed_columns, (first + i) * filters + g * columns, columns)
                for i in range(last - first)
            ]
            at += -(-(last - first) // ROWS) * ROWS * packed_columns
    return KernelGradient(
        table,
        np.concatenate(all_runs),
        np.array(parts, np.int64),
        np.array(rows, np.int64),
        segments,
        at,
        longest,
        columns,
    )


def _cut(runs, first, last):
    """The pieces of `runs` that fill the cells first..last of a patch, with positions from 0."""
    begin = np.maximum(runs[:, RUN_AT], first)
    end = np.minimum(runs[:, RUN_AT] + runs[:, RUN_LENGTH], last)
    cut = runs[end > begin].copy()
    begin, end = begin[end > begin], end[end > begin]
    cut[:, RUN_START] += begin - cut[:, RUN_AT]
    cut[:, RUN_LENGTH] = end - begin
    cut[:, RUN_AT] = begin - first
    return cut


# -- Kernels ---------------------------------------------------------------------------------------


@kernel
def gather(x, table, runs, first_run, last_run, depth, first, rows, patches):
    """patches[i, :depth] = what output position first + i sees of x, zeros outside the picture.

    Rows lie depth apart, and up to a vector of garbage follows the last one.
    """
    out_width = table[OUT_WIDTH]
    positions = table[OUT_HEIGHT] * out_width
    image, rest = divmod(first, positions)
    out_y, out_x = divmod(rest, out_width)
    for i in range(rows):
        image_start = image * table[HEIGHT] * table[ROW]
        for run in range(first_run, last_run):
            at, length = i * depth + runs[run, RUN_AT], runs[run, RUN_LENGTH]
            y = out_y * table[STEP_Y] + runs[run, RUN_ROW]
            start = out_x * table[STEP_X] + runs[run, RUN_START]
            if y < 0 or y >= table[HEIGHT]:
                simd.zero_run(patches, at, length)
            elif start >= 0 and start + length <= table[ROW]:
                simd.copy_run(patches, at, x, image_start + y * table[ROW] + start, length)
            else:
                skip = min(max(-start, 0), length)
                stop = max(min(table[ROW] - start, length), skip)
                simd.zero_run(patches, at, skip)
                simd.copy_run(
                    patches, at + skip, x, image_start + y * table[ROW] + start + skip, stop - skip
                )
                simd.zero_run(patches, at + stop, length - stop)
        out_x += 1
        if out_x == out_width:
            out_x = 0
            out_y += 1
            if out_y == table[OUT_HEIGHT]:
                out_y = 0
                image += 1


@parallel_kernel
def patch_product(x, table, runs, parts, packed, start, y, code, slope, block, scratch, taken):
    """y = activation(start + patches @ packed) for all parts (groups, or ranges of columns)."""
    sharing.open_tasks(taken)
    for worker in prange(len(scratch)):
        _patch_product(np.int64(worker), x, table, runs, parts, packed, start, y, code, slope,
                       block, scratch, taken)  # fmt: skip


@kernel
def _patch_product(worker, x, table, runs, parts, packed, start, y, code, slope, block, scratches,
                   taken):  # fmt: skip
    workers, scratch = len(scratches), scratches[worker]
    lanes = simd.VECTOR_BYTES // y.itemsize
    spare, scratch = scratch[: ROWS * lanes], scratch[ROWS * lanes :]
    pixel = table[Y_PIXEL]
    positions = table[IMAGES] * table[OUT_HEIGHT] * table[OUT_WIDTH]
    contiguous = (
        table[Y_ROW] == pixel * table[OUT_WIDTH]
        and table[Y_IMAGE] == table[Y_ROW] * table[OUT_HEIGHT]
    )
    gathered_block = gathered_run = -1
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, workers, taken)
        if task < 0:
            continue
        number, part = divmod(task, len(parts))
        first = number * block
        rows = min(block, positions - first)
        first_run, depth = parts[part, FIRST_RUN], parts[part, DEPTH]
        column, columns = parts[part, COLUMN], parts[part, COLUMNS]
        if table[IN_PLACE] and rows % ROWS == 0:  # else the last tile would read past the end
            a, a_row = x, table[ROW] // table[OUT_WIDTH]
            a0 = first * a_row + runs[first_run, RUN_START]
        else:
            a, a_row, a0 = scratch, depth, 0
            if gathered_block != number or gathered_run != first_run:
                gather(
                    x, table, runs, first_run, parts[part, LAST_RUN], depth, first, rows, scratch
                )
                gathered_block, gathered_run = number, first_run
        if contiguous:
            c, c0, c_row = y, table[Y_START] + first * pixel + column, pixel
        else:
            c, c0, c_row = scratch[(block + ROWS) * depth + lanes :], 0, columns
        gemm.block_product(
            a, a0, a_row, gemm.ADJACENT, rows, packed, parts[part, PACKED_AT], columns, depth,
            c, c0, c_row, start, column, gemm.EXACT, code, slope, spare,
        )  # fmt: skip
        if not contiguous:
            _scatter(c, rows, columns, y, table, first, column)


@kernel
def _scatter(result, rows, columns, y, table, first, column):
    """Write rows of a product to the positions first, first + 1, ... of an interleaved y."""
    out_width = table[OUT_WIDTH]
    image, rest = divmod(first, table[OUT_HEIGHT] * out_width)
    out_y, out_x = divmod(rest, out_width)
    for i in range(rows):
        at = table[Y_START] + image * table[Y_IMAGE] + out_y * table[Y_ROW]
        at += out_x * table[Y_PIXEL] + column
        for j in range(columns):
            y[at + j] = result[i * columns + j]
        out_x += 1
        if out_x == out_width:
            out_x = 0
            out_y += 1
            if out_y == table[OUT_HEIGHT]:
                out_y = 0
                image += 1


@parallel_kernel
def patch_gradient(x, table, runs, parts, dy, filters, zeros, rows, dk, block, partial, scratch,
                   taken):  # fmt: skip
    """dk = patches^T @ dy: every (segment of positions, part of dk) apart, then their sums."""
    sharing.open_tasks(taken)
    for worker in prange(len(scratch)):
        _patch_gradient(np.int64(worker), x, table, runs, parts, dy, filters, zeros, block, partial,
                        scratch, taken)  # fmt: skip
    for row in prange(len(rows)):
        number = np.int64(row)
        gemm.add_segments(partial, rows[number, 0], rows[number, 2], dk, rows[number, 1])


@kernel
def _patch_gradient(worker, x, table, runs, parts, dy, filters, zeros, block, partials, scratches,
                    taken):  # fmt: skip
    lanes = simd.VECTOR_BYTES // x.itemsize
    positions = table[IMAGES] * table[OUT_HEIGHT] * table[OUT_WIDTH]
    segments, scratch = len(partials), scratches[worker]
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(scratches), taken)
        if task < 0:
            continue
        segment, part = divmod(task, len(parts))
        depth, columns = parts[part, DEPTH], parts[part, COLUMNS]
        panels = scratch[block * depth + ROWS + lanes :]
        is_panel = filters == columns and (columns == 2 * lanes or columns == lanes)
        first, last = gemm.share(segment, segments, positions)
        mode = gemm.WHOLE
        while first < last:
            count = min(block, last - first)
            gather(x, table, runs, parts[part, FIRST_RUN], parts[part, LAST_RUN], depth,
                   first, count, scratch)  # fmt: skip
            if is_panel:
                b, b0 = dy, first * filters
            else:
                b, b0 = panels, 0
                for i in range(count):
                    at = (first + i) * filters + parts[part, COLUMN]
                    gemm.pack_row(dy, at, gemm.ADJACENT, columns, panels, gemm.ORIGIN, i, count)
            gemm.block_product(
                scratch, gemm.ORIGIN, gemm.ADJACENT, depth, depth, b, b0, columns, count,
                partials[segment], parts[part, PACKED_AT], parts[part, ROW_STRIDE], zeros,
                gemm.ORIGIN, mode, gemm.LINEAR, zeros[0], panels,
            )  # fmt: skip
            mode = gemm.ADD
            first += count


# -- The three products ----------------------------------------------------------------------------


def convolve(x, kernel, bias, shape: Geometry, activation, y):
    """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None."""
    plan = _forward_plan(shape, simd.lanes(x.dtype))
    _run_product(plan, x, kernel, bias, activation, y)


def convolve_input_grad(dy, kernel, shape: Geometry, dx):
    """dx from dy and the kernel; flat arrays of one dtype."""
    plans, covered = _input_grad_plan(shape, simd.lanes(dy.dtype))
    if not covered:
        noted(np.copyto, dx, 0)
    for plan in plans:
        _run_product(plan, dy, kernel, None, None, dx)


def convolve_kernel_grad(x, dy, shape: Geometry, dk):
    """dk from x and dy; flat arrays of one dtype."""
    lanes = simd.lanes(x.dtype)
    plan = _kernel_grad_plan(shape, lanes, x.itemsize)
    block = min(max(PATCH_BYTES // (plan.longest * x.itemsize), 32), SMALLEST_SEGMENT)
    packed_columns = -(-plan.columns // lanes) * lanes
    size = block * (plan.longest + packed_columns) + ROWS + 2 * lanes
    workers = min(threads.count(), plan.segments * len(plan.parts))
    partial, *scratch = arena.scratch(
        ((plan.segments, plan.partial_size), x.dtype),
        arena.rows(workers, size, x.dtype),
        ((plan.segments * len(plan.parts),), np.int64),
    )
    patch_gradient(
        x,
        plan.table,
        plan.runs,
        plan.parts,
        dy,
        shape.kernel_shape[3],
        np.zeros(packed_columns + lanes, x.dtype),
        plan.rows,
        dk,
        block,
        partial,
        *scratch,
    )


def _run_product(plan, x, kernel, bias, activation, y):
    lanes, workers = simd.lanes(x.dtype), threads.count()
    total = len(plan.parts) * plan.columns
    start = gemm.start_vector(bias, activation, total, x.dtype)
    depth = int(plan.parts[0, DEPTH])
    positions = int(plan.table[IMAGES] * plan.table[OUT_HEIGHT] * plan.table[OUT_WIDTH])
    block = min(PATCH_BYTES // (depth * x.itemsize), -(-positions // (4 * workers)), 8 * ROWS)
    block = max(block // ROWS, 1) * ROWS
    parts = plan.parts
    blocks = -(-positions // block)
    if len(parts) == 1 and blocks < 2 * workers:
        parts = _split_columns(
            parts, min(-(-2 * workers // blocks), plan.columns // (2 * lanes)), lanes
        )
    size = (block + ROWS) * depth + block * plan.columns + ROWS * lanes + 2 * lanes
    packed, *scratch = arena.scratch(
        ((plan.b_starts.size * plan.packed_columns,), x.dtype),
        arena.rows(min(workers, blocks * len(parts)), size, x.dtype),
        ((blocks * len(parts),), np.int64),
    )
    gemm.pack_panels(kernel, plan.b_starts, plan.b_step, plan.columns, plan.packed_columns, packed)
    code, slope = gemm.activation_code(activation, x.dtype)
    patch_product(x, plan.table, plan.runs, parts, packed, start, y, code, slope, block, *scratch)


def _split_columns(parts, pieces, lanes):
    """Cut the only part into ranges of whole panels, when there are too few rows to go round."""
    if pieces < 2:
        return parts
    columns, depth = int(parts[0, COLUMNS]), int(parts[0, DEPTH])
    width = -(-columns // pieces)
    width += -width % (2 * lanes)
    rows = []
    for first in range(0, columns, width):
        row = parts[0].copy()
        row[[PACKED_AT, COLUMN, COLUMNS]] = first * depth, first, min(width, columns - first)
        rows.append(row)
    return np.array(rows)
