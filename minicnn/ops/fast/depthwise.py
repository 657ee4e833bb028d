"""Depthwise convolution: every channel has a kernel of its own (groups = channels = filters).

    y[o, c]  = activation(bias[c] + sum over taps t of x[i(o, t), c] K[t, c])
    dx[i, c] = sum over taps t of dy[o(i, t), c] K[t, c]
    dK[t, c] = sum over o of x[i(o, t), c] dy[o, c]

o, i     pixel of the output, of the input;  i = o stride + t dilation - before, per axis
reach    for each pixel of one side, along one axis: which taps meet a pixel of the other side

Design. No channel is ever added to another, so there is no matrix product: the only work is
a * b + c on vectors of channels, three loads and a store for each, in the cache. Which taps count
at a pixel is looked up in two tables, one per axis, so that pictures' edges, strides and dilation
need no code, and both directions are one kernel.
"""

import functools

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import gemm, simd, threads
from minicnn.ops.fast.jit import kernel, parallel_kernel

SEGMENTS = 16  # of the sum for dK; fixed, so that the number of threads changes no bit

FIRST_TAP, TAPS, FIRST_PIXEL, TAP_STEP, PIXEL_STEP = range(5)


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


@functools.lru_cache(maxsize=256)
def _reaches(shape):
    """Per axis, what an output pixel sees of the input, and an input pixel of the output."""
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
    return forward, backward


@parallel_kernel
def _product(
    x,
    images,
    height,
    width,
    channels,
    kernel,
    kernel_width,
    start,
    reach_y,
    reach_x,
    y,
    code,
    slope,
    workers,
):
    rows = images * len(reach_y)
    for worker in prange(workers):
        first, last = gemm.share(np.int64(worker), workers, rows)
        for row in range(first, last):
            image, line = divmod(row, len(reach_y))
            _product_row(
                x,
                image * height,
                width,
                channels,
                kernel,
                kernel_width,
                start,
                reach_y[line],
                reach_x,
                y,
                row * len(reach_x) * channels,
                code,
                slope,
            )


@kernel
def _product_row(
    x, first_row, width, channels, kernel, kernel_width, start, reach_y, reach_x, y, at, code, slope
):
    for column in range(len(reach_x)):
        for c in range(channels):
            y[at + c] = start[c]
        for a in range(reach_y[TAPS]):
            row = first_row + reach_y[FIRST_PIXEL] + a * reach_y[PIXEL_STEP]
            taps = (reach_y[FIRST_TAP] + a * reach_y[TAP_STEP]) * kernel_width
            for b in range(reach_x[column, TAPS]):
                pixel = row * width + reach_x[column, FIRST_PIXEL]
                pixel += b * reach_x[column, PIXEL_STEP]
                tap = taps + reach_x[column, FIRST_TAP] + b * reach_x[column, TAP_STEP]
                multiply_add_run(y, at, x, pixel * channels, kernel, tap * channels, channels)
        if code != gemm.LINEAR:
            gemm.activate_row(y, at, channels, code, slope)
        at += channels


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
    n, h, w, c = shape.input_shape
    start = np.zeros(c, x.dtype) if bias is None else bias
    code, slope = gemm.activation_code(activation, x.dtype)
    (reach_y, reach_x), _ = _reaches(shape)
    _product(
        x,
        n,
        h,
        w,
        c,
        kernel,
        shape.kernel_shape[1],
        start,
        reach_y,
        reach_x,
        y,
        code,
        slope,
        threads.count(),
    )


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat arrays of one dtype."""
    n, oh, ow, c = shape.output_shape
    _, (reach_y, reach_x) = _reaches(shape)
    code, slope = gemm.activation_code(None, dy.dtype)
    _product(
        dy,
        n,
        oh,
        ow,
        c,
        kernel,
        shape.kernel_shape[1],
        np.zeros(c, dy.dtype),
        reach_y,
        reach_x,
        dx,
        code,
        slope,
        threads.count(),
    )


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat arrays of one dtype."""
    n, h, w, c = shape.input_shape
    (reach_y, reach_x), _ = _reaches(shape)
    partial = arena.empty((SEGMENTS, dk.size), x.dtype)
    _kernel_gradient(x, n, h, w, c, dy, shape.kernel_shape[1], reach_y, reach_x, partial, dk)
