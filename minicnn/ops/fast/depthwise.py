"""Depthwise convolution: every channel has a kernel of its own (groups = channels = filters).

    y[o, c]  = activation(bias[c] + sum over taps t of x[i(o, t), c] K[t, c])
    dx[i, c] = sum over taps t of dy[o(i, t), c] K[t, c]
    dK[t, c] = sum over o of x[i(o, t), c] dy[o, c]

o, i     pixel of the output, of the input;  i = o stride + t dilation - before, per axis
run      taps side by side in a row of the kernel: see windows.py

Design. No channel is ever added to another, so there is no matrix product: the only work is
a * b + c on vectors of channels, and what counts is how often and in which order x is read. Nothing
is copied: a tile of four neighbours in a row of y and two vectors of channels is computed from x
where it lies, its sums in registers while the taps pass; with a run, each vector of x is read once
for all taps of a row of the kernel. For dK the roles change: the vectors of dy stay, and the sums
of a run pass.

Measured (two threads on a Xeon), of the time of the version before, which copied a vector of
channels of some rows, with a border of zeros, so that its pixels were neighbours in memory (y, dx,
dK): 32 pictures of 56 x 56, 64 channels, 3 x 3: 0.69, 0.69, 0.87; 16 of 14 x 14, 256 channels:
0.66, 0.68, 0.93, with 5 x 5 0.91, 0.91, 1.08; 32 of 7 x 7, 960 channels: 0.71, 0.68, 0.99; 32 of
28 x 28, 128 channels, stride 2: 1.10, 1.04, 0.72. Tiles of eight neighbours and one vector were no
quicker than copies where rows lie a power of two apart, tiles of two and four 1.0 to 1.4 times as
slow as these.
"""

import functools
import itertools

import numpy as np
from numba import prange
from numba.core import cgutils

from minicnn.ops import arena
from minicnn.ops.fast import gemm, sharing, simd, threads, windows
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.simd import Variable
from minicnn.ops.fast.windows import (
    ACROSS,
    CHANNELS,
    COUNT,
    FIRST,
    IMAGES,
    NEXT,
    OUT_HEIGHT,
    OUT_WIDTH,
    PIXEL_STEP,
    RUN_SIZE,
    SINGLE_TAPS,
    WIDTH,
    Form,
    Pixels,
    seen_by,
    taps_inside,
    text_for,
    tile_at,
)

COLUMNS = 4  # neighbours in a tile
ABREAST = 2  # vectors of channels of each
RUNS = 3, 5  # lengths that have texts of their own
APART = 1, 2  # strides that have, for each of them
LINES = 8  # rows of the result in a task
SEGMENTS = 16  # of the sum for dK; fixed, so that the number of threads changes no bit


# -- Tiles -----------------------------------------------------------------------------------------


def _over_channels(v, channels, compute):
    """compute(c, vectors, read, store) for all channels, ABREAST vectors at a time, then single
    ones; read(text) calls text(load), as `Vectors.read_first`, store(write) write(store)."""
    builder, together = v.builder, ABREAST * v.lanes
    whole = builder.mul(builder.sdiv(channels, v.integer(together)), v.integer(together))
    with v.count_up(whole, together) as (c, _):
        compute(c, ABREAST, lambda text: text(v.load), lambda write: write(v.store))
    with cgutils.for_range_slice(
        builder, whole, channels, v.integer(v.lanes), intp=simd.INTEGER
    ) as (c, _):
        left = builder.sub(channels, c)
        compute(c, 1, lambda text: v.read_first(left, text),
                lambda write: v.whole_or_first(left, lambda load, store: write(store)))  # fmt: skip


def _grid(v, first, step, rows, vectors):
    """Indices of neighbouring vectors in rows that lie `step` apart."""
    lanes = v.integer(v.lanes)
    return [[v.offset(first, (step, k), (lanes, i)) for i in range(vectors)] for k in range(rows)]


def _product_tile(form):
    """Intrinsic: some neighbours in a row of y, all channels."""

    def write(v, tile, at_edge, x, x0, column, step, zeros, width, taps, count, kernel, k_step,
              start, to_floor, y, y0, y_step, channels, code, slope, streaming):  # fmt: skip
        """y = start + the sum over runs and their taps of pixel times kernel, then a rectifier."""
        builder = v.builder
        rectifying = gemm.is_rectifier(v, code)
        past = builder.icmp_signed("!=", streaming, v.integer(0))

        def compute(columns, pixels, c, vectors, read, keep):
            (places,) = _grid(v, c, channels, 1, vectors)
            sums = [[Variable(v, v.load(start, p)) for p in places] for _ in range(columns)]

            def add_up(load):
                with v.count_up(count) as (t, _):
                    pixel, cell = pixels.of_run(taps, t)
                    cells = _grid(v, builder.add(cell, c), k_step, form.run, vectors)
                    weights = [[load(kernel, at) for at in of_tap] for of_tap in cells]
                    for m, counts in form.seen(columns):
                        begin = pixel(m)
                        for i, place in enumerate(places):
                            value = load(begin, place)
                            for tap, j in counts:
                                total = sums[j][i]
                                total.value = v.multiply_add(value, weights[tap][i], total.value)

            read(add_up)
            with builder.if_then(rectifying):
                for i, place in enumerate(places):
                    floor0 = builder.add(place, to_floor)
                    change = gemm.rectified(v, code, slope, start, floor0)
                    for of_column in sums:
                        of_column[i].value = change(of_column[i].value)

            def finish(store):
                for j, of_column in enumerate(sums):
                    for total, place in zip(of_column, places, strict=True):
                        store(total.value, y, v.offset(builder.add(y0, place), (y_step, j)))

            with builder.if_else(past) as (yes, no):
                with yes:
                    finish(v.stream)
                with no:
                    keep(finish)

        def text(columns, beside):
            pixels = Pixels(v, x, x0, column, step, channels, zeros, width, beside)
            _over_channels(v, channels, functools.partial(compute, columns, pixels))

        text_for(v, tile, COLUMNS, at_edge, text)

    return simd.vector_intrinsic(write)


def _gradient_tile(form):
    """Intrinsic: all taps' sums over some neighbours in a row of dy, all channels."""

    def write(v, tile, at_edge, x, x0, column, step, zeros, width, taps, count, dy, dy0, skip,
              channels, sums, k_step):  # fmt: skip
        """sums of the runs' taps += the sum of pixel times dy; if `at_edge`, the first `skip`
        columns of dy are left out."""
        builder = v.builder

        def factor(beside, j, value):
            """What the gradient of column j is multiplied as."""
            if not beside:
                return value
            counts = builder.icmp_signed("<=", skip, v.integer(j))
            return builder.select(counts, value, v.constant(0))

        def compute(columns, pixels, c, vectors, read, keep):
            (places,) = _grid(v, c, channels, 1, vectors)

            def add_up(load):
                given = _grid(v, builder.add(dy0, c), channels, columns, vectors)
                factors = [
                    [factor(pixels.at_edge, j, load(dy, at)) for at in row]
                    for j, row in enumerate(given)
                ]
                with v.count_up(count) as (t, _):
                    pixel, cell = pixels.of_run(taps, t)
                    cells = _grid(v, builder.add(cell, c), k_step, form.run, vectors)
                    totals = [[Variable(v, v.load(sums, at)) for at in row] for row in cells]
                    for m, counts in form.seen(columns):
                        begin = pixel(m)
                        for i, place in enumerate(places):
                            value = load(begin, place)
                            for tap, j in counts:
                                total = totals[tap][i]
                                total.value = v.multiply_add(value, factors[j][i], total.value)
                    for of_tap, of_cell in zip(totals, cells, strict=True):
                        for total, at in zip(of_tap, of_cell, strict=True):
                            v.store(total.value, sums, at)

            read(add_up)

        def text(columns, beside):
            pixels = Pixels(v, x, x0, column, step, channels, zeros, width, beside)
            _over_channels(v, channels, functools.partial(compute, columns, pixels))

        text_for(v, tile, COLUMNS, at_edge, text)

    return simd.vector_intrinsic(write)


# -- Kernels ---------------------------------------------------------------------------------------


def _products(form):
    """Parallel kernel: y, row by row."""
    add_tile = _product_tile(form)

    def line_product(line, x, table, phases, runs, taps, zeros, kernel, k_step, start, to_floor, y,
                     code, slope, streaming):  # fmt: skip
        row_phase, row, x_row = seen_by(line, table)
        channels = table[CHANNELS]
        for p in range(phases.shape[1]):
            phase = phases[row_phase, p]
            count = taps_inside(runs, table, phase, row, channels, taps)
            y_row = (line * table[OUT_WIDTH] + phase[FIRST]) * channels
            y_step, column = phase[NEXT] * channels, 0
            while column < phase[COUNT]:
                tile, column, at_edge = tile_at(column, COLUMNS, phase, table)
                there = column * table[ACROSS]
                add_tile(tile, at_edge, x, x_row + there * channels, there, table[PIXEL_STEP],
                         zeros, table[WIDTH], taps, count, kernel, k_step, start, to_floor, y,
                         y_row + column * y_step, y_step, channels, code, slope,
                         streaming)  # fmt: skip
                column += tile
        if code > gemm.FLOOR:
            row_size = table[OUT_WIDTH] * channels
            gemm.activate_row(y, line * row_size, row_size, code, slope)

    name = f"depthwise_products_{form.run}_{form.apart}"
    line_product.__qualname__ = f"{name}_line"  # the cache tells kernels apart by this name
    line_product = kernel(line_product)

    def work(worker, x, table, phases, runs, zeros, kernel, k_step, start, y, code, slope,
             streaming, scratch, taken):  # fmt: skip
        to_floor = start.size // 2 if code == gemm.FLOOR else 0  # see gemm.start_vector
        lines = table[IMAGES] * table[OUT_HEIGHT]
        for turn in range(taken.size):
            task = sharing.task_of(turn, worker, len(scratch), taken)
            if task < 0:
                continue
            for line in range(task * LINES, min((task + 1) * LINES, lines)):
                line_product(line, x, table, phases, runs, scratch[worker], zeros, kernel, k_step,
                             start, to_floor, y, code, slope, streaming)  # fmt: skip
        if streaming:
            simd.end_of_stream(y)

    work.__qualname__ = f"{name}_worker"
    work = kernel(work)

    def loop(x, table, phases, runs, zeros, kernel, k_step, start, y, code, slope, streaming,
             scratch, taken):  # fmt: skip
        sharing.open_tasks(taken)
        for worker in prange(len(scratch)):
            work(np.int64(worker), x, table, phases, runs, zeros, kernel, k_step, start, y, code,
                 slope, streaming, scratch, taken)  # fmt: skip

    loop.__qualname__ = name
    return parallel_kernel(loop)


def _gradients(form):
    """Parallel kernel: dK, a segment of the rows of dy after the other."""
    add_tile = _gradient_tile(form)

    def work(worker, x, table, phases, runs, zeros, dy, partial, k_step, scratch, taken):
        taps, phase = scratch[worker], phases[0, 0]
        channels, columns = table[CHANNELS], phase[COUNT]
        for turn in range(taken.size):
            segment = sharing.task_of(turn, worker, len(scratch), taken)
            if segment < 0:
                continue
            sums = partial[segment]
            sums[:] = 0
            lines = table[IMAGES] * table[OUT_HEIGHT]
            first_line, last_line = gemm.share(segment, len(partial), lines)
            for line in range(first_line, last_line):
                _, row, x_row = seen_by(line, table)
                count = taps_inside(runs, table, phase, row, k_step, taps)
                done = 0
                while done < columns:
                    tile, column, at_edge = tile_at(done, COLUMNS, phase, table)
                    there, skip = column * table[ACROSS], done - column
                    add_tile(tile, at_edge or skip > 0, x, x_row + there * channels, there,
                             table[PIXEL_STEP], zeros, table[WIDTH], taps, count, dy,
                             (line * columns + column) * channels, skip, channels, sums,
                             k_step)  # fmt: skip
                    done = column + tile

    name = f"depthwise_gradients_{form.run}_{form.apart}"
    work.__qualname__ = f"{name}_worker"
    work = kernel(work)

    def loop(x, table, phases, runs, zeros, dy, partial, k_step, dk, scratch, taken):
        sharing.open_tasks(taken)
        for worker in prange(len(scratch)):
            work(np.int64(worker), x, table, phases, runs, zeros, dy, partial, k_step, scratch,
                 taken)  # fmt: skip
        channels = table[CHANNELS]
        for t in prange(dk.size // channels):
            cell = np.int64(t)
            gemm.add_segments(partial, cell * k_step, channels, dk, cell * channels)

    loop.__qualname__ = name
    return parallel_kernel(loop)


_FORMS = (SINGLE_TAPS, *itertools.starmap(Form, itertools.product(RUNS, APART)))
_PRODUCTS = {form: _products(form) for form in _FORMS}
_GRADIENTS = {form: _gradients(form) for form in _FORMS}


# -- The products ----------------------------------------------------------------------------------


def _multiply(plan, x, kernel, bias, activation, y):
    channels = int(plan.table[CHANNELS])
    tasks = -(-plan.lines // LINES)
    scratch, taken = arena.scratch(
        ((min(threads.count(), tasks), len(plan.runs), RUN_SIZE), np.int64), ((tasks,), np.int64)
    )
    start = gemm.start_vector(bias, activation, channels, x.dtype)
    code, slope = gemm.activation_code(activation, x.dtype)
    streaming = code <= gemm.FLOOR and simd.streams(y, channels, simd.LATE_STREAM_BYTES, ABREAST)
    k_step = -channels if plan.turned else channels
    zeros = windows.zeros(channels, x.dtype)
    _PRODUCTS[plan.form](x, *plan[:3], zeros, kernel, k_step, start, y, code, slope,
                         bool(streaming), scratch, taken)  # fmt: skip


def convolve(x, kernel, bias, shape, activation, y):
    """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None."""
    _multiply(windows.plan(shape, False, _FORMS), x, kernel, bias, activation, y)


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat arrays of one dtype."""
    _multiply(windows.plan(shape, True, _FORMS), dy, kernel, None, None, dx)


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat arrays of one dtype."""
    plan = windows.plan(shape, False, _FORMS)
    channels, lanes = int(plan.table[CHANNELS]), simd.lanes(x.dtype)
    segments = min(SEGMENTS, plan.lines)
    k_step = channels + -channels % lanes
    partial, scratch, taken = arena.scratch(
        ((segments, dk.size // channels * k_step), x.dtype),
        ((min(threads.count(), segments), len(plan.runs), RUN_SIZE), np.int64),
        ((segments,), np.int64),
    )
    zeros = windows.zeros(channels, x.dtype)
    _GRADIENTS[plan.form](x, *plan[:3], zeros, dy, partial, k_step, dk, scratch,
                          taken)  # fmt: skip
