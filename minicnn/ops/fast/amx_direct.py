"""Direct convolution on the tile unit: tiles are loaded straight from the split picture.

    y[p, f] = activation(bias[f] + sum over taps t and channels c of x[p + t, c] K[t, c, f])

plane    the split picture with zeros around it, a pixel after the other in rows of `across`
phase    with a stride, pixels of equal remainder form a plane of their own, without stride
band     some rows of all pictures, stacked over each other: as many as fit into the cache
step     32 channels of one tap

Design. In a plane a tap is a constant distance, so the 16 positions of a tile and a tap are 16
pixels behind each other: nothing is gathered, and a pixel is split once for all taps. The zeros
on the right of a row are at the same time those on the left of the next, and so for the pictures
of a stack, so that few positions are computed in vain. A pixel takes an odd number of lines:
powers of two would fall on the same sets of the cache. Bands and pieces of columns may follow
the number of threads: the order of a sum is that of its steps. Measured (one core of a Xeon with
AMX, against `direct`): 1.1 to 1.4 times as fast for 1x1, 1.7 to 2.5 for larger kernels.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import amx, gemm, sharing, simd, threads
from minicnn.ops.fast.amx import BLOCK, LINE, PANEL, PARTS, STEP
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.recording import noted

BAND_BYTES = 384 * 1024  # of split pixels
GROUP_BYTES = 512 * 1024  # panels of the kernel that stay in the second-level cache beside them

# Columns of the integer tables that describe the work to the kernels.
(
    HEIGHT,
    WIDTH,
    CHANNELS,
    STRIDE_Y,
    STRIDE_X,
    OUT_HEIGHT,
    OUT_WIDTH,
    DOWN,
    ACROSS,
    ROWS,
    FIRST_ROW,
    LAST_ROW,
    LEAD,
    USED_DOWN,
    USED_ACROSS,
    PIXEL,
    STEPS,
    Y_START,
    Y_IMAGE,
    Y_ROW,
    Y_PIXEL,
    BAND,
    PLANE,
) = range(23)
(PART_CHANNEL, PART_CHANNELS, PART_PACKED, PART_COLUMN, PART_COLUMNS) = range(5)


class Pass(NamedTuple):
    """One convolution without gaps in y: all of a forward pass, a phase of a data gradient."""

    source: tuple  # (n, h, w, c) of what is read
    size: tuple  # rows and columns of the positions
    strides: tuple
    rows: tuple  # distances of the taps from a position, in pixels of the source
    columns: tuple
    y_start: int
    y_strides: tuple  # of an image, a row, a position
    taps: tuple  # where in the kernel the taps begin, row by row
    channels: int  # of a group
    channel_step: int
    filters: int  # of a group
    filter_step: int
    groups: int
    group_step: int


def forward_pass(shape):
    _, _, per_group, filters = shape.kernel_shape
    _, oh, ow, _ = shape.output_shape
    offsets = [
        tuple(i * rate - before for i in range(size))
        for size, rate, (before, _) in zip(
            shape.kernel_shape, shape.dilation, shape.padding, strict=False
        )
    ]
    taps = tuple(range(0, shape.kernel_shape[0] * shape.kernel_shape[1] * per_group * filters,
                       per_group * filters))  # fmt: skip
    return Pass(
        shape.input_shape, (oh, ow), shape.strides, *offsets, 0,
        (oh * ow * filters, ow * filters, filters), taps, per_group, filters,
        filters // shape.groups, 1, shape.groups, filters // shape.groups,
    )  # fmt: skip


def _phase_taps(shape, axis, phase):
    """(tap, distance in dy) of those taps that reach the pixels of one phase of dx."""
    size, stride, rate = shape.kernel_shape[axis], shape.strides[axis], shape.dilation[axis]
    shifts = [phase + shape.padding[axis][0] - t * rate for t in range(size)]
    return [(t, s // stride) for t, s in enumerate(shifts) if s % stride == 0]


def input_grad_passes(shape):
    """A pass per phase of dx, and whether they write all of it (see `direct._input_grad_plan`)."""
    n, h, w, c = shape.input_shape
    _, kw, per_group, filters = shape.kernel_shape
    passes, covered = [], True
    for phase_y in range(min(shape.strides[0], h)):
        for phase_x in range(min(shape.strides[1], w)):
            rows, columns = _phase_taps(shape, 0, phase_y), _phase_taps(shape, 1, phase_x)
            if not rows or not columns:
                covered = False
                continue
            sy, sx = shape.strides
            passes.append(Pass(
                shape.output_shape, (-(-(h - phase_y) // sy), -(-(w - phase_x) // sx)), (1, 1),
                tuple(o for _, o in rows), tuple(o for _, o in columns),
                (phase_y * w + phase_x) * c, (h * w * c, sy * w * c, sx * c),
                tuple((i * kw + j) * per_group * filters for i, _ in rows for j, _ in columns),
                filters // shape.groups, 1, per_group, filters, shape.groups,
                filters // shape.groups,
            ))  # fmt: skip
    return passes, covered


class Plan(NamedTuple):
    """Tables of a pass for the kernels."""

    table: np.ndarray
    phases: np.ndarray  # (row, column) remainders of the planes
    offsets: np.ndarray  # bytes from a position to a step: (plane, then within it)
    taps: np.ndarray
    packing: np.ndarray


def planes(work, pixel):
    """(table without band and plane, phases, (phase, row, column) of each tap in its plane).

    The table is what the zeros between rows and pictures allow: a row of a plane is as long as
    the outputs and the pixels with the zeros that taps on the left and right of them see.
    """
    n, h, w, c = work.source
    oh, ow = work.size
    sy, sx = work.strides
    taps = [(r, q) for r in work.rows for q in work.columns]
    phases = sorted({(r % sy, q % sx) for r, q in taps})
    first_row, last_row = min(work.rows) // sy, max(work.rows) // sy
    first_column, last_column = min(work.columns) // sx, max(work.columns) // sx
    used_down = min(-(-h // sy), oh + last_row)
    used_across = min(-(-w // sx), ow + last_column)
    down = max(oh, oh + last_row, used_down - min(first_row, 0))
    across = max(ow, ow + last_column, used_across - min(first_column, 0))
    table = np.array([
        h, w, c, sy, sx, oh, ow, down, across, n * down, first_row, last_row, max(0, -first_column),
        used_down, used_across, pixel, 0, work.y_start, *work.y_strides, 0, 0,
    ], np.int64)  # fmt: skip
    places = [(phases.index((r % sy, q % sx)), r // sy - first_row, q // sx) for r, q in taps]
    return table, np.array(phases, np.int64), places


@functools.lru_cache(maxsize=256)
def _plan(work: Pass, workers):
    steps = -(-work.channels // STEP)
    pixel = (steps * PARTS | 1) * LINE
    table, phases, taps = planes(work, pixel)
    rows, across, lead = int(table[ROWS]), int(table[ACROSS]), int(table[LEAD])
    halo = int(table[LAST_ROW] - table[FIRST_ROW])
    band = max(1, BAND_BYTES // (across * pixel * len(phases)) - halo, halo)
    bands = -(-rows // min(band, max(1, -(-rows // (2 * workers)))))
    if bands > 1:
        bands += -bands % workers
    band = -(-rows // bands)
    pixels = lead + (band + halo) * across + BLOCK + max(0, max(work.columns) // work.strides[1])
    plane = pixels * pixel
    table[[STEPS, BAND, PLANE]] = steps, band, plane
    offsets = [
        phase * plane + (lead + row * across + column) * pixel + step * PARTS * LINE
        for phase, row, column in taps
        for step in range(steps)
    ]
    packing = np.array([
        len(taps), work.channels, work.channel_step, work.filters, work.filter_step, work.groups,
        work.group_step,
    ], np.int64)  # fmt: skip
    return Plan(table, phases, np.array(offsets, np.int64), np.array(work.taps, np.int64), packing)


@functools.lru_cache(maxsize=256)
def _parts(work: Pass, tasks, workers):
    """(first channel, channels, bytes to the packed kernel, first column, columns) per task."""
    steps = len(work.taps) * -(-work.channels // STEP)
    panel_bytes = steps * PARTS * 2 * amx.TILE_BYTES
    panels = -(-work.filters // PANEL)
    pieces = max(1, min(panels, -(-2 * workers // (tasks * work.groups))))
    if workers == 1 or tasks * work.groups >= workers:
        pieces = 1
    width = -(-panels // pieces)
    parts = [
        (group * work.channels, work.channels, (group * panels + first) * panel_bytes,
         group * work.filters + first * PANEL, min(width * PANEL, work.filters - first * PANEL))
        for group in range(work.groups)
        for first in range(0, panels, width)
    ]  # fmt: skip
    return np.array(parts, np.int64)


# -- Kernels ---------------------------------------------------------------------------------------


@kernel
def split_band(x, table, phases, first, rows, channel, channels, planes):
    """Split rows first : +rows of the stack of pictures (and those their taps see) into planes."""
    pixel, across = table[PIXEL], table[ACROSS]
    height, width = table[HEIGHT], table[WIDTH]
    source_pixel = table[CHANNELS] * 4
    for number in range(len(phases)):
        at = planes + number * table[PLANE]
        amx.zero_lines(at, table[LEAD] * pixel // LINE)
        at += table[LEAD] * pixel
        columns = (width - phases[number, 1] + table[STRIDE_X] - 1) // table[STRIDE_X]
        used = min(table[USED_ACROSS], columns)
        for row in range(first + table[FIRST_ROW], first + rows + table[LAST_ROW]):
            image, row_inside = divmod(row, table[DOWN])
            y = row_inside * table[STRIDE_Y] + phases[number, 0]
            inside = 0 <= row < table[ROWS] and row_inside < table[USED_DOWN] and y < height
            count = used if inside else 0
            source = x.ctypes.data + channel * 4
            source += ((image * height + y) * width + phases[number, 1]) * source_pixel
            for column in range(count):
                amx.split_row(source + column * table[STRIDE_X] * source_pixel, channels,
                              at + column * pixel)  # fmt: skip
            amx.zero_lines(at + count * pixel, (across - count) * pixel // LINE)
            at += across * pixel


@parallel_kernel
def planes_product(x, table, phases, offsets, parts, packed, start, y, code, slope, scratch,
                   taken):  # fmt: skip
    """y = activation(start + x * kernel) for all bands and parts (groups, ranges of columns)."""
    sharing.open_tasks(taken)
    for worker in prange(len(scratch)):
        _planes_product(np.int64(worker), x, table, phases, offsets, parts, packed, start, y, code,
                        slope, scratch, taken)  # fmt: skip


@kernel
def _planes_product(worker, x, table, phases, offsets, parts, packed, start, y, code, slope,
                    scratches, taken):  # fmt: skip
    scratch = scratches[worker]
    spare, planes = scratch[: BLOCK * PANEL], scratch[BLOCK * PANEL :]
    steps = len(offsets)
    split = split_channel = -1
    amx.begin()
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(scratches), taken)
        if task < 0:
            continue
        number, part = divmod(task, len(parts))
        first = number * table[BAND]
        rows = min(table[BAND], table[ROWS] - first)
        channel = parts[part, PART_CHANNEL]
        if split != number or split_channel != channel:
            split_band(x, table, phases, first, rows, channel, parts[part, PART_CHANNELS],
                       planes.ctypes.data)  # fmt: skip
            split, split_channel = number, channel
        group = max(GROUP_BYTES // amx.packed_panel(steps), 1) * PANEL
        for j in range(0, parts[part, PART_COLUMNS], group):
            columns = min(group, parts[part, PART_COLUMNS] - j)
            b = packed.ctypes.data + parts[part, PART_PACKED]
            b += j // PANEL * amx.packed_panel(steps)
            _group_product(planes.ctypes.data, table, offsets, first, rows, b, columns, start,
                           parts[part, PART_COLUMN] + j, y, code, slope, spare)  # fmt: skip
    amx.end()


@kernel
def _group_product(planes, table, offsets, first, rows, b, columns, start, column, y, code, slope,
                   spare):  # fmt: skip
    """Some panels of columns of a band: blocks of positions, of which those that exist go to y."""
    across, down = table[ACROSS], table[DOWN]
    out_width, out_height = table[OUT_WIDTH], table[OUT_HEIGHT]
    contiguous = table[Y_ROW] == table[Y_PIXEL] * across and table[Y_IMAGE] == table[Y_ROW] * down
    row, left = first, 0  # of the block's first position
    while row < first + rows:
        image, inside = divmod(row, down)
        if inside >= out_height:  # between two pictures
            row, left = row - inside + down, 0
            continue
        if left >= out_width:
            row, left = row + 1, 0
            continue
        at = table[Y_START] + image * table[Y_IMAGE] + inside * table[Y_ROW]
        at += left * table[Y_PIXEL] + column
        a = planes + ((row - first) * across + left) * table[PIXEL]
        whole = left + BLOCK <= out_width or (
            contiguous and (first + rows - row) * across - left >= BLOCK
        )
        for j in range(0, columns, PANEL):
            width = min(PANEL, columns - j)
            in_place = whole and (width == PANEL or width == PANEL // 2)
            if in_place:
                c, c_row = y.ctypes.data + 4 * (at + j), 4 * table[Y_PIXEL]
            else:
                c, c_row = spare.ctypes.data, 4 * PANEL
            amx.block_product(a, table[PIXEL], LINE, offsets.ctypes.data, len(offsets),
                              b + j // PANEL * amx.packed_panel(len(offsets)), width, c, c_row,
                              start.ctypes.data + 4 * (column + j), 0)  # fmt: skip
            if not in_place or code != gemm.LINEAR:
                _finish(table, row, left, first + rows, in_place, width, spare, y, column + j,
                        code, slope)  # fmt: skip
        left += BLOCK
        row, left = row + left // across, left % across


@kernel
def _finish(table, row, left, last, in_place, columns, spare, y, column, code, slope):
    """Copy what exists of a block from `spare` to y, unless it is there, and activate it."""
    rectify = code == gemm.RELU or code == gemm.LEAKY_RELU
    done = 0
    while done < BLOCK and row < last:
        image, inside = divmod(row, table[DOWN])
        at = table[Y_START] + image * table[Y_IMAGE] + inside * table[Y_ROW]
        at += left * table[Y_PIXEL] + column
        count = min(BLOCK - done, table[ACROSS] - left)
        existing = min(count, table[OUT_WIDTH] - left) if inside < table[OUT_HEIGHT] else 0
        for i in range(existing):
            if in_place:
                if rectify:
                    write_line(y, at, y, at, columns, 1, slope)
            else:
                write_line(y, at, spare, (done + i) * PANEL, columns, rectify, slope)
            if code > gemm.FLOOR:
                gemm.activate_row(y, at, columns, code, slope)
            at += table[Y_PIXEL]
        done += count
        left += count
        if left == table[ACROSS]:
            row, left = row + 1, 0


@simd.vector_intrinsic
def write_line(v, target, target0, source, source0, count, rectify, slope):
    """`count` values from one place to another, through a linear rectifier if `rectify`."""
    builder = v.builder
    flat = builder.fcmp_ordered("==", slope, v.scalar(0))
    slopes = v.splat(slope)
    rectifying = builder.icmp_signed("!=", rectify, v.integer(0))
    with v.count_up(count, v.lanes) as (i, _):
        value = v.load(source, builder.add(source0, i))
        below = builder.select(flat, v.constant(0), v.multiply(value, slopes))
        value = builder.select(rectifying, v.where_negative(value, below, value), value)
        v.store_first(value, target, builder.add(target0, i), builder.sub(count, i))


# -- The products ----------------------------------------------------------------------------------


def pays(channels, filters, positions):
    """Whether this is quicker: lines of a pixel that are mostly full (with 16 channels it takes
    1.1 times as long as `direct`), more than half a panel of columns (with 16 of them it takes 1.3
    times as long as `bands`), and several blocks of positions."""
    filled = channels / (-(-channels // STEP) * STEP)
    return filled > 0.6 and filters > PANEL // 2 and positions >= 2 * BLOCK


def convolve(x, kernel, bias, shape, activation, y):
    """y = activation(x * kernel + bias); flat float32 arrays, `bias` may be None."""
    _run(forward_pass(shape), x, kernel, bias, activation, y)


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat float32 arrays."""
    passes, covered = input_grad_passes(shape)
    if not covered:
        noted(np.copyto, dx, 0)
    for work in passes:
        _run(work, dy, kernel, None, None, dx)


def _run(work, x, kernel, bias, activation, y):
    workers = threads.count()
    plan = _plan(work, workers)
    bands = -(-int(plan.table[ROWS]) // int(plan.table[BAND]))
    parts = _parts(work, bands, workers)
    workers = min(workers, bands * len(parts))
    panels = -(-work.filters // PANEL)
    size = work.groups * panels * len(plan.offsets) * PARTS * 2 * amx.TILE_BYTES
    row = BLOCK * PANEL + len(plan.phases) * int(plan.table[PLANE]) // 4
    packed, *scratch = arena.scratch(
        ((size // 4,), np.float32),
        arena.rows(workers, row, np.float32),
        ((bands * len(parts),), np.int64),
    )
    amx.pack(kernel, plan.taps, plan.packing, packed)
    total = work.groups * work.filters
    start = np.zeros(total + PANEL, np.float32)
    if bias is not None:
        noted(np.copyto, start[:total], bias)
    code, slope = gemm.activation_code(activation, x.dtype)
    planes_product(x, plan.table, plan.phases, plan.offsets, parts, packed, start, y, code, slope,
                   *scratch)  # fmt: skip
