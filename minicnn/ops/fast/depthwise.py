"""Depthwise convolution: every channel has a kernel of its own (groups = channels = filters).

    y[o, c]  = activation(bias[c] + sum over taps t of x[i(o, t), c] K[t, c])
    dx[i, c] = sum over taps t of dy[o(i, t), c] K[t, c]
    dK[t, c] = sum over o of x[i(o, t), c] dy[o, c]

o, i     pixel of the output, of the input;  i = o stride + t dilation - before, per axis
phase    pixels of the result that meet the same taps: all of y; of dx, those with one remainder
         by the stride
run      taps side by side in a row of the kernel, whose pixels of x are side by side too

Design. No channel is ever added to another, so there is no matrix product: the only work is
a * b + c on vectors of channels, and what counts is how often and in which order x is read. Nothing
is copied: a tile of four neighbours in a row of y and two vectors of channels is computed from x
where it lies, its sums in registers while the taps pass; with a run, each vector of x is read once
for all taps of a row of the kernel. For dK the roles change: the vectors of dy stay, and the sums
of a run pass. Where a tap would see a pixel beside the picture a vector of zeros is read in its
place, in a second text for the tiles at the ends of a row; taps above and below are left out. dx is
the product of dy with the kernel turned around, phase by phase.

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
from typing import NamedTuple

import numpy as np
from numba import prange
from numba.core import cgutils

from minicnn.ops import arena
from minicnn.ops.fast import gemm, planes, sharing, simd, threads
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.simd import Variable

COLUMNS = 4  # neighbours in a tile
ABREAST = 2  # vectors of channels of each
RUNS = 3, 5  # lengths that have texts of their own
APART = 1, 2  # strides that have, for each of them
LINES = 8  # rows of the result in a task
SEGMENTS = 16  # of the sum for dK; fixed, so that the number of threads changes no bit

# Columns of the integer tables that describe the work to the kernels.
(IMAGES, HEIGHT, WIDTH, CHANNELS, OUT_HEIGHT, OUT_WIDTH, DOWN, ACROSS, ROW_PHASES,
 PIXEL_STEP) = range(10)  # fmt: skip
FIRST, NEXT, COUNT, FIRST_TAP, LAST_TAP, LEFT, RIGHT = range(7)  # a phase of columns
ROW, COLUMN, CELL = range(3)  # a run of taps: how far in x its first one is, its cell of the kernel


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


class _Pixels:
    """The pixels of x that the runs of a tile see."""

    def __init__(self, v, x, x0, x_step, column, step, zeros, width, at_edge):
        self.v, self.x, self.x0, self.x_step, self.zeros = v, x, x0, x_step, zeros
        self.column, self.step, self.width, self.at_edge = column, step, width, at_edge

    def of_run(self, taps, t, c):
        """(pixel(load, m, i) for vector i of pixel m of run t, where its first weights are)."""
        v, builder = self.v, self.v.builder
        at = builder.mul(t, v.integer(3))
        row, column, cell = (
            v.load_integer(taps, builder.add(at, v.integer(i))) for i in (ROW, COLUMN, CELL)
        )
        first = v.offset(self.x0, (row, 1), (c, 1))
        first_column = builder.add(self.column, column)

        def pixel(load, m, i):
            place = v.offset(first, (self.x_step, m), (v.integer(v.lanes), i))
            if not self.at_edge:
                return load(self.x, place)
            there = v.offset(first_column, (self.step, m))
            inside = builder.icmp_unsigned("<", there, self.width)  # below 0 it is very large
            array = builder.select(inside, self.x, self.zeros)
            return load(array, builder.select(inside, place, v.integer(0)))

        return pixel, builder.add(cell, c)


class Form(NamedTuple):
    """What the texts of tiles are made for."""

    run: int  # taps side by side
    apart: int  # pixels of x from what a pixel of y sees to what its neighbour sees

    def seen(self, columns):
        """(m, [(tap, column) for which it counts]) for all pixels that `columns` neighbours see."""
        for m in range((columns - 1) * self.apart + self.run):
            counts = [(i, divmod(m - i, self.apart)) for i in range(self.run)]
            yield m, [(i, j) for i, (j, rest) in counts if rest == 0 and 0 <= j < columns]


def _product_tile(columns, form, at_edge):
    """Intrinsic: `columns` neighbours in a row of y, all channels."""

    def write(v, x, x0, x_step, column, step, zeros, width, taps, count, kernel, k_step, start,
              to_floor, y, y0, y_step, channels, code, slope, streaming):  # fmt: skip
        """y = start + the sum over runs and their taps of pixel times kernel, then a rectifier.

        Pixel 0 is x[x0] + a run's distance, in `column` + another one of its row; the next is
        x_step elements and `step` columns away."""
        builder = v.builder
        pixels = _Pixels(v, x, x0, x_step, column, step, zeros, width, at_edge)
        rectifying = gemm.is_rectifier(v, code)
        past = builder.icmp_signed("!=", streaming, v.integer(0))

        def compute(c, vectors, read, keep):
            places = [v.offset(c, (v.integer(v.lanes), i)) for i in range(vectors)]
            sums = [[Variable(v, v.load(start, p)) for p in places] for _ in range(columns)]

            def add_up(load):
                with v.count_up(count) as (t, _):
                    pixel, cell = pixels.of_run(taps, t, c)
                    weights = [
                        [
                            load(kernel, v.offset(cell, (k_step, tap), (v.integer(v.lanes), i)))
                            for i in range(vectors)
                        ]
                        for tap in range(form.run)
                    ]
                    for m, counts in form.seen(columns):
                        for i in range(vectors):
                            value = pixel(load, m, i)
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

        _over_channels(v, channels, compute)

    return simd.vector_intrinsic(write)


def _gradient_tile(columns, form, at_edge):
    """Intrinsic: all taps' sums over `columns` neighbours in a row of dy, all channels."""

    def write(v, x, x0, x_step, column, step, zeros, width, taps, count, dy, dy0, skip, channels,
              sums, k_step):  # fmt: skip
        """sums of the runs' taps += the sum of pixel times dy; if `at_edge`, the first `skip`
        columns of dy are left out."""
        builder = v.builder
        pixels = _Pixels(v, x, x0, x_step, column, step, zeros, width, at_edge)

        def factor(load, c, j, i):
            at = v.offset(builder.add(dy0, c), (channels, j), (v.integer(v.lanes), i))
            if not at_edge:
                return load(dy, at)
            counts = builder.icmp_signed("<=", skip, v.integer(j))
            return builder.select(counts, load(dy, at), v.constant(0))

        def compute(c, vectors, read, keep):
            def add_up(load):
                factors = [[factor(load, c, j, i) for i in range(vectors)] for j in range(columns)]
                with v.count_up(count) as (t, _):
                    pixel, cell = pixels.of_run(taps, t, c)
                    places = [
                        [
                            v.offset(cell, (k_step, tap), (v.integer(v.lanes), i))
                            for i in range(vectors)
                        ]
                        for tap in range(form.run)
                    ]
                    totals = [[Variable(v, v.load(sums, p)) for p in row] for row in places]
                    for m, counts in form.seen(columns):
                        for i in range(vectors):
                            value = pixel(load, m, i)
                            for tap, j in counts:
                                total = totals[tap][i]
                                total.value = v.multiply_add(value, factors[j][i], total.value)
                    for tap in range(form.run):
                        for i in range(vectors):
                            v.store(totals[tap][i].value, sums, places[tap][i])

            read(add_up)

        _over_channels(v, channels, compute)

    return simd.vector_intrinsic(write)


# -- Kernels ---------------------------------------------------------------------------------------


@kernel
def _taps_inside(runs, table, phase, row, cell_size, taps):
    """The runs of a phase whose row of x, counted from `row`, is in the picture; how many."""
    count = 0
    for t in range(phase[FIRST_TAP], phase[LAST_TAP]):
        if 0 <= row + runs[t, ROW] < table[HEIGHT]:
            distance = runs[t, ROW] * table[WIDTH] + runs[t, COLUMN]
            taps[count, ROW] = distance * table[CHANNELS]
            taps[count, COLUMN] = runs[t, COLUMN]
            taps[count, CELL] = runs[t, CELL] * cell_size
            count += 1
    return count


@kernel
def _tile_of(column, columns, phase, table):
    """(columns of the tile to take at `column`, where it begins, whether it is at an edge)."""
    width = COLUMNS if columns >= COLUMNS else 1
    begin = min(column, columns - width)
    inside = begin * table[ACROSS] + phase[LEFT] >= 0
    last = (begin + width - 1) * table[ACROSS] + phase[RIGHT]
    return width, begin, not inside or last >= table[WIDTH]


def _products(form):
    """Parallel kernel: y, row by row."""
    tile, tile_at_edge = (_product_tile(COLUMNS, form, at_edge) for at_edge in (False, True))
    single = _product_tile(1, form, True)

    def line_product(line, x, table, phases, runs, taps, zeros, kernel, k_step, start, to_floor, y,
                     code, slope, streaming):  # fmt: skip
        image, i = divmod(line, table[OUT_HEIGHT])
        j, row_phase = divmod(i, table[ROW_PHASES])
        channels, step = table[CHANNELS], table[PIXEL_STEP]
        x_row = (image * table[HEIGHT] + j * table[DOWN]) * table[WIDTH] * channels
        for p in range(phases.shape[1]):
            phase = phases[row_phase, p]
            count = _taps_inside(runs, table, phase, j * table[DOWN], channels, taps)
            y_row = (line * table[OUT_WIDTH] + phase[FIRST]) * channels
            y_step, column = phase[NEXT] * channels, 0
            while column < phase[COUNT]:
                width, column, at_edge = _tile_of(column, phase[COUNT], phase, table)
                there, y0 = column * table[ACROSS], y_row + column * y_step
                x0 = x_row + there * channels
                if not at_edge and width == COLUMNS:
                    tile(x, x0, step * channels, there, step, zeros, table[WIDTH], taps, count,
                         kernel, k_step, start, to_floor, y, y0, y_step, channels, code, slope,
                         streaming)  # fmt: skip
                elif width == COLUMNS:
                    tile_at_edge(x, x0, step * channels, there, step, zeros, table[WIDTH], taps,
                                 count, kernel, k_step, start, to_floor, y, y0, y_step, channels,
                                 code, slope, streaming)  # fmt: skip
                else:
                    single(x, x0, step * channels, there, step, zeros, table[WIDTH], taps, count,
                           kernel, k_step, start, to_floor, y, y0, y_step, channels, code, slope,
                           streaming)  # fmt: skip
                column += width
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
    tile, tile_at_edge = (_gradient_tile(COLUMNS, form, at_edge) for at_edge in (False, True))
    single = _gradient_tile(1, form, True)

    def work(worker, x, table, phases, runs, zeros, dy, partial, scratch, taken):
        taps, phase = scratch[worker], phases[0, 0]
        channels, columns, step = table[CHANNELS], phase[COUNT], table[PIXEL_STEP]
        for turn in range(taken.size):
            segment = sharing.task_of(turn, worker, len(scratch), taken)
            if segment < 0:
                continue
            sums = partial[segment]
            sums[:] = 0
            k_step = sums.shape[1]
            lines = table[IMAGES] * table[OUT_HEIGHT]
            first_line, last_line = gemm.share(segment, len(partial), lines)
            for line in range(first_line, last_line):
                image, j = divmod(line, table[OUT_HEIGHT])
                x_row = (image * table[HEIGHT] + j * table[DOWN]) * table[WIDTH] * channels
                count = _taps_inside(runs, table, phase, j * table[DOWN], k_step, taps)
                done = 0
                while done < columns:
                    width, column, at_edge = _tile_of(done, columns, phase, table)
                    there, skip = column * table[ACROSS], done - column
                    x0, dy0 = x_row + there * channels, (line * columns + column) * channels
                    if not at_edge and skip == 0 and width == COLUMNS:
                        tile(x, x0, step * channels, there, step, zeros, table[WIDTH], taps, count,
                             dy, dy0, skip, channels, sums, k_step)  # fmt: skip
                    elif width == COLUMNS:
                        tile_at_edge(x, x0, step * channels, there, step, zeros, table[WIDTH],
                                     taps, count, dy, dy0, skip, channels, sums,
                                     k_step)  # fmt: skip
                    else:
                        single(x, x0, step * channels, there, step, zeros, table[WIDTH], taps,
                               count, dy, dy0, skip, channels, sums, k_step)  # fmt: skip
                    done = column + width

    name = f"depthwise_gradients_{form.run}_{form.apart}"
    work.__qualname__ = f"{name}_worker"
    work = kernel(work)

    def loop(x, table, phases, runs, zeros, dy, partial, dk, scratch, taken):
        sharing.open_tasks(taken)
        for worker in prange(len(scratch)):
            work(np.int64(worker), x, table, phases, runs, zeros, dy, partial, scratch, taken)
        for t in prange(partial.shape[1]):
            cell, channels = np.int64(t), table[CHANNELS]
            for c in range(channels):
                total = partial[0, cell, c]
                for segment in range(1, len(partial)):
                    total += partial[segment, cell, c]
                dk[cell * channels + c] = total

    loop.__qualname__ = name
    return parallel_kernel(loop)


_FORMS = [Form(1, 1), *itertools.starmap(Form, itertools.product(RUNS, APART))]
_PRODUCTS = {form: _products(form) for form in _FORMS}
_GRADIENTS = {form: _gradients(form) for form in _FORMS}


# -- Plans: the tables for the kernels, made in Python once per shape ------------------------------


class _Plan(NamedTuple):
    table: np.ndarray
    phases: np.ndarray  # [phase of rows, phase of columns]
    runs: np.ndarray
    form: Form
    turned: bool  # the taps of a run lie the other way round in the kernel
    lines: int  # rows of the result


@functools.lru_cache(maxsize=256)
def _plan(shape, of_gradient):
    """For y from x and for dK, or for dx from dy."""
    if of_gradient:
        source, made, steps = shape.output_shape, shape.input_shape, (1, 1)
        axes = [planes.input_grad_axis(shape, axis) for axis in range(2)]
    else:
        source, made, steps = shape.input_shape, shape.output_shape, shape.strides
        axes = [planes.forward_axis(shape, axis) for axis in range(2)]
    cells_across = shape.kernel_shape[1]
    form = Form(cells_across, steps[1])
    if form not in _FORMS or shape.dilation[1] > 1 or (of_gradient and shape.strides[1] > 1):
        form = _FORMS[0]  # run by run of one tap
    phases, runs = [], []
    for down in axes[0]:
        for across in axes[1]:
            first = len(runs)
            runs += [
                (a, b, i * cells_across + j)
                for a, i in down.cells
                for b, j in across.cells[:: form.run]
            ]
            distances = [b for b, _ in across.cells] or [0]
            phases.append(
                (across.first, across.next, across.count, first, len(runs), min(distances),
                 max(distances))
            )  # fmt: skip
    pixel_step = steps[1] if form.run == 1 else 1
    table = (*source, *made[1:3], *steps, len(axes[0]), pixel_step)
    return _Plan(
        np.array(table, np.int64),
        np.array(phases, np.int64).reshape(len(axes[0]), len(axes[1]), -1),
        np.array(runs, np.int64).reshape(-1, 3),
        form,
        of_gradient,
        made[0] * made[1],
    )


@functools.lru_cache(maxsize=16)
def _zeros(dtype):
    """What is seen beside the picture; kernels do not write to it."""
    return np.zeros(simd.lanes(dtype), dtype)


# -- The products ----------------------------------------------------------------------------------


def _multiply(plan, x, kernel, bias, activation, y):
    channels = int(plan.table[CHANNELS])
    tasks = -(-plan.lines // LINES)
    scratch, taken = arena.scratch(
        ((min(threads.count(), tasks), len(plan.runs), 3), np.int64), ((tasks,), np.int64)
    )
    start = gemm.start_vector(bias, activation, channels, x.dtype)
    code, slope = gemm.activation_code(activation, x.dtype)
    streaming = code <= gemm.FLOOR and simd.streams(y, channels, simd.LATE_STREAM_BYTES)
    k_step = -channels if plan.turned else channels
    _PRODUCTS[plan.form](x, *plan[:3], _zeros(x.dtype), kernel, k_step, start, y, code, slope,
                         bool(streaming), scratch, taken)  # fmt: skip


def convolve(x, kernel, bias, shape, activation, y):
    """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None."""
    _multiply(_plan(shape, False), x, kernel, bias, activation, y)


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat arrays of one dtype."""
    _multiply(_plan(shape, True), dy, kernel, None, None, dx)


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat arrays of one dtype."""
    plan = _plan(shape, False)
    channels, lanes = int(plan.table[CHANNELS]), simd.lanes(x.dtype)
    segments = min(SEGMENTS, plan.lines)
    cells = shape.kernel_shape[0] * shape.kernel_shape[1]
    partial, scratch, taken = arena.scratch(
        ((segments, cells, channels + -channels % lanes), x.dtype),
        ((min(threads.count(), segments), len(plan.runs), 3), np.int64),
        ((segments,), np.int64),
    )
    _GRADIENTS[plan.form](x, *plan[:3], _zeros(x.dtype), dy, partial, dk, scratch,
                         taken)  # fmt: skip
