"""Convolution of many channels to few filters: vectors run along the channels.

    y[p, f] = activation(bias[f] + sum over taps t and channels c of x[p + t, c] K[t, c, f])

Design. Elsewhere a vector holds filters, and six of them leave most of one empty. Here it holds
channels, which lie side by side in x: sums of four neighbours in a row of y (two with AVX2) for up
to six filters, a vector each, stay in registers while taps and channels pass, and only then the
lanes of every sum are added up: those of four filters together, by pairs, with half as many
vectors left each time. x is read where it lies (windows.py). dx of a layer with few channels is the
same with the kernel turned around.

Measured (two threads on a Xeon), 64 pictures of 28 x 28, of the time of what else there is
(Winograd, on the tile unit for 3x3, for 3x3 and 5x5 without strides; `bands`; `direct` for 1x1):

    channels to filters   16-8   16-6   16-3   32-8   32-6   32-3   32-1   64-8   64-3   64-1  128-6
    1x1                   1.12          0.85                               0.81
    3x3                                 1.40   1.46   1.10   1.02   0.72          0.86   0.63   0.86
    5x5                   0.96   0.73          0.88   0.65   0.47
    3x3, stride 2         1.09                 0.85                        0.69
    7x7                                        0.52                        0.50

dx of 64 pictures of 14 x 14, 6 channels, of 16 filters of 5x5 (LeNet-5): 0.64; of 32 x 32, 3
channels, of 64 filters of 7x7, stride 2: 0.23. With AVX2 0.71 for LeNet-5, 3x3 0.71 to 1.08, 5x5
0.97, stride 2 0.73, 7x7 0.85.
"""

import numpy as np
from llvmlite import ir
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import gemm, sharing, simd, threads, windows
from minicnn.ops.fast.direct import INPUT_GRAD, KERNEL_GRAD
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
    WIDTH,
    Pixels,
    seen_by,
    taps_inside,
    text_for,
    tile_at,
)
from minicnn.ops.recording import noted

SLOTS = 4  # filters whose sums, of a tile's columns, are as many as a vector has lanes
COLUMNS = max(1, simd.lanes(np.dtype(np.float32)) // SLOTS)  # neighbours in a tile
TOGETHER = 6  # filters of a tile at most: its sums, with what is multiplied, fit the registers
MOST = 8  # filters
LEAST = 16  # channels
PER_FILTER = 20  # channels, where Winograd does a 3x3 kernel
LINES = 4  # rows of the result in a task


def _shuffled(v, x, y, lanes):
    order = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return v.builder.shuffle_vector(x, y, order)


def _sums_of_lanes(v, vectors):
    """Lane i: the sum of all lanes of vector i; there are as many as lanes."""
    evens, odds = range(0, 2 * v.lanes, 2), range(1, 2 * v.lanes, 2)
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [v.add(_shuffled(v, x, y, evens), _shuffled(v, x, y, odds)) for x, y in pairs]
    return vectors[0]


def _tile(filters):
    """Intrinsic: some neighbours in a row of y, `filters` of them."""

    def write(v, tile, at_edge, x, x0, column, step, zeros, width, taps, count, packed, packed0,
              start, start0, to_floor, valid, y, y0, y_step, channels, code, slope):  # fmt: skip
        """y = start + the sum over taps and channels, then a rectifier, for the first `valid`
        filters."""
        builder, quarter = v.builder, v.of_lanes(SLOTS)

        def text(columns, beside):
            pixels = Pixels(v, x, x0, column, step, channels, zeros, width, beside)
            sums = [[Variable(v, v.constant(0)) for _ in range(filters)] for _ in range(columns)]
            with v.count_up(count) as (t, _):
                if beside:
                    with builder.if_then(pixels.some_inside(taps, t, columns)):
                        add_tap(pixels, t, sums)
                else:
                    add_tap(pixels, t, sums)
            for f0 in range(0, filters, SLOTS):
                finish(sums, f0)

        def add_tap(pixels, t, sums):
            pixel, cell = pixels.of_run(taps, t)
            first_weight = builder.add(packed0, cell)
            begins = [pixel(j) for j in range(len(sums))]
            with v.count_up(channels, v.lanes) as (c, _):
                at = builder.add(first_weight, builder.mul(c, v.integer(filters)))

                def add_up(load):
                    values = [load(begin, c) for begin in begins]
                    for f in range(filters):
                        weight = v.load(packed, v.offset(at, (v.integer(v.lanes), f)))
                        for value, of_column in zip(values, sums, strict=True):
                            total = of_column[f]
                            total.value = v.multiply_add(value, weight, total.value)

                v.read_first(builder.sub(channels, c), add_up)

        def finish(sums, f0):
            """Filters f0 to f0 + SLOTS; the sums of columns and filters beyond the last ones are
            the last ones once more."""
            total = _sums_of_lanes(v, [
                sums[min(j, len(sums) - 1)][min(f0 + f, filters - 1)].value
                for j in range(v.lanes // SLOTS)
                for f in range(SLOTS)
            ])  # fmt: skip
            at = builder.add(start0, v.integer(f0))
            first = quarter.load(start, at)
            results = [
                Variable(quarter, quarter.add(first, _shuffled(v, total, total, lanes)))
                for lanes in (range(j * SLOTS, (j + 1) * SLOTS) for j in range(len(sums)))
            ]
            with builder.if_then(gemm.is_rectifier(v, code)):
                change = gemm.rectified(quarter, code, slope, start, builder.add(at, to_floor))
                for result in results:
                    result.value = change(result.value)
            left = builder.sub(valid, v.integer(f0))
            for j, result in enumerate(results):
                place = v.offset(y0, (y_step, j), (v.integer(1), f0))
                quarter.store_first(result.value, y, place, left)

        text_for(v, tile, COLUMNS, at_edge, text)

    return simd.vector_intrinsic(write)


def _products(filters):
    """Parallel kernel: y, row by row, `filters` at a time."""
    add_tile = _tile(filters)

    def line_product(line, x, table, phases, runs, taps, zeros, packed, start, to_floor, y, made,
                     code, slope):  # fmt: skip
        row_phase, row, x_row = seen_by(line, table)
        channels = table[CHANNELS]
        groups, cells, cell_size = packed.shape
        for p in range(phases.shape[1]):
            phase = phases[row_phase, p]
            count = taps_inside(runs, table, phase, row, cell_size, taps)
            y_row = (line * table[OUT_WIDTH] + phase[FIRST]) * made
            y_step, column = phase[NEXT] * made, 0
            while column < phase[COUNT]:
                tile, column, at_edge = tile_at(column, COLUMNS, phase, table)
                there, y0 = column * table[ACROSS], y_row + column * y_step
                for group in range(groups):
                    first = group * filters
                    add_tile(tile, at_edge, x, x_row + there * channels, there, table[PIXEL_STEP],
                             zeros, table[WIDTH], taps, count, packed, group * cells * cell_size,
                             start, first, to_floor, min(filters, made - first), y, y0 + first,
                             y_step, channels, code, slope)  # fmt: skip
                column += tile
        if code > gemm.FLOOR:
            row_size = table[OUT_WIDTH] * made
            gemm.activate_row(y, line * row_size, row_size, code, slope)

    name = f"few_filters_{filters}"
    line_product.__qualname__ = f"{name}_line"  # the cache tells kernels apart by this name
    line_product = kernel(line_product)

    def loop(x, table, phases, runs, zeros, packed, start, y, made, code, slope, scratch, taken):
        sharing.open_tasks(taken)
        to_floor = start.size // 2 if code == gemm.FLOOR else 0  # see gemm.start_vector
        for worker in prange(len(scratch)):
            lines = table[IMAGES] * table[OUT_HEIGHT]
            for turn in range(taken.size):
                task = sharing.task_of(turn, np.int64(worker), len(scratch), taken)
                if task >= 0:
                    for line in range(task * LINES, min((task + 1) * LINES, lines)):
                        line_product(line, x, table, phases, runs, scratch[worker], zeros, packed,
                                     start, to_floor, y, made, code, slope)  # fmt: skip

    loop.__qualname__ = name
    return parallel_kernel(loop)


_PRODUCTS = {filters: _products(filters) for filters in range(1, TOGETHER + 1)}


@kernel
def _pack(kernel, c_step, f_step, channels, made, lanes, filters, packed):
    """packed[group, cell, (vector of channels, filter, lane)], zeros where there is none."""
    cell_step = channels * made
    for group in range(packed.shape[0]):
        for cell in range(packed.shape[1]):
            for i in range(packed.shape[2]):
                rest, lane = divmod(i, lanes)
                vector, f = divmod(rest, filters)
                c, f = vector * lanes + lane, group * filters + f
                value = packed.dtype.type(0)
                if c < channels and f < made:
                    value = kernel[cell * cell_step + c * c_step + f * f_step]
                packed[group, cell, i] = value


def _multiply(plan, x, kernel, made, c_step, f_step, bias, activation, y):
    channels, lanes = int(plan.table[CHANNELS]), simd.lanes(x.dtype)
    groups = -(-made // TOGETHER)
    filters = -(-made // groups)
    cells = kernel.size // (channels * made)
    tasks = -(-plan.lines // LINES)
    packed, scratch, taken = arena.scratch(
        ((groups, cells, filters * (channels + -channels % lanes)), x.dtype),
        ((min(threads.count(), tasks), len(plan.runs), RUN_SIZE), np.int64),
        ((tasks,), np.int64),
    )
    noted(_pack, kernel, c_step, f_step, channels, made, lanes, filters, packed)
    start = gemm.start_vector(bias, activation, made, x.dtype)
    code, slope = gemm.activation_code(activation, x.dtype)
    zeros = windows.zeros(channels, x.dtype)
    _PRODUCTS[filters](x, *plan[:3], zeros, packed, start, y, made, code, slope, scratch,
                       taken)  # fmt: skip


def pays(shape, product, beside_winograd):
    """Whether this is quicker; see the table above."""
    channels, filters = shape.kernel_shape[2:]
    if product == INPUT_GRAD:
        channels, filters = filters, channels
    if product == KERNEL_GRAD or shape.groups > 1 or channels < LEAST:
        return False
    if shape.kernel_shape[:2] == (1, 1) and simd.VECTOR_BYTES < 64:
        return False  # with AVX2 `direct` is quicker: 1.2 to 1.6 times
    if beside_winograd and shape.kernel_shape[0] == 3:
        return filters <= TOGETHER and PER_FILTER * filters <= channels
    return filters <= TOGETHER or (filters <= MOST and channels >= 2 * LEAST)


def convolve(x, kernel, bias, shape, activation, y):
    """y = activation(x * kernel + bias); flat float32 arrays, `bias` may be None."""
    filters = shape.kernel_shape[3]
    plan = windows.plan(shape, False)
    _multiply(plan, x, kernel, filters, filters, 1, bias, activation, y)


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat float32 arrays."""
    channels, filters = shape.kernel_shape[2:]
    plan = windows.plan(shape, True)
    _multiply(plan, dy, kernel, channels, 1, filters, None, None, dx)
