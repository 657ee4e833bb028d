"""Pooling, compiled; the equations stand in reference/pooling.py.

Design: a task is one row of the output (of dx in a gradient). For a vector of channels the whole
window is looked at before anything is stored, so that maximum, winner and sum stay in registers.
Padding is never stored: each window is cut to the part that lies on the image. Gradients gather
instead of scattering: a pixel of dx asks which windows cover it, so that no two threads write to
the same place and the order of additions is fixed; dx goes past the caches where it is large
(simd.stream). Windows that lie side by side write their pixels themselves, from one look at dy.
A row of whole windows of 2x2, the usual ones, has no loops over a window.
Measured (two cores of a Zen 4, in turns with loops that the compiler turned into vectors): 32
pictures 109 x 89 of 32 channels, padded, 3.0 -> 1.9 ms and gradient 3.2 -> 1.6; 218 x 178 of 16
channels 3.8 -> 3.5 and 4.0 -> 1.6; then, without loops over a window, 64 pictures 32 x 32 of 32
channels 0.29 -> 0.17 and 0.26 -> 0.21.
"""

import functools

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import gemm, simd
from minicnn.ops.fast.channel_sums import Rows, add_rows, fold_sums
from minicnn.ops.fast.elementwise import activate_bias_grad, rectifier
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output, rounded
from minicnn.ops.recording import noted
from minicnn.ops.shapes import (
    PAIRS,
    RECTIFIERS,
    pool2d_shape,
    pool_padding,
    window_index_dtype,
)


class Windows:
    """A pooling's geometry in the form in which the kernels take it."""

    def __init__(self, input_shape, pool_size, strides, padding):
        pads = pool_padding(padding, input_shape[1:3], pool_size, strides)
        self.input_shape, self.pool_size = tuple(input_shape), tuple(pool_size)
        self.output_shape = pool2d_shape(input_shape, pool_size, strides, pads)
        n, h, w, c = input_shape
        oh, ow = self.output_shape[1:3]
        axes = [
            (length, size, stride, before, count)
            for length, size, stride, (before, _), count in zip(
                (h, w), pool_size, strides, pads, (oh, ow), strict=True
            )
        ]
        self.tables = tuple(spans(*axis) for axis in axes)
        self.covering = tuple(covering(*axis) for axis in axes)
        self.shares = functools.partial(shares, *axes)
        self.integers = (h, w, c, self.pool_size[1])


def windows_of(input_shape, pool_size, strides, padding):
    """The same, made once for each."""
    if not isinstance(padding, str):
        padding = tuple(map(tuple, padding))
    return _windows_of(tuple(input_shape), tuple(pool_size), tuple(strides), padding)


_windows_of = functools.lru_cache(maxsize=256)(Windows)


@functools.lru_cache(maxsize=256)
def spans(length, size, stride, before, count):
    """(count, 3) along one axis: of each window the first pixel on the image, that pixel's place
    in the window, how many pixels there are."""
    start = np.arange(count) * stride - before
    first, last = np.maximum(start, 0), np.minimum(start + size, length)
    return np.stack([first, first - start, np.maximum(last - first, 0)], axis=1)


@functools.lru_cache(maxsize=256)
def covering(length, size, stride, before, count):
    """(length, 3) along one axis: of each pixel the first window that holds it, its place in that
    window, how many windows there are; its place in the next window is a stride less."""
    place = np.arange(length) + before
    first = np.maximum((place - size + stride) // stride, 0)
    last = np.minimum(place // stride + 1, count)
    return np.stack([first, place - first * stride, np.maximum(last - first, 0)], axis=1)


@functools.lru_cache(maxsize=256)
def shares(rows, columns, dtype):
    """(oh * ow,): 1 / pixels of each window that lie on the image."""
    down, across = spans(*rows)[:, 2], spans(*columns)[:, 2]
    return (1 / (down[:, None] * across)).astype(dtype).reshape(-1)


# --- a window, or a pixel, in registers: for channels c of `channels`, a vector at a time ---


def over_channels(v, channels, write):
    """write(c, count) for each vector of channels, of which `count` exist (all where None)."""
    with v.count_up(channels, v.lanes) as (c, _):
        left = v.builder.sub(channels, c)
        whole = v.builder.icmp_signed(">=", left, v.integer(v.lanes))
        with v.builder.if_else(whole) as (then, otherwise):
            with then:
                write(c, None)
            with otherwise:
                write(c, left)


def load(v, array, index, count):
    return v.load(array, index) if count is None else v.load_first(array, index, count)


def store(v, value, array, index, count):
    if count is None:
        v.store(value, array, index)
    else:
        v.store_first(value, array, index, count)


def over_grid(v, start, rows, columns, row_step, column_step, visit):
    """visit(start + a * row_step + b * column_step, a, b) for a < rows, b < columns."""
    builder = v.builder
    alone = builder.icmp_signed("==", builder.mul(rows, columns), v.integer(1))
    with builder.if_else(alone, likely=True) as (single, several):
        with single:  # a pixel's only window, without the loops: half the time of a mean's gradient
            visit(start, v.integer(0), v.integer(0))
        with several, v.count_up(rows) as (a, _), v.count_up(columns) as (b, _):
            row = builder.add(start, builder.mul(a, row_step))
            visit(builder.add(row, builder.mul(b, column_step)), a, b)


def first_wins(v, best, value):
    """Whether value replaces best: greater, or the first NaN."""
    greater = v.builder.fcmp_unordered(">", value, best)
    return v.builder.and_(greater, v.builder.fcmp_ordered("ord", best, best))


@simd.vector_intrinsic
def window_max(v, x, start, rows, columns, row_step, column_step, cell, cell_step, channels, y,
               index, out):  # fmt: skip
    """y and index from `out` on: the first maximum of rows x columns pixels, which lie at
    start + a * row_step + b * column_step of x and are numbered cell + a * cell_step + b."""

    def write(c, count):
        first = v.builder.add(start, c)
        best, winner = simd.Variable(v, load(v, x, first, count)), simd.Variable(v, v.number(cell))

        def visit(at, a, b):
            value = load(v, x, at, count)
            wins = first_wins(v, best.value, value)
            number = v.builder.add(v.builder.add(cell, v.builder.mul(a, cell_step)), b)
            best.value = v.builder.select(wins, value, best.value)
            winner.value = v.builder.select(wins, v.number(number), winner.value)

        over_grid(v, first, rows, columns, row_step, column_step, visit)
        place = v.builder.add(out, c)
        store(v, best.value, y, place, count)
        v.store_numbers(winner.value, index, place, count)

    over_channels(v, channels, write)


@simd.vector_intrinsic
def pairs_max(v, x, start, windows, row_step, channels, y, index, out):
    """`window_max` for a row of whole windows of 2x2 pixels, side by side, without their loops."""
    with v.count_up(windows) as (j, _):
        begin = v.offset(start, (v.builder.mul(j, channels), 2))
        end = v.builder.add(out, v.builder.mul(j, channels))

        def write(c, count):
            first = v.builder.add(begin, c)
            best, winner = load(v, x, first, count), v.number(v.integer(0))
            for number, pixel in enumerate(_others(v, first, row_step, channels), 1):
                value = load(v, x, pixel, count)
                wins = first_wins(v, best, value)
                best = v.builder.select(wins, value, best)
                winner = v.builder.select(wins, v.number(v.integer(number)), winner)
            place = v.builder.add(end, c)
            store(v, best, y, place, count)
            v.store_numbers(winner, index, place, count)

        over_channels(v, channels, write)


def _others(v, first, row_step, column_step):
    """Of the pixels of a window of 2x2 the second to the fourth."""
    below = v.builder.add(first, row_step)
    return v.builder.add(first, column_step), below, v.builder.add(below, column_step)


@simd.vector_intrinsic
def window_mean(v, x, start, rows, columns, row_step, column_step, shares, window, channels, y,
                out):  # fmt: skip
    """y from `out` on: the sum of the window times shares[window]."""

    def write(c, count):
        total = simd.Variable(v, v.constant(0))

        def visit(at, a, b):
            total.value = v.add(total.value, load(v, x, at, count))

        over_grid(v, v.builder.add(start, c), rows, columns, row_step, column_step, visit)
        mean = v.multiply(total.value, v.load_splat(shares, window))
        store(v, mean, y, v.builder.add(out, c), count)

    over_channels(v, channels, write)


@simd.vector_intrinsic
def pixel_of_max(v, dy, index, start, rows, columns, row_step, column_step, cell, cell_down,
                 cell_across, channels, dx, out, streaming):  # fmt: skip
    """dx from `out` on: the sum of dy over the windows in which this pixel has won.

    They lie at start + a * row_step + b * column_step of dy, and the pixel's number in them is
    cell - a * cell_down - b * cell_across.
    """

    def write(c, count):
        total = simd.Variable(v, v.constant(0))

        def visit(at, a, b):
            builder = v.builder
            number = builder.sub(cell, builder.mul(a, cell_down))
            number = v.number(builder.sub(number, builder.mul(b, cell_across)))
            won = builder.icmp_signed("==", v.load_numbers(index, at, count), number)
            share = builder.select(won, load(v, dy, at, count), v.constant(0))
            total.value = v.add(total.value, share)

        over_grid(v, v.builder.add(start, c), rows, columns, row_step, column_step, visit)
        store_dx(v, [total.value], dx, [v.builder.add(out, c)], count, streaming)

    over_channels(v, channels, write)


@simd.vector_intrinsic
def spread_max(v, dy, index, at, rows, columns, cell, cell_step, channels, dx, start, row_step,
               column_step, streaming):  # fmt: skip
    """The rows x columns pixels of dx at start + a * row_step + b * column_step, which are in no
    other window and numbered cell + a * cell_step + b: dy where that number has won, else 0."""

    def write(c, count):
        place = v.builder.add(at, c)
        g, winner = load(v, dy, place, count), v.load_numbers(index, place, count)

        def visit(pixel, a, b):
            number = v.builder.add(v.builder.add(cell, v.builder.mul(a, cell_step)), b)
            won = v.builder.icmp_signed("==", winner, v.number(number))
            store_dx(v, [v.builder.select(won, g, v.constant(0))], dx, [pixel], count, streaming)

        over_grid(v, v.builder.add(start, c), rows, columns, row_step, column_step, visit)

    over_channels(v, channels, write)


@simd.vector_intrinsic
def spread_pairs(v, dy, index, at, windows, channels, dx, start, row_step, streaming):
    """`spread_max` for a row of whole windows of 2x2 pixels, side by side, without their loops."""
    with v.count_up(windows) as (j, _):
        begin = v.builder.add(at, v.builder.mul(j, channels))
        end = v.offset(start, (v.builder.mul(j, channels), 2))

        def write(c, count):
            place, first = v.builder.add(begin, c), v.builder.add(end, c)
            g, winner = load(v, dy, place, count), v.load_numbers(index, place, count)
            pixels = first, *_others(v, first, row_step, channels)
            shares = [
                v.builder.select(
                    v.builder.icmp_signed("==", winner, v.number(v.integer(number))),
                    g, v.constant(0),
                )
                for number in range(len(pixels))
            ]  # fmt: skip
            store_dx(v, shares, dx, pixels, count, streaming)

        over_channels(v, channels, write)


@simd.vector_intrinsic
def pixel_of_mean(v, dy, shares, start, window, rows, columns, row_step, column_step, across,
                  channels, dx, out, streaming):  # fmt: skip
    """dx from `out` on: the sum of dy times its share over the windows that hold this pixel; they
    are number window + a * across + b."""

    def write(c, count):
        total = simd.Variable(v, v.constant(0))

        def visit(at, a, b):
            number = v.builder.add(v.builder.add(window, v.builder.mul(a, across)), b)
            share = v.load_splat(shares, number)
            total.value = v.multiply_add(load(v, dy, at, count), share, total.value)

        over_grid(v, v.builder.add(start, c), rows, columns, row_step, column_step, visit)
        store_dx(v, [total.value], dx, [v.builder.add(out, c)], count, streaming)

    over_channels(v, channels, write)


@simd.vector_intrinsic
def spread_mean(v, dy, at, share, rows, columns, channels, dx, start, row_step, column_step,
                streaming):  # fmt: skip
    """The rows x columns pixels of dx at start + a * row_step + b * column_step, which are in no
    other window: dy times `share`."""

    def write(c, count):
        g = v.multiply(load(v, dy, v.builder.add(at, c), count), v.splat(share))

        def visit(pixel, a, b):
            store_dx(v, [g], dx, [pixel], count, streaming)

        over_grid(v, v.builder.add(start, c), rows, columns, row_step, column_step, visit)

    over_channels(v, channels, write)


def store_dx(v, values, dx, places, count, streaming):
    """Past the caches if `streaming`, which is for whole vectors only."""
    pairs = list(zip(values, places, strict=True))
    if count is not None:
        for value, at in pairs:
            v.store_first(value, dx, at, count)
        return
    with v.builder.if_else(v.builder.icmp_signed("!=", streaming, v.integer(0))) as (yes, no):
        with yes:
            for value, at in pairs:
                v.stream(value, dx, at)
        with no:
            for value, at in pairs:
                v.store(value, dx, at)


# --- a row ---


@kernel
def whole_pairs(down, across, kw):
    """How many windows of this row, from the first on, are whole, 2x2 and side by side."""
    last, size = len(across) - 1, PAIRS[0]
    uncut = down[1] == 0 and across[0, 0] == 0 and across[0, 1] == 0  # at the top, on the left
    side_by_side = across[last, 0] == last * kw
    if kw == size[1] and down[2] == size[0] and uncut and side_by_side:
        return last + (across[last, 2] == kw)
    return 0


@kernel
def max_of_row(x, start, down, across, w, c, kw, y, index, out):
    """One row of windows: `down` is its line of `spans`, `across` the table of the other axis;
    x begins at `start` with the picture's first row, y and index at `out`."""
    pairs = whole_pairs(down, across, kw)
    if pairs:
        pairs_max(x, start + down[0] * w * c, pairs, w * c, c, y, index, out)
    for j in range(pairs, len(across)):
        first = start + (down[0] * w + across[j, 0]) * c
        window_max(x, first, down[2], across[j, 2], w * c, c, down[1] * kw + across[j, 1], kw, c, y,
                   index, out + j * c)  # fmt: skip


@kernel
def spread_row(dy, index, at, down, across, w, c, kw, dx, start, streaming):
    """The pixels of dx under one row of windows that do not overlap, as `max_of_row`. dx begins at
    `start` with the picture's first row, dy and index at `at`."""
    pairs = whole_pairs(down, across, kw)
    if pairs:
        spread_pairs(dy, index, at, pairs, c, dx, start + down[0] * w * c, w * c, streaming)
    for j in range(pairs, len(across)):
        pixel = start + (down[0] * w + across[j, 0]) * c
        spread_max(dy, index, at + j * c, down[2], across[j, 2], down[1] * kw + across[j, 1], kw, c,
                   dx, pixel, w * c, c, streaming)  # fmt: skip


@kernel
def finish_row(dx, start, i, down, across, h, w, c, streaming):
    """After the pixels under row i of windows side by side: zeros behind its last window and, if it
    is the last row, below it; the end of the stream."""
    covered = across[-1, 0] + across[-1, 2]
    below = down[i, 0] + down[i, 2]
    for row in range(down[i, 0], below):
        dx[start + (row * w + covered) * c : start + (row + 1) * w * c] = 0
    if i == len(down) - 1:
        dx[start + below * w * c : start + h * w * c] = 0
    if streaming:
        simd.end_of_stream(dx)


# --- the kernels ---


@parallel_kernel
def max_rows(x, down, across, h, w, c, kw, y, index):
    oh, ow = len(down), len(across)
    for number in prange(y.size // (ow * c)):
        row = np.int64(number)
        max_of_row(x, row // oh * h * w * c, down[row % oh], across, w, c, kw, y, index,
                   row * ow * c)  # fmt: skip


def max_pool2d(x, pool_size, strides, padding, out=None):
    """(n, h, w, c) -> the maxima (n, oh, ow, c) and the winner's place a * kw + b in its window.

    The first maximum wins, as in Keras; NaN counts as larger than everything, so it propagates.
    """
    dtype = float_type("x", x)
    windows = windows_of(x.shape, pool_size, strides, padding)
    y = output(out, windows.output_shape, dtype)
    index = arena.empty(y.shape, window_index_dtype(pool_size))
    if y.size:
        max_rows(flat("x", x, x.shape, dtype), *windows.tables, *windows.integers, y.reshape(-1),
                 index.reshape(-1))  # fmt: skip
    return y, index


@parallel_kernel
def max_grad_tiles(dy, index, down, across, h, w, c, kw, dx, streaming):
    """Windows side by side: a task is a row of them."""
    oh, ow = len(down), len(across)
    for number in prange(dy.size // (ow * c)):
        row = np.int64(number)
        i, start = row % oh, row // oh * h * w * c
        spread_row(dy, index, row * ow * c, down[i], across, w, c, kw, dx, start, streaming)
        finish_row(dx, start, i, down, across, h, w, c, streaming)


@parallel_kernel
def max_grad_rows(dy, index, down, across, oh, ow, down_step, across_step, h, w, c, kw, dx,
                  streaming):  # fmt: skip
    """Windows that overlap or leave gaps: a task is a row of dx."""
    for number in prange(dx.size // (w * c)):
        row = np.int64(number)
        p, start = row % h, row // h * oh * ow
        for q in range(w):
            first = (start + down[p, 0] * ow + across[q, 0]) * c
            pixel_of_max(dy, index, first, down[p, 2], across[q, 2], ow * c, c,
                         down[p, 1] * kw + across[q, 1], down_step * kw, across_step, c, dx,
                         (row * w + q) * c, streaming)  # fmt: skip
        if streaming:
            simd.end_of_stream(dx)


def max_pool2d_grad(dy, index, input_shape, pool_size, strides, padding, out=None):
    """dx (n, h, w, c): every dy (n, oh, ow, c) is added to the pixel that won its window."""
    dtype = float_type("dy", dy)
    windows = windows_of(input_shape, pool_size, strides, padding)
    dx = output(out, windows.input_shape, dtype)
    dy = flat("dy", dy, windows.output_shape, dtype)
    index = flat("index", index, windows.output_shape, window_index_dtype(pool_size))
    if not dy.size:  # no window fits
        noted(np.copyto, dx, 0)
        return dx
    to = dx.reshape(-1), _streaming(dx)
    if windows.pool_size == tuple(strides):
        max_grad_tiles(dy, index, *windows.tables, *windows.integers, *to)
    else:
        max_grad_rows(dy, index, *windows.covering, *windows.output_shape[1:3], *strides,
                      *windows.integers, *to)  # fmt: skip
    return dx


@parallel_kernel
def max_grad_rectified(dy, index, y, slope, down, across, h, w, c, kw, dx, streaming, rows, sums,
                       total):  # fmt: skip
    """`max_grad_tiles` for dy times slope where y <= 0, and total (1, c) = the sum of that."""
    oh, ow, width = len(down), len(across), sums.shape[2]
    line = ow * c
    for number in prange(len(sums)):
        b = np.int64(number)
        sums[b] = 0
        g, group = np.empty(line, dy.dtype), np.empty(width, dy.dtype)
        for at in range(b * rows * width, min((b + 1) * rows * width, dy.size), line):
            row = at // line
            i, start = row % oh, row // oh * h * w * c
            rectify(dy[at : at + line], y[at : at + line], slope, g)
            add_rows(g, gemm.ORIGIN, line, sums[b, 0], group)
            spread_row(g, index[at : at + line], gemm.ORIGIN, down[i], across, w, c, kw, dx, start,
                       streaming)  # fmt: skip
            finish_row(dx, start, i, down, across, h, w, c, streaming)
    fold_sums(sums, total)


@kernel
def rectify(dy, y, slope, g):
    for k in range(g.size):
        g[k] = dy[k] * slope if y[k] <= 0 else dy[k]


def max_pool2d_activation_grad(
    dy, index, y, activation, input_shape, pool_size, strides, padding, out=None
):
    """dz (n, h, w, c) and its sum (c,), where y = max_pool2d(activation(z)).

    `max_pool2d_grad` and the derivative of an activation that follows from its value: that is y
    where dy goes to.
    """
    dtype, windows = float_type("dy", dy), windows_of(input_shape, pool_size, strides, padding)
    if not (activation[0] in RECTIFIERS and windows.pool_size == tuple(strides) and dy.size):
        dy, total = activate_bias_grad(dy, y, activation)
        return max_pool2d_grad(dy, index, input_shape, pool_size, strides, padding, out), total
    dx, shape = output(out, windows.input_shape, dtype), windows.output_shape
    cut, total = Rows(shape, shape[2]), np.empty((1, shape[3]))
    max_grad_rectified(
        flat("dy", dy, shape, dtype), flat("index", index, shape, window_index_dtype(pool_size)),
        flat("y", y, shape, dtype), rectifier(activation, dtype), *windows.tables,
        *windows.integers, dx.reshape(-1), _streaming(dx), cut.rows, cut.partial_sums(1), total,
    )  # fmt: skip
    return dx, rounded(total[0], dtype)


def _streaming(dx):
    """Whether dx goes past the caches: it is large, and its pixels are whole lines.

    Two vectors of a pixel are written a few stores apart, and those of AVX2 still meet in a line:
    64 pictures of 64 x 64, 64 channels, take 0.84 of the time of plain stores, averages 1.23.
    """
    return int(simd.streams(dx, dx.shape[3], simd.LATE_STREAM_BYTES, 2))


@parallel_kernel
def mean_rows(x, down, across, h, w, c, shares, y):
    oh, ow = len(down), len(across)
    for number in prange(y.size // (ow * c)):
        row = np.int64(number)
        i, start = row % oh, row // oh * h * w * c
        for j in range(ow):
            first = start + (down[i, 0] * w + across[j, 0]) * c
            window_mean(x, first, down[i, 2], across[j, 2], w * c, c, shares, i * ow + j, c, y,
                        (row * ow + j) * c)  # fmt: skip


def average_pool2d(x, pool_size, strides, padding, out=None):
    """(n, h, w, c) -> (n, oh, ow, c): the mean of each window; padding is not counted."""
    dtype = float_type("x", x)
    windows = windows_of(x.shape, pool_size, strides, padding)
    y = output(out, windows.output_shape, dtype)
    if y.size:
        mean_rows(flat("x", x, x.shape, dtype), *windows.tables, *x.shape[1:],
                  windows.shares(dtype), y.reshape(-1))  # fmt: skip
    return y


@parallel_kernel
def mean_grad_tiles(dy, shares, down, across, h, w, c, dx, streaming):
    """Windows side by side: a task is a row of them."""
    oh, ow = len(down), len(across)
    for number in prange(dy.size // (ow * c)):
        line = np.int64(number)
        i, start = line % oh, line // oh * h * w * c
        for j in range(ow):
            pixel = start + (down[i, 0] * w + across[j, 0]) * c
            spread_mean(dy, (line * ow + j) * c, shares[i * ow + j], down[i, 2], across[j, 2], c,
                        dx, pixel, w * c, c, streaming)  # fmt: skip
        finish_row(dx, start, i, down, across, h, w, c, streaming)


@parallel_kernel
def mean_grad_rows(dy, shares, down, across, oh, ow, h, w, c, dx, streaming):
    for number in prange(dx.size // (w * c)):
        row = np.int64(number)
        p, start = row % h, row // h * oh * ow
        for q in range(w):
            window = down[p, 0] * ow + across[q, 0]
            pixel_of_mean(dy, shares, (start + window) * c, window, down[p, 2], across[q, 2],
                          ow * c, c, ow, c, dx, (row * w + q) * c, streaming)  # fmt: skip
        if streaming:
            simd.end_of_stream(dx)


def average_pool2d_grad(dy, input_shape, pool_size, strides, padding, out=None):
    """dx (n, h, w, c): every pixel of a window gets dy / (pixels in it)."""
    dtype = float_type("dy", dy)
    windows = windows_of(input_shape, pool_size, strides, padding)
    dx = output(out, windows.input_shape, dtype)
    dy = flat("dy", dy, windows.output_shape, dtype)
    to = *dx.shape[1:], dx.reshape(-1), _streaming(dx)
    if not dy.size:  # no window fits
        noted(np.copyto, dx, 0)
    elif windows.pool_size == tuple(strides):
        mean_grad_tiles(dy, windows.shares(dtype), *windows.tables, *to)
    else:
        mean_grad_rows(dy, windows.shares(dtype), *windows.covering, *windows.output_shape[1:3],
                       *to)  # fmt: skip
    return dx


@kernel
def add_to(x, y):
    for k in range(x.size):
        y[k] += x[k]


@kernel
def add_scaled(x, factor, y):
    for k in range(x.size):
        y[k] += x[k] * factor


# --- over whole images: a task is an image ---


@kernel
def max_cell_first(x, y, index, cell):
    for k in range(x.size):
        y[k] = x[k]
        index[k] = cell


@kernel
def max_cell(x, y, index, cell):
    for k in range(x.size):
        better = y[k] == y[k] and not x[k] <= y[k]  # greater, or the first NaN
        y[k] = x[k] if better else y[k]
        index[k] = cell if better else index[k]


@kernel
def copy_scaled(x, factor, y):
    for k in range(x.size):
        y[k] = x[k] * factor


@parallel_kernel
def global_average_images(x, sums, y, pixels):
    """sums: float64, the size of y."""
    c = x.size // len(sums) // pixels
    for image in prange(len(sums)):
        sums[image] = 0
        for p in range(image * pixels, (image + 1) * pixels):
            add_to(x[p * c : (p + 1) * c], sums[image])
        copy_scaled(sums[image], 1 / pixels, y[image * c : (image + 1) * c])


def global_average_pool2d(x, out=None):
    """(n, h, w, c) -> (n, c): the mean over all pixels, summed in float64."""
    dtype = float_type("x", x)
    n, h, w, c = x.shape
    y = output(out, (n, c), dtype)
    (sums,) = arena.scratch(((n, c), np.float64))
    if y.size:
        global_average_images(flat("x", x, x.shape, dtype), sums, y.reshape(-1), h * w)
    return y


@parallel_kernel
def global_average_grad_images(dy, dx, pixels, c):
    share = dx.dtype.type(1 / pixels)
    for image in prange(dy.size // c):
        g = dy[image * c : (image + 1) * c]
        for p in range(image * pixels, (image + 1) * pixels):
            copy_scaled(g, share, dx[p * c : (p + 1) * c])


def global_average_pool2d_grad(dy, input_shape, out=None):
    """dx (n, h, w, c): every pixel gets dy / (h w)."""
    dtype = float_type("dy", dy)
    n, h, w, c = input_shape
    dx = output(out, (n, h, w, c), dtype)
    if dx.size:
        global_average_grad_images(flat("dy", dy, (n, c), dtype), dx.reshape(-1), h * w, c)
    return dx


@parallel_kernel
def global_max_images(x, y, index, pixels, c):
    for image in prange(y.size // c):
        out = slice(image * c, (image + 1) * c)
        start = image * pixels * c
        max_cell_first(x[start : start + c], y[out], index[out], np.int32(0))
        for p in range(1, pixels):
            start += c
            max_cell(x[start : start + c], y[out], index[out], np.int32(p))


def global_max_pool2d(x, out=None):
    """(n, h, w, c) -> the maxima (n, c) and the winner's place row * w + column (int32)."""
    dtype = float_type("x", x)
    n, h, w, c = x.shape
    y = output(out, (n, c), dtype)
    index = arena.empty((n, c), np.int32)
    if y.size:
        arrays = flat("x", x, x.shape, dtype), y.reshape(-1), index.reshape(-1)
        global_max_images(*arrays, h * w, c)
    return y, index


@kernel
def scatter(dy, index, dx, c):
    for k in range(c):
        dx[index[k] * c + k] = dy[k]


@parallel_kernel
def global_max_grad_images(dy, index, dx, pixels, c):
    for image in prange(dy.size // c):
        out = slice(image * c, (image + 1) * c)
        part = dx[image * pixels * c : (image + 1) * pixels * c]
        part[:] = 0
        scatter(dy[out], index[out], part, c)


def global_max_pool2d_grad(dy, index, input_shape, out=None):
    """dx (n, h, w, c): dy (n, c) at the pixel that won, 0 elsewhere."""
    dtype = float_type("dy", dy)
    n, h, w, c = input_shape
    dx = output(out, (n, h, w, c), dtype)
    if dx.size:
        dy, index = flat("dy", dy, (n, c), dtype), flat("index", index, (n, c), np.int32)
        global_max_grad_images(dy, index, dx.reshape(-1), h * w, c)
    return dx
