"""Planes: some channels of a band of a picture, copied so that its pixels are neighbours.

    y[p] = activation(bias + sum over taps t of s[p + t] K[t])    for each phase of y

plane    the channels of a group in the rows of x that a band needs, with the border of zeros, in
         the scratch memory s
band     some rows of the result
phase    pixels of the result that meet the same taps: all of y; of dx, those with one remainder
         by the stride
tap      what is added to a pixel with one factor each: a cell of the kernel and a channel

Design. In a picture of many channels neighbouring pixels lie far apart, often by a power of two,
and then fall into the same few places of the first cache. In a plane they are neighbours, the
border needs no test, and the distances of pixels are constants of the code. With stride, columns
of a plane are sorted by their remainder, so that neighbours of y still read neighbours. dx is the
product of dy with the kernel turned around, one phase after another. While a band is computed, the
next one is fetched into the second cache, line after line: without that 32 pictures of 14 x 14,
256 channels in 32 groups, take 1.07 to 1.09 times as long, 8 of 56 x 56, 128 in 16 groups, 1.01 to
1.10 (two threads on a Xeon).
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import prange
from numba.core import cgutils

from minicnn.ops import arena
from minicnn.ops.fast import gemm, sharing, simd, threads, windows
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.tiles import HALVES
from minicnn.ops.recording import noted

PLANE_BYTES = 64 * 1024  # read once for each row of taps: may leave the first cache, not the second
BAND_BYTES = 256 * 1024  # of x; with the next one and as much of y it fits into the second cache
TASKS = 16  # pieces of the work: enough for as many threads
SEGMENTS = 16  # of the sum for dK; fixed, so that the number of threads changes no bit

COLUMNS = 14, 8, 4, 1  # of tiles; with a vector of the kernel and one of s they fit 16 registers
SUMS = 24 if simd.REGISTERS == 32 else 8  # of a tile for dK

# Columns of the integer tables that describe the work to the kernels.
(IMAGES, HEIGHT, WIDTH, CHANNELS, OUT_CHANNELS, OUT_SIZE, STEP, BAND, BANDS, PLANES, PIECES, UNIT,
 OUT_UNIT, PIXEL_SIZE, FIRST_ROW, SEEN, PLANE_ROW, ALL_TAPS) = range(18)  # fmt: skip
AT, PIXEL, COUNT = range(3)  # of a remainder's columns: where in a row of s, first, how many
ROWS, WIDE, START, NEXT_ROW, NEXT_PIXEL, FIRST_TAP, ROWS_OF_TAPS, TAPS_OF_ROW = range(8)  # a phase


def _pixel_copy(half):
    """Intrinsic: the first `left` of a vector of each of `count` pixels, which lie x_step apart."""

    def write(v, s, s0, x, x0, x_step, count, left):
        builder = v.builder
        if half:
            v = v.of_lanes(v.lanes // 2)

        def copy(load, store):
            with v.count_up(count) as (i, _):
                value = load(x, builder.add(x0, builder.mul(i, x_step)))
                v.store(value, s, v.offset(s0, (i, v.lanes)))

        v.whole_or_first(left, copy)

    return simd.vector_intrinsic(write)


_copy_pixels, _copy_half_pixels = _pixel_copy(False), _pixel_copy(HALVES)


@simd.vector_intrinsic
def _prefetch(v, x, x0, count):
    v.prefetch_run(x, x0, count)


@simd.vector_intrinsic
def _prefetch_to_write(v, y, y0, count):
    v.prefetch_run(y, y0, count, to_write=True)


def _vectors_of(v, half):
    """Those that are multiplied: half vectors of AVX-512 if `half`, of which some processors
    multiply two at a time."""
    return v.of_lanes(v.lanes // 2) if half else v


def gradient_tile(lanes):
    """(cells of the kernel, taps of each) in a tile for dK, with vectors of `lanes`."""
    return max(1, SUMS // lanes), lanes


def _row_tile(columns, half):
    """Intrinsic: `columns` neighbours in a row of y, one vector of filters."""

    def write(v, s, s0, taps, t0, count, kernel, k0, start, channel, floor0, y, y0, y_step, left,
              code, slope, streaming):  # fmt: skip
        """y[j] = start + sum over t of s[s0 + taps[t] + j] kernel[t], then a rectifier."""
        v = _vectors_of(v, half)
        builder = v.builder
        first = v.load(start, channel)
        sums = [cgutils.alloca_once(builder, v.type) for _ in range(columns)]
        for total in sums:
            builder.store(first, total)
        with v.count_up(count) as (t, _):
            here = builder.add(s0, v.load_integer(taps, builder.add(t0, t)))
            weight = v.load(kernel, v.offset(k0, (t, v.lanes)))
            for j, total in enumerate(sums):
                value = v.load_splat(s, builder.add(here, v.integer(j * v.lanes)))
                builder.store(v.multiply_add(value, weight, builder.load(total)), total)
        with builder.if_then(gemm.is_rectifier(v, code)):
            change = gemm.rectified(v, code, slope, start, floor0)
            for total in sums:
                builder.store(change(builder.load(total)), total)

        def finish(store):
            for j, total in enumerate(sums):
                store(builder.load(total), y, v.offset(y0, (y_step, j)))

        def keep():
            v.whole_or_first(left, lambda load, store: finish(store))

        if half:  # does not fill a line of the caches
            keep()
            return
        with builder.if_else(builder.icmp_signed("!=", streaming, v.integer(0))) as (yes, no):
            with yes:
                finish(v.stream)
            with no:
                keep()

    return simd.vector_intrinsic(write)


def _tap_tile(half):
    """Intrinsic: a tile of taps, one vector of filters."""

    def write(v, s, s_row, taps, t0, rows, columns, dy, dy0, dy_step, left, sums, sums0, x, ahead,
              ahead_count, dy_ahead, dy_ahead_count):  # fmt: skip
        """sums[t] += sum over rows and columns of s[taps[t] + pixel] dy[pixel].

        With every row, some vectors of x and dy are fetched that are needed later.
        """
        whole, v = v, _vectors_of(v, half)
        builder = v.builder
        cells, elements = gradient_tile(v.lanes)
        offsets = [
            v.load_integer(taps, builder.add(t0, v.integer(cell * elements)))
            for cell in range(cells)
        ]
        totals = [cgutils.alloca_once(builder, v.type) for _ in range(cells * elements)]
        places = [builder.add(sums0, v.integer(i * v.lanes)) for i in range(len(totals))]

        def compute(load, store):
            for total, place in zip(totals, places, strict=True):
                builder.store(v.load(sums, place), total)
            with v.count_up(rows) as (row, _):
                for array, first, count in (
                    (x, ahead, ahead_count),
                    (dy, dy_ahead, dy_ahead_count),
                ):
                    following = v.offset(first, (builder.mul(row, count), whole.lanes))
                    whole.prefetch_run(array, following, count)
                there = builder.add(dy0, builder.mul(builder.mul(row, columns), dy_step))
                begin = builder.mul(row, s_row)
                with v.count_up(columns) as (j, _):
                    factor = load(dy, builder.add(there, builder.mul(j, dy_step)))
                    pixel = v.offset(begin, (j, v.lanes))
                    for number, total in enumerate(totals):
                        cell, element = divmod(number, elements)
                        at = v.offset(pixel, (offsets[cell], 1))
                        value = v.load_splat(s, builder.add(at, v.integer(element)))
                        value = v.multiply_add(value, factor, builder.load(total))
                        builder.store(value, total)
            for total, place in zip(totals, places, strict=True):
                v.store(builder.load(total), sums, place)

        v.whole_or_first(left, compute)

    return simd.vector_intrinsic(write)


# -- Kernels ---------------------------------------------------------------------------------------


@kernel
def _copy_plane(x, table, remainders, image, first_row, plane, s):
    """The rows of x that a band sees; columns of zeros are in s already."""
    channels, channel = table[CHANNELS], plane * table[UNIT]
    left = min(table[UNIT], channels - channel)
    for row in range(table[SEEN]):
        at, y = row * table[PLANE_ROW], first_row + row
        if y < 0 or y >= table[HEIGHT]:
            simd.zero_run(s, at, table[PLANE_ROW])
            continue
        x_row = (image * table[HEIGHT] + y) * table[WIDTH]
        for r in range(len(remainders)):
            x0 = (x_row + remainders[r, PIXEL]) * channels + channel
            s0, count = at + remainders[r, AT], remainders[r, COUNT]
            if table[PIXEL_SIZE] * x.itemsize == simd.VECTOR_BYTES:
                _copy_pixels(s, s0, x, x0, len(remainders) * channels, count, left)
            else:
                _copy_half_pixels(s, s0, x, x0, len(remainders) * channels, count, left)


@kernel
def _inside(phase, tap_rows, row, height):
    """First tap, and the one after the last, whose row of x is in the picture."""
    first = phase[FIRST_TAP]
    last = first + phase[ROWS_OF_TAPS] * phase[TAPS_OF_ROW]
    while first < last and row + tap_rows[first] < 0:
        first += phase[TAPS_OF_ROW]
    while first < last and row + tap_rows[last - 1] >= height:
        last -= phase[TAPS_OF_ROW]
    return first, last


def _row_product(name, half):
    columns_14, columns_8, columns_4, one_column = (_row_tile(count, half) for count in COLUMNS)

    def product_row(s, s0, size, taps, t0, count, kernel, k0, start, channel, y, y0, y_step, width,
                    left, code, slope, streaming):  # fmt: skip
        """A row of y; the last columns overlap those before them."""
        floor0 = channel + (start.size // 2 if code == gemm.FLOOR else 0)  # see gemm.start_vector
        column = 0
        while column < width:
            rest = width - column
            if rest >= COLUMNS[0]:
                columns_14(s, s0 + column * size, taps, t0, count, kernel, k0, start, channel,
                           floor0, y, y0 + column * y_step, y_step, left, code, slope,
                           streaming)  # fmt: skip
                column += COLUMNS[0]
            elif rest > COLUMNS[2] and width >= COLUMNS[1]:
                column = min(column, width - COLUMNS[1])
                columns_8(s, s0 + column * size, taps, t0, count, kernel, k0, start, channel,
                          floor0, y, y0 + column * y_step, y_step, left, code, slope,
                          streaming)  # fmt: skip
                column += COLUMNS[1]
            elif width >= COLUMNS[2]:
                column = min(column, width - COLUMNS[2])
                columns_4(s, s0 + column * size, taps, t0, count, kernel, k0, start, channel,
                          floor0, y, y0 + column * y_step, y_step, left, code, slope,
                          streaming)  # fmt: skip
                column += COLUMNS[2]
            else:
                one_column(s, s0 + column * size, taps, t0, count, kernel, k0, start, channel,
                           floor0, y, y0 + column * y_step, y_step, left, code, slope,
                           streaming)  # fmt: skip
                column += 1

    product_row.__qualname__ = f"{name}_row"  # the cache tells kernels apart by this name
    return kernel(product_row)


def products(name, half):
    """Parallel kernel: y from planes of x, row by row."""
    product_row = _row_product(name, half)

    def work(worker, x, table, remainders, phases, taps, tap_rows, packed, start, y, code, slope,
             streaming, scratch, taken):  # fmt: skip
        s, size, lanes = scratch[worker], table[PIXEL_SIZE], simd.VECTOR_BYTES // x.itemsize
        band, step, channels = table[BAND], table[STEP], table[OUT_CHANNELS]
        line_size = step * table[WIDTH] * table[UNIT]  # elements of a plane in a row of the result
        s[:] = 0
        for turn in range(taken.size):
            task = sharing.task_of(turn, worker, len(scratch), taken)
            if task < 0:
                continue
            place, piece = divmod(task, table[PIECES])
            image, number = divmod(place, table[BANDS])
            begin = number * band
            first_plane, last_plane = gemm.share(piece, table[PIECES], table[PLANES])
            following = divmod(place + 1, table[BANDS])
            ahead = following[0] * table[HEIGHT] + following[1] * band * step
            ahead = ahead * table[WIDTH] * table[CHANNELS] + first_plane * band * line_size
            y_ahead = following[0] * table[OUT_SIZE] + following[1] * band * phases[0, NEXT_ROW]
            y_ahead *= channels
            for plane in range(first_plane, last_plane):
                _copy_plane(x, table, remainders, image, begin * step + table[FIRST_ROW], plane, s)
                channel = plane * table[OUT_UNIT]
                left = min(table[OUT_UNIT], channels - channel)
                for p in range(len(phases)):
                    phase = phases[p]
                    for line in range(begin, min(begin + band, phase[ROWS])):
                        first, last = _inside(phase, tap_rows, line * step, table[HEIGHT])
                        pixel = image * table[OUT_SIZE] + phase[START] + line * phase[NEXT_ROW]
                        if p == 0:
                            _prefetch(x, ahead, line_size // lanes)
                            ahead += line_size
                        if not streaming:
                            y_size = phase[WIDE] * table[OUT_UNIT]
                            _prefetch_to_write(y, y_ahead, y_size // lanes)
                            y_ahead += y_size
                        product_row(s, (line - begin) * step * table[PLANE_ROW], size, taps, first,
                                    last - first, packed, (plane * table[ALL_TAPS] + first) * size,
                                    start, channel, y, pixel * channels + channel,
                                    phase[NEXT_PIXEL] * channels, phase[WIDE], left, code, slope,
                                    streaming)  # fmt: skip
            if code > gemm.FLOOR:
                channel = first_plane * table[OUT_UNIT]
                count = min(last_plane * table[OUT_UNIT], channels) - channel
                pixel = image * table[OUT_SIZE] + begin * phases[0, WIDE]
                for _ in range(min(band, phases[0, ROWS] - begin) * phases[0, WIDE]):
                    gemm.activate_row(y, pixel * channels + channel, count, code, slope)
                    pixel += 1
        if streaming:
            simd.end_of_stream(y)

    work.__qualname__ = f"{name}_worker"
    work = kernel(work)

    def loop(x, table, remainders, phases, taps, tap_rows, packed, start, y, code, slope,
             streaming, scratch, taken):  # fmt: skip
        sharing.open_tasks(taken)
        for worker in prange(len(scratch)):
            work(np.int64(worker), x, table, remainders, phases, taps, tap_rows, packed, start, y,
                 code, slope, streaming, scratch, taken)  # fmt: skip

    loop.__qualname__ = name
    return parallel_kernel(loop)


def gradients(name, half):
    """Parallel kernel: dK from planes of x, tile by tile of `height` taps."""
    tap_tile = _tap_tile(half)

    def work(worker, x, table, remainders, phases, taps, height, dy, partial, scratch, taken):
        s, size, lanes = scratch[worker], table[PIXEL_SIZE], simd.VECTOR_BYTES // x.itemsize
        band, step, channels = table[BAND], table[STEP], table[OUT_CHANNELS]
        lines, width = phases[0, ROWS], phases[0, WIDE]
        line_size, dy_line_size = step * table[WIDTH] * table[UNIT], width * table[OUT_UNIT]
        s[:] = 0
        for turn in range(taken.size):
            segment = sharing.task_of(turn, worker, len(scratch), taken)
            if segment < 0:
                continue
            sums = partial[segment]
            sums[:] = 0
            first_task, last_task = gemm.share(segment, len(partial), table[IMAGES] * table[BANDS])
            for task in range(first_task, last_task):
                image, number = divmod(task, table[BANDS])
                begin = number * band
                rows = min(band, lines - begin)
                following = divmod(task + 1, table[BANDS])
                ahead = following[0] * table[HEIGHT] + following[1] * band * step
                ahead *= table[WIDTH] * table[CHANNELS]
                dy_ahead = (following[0] * lines + following[1] * band) * width * channels
                for plane in range(table[PLANES]):
                    _copy_plane(x, table, remainders, image, begin * step + table[FIRST_ROW], plane,
                                s)  # fmt: skip
                    channel = plane * table[OUT_UNIT]
                    dy0 = (image * lines + begin) * width * channels + channel
                    for t in range(0, len(taps), height):
                        first = t == 0
                        tap_tile(s, step * table[PLANE_ROW], taps, t, rows, width, dy, dy0,
                                 channels, min(table[OUT_UNIT], channels - channel), sums,
                                 (plane * len(taps) + t) * size, x, ahead,
                                 line_size // lanes if first else 0, dy_ahead,
                                 dy_line_size // lanes if first else 0)  # fmt: skip
                    ahead += rows * line_size
                    dy_ahead += rows * dy_line_size

    work.__qualname__ = f"{name}_worker"
    work = kernel(work)

    def loop(x, table, remainders, phases, taps, height, kernel_rows, apart, dy, partial, dk,
             scratch, taken):  # fmt: skip
        sharing.open_tasks(taken)
        for worker in prange(len(scratch)):
            work(np.int64(worker), x, table, remainders, phases, taps, height, dy, partial, scratch,
                 taken)  # fmt: skip
        for plane in prange(table[PLANES]):
            _add_segments(np.int64(plane), table, len(taps), kernel_rows, apart, partial, dk)

    loop.__qualname__ = name
    return parallel_kernel(loop)


@kernel
def _add_segments(plane, table, taps, kernel_rows, apart, partial, dk):
    """The partial sums of a plane, in order, to dk."""
    size = table[PIXEL_SIZE]
    first = plane * taps * size
    sums = partial[0, first : first + taps * size]
    for segment in range(1, len(partial)):
        more = partial[segment, first : first + taps * size]
        for i in range(len(sums)):
            sums[i] += more[i]
    count = min(table[OUT_UNIT], table[OUT_CHANNELS] - plane * table[OUT_UNIT])
    for t in range(len(kernel_rows)):
        if kernel_rows[t] >= 0:
            for j in range(count):
                dk[kernel_rows[t] + plane * apart + j] = sums[t * size + j]


@kernel
def _pack(kernel, table, rows, apart, step, packed):
    """packed[plane, t, j] = kernel[rows[t] + plane * apart + j * step]; zeros fill the pixel."""
    size, at = table[PIXEL_SIZE], 0
    for plane in range(table[PLANES]):
        count = min(table[OUT_UNIT], table[OUT_CHANNELS] - plane * table[OUT_UNIT])
        for row in rows:
            for j in range(count):
                packed[at + j] = kernel[row + plane * apart + j * step]
            for j in range(count, size):
                packed[at + j] = 0
            at += size


# -- Plans: the tables for the kernels, made in Python once per shape ------------------------------


class Plan(NamedTuple):
    table: np.ndarray
    remainders: np.ndarray  # of columns of x by the step: AT, PIXEL, COUNT
    phases: np.ndarray
    taps: np.ndarray  # where in a plane, from where the first pixel of a row looks
    tap_rows: np.ndarray  # rows of x, from that of the line
    kernel_rows: np.ndarray  # where in the kernel, for the first plane
    tasks: int
    scratch: int  # elements of s


def _first_and_reach(phases):
    """Distance of the first pixel of x that a phase sees, and pixels from there to the last."""
    distances = [distance for phase in phases for distance, _ in phase.cells] or [0]
    return min(distances), max(distances) - min(distances) + 1


class Sizes(NamedTuple):
    """Of planes: hashable, as part of the key of a plan."""

    unit: int  # channels of x in a plane
    out_unit: int  # filters made of them
    tap_channels: int  # channels of a cell of the kernel, each of which is a tap of its own
    pixel_size: int  # elements of a pixel in a plane, and of a tap in the packed kernel


@functools.lru_cache(maxsize=256)
def forward_plan(shape, sizes, itemsize):
    """Of y from x."""
    axes = [windows.forward_axis(shape, axis) for axis in range(2)]
    return _plan(shape, shape.input_shape, shape.output_shape, shape.strides, axes, sizes,
                 shape.kernel_shape[3], itemsize)  # fmt: skip


@functools.lru_cache(maxsize=256)
def input_grad_plan(shape, sizes, itemsize):
    """Of dx from dy: the filters of the kernel are the channels of taps."""
    axes = [windows.input_grad_axis(shape, axis) for axis in range(2)]
    return _plan(shape, shape.output_shape, shape.input_shape, (1, 1), axes, sizes, 1, itemsize)


@functools.lru_cache(maxsize=256)
def kernel_grad_plan(shape, sizes, itemsize, height):
    """The forward plan with all of a pixel's elements, filled up to whole tiles of `height`
    taps."""
    whole = sizes._replace(tap_channels=sizes.pixel_size)
    plan = forward_plan(shape, whole, itemsize)
    missing = np.arange(len(plan.taps)) % whole.tap_channels >= sizes.tap_channels
    return plan._replace(
        taps=np.concatenate((plan.taps, np.zeros(-len(plan.taps) % height, np.int64))),
        kernel_rows=np.where(missing, -1, plan.kernel_rows),
    )


def _plan(shape, input_shape, output_shape, steps, axes, sizes, channel_step, itemsize):
    """Tables for y[first + j next] = sum over taps of x[j step + distance], per axis."""
    unit, out_unit, tap_channels, pixel_size = sizes
    n, height, width, channels = input_shape
    (first_row, reach), (first_column, reach_x) = map(_first_and_reach, axes)
    lines = max(phase.count for phase in axes[0])
    columns = (max(phase.count for phase in axes[1]) - 1) * steps[1] + reach_x
    part = -(-columns // steps[1])
    row = steps[1] * part * pixel_size

    fitting = (PLANE_BYTES // (row * itemsize) - reach) // steps[0] + 1
    fitting = min(fitting, BAND_BYTES // (steps[0] * width * channels * itemsize))
    band = min(max(fitting, -(-reach // steps[0])), lines)  # at least half of the rows are new
    band = -(-lines // -(-lines // band))
    bands, planes = -(-lines // band), -(-channels // unit)
    pieces = min(-(-TASKS // (n * bands)), planes)

    remainders = []
    for r in range(steps[1]):
        skip = max(0, -(-(-first_column - r) // steps[1]))
        pixel = first_column + r + skip * steps[1]
        count = max(0, min(part - skip, -(-(width - pixel) // steps[1])))
        remainders.append(((r * part + skip) * pixel_size, pixel, count))

    def place(a, b):
        """Where in a plane, of a row and column of x."""
        turn, r = divmod(b - first_column, steps[1])
        return (a - first_row) * row + (r * part + turn) * pixel_size

    cell_size = shape.kernel_shape[2] * shape.kernel_shape[3]
    phases, taps = [], []
    out_height, out_width = output_shape[1:3]
    for y in axes[0]:
        for x in axes[1]:
            phases.append(
                (y.count, x.count, y.first * out_width + x.first, y.next * out_width, x.next,
                 len(taps), len(y.cells), len(x.cells) * tap_channels)
            )  # fmt: skip
            taps += [
                (place(a, b) + c, a,
                 (i * shape.kernel_shape[1] + j) * cell_size + c * channel_step)
                for a, i in y.cells for b, j in x.cells for c in range(tap_channels)
            ]  # fmt: skip
    table = np.array(
        (n, height, width, channels, output_shape[3], out_height * out_width, steps[0], band, bands,
         planes, pieces, unit, out_unit, pixel_size, first_row, (band - 1) * steps[0] + reach, row,
         len(taps)),
        np.int64,
    )  # fmt: skip
    return Plan(
        table,
        np.array(remainders, np.int64),
        np.array(phases, np.int64),
        *np.array(taps, np.int64).reshape(-1, 3).T.copy(),
        n * bands * pieces,
        int(table[SEEN]) * row + simd.VECTOR_BYTES // itemsize,  # zero_run writes whole vectors
    )


# -- Launches --------------------------------------------------------------------------------------


def multiply(kernel_of_products, plan, x, kernel, apart, step, bias, activation, y):
    """y by a kernel made by `products`; the parts of `kernel` for the planes lie `apart`, and the
    elements for the filters of a plane `step`."""
    table, filters = plan.table, int(plan.table[OUT_CHANNELS])
    size = int(table[PIXEL_SIZE])
    packed, *scratch = arena.scratch(
        ((len(plan.taps) * int(table[PLANES]) * size,), x.dtype),
        arena.rows(min(threads.count(), plan.tasks), plan.scratch, x.dtype),
        ((plan.tasks,), np.int64),
    )
    noted(_pack, kernel, table, plan.kernel_rows, apart, step, packed)
    start = gemm.start_vector(bias, activation, filters, x.dtype)
    code, slope = gemm.activation_code(activation, x.dtype)
    whole = table[OUT_UNIT] == simd.lanes(x.dtype)
    streaming = whole and code <= gemm.FLOOR
    streaming = bool(streaming and simd.streams(y, filters, simd.LATE_STREAM_BYTES))
    kernel_of_products(x, table, plan.remainders, plan.phases, plan.taps, plan.tap_rows, packed,
                       start, y, code, slope, streaming, *scratch)  # fmt: skip


def sum_up(kernel_of_gradients, plan, height, x, dy, apart, dk):
    """dk by a kernel made by `gradients`."""
    table = plan.table
    size = int(table[PLANES] * table[PIXEL_SIZE]) * len(plan.taps)
    segments = min(SEGMENTS, int(table[IMAGES] * table[BANDS]))
    partial, *scratch = arena.scratch(
        ((segments, size), x.dtype),
        arena.rows(min(threads.count(), segments), plan.scratch, x.dtype),
        ((segments,), np.int64),
    )
    kernel_of_gradients(x, table, plan.remainders, plan.phases, plan.taps, height, plan.kernel_rows,
                        apart, dy, partial, dk, *scratch)  # fmt: skip
