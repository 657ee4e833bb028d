"""Zero padding and upsampling, compiled; the equations stand in reference/reshaping.py.

Design: a task is one row of the result. Bilinear gradients gather: a row of dx adds up the rows of
dy in which its weight is not zero (at most 3 s of them), so no two threads write to one place.
"""

import functools

import numpy as np
from numba import prange

from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output
from minicnn.ops.fast.pooling import add_scaled, add_to

INTERPOLATIONS = ("nearest", "bilinear")


@kernel
def copy(x, y):
    for k in range(x.size):
        y[k] = x[k]


@kernel
def fill_zero(y):
    for k in range(y.size):
        y[k] = 0


@parallel_kernel
def pad_rows(x, y, h, row, new_h, new_row, top, left):
    """Rows of w c numbers: `row` in x, `new_row` in y; left is a count of numbers too."""
    for task in prange(y.size // new_row):
        image, i = task // new_h, task % new_h - top
        start = task * new_row
        if 0 <= i < h:
            fill_zero(y[start : start + left])
            source = (image * h + i) * row
            copy(x[source : source + row], y[start + left : start + left + row])
            fill_zero(y[start + left + row : start + new_row])
        else:
            fill_zero(y[start : start + new_row])


@parallel_kernel
def crop_rows(dy, dx, h, row, new_h, new_row, top, left):
    for task in prange(dx.size // row):
        source = ((task // h) * new_h + task % h + top) * new_row + left
        copy(dy[source : source + row], dx[task * row : (task + 1) * row])


def zero_pad2d(x, padding, out=None):
    """(n, h, w, c) -> (n, top + h + bottom, left + w + right, c)."""
    dtype = float_type("x", x)
    (top, bottom), (left, right) = padding
    n, h, w, c = x.shape
    new_h, new_w = top + h + bottom, left + w + right
    y = output(out, (n, new_h, new_w, c), dtype)
    if y.size:
        x = flat("x", x, x.shape, dtype)
        pad_rows(x, y.reshape(-1), h, w * c, new_h, new_w * c, top, left * c)
    return y


def zero_pad2d_grad(dy, padding, out=None):
    """dx: dy without its border."""
    dtype = float_type("dy", dy)
    (top, bottom), (left, right) = padding
    n, new_h, new_w, c = dy.shape
    h, w = new_h - top - bottom, new_w - left - right
    dx = output(out, (n, h, w, c), dtype)
    if dx.size:
        dy = flat("dy", dy, dy.shape, dtype)
        crop_rows(dy, dx.reshape(-1), h, w * c, new_h, new_w * c, top, left * c)
    return dx


@parallel_kernel
def repeat_rows(x, y, w, c, sh, sw):
    """Rows of y; sh of them, and sw pixels in each, are the same."""
    row = w * sw * c
    for task in prange(y.size // row):
        for q in range(w):
            source = ((task // sh) * w + q) * c
            for start in range(task * row + q * sw * c, task * row + (q + 1) * sw * c, c):
                copy(x[source : source + c], y[start : start + c])


@parallel_kernel
def sum_blocks(dy, dx, w, c, sh, sw):
    for task in prange(dx.size // (w * c)):
        fill_zero(dx[task * w * c : (task + 1) * w * c])
        for a in range(sh):
            for q in range(w):
                at = (task * w + q) * c
                for b in range(sw):
                    start = (((task * sh + a) * w + q) * sw + b) * c
                    add_to(dy[start : start + c], dx[at : at + c])


@functools.lru_cache(maxsize=64)
def neighbours(length, factor, dtype):
    """Per output pixel the two input pixels it lies between and the weight of the second."""
    centre = (np.arange(length * factor) + 0.5) / factor - 0.5
    centre = np.clip(centre, 0, length - 1)
    before = np.floor(centre).astype(np.int64)
    return before, np.minimum(before + 1, length - 1), (centre - before).astype(dtype)


@kernel
def blend(a, b, c, d, of_row, of_column, y):
    """The four neighbours: first along the rows, then between them."""
    for k in range(y.size):
        upper = a[k] + of_column * (b[k] - a[k])
        lower = c[k] + of_column * (d[k] - c[k])
        y[k] = upper + of_row * (lower - upper)


@parallel_kernel
def blend_rows(x, y, h, w, c, up, down, of_row, west, east, of_column):
    oh, ow = up.size, west.size
    for task in prange(y.size // (ow * c)):
        image, i = task // oh, task % oh
        upper, lower = (image * h + up[i]) * w, (image * h + down[i]) * w
        for j in range(ow):
            p, q = (upper + west[j]) * c, (upper + east[j]) * c
            r, s = (lower + west[j]) * c, (lower + east[j]) * c
            out = slice((task * ow + j) * c, (task * ow + j + 1) * c)
            corners = x[p : p + c], x[q : q + c], x[r : r + c], x[s : s + c]
            blend(*corners, of_row[i], of_column[j], y[out])


@parallel_kernel
def blend_grad_rows(dy, dx, h, w, c, sh, up, down, of_row, west, east, of_column):
    oh, ow = up.size, west.size
    one = dx.dtype.type(1)
    for task in prange(dx.size // (w * c)):
        image, p = task // h, task % h
        dx_row = dx[task * w * c : (task + 1) * w * c]
        fill_zero(dx_row)
        for i in range(max(0, (p - 1) * sh), min(oh, (p + 2) * sh)):
            weight = dx.dtype.type(0)
            if up[i] == p:
                weight += one - of_row[i]
            if down[i] == p:
                weight += of_row[i]
            if weight == 0:
                continue
            for j in range(ow):
                start = ((image * oh + i) * ow + j) * c
                g = dy[start : start + c]
                a, b = west[j] * c, east[j] * c
                add_scaled(g, weight * (one - of_column[j]), dx_row[a : a + c])
                add_scaled(g, weight * of_column[j], dx_row[b : b + c])


def upsample2d(x, size, interpolation="nearest", out=None):
    """(n, h, w, c) -> (n, h sh, w sw, c) with size = (sh, sw); "nearest" or "bilinear"."""
    dtype = float_type("x", x)
    check_interpolation(interpolation)
    n, h, w, c = x.shape
    y = output(out, (n, h * size[0], w * size[1], c), dtype)
    if not y.size:
        return y
    x = flat("x", x, x.shape, dtype)
    if interpolation == "nearest":
        repeat_rows(x, y.reshape(-1), w, c, *size)
    else:
        rows, columns = neighbours(h, size[0], dtype), neighbours(w, size[1], dtype)
        blend_rows(x, y.reshape(-1), h, w, c, *rows, *columns)
    return y


def upsample2d_grad(dy, size, interpolation="nearest", out=None):
    """dx (n, h, w, c) from dy (n, h sh, w sw, c)."""
    dtype = float_type("dy", dy)
    check_interpolation(interpolation)
    n, h, w, c = dy.shape[0], dy.shape[1] // size[0], dy.shape[2] // size[1], dy.shape[3]
    dx = output(out, (n, h, w, c), dtype)
    if not dx.size:
        return dx
    dy = flat("dy", dy, (n, h * size[0], w * size[1], c), dtype)
    if interpolation == "nearest":
        sum_blocks(dy, dx.reshape(-1), w, c, *size)
    else:
        rows, columns = neighbours(h, size[0], dtype), neighbours(w, size[1], dtype)
        blend_grad_rows(dy, dx.reshape(-1), h, w, c, size[0], *rows, *columns)
    return dx


def check_interpolation(name):
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {name!r}: give one of {', '.join(INTERPOLATIONS)}.")
