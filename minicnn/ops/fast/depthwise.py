"""Depthwise convolution: every channel has a kernel of its own (groups = channels = filters).

    y[o, c]  = activation(bias[c] + sum over taps t of x[i(o, t), c] K[t, c])
    dx[i, c] = sum over taps t of dy[o(i, t), c] K[t, c]
    dK[t, c] = sum over o of x[i(o, t), c] dy[o, c]

o, i     pixel of the output, of the input;  i = o stride + t dilation - before, per axis
reach    for each pixel of one side, along one axis: which taps meet a pixel of the other side
run      output columns side by side that see the same taps: one picture's interior, at stride 1

Design. No channel is ever added to another, so there is no matrix product: the only work is
a * b + c on vectors of channels. BLOCK columns of a run stay in registers while the taps pass, so
that a tap costs one load of the kernel and one of x per column; the last block of a run overlaps
the one before it. Which taps count at a column is looked up in a table of runs, so that pictures'
edges, strides and dilation need no code, and both directions are one kernel. For dK, whose sums are
as many as there are taps, registers gained nothing.
"""

import functools

import numpy as np
from numba import prange
from numba.core import cgutils

from minicnn.ops import arena
from minicnn.ops.fast import gemm, simd, threads
from minicnn.ops.fast.jit import kernel, parallel_kernel

SEGMENTS = 16  # of the sum for dK; fixed, so that the number of threads changes no bit

FIRST_TAP, TAPS, FIRST_PIXEL, TAP_STEP, PIXEL_STEP = range(5)


BLOCK = 8  # columns in registers


def _columns(block):
    """Intrinsic: `block` columns of y, all taps, one vector of channels."""

    def write(v, x, x0, x_row, x_tap, x_step, rows, taps, kernel, k0, k_row, k_tap, start,
              y, y0, y_step, channel, count):  # fmt: skip
        """y[j] = start + sum over a, b of x[x0 + a x_row + b x_tap + j x_step] kernel[...]."""
        builder = v.builder
        sums = [cgutils.alloca_once(builder, v.type) for _ in range(block)]

        def compute(load, store):
            first = load(start, channel)
            for total in sums:
                builder.store(first, total)
            with v.count_up(rows) as (a, _):
                x_at = builder.add(builder.add(x0, channel), builder.mul(a, x_row))
                k_at = builder.add(builder.add(k0, channel), builder.mul(a, k_row))
                with v.count_up(taps) as (b, _):
                    weight = load(kernel, builder.add(k_at, builder.mul(b, k_tap)))
                    here = builder.add(x_at, builder.mul(b, x_tap))
                    for j, total in enumerate(sums):
                        value = load(x, v.offset(here, (x_step, j)))
                        builder.store(v.multiply_add(value, weight, builder.load(total)), total)
            for j, total in enumerate(sums):
                store(builder.load(total), y, v.offset(builder.add(y0, channel), (y_step, j)))

        v.whole_or_first(count, compute)

    return simd.vector_intrinsic(write)


_one_column, _block_of_columns = _columns(1), _columns(BLOCK)


@simd.vector_intrinsic
def multiply_add_run(v, sums, sums0, x, x0, y, y0, count):
    """sums[sums0 : +count] += x[x0 : +count] * y[y0 : +count]; touches nothing else."""
    builder = v.builder
    whole = builder.and_(count, v.integer(-v.lanes))
    with v.count_up(whole, v.lanes) as (i, _):
        at = builder.add(sums0, i)
        product = (v.load(x, builder.add(x0, i)), v.load(y, builder.add(y0, i)))
        v.store(v.multiply_add(*product, v.load(sums, at)), sums, at)
    rest = builder.sub(count, whole)
    with builder.if_then(builder.icmp_signed(">", rest, v.integer(0))):
        parts = [
            v.load_first(array, builder.add(first, whole), rest)
            for array, first in ((x, x0), (y, y0), (sums, sums0))
        ]
        v.store_first(v.multiply_add(*parts), sums, builder.add(sums0, whole), rest)


def _reach(pixels):
    """Table (pixels, 5) from a list of (tap, pixel of the other side) for each pixel.

    Such a list is an arithmetic progression, and its steps are the same at all pixels.
    """
    steps = (1, 0)
    for meetings in pixels:
        if len(meetings) > 1:
            (tap, other), (next_tap, next_other) = meetings[:2]
            steps = next_tap - tap, next_other - other
    table = np.zeros((len(pixels), 5), np.int64)
    for row, meetings in zip(table, pixels, strict=True):
        if meetings:
            row[:] = meetings[0][0], len(meetings), meetings[0][1], *steps
    return table


def _runs(reach, stride):
    """Table (runs, 9): first column, columns, their distance, then FIRST_TAP .. PIXEL_STEP of the
    first, and how far the pixel moves from column to column.

    Columns `stride` apart meet the same taps (in dx; in y neighbours do).
    """
    runs = []
    for phase in range(stride):
        columns = list(range(phase, len(reach), stride))
        while columns:
            first, run = columns[0], [columns[0]]
            move = 0
            for column in columns[1:]:
                same = (reach[column, [FIRST_TAP, TAPS]] == reach[first, [FIRST_TAP, TAPS]]).all()
                step = reach[column, FIRST_PIXEL] - reach[run[-1], FIRST_PIXEL]
                if not same or (len(run) > 1 and step != move):
                    break
                move = step
                run.append(column)
            columns = columns[len(run) :]
            runs.append([first, len(run), stride, *reach[first], move])
    return np.array(runs, np.int64)


@functools.lru_cache(maxsize=256)
def _reaches(shape):
    """(reach along y, reach along x, runs along x) of the output's pixels and of the input's."""
    forward, backward = [], []
    for axis in range(2):
        size, out_size = shape.input_shape[1 + axis], shape.output_shape[1 + axis]
        stride, rate = shape.strides[axis], shape.dilation[axis]
        seen, seeing = [[] for _ in range(out_size)], [[] for _ in range(size)]
        for o in range(out_size):
            for t in range(shape.kernel_shape[axis]):
                i = o * stride + t * rate - shape.padding[axis][0]
                if 0 <= i < size:
                    seen[o].append((t, i))
                    seeing[i].append((t, o))
        forward.append(_reach(seen))
        backward.append(_reach([sorted(taps) for taps in seeing]))
    forward.append(_runs(forward[1], 1))
    backward.append(_runs(backward[1], shape.strides[1]))
    return forward, backward


@parallel_kernel
def _product(x, images, height, width, channels, kernel, kernel_width, start, reach_y, runs,
             columns, y, code, slope, workers):  # fmt: skip
    rows = images * len(reach_y)
    for worker in prange(workers):
        first, last = gemm.share(np.int64(worker), workers, rows)
        for row in range(first, last):
            image, line = divmod(row, len(reach_y))
            at = row * columns * channels
            _product_row(x, image * height, width, channels, kernel, kernel_width, start,
                         reach_y[line], runs, y, at)  # fmt: skip
            if code != gemm.LINEAR:
                gemm.activate_row(y, at, columns * channels, code, slope)


@kernel
def _product_row(x, first_row, width, channels, kernel, kernel_width, start, reach_y, runs, y, at):
    lanes = simd.VECTOR_BYTES // x.itemsize
    top = (first_row + reach_y[FIRST_PIXEL]) * width
    x_row = reach_y[PIXEL_STEP] * width * channels
    k_row = reach_y[TAP_STEP] * kernel_width * channels
    for number in range(len(runs)):
        first, length, step = runs[number, 0], runs[number, 1], runs[number, 2]
        reach, move = runs[number, 3:8], runs[number, 8]
        x0 = (top + reach[FIRST_PIXEL]) * channels
        k0 = (reach_y[FIRST_TAP] * kernel_width + reach[FIRST_TAP]) * channels
        x_tap, k_tap = reach[PIXEL_STEP] * channels, reach[TAP_STEP] * channels
        many = length >= BLOCK
        column = 0
        while column < length:
            if many:
                column = min(column, length - BLOCK)
            x_at = x0 + column * move * channels
            y_at = at + (first + column * step) * channels
            for c in range(0, channels, lanes):
                if many:
                    _block_of_columns(
                        x, x_at, x_row, x_tap, move * channels, reach_y[TAPS], reach[TAPS], kernel,
                        k0, k_row, k_tap, start, y, y_at, step * channels, c, channels - c,
                    )  # fmt: skip
                else:
                    _one_column(
                        x, x_at, x_row, x_tap, move * channels, reach_y[TAPS], reach[TAPS], kernel,
                        k0, k_row, k_tap, start, y, y_at, step * channels, c, channels - c,
                    )  # fmt: skip
            column += BLOCK if many else 1


@parallel_kernel
def _kernel_gradient(
    x, images, height, width, channels, dy, kernel_width, reach_y, reach_x, partial, dk
):
    rows, segments = images * len(reach_y), len(partial)
    for segment in prange(segments):
        partial[segment] = 0
        first, last = gemm.share(np.int64(segment), segments, rows)
        for row in range(first, last):
            image, line = divmod(row, len(reach_y))
            _gradient_row(
                x,
                image * height,
                width,
                channels,
                dy,
                row * len(reach_x) * channels,
                kernel_width,
                reach_y[line],
                reach_x,
                partial[segment],
            )
    for i in range(len(dk)):
        total = partial[0, i]
        for segment in range(1, segments):
            total += partial[segment, i]
        dk[i] = total


@kernel
def _gradient_row(x, first_row, width, channels, dy, at, kernel_width, reach_y, reach_x, sums):
    for column in range(len(reach_x)):
        for a in range(reach_y[TAPS]):
            row = first_row + reach_y[FIRST_PIXEL] + a * reach_y[PIXEL_STEP]
            taps = (reach_y[FIRST_TAP] + a * reach_y[TAP_STEP]) * kernel_width
            for b in range(reach_x[column, TAPS]):
                pixel = row * width + reach_x[column, FIRST_PIXEL]
                pixel += b * reach_x[column, PIXEL_STEP]
                tap = taps + reach_x[column, FIRST_TAP] + b * reach_x[column, TAP_STEP]
                multiply_add_run(sums, tap * channels, x, pixel * channels, dy, at, channels)
        at += channels


def convolve(x, kernel, bias, shape, activation, y):
    """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None."""
    (reach_y, _, runs), _ = _reaches(shape)
    n, h, w, c = shape.input_shape
    start = np.zeros(c, x.dtype) if bias is None else bias
    code, slope = gemm.activation_code(activation, x.dtype)
    _product(x, n, h, w, c, kernel, shape.kernel_shape[1], start, reach_y, runs,
             shape.output_shape[2], y, code, slope, threads.count())  # fmt: skip


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat arrays of one dtype."""
    _, (reach_y, _, runs) = _reaches(shape)
    n, oh, ow, c = shape.output_shape
    code, slope = gemm.activation_code(None, dy.dtype)
    _product(dy, n, oh, ow, c, kernel, shape.kernel_shape[1], np.zeros(c, dy.dtype), reach_y, runs,
             shape.input_shape[2], dx, code, slope, threads.count())  # fmt: skip


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat arrays of one dtype."""
    (reach_y, reach_x, _), _ = _reaches(shape)
    n, h, w, c = shape.input_shape
    partial = arena.empty((SEGMENTS, dk.size), x.dtype)
    _kernel_gradient(x, n, h, w, c, dy, shape.kernel_shape[1], reach_y, reach_x, partial, dk)
