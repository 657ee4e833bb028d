"""Pooling, compiled; the equations stand in reference/pooling.py.

Design: a task is one row of the output (of dx in a gradient), and the innermost loop runs over the
channels. Padding is never stored: each window is cut to the part that lies on the image. Gradients
gather instead of scattering: a row of dx asks which windows cover it, so that no two threads write
to the same place and the order of additions is fixed. The common 2 x 2 window with stride 2 reads
and writes every pixel once and has kernels of its own.
"""

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast.exponential import like
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output
from minicnn.ops.shapes import pool2d_shape, pool_padding, window_index_dtype


@kernel
def first_wins(best, value):
    """Whether value replaces best: greater, or the first NaN."""
    return best == best and not value <= best


class Windows:
    """The integers of a pooling in the order in which the kernels take them."""

    def __init__(self, input_shape, pool_size, strides, padding):
        pads = pool_padding(padding, input_shape[1:3], pool_size, strides)
        self.input_shape, self.pool_size = tuple(input_shape), tuple(pool_size)
        self.output_shape = pool2d_shape(input_shape, pool_size, strides, pads)
        n, h, w, c = input_shape
        oh, ow = self.output_shape[1:3]
        self.integers = (h, w, c, oh, ow, *pool_size, *strides, pads[0][0], pads[1][0])
        self.tiles = (
            self.pool_size == (2, 2) and tuple(strides) == (2, 2) and not any(map(sum, pads))
        )


@kernel
def covered(position, stride, before, length, size):
    """First and last + 1 cell of window `position` that lies on the image."""
    start = position * stride - before
    return max(0, -start), min(length, size - start)


@kernel
def covering(pixel, stride, before, length, count):
    """First and last + 1 window that holds a pixel."""
    place = pixel + before
    return max(0, (place - length + stride) // stride), min(count, place // stride + 1)


# --- maximum ---


@kernel
def tile_max(a, b, y, index, c):
    """The maxima of the 2 x 2 tiles of two image rows."""
    for j in range(y.size // c):
        p, q = a[2 * j * c : 2 * (j + 1) * c], b[2 * j * c : 2 * (j + 1) * c]
        out, place = y[j * c : (j + 1) * c], index[j * c : (j + 1) * c]
        for k in range(c):
            right, low_right = first_wins(p[k], p[c + k]), first_wins(q[k], q[c + k])
            upper = p[c + k] if right else p[k]
            lower = q[c + k] if low_right else q[k]
            down = first_wins(upper, lower)
            out[k] = lower if down else upper
            place[k] = np.uint8(2 + low_right) if down else np.uint8(right)


@parallel_kernel
def tile_max_rows(x, y, index, h, w, c, oh, ow):
    for row in prange(y.size // (ow * c)):
        start = ((row // oh) * h + 2 * (row % oh)) * w * c
        out = slice(row * ow * c, (row + 1) * ow * c)
        below = start + w * c
        tile_max(x[start:below], x[below : below + w * c], y[out], index[out], c)


@kernel
def max_cell_first(x, y, index, cell):
    for k in range(x.size):
        y[k] = x[k]
        index[k] = cell


@kernel
def max_cell(x, y, index, cell):
    for k in range(x.size):
        better = first_wins(y[k], x[k])
        y[k] = x[k] if better else y[k]
        index[k] = cell if better else index[k]


@parallel_kernel
def max_rows(x, y, index, h, w, c, oh, ow, kh, kw, sh, sw, top, left):
    for row in prange(y.size // (ow * c)):
        image, i = row // oh, row % oh
        a0, a1 = covered(i, sh, top, kh, h)
        for j in range(ow):
            b0, b1 = covered(j, sw, left, kw, w)
            out = slice((row * ow + j) * c, (row * ow + j + 1) * c)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    start = ((image * h + i * sh - top + a) * w + j * sw - left + b) * c
                    cell = index.dtype.type(a * kw + b)
                    if a == a0 and b == b0:
                        max_cell_first(x[start : start + c], y[out], index[out], cell)
                    else:
                        max_cell(x[start : start + c], y[out], index[out], cell)


def max_pool2d(x, pool_size, strides, padding, out=None):
    """(n, h, w, c) -> the maxima (n, oh, ow, c) and the winner's place a * kw + b in its window.

    The first maximum wins, as in Keras; NaN counts as larger than everything, so it propagates.
    """
    dtype = float_type("x", x)
    windows = Windows(x.shape, pool_size, strides, padding)
    y = output(out, windows.output_shape, dtype)
    index = arena.empty(y.shape, window_index_dtype(pool_size))
    arrays = flat("x", x, x.shape, dtype), y.reshape(-1), index.reshape(-1)
    if not y.size:
        return y, index
    if windows.tiles:
        tile_max_rows(*arrays, *windows.integers[:5])
    else:
        max_rows(*arrays, *windows.integers)
    return y, index


@kernel
def tile_max_grad(dy, index, upper, lower, c):
    for j in range(dy.size // c):
        g, place = dy[j * c : (j + 1) * c], index[j * c : (j + 1) * c]
        p, q = upper[2 * j * c : 2 * (j + 1) * c], lower[2 * j * c : 2 * (j + 1) * c]
        for k in range(c):
            zero = like(g[k], 0)
            p[k] = g[k] if place[k] == 0 else zero
            p[c + k] = g[k] if place[k] == 1 else zero
            q[k] = g[k] if place[k] == 2 else zero
            q[c + k] = g[k] if place[k] == 3 else zero


@parallel_kernel
def tile_max_grad_rows(dy, index, dx, h, w, c, oh, ow):
    """Two rows of dx a task; what no tile covers (odd sizes) gets zeros."""
    pairs = (h + 1) // 2
    for task in prange(dx.size // (h * w * c) * pairs):
        image, i = task // pairs, task % pairs
        start = (image * h + 2 * i) * w * c
        below = start + w * c
        if i == oh:
            dx[start:below] = 0
        else:
            row = slice((image * oh + i) * ow * c, (image * oh + i + 1) * ow * c)
            tile_max_grad(dy[row], index[row], dx[start:below], dx[below : below + w * c], c)
            dx[start + 2 * ow * c : below] = 0
            dx[below + 2 * ow * c : below + w * c] = 0


@kernel
def add_where(dy, index, cell, dx):
    for k in range(dy.size):
        dx[k] += dy[k] if index[k] == cell else like(dy[k], 0)


@parallel_kernel
def max_grad_rows(dy, index, dx, h, w, c, oh, ow, kh, kw, sh, sw, top, left):
    for row in prange(dx.size // (w * c)):
        image, p = row // h, row % h
        dx[row * w * c : (row + 1) * w * c] = 0
        i0, i1 = covering(p, sh, top, kh, oh)
        for i in range(i0, i1):
            for j in range(ow):
                b0, b1 = covered(j, sw, left, kw, w)
                start = ((image * oh + i) * ow + j) * c
                window = slice(start, start + c)
                for b in range(b0, b1):
                    at = (row * w + j * sw - left + b) * c
                    cell = index.dtype.type((p + top - i * sh) * kw + b)
                    add_where(dy[window], index[window], cell, dx[at : at + c])


def max_pool2d_grad(dy, index, input_shape, pool_size, strides, padding, out=None):
    """dx (n, h, w, c): every dy (n, oh, ow, c) is added to the pixel that won its window."""
    dtype = float_type("dy", dy)
    windows = Windows(input_shape, pool_size, strides, padding)
    dx = output(out, windows.input_shape, dtype)
    dy = flat("dy", dy, windows.output_shape, dtype)
    index = flat("index", index, windows.output_shape, window_index_dtype(pool_size))
    if not dy.size:
        dx.fill(0)
    elif windows.tiles:
        tile_max_grad_rows(dy, index, dx.reshape(-1), *windows.integers[:5])
    else:
        max_grad_rows(dy, index, dx.reshape(-1), *windows.integers)
    return dx


# --- mean ---


@kernel
def add_to(x, y):
    for k in range(x.size):
        y[k] += x[k]


@kernel
def add_scaled(x, factor, y):
    for k in range(x.size):
        y[k] += x[k] * factor


@kernel
def multiply(y, factor):
    for k in range(y.size):
        y[k] *= factor


@parallel_kernel
def average_rows(x, y, h, w, c, oh, ow, kh, kw, sh, sw, top, left):
    for row in prange(y.size // (ow * c)):
        image, i = row // oh, row % oh
        y[row * ow * c : (row + 1) * ow * c] = 0
        a0, a1 = covered(i, sh, top, kh, h)
        for j in range(ow):
            b0, b1 = covered(j, sw, left, kw, w)
            out = slice((row * ow + j) * c, (row * ow + j + 1) * c)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    start = ((image * h + i * sh - top + a) * w + j * sw - left + b) * c
                    add_to(x[start : start + c], y[out])
            multiply(y[out], y.dtype.type(1 / ((a1 - a0) * (b1 - b0))))


def average_pool2d(x, pool_size, strides, padding, out=None):
    """(n, h, w, c) -> (n, oh, ow, c): the mean of each window; padding is not counted."""
    dtype = float_type("x", x)
    windows = Windows(x.shape, pool_size, strides, padding)
    y = output(out, windows.output_shape, dtype)
    if y.size:
        average_rows(flat("x", x, x.shape, dtype), y.reshape(-1), *windows.integers)
    return y


@parallel_kernel
def average_grad_rows(dy, dx, h, w, c, oh, ow, kh, kw, sh, sw, top, left):
    for row in prange(dx.size // (w * c)):
        image, p = row // h, row % h
        dx[row * w * c : (row + 1) * w * c] = 0
        i0, i1 = covering(p, sh, top, kh, oh)
        for i in range(i0, i1):
            a0, a1 = covered(i, sh, top, kh, h)
            for j in range(ow):
                b0, b1 = covered(j, sw, left, kw, w)
                share = dx.dtype.type(1 / ((a1 - a0) * (b1 - b0)))
                start = ((image * oh + i) * ow + j) * c
                for b in range(b0, b1):
                    at = (row * w + j * sw - left + b) * c
                    add_scaled(dy[start : start + c], share, dx[at : at + c])


def average_pool2d_grad(dy, input_shape, pool_size, strides, padding, out=None):
    """dx (n, h, w, c): every pixel of a window gets dy / (pixels in it)."""
    dtype = float_type("dy", dy)
    windows = Windows(input_shape, pool_size, strides, padding)
    dx = output(out, windows.input_shape, dtype)
    dy = flat("dy", dy, windows.output_shape, dtype)
    if dy.size:
        average_grad_rows(dy, dx.reshape(-1), *windows.integers)
    else:
        dx.fill(0)
    return dx


# --- over whole images: a task is an image ---


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
    sums = arena.empty((n, c), np.float64)
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
