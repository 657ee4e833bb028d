"""Pictures moved, resized, recoloured and mixed, compiled; equations in reference/augmentation.py.

Design: a task is one row of one result picture (gradients of affine maps scatter: there a task is
one picture). The products m00 i, m01 j ... are made beforehand, so that a coordinate is a sum of
three numbers and has the same last bit as in scipy.ndimage: what lies exactly on the border stays
there. Pixels whose neighbours all lie on the picture, nearly all of them, take the short way.
"""

import math

import numpy as np
from numba import prange

from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output
from minicnn.ops.fast.reshaping import fill_zero
from minicnn.ops.geometry import FILL_MODES, check_affine

REFLECT, MIRROR, NEAREST, WRAP, GRID_WRAP, CONSTANT, GRID_CONSTANT = range(len(FILL_MODES))


@kernel
def onto_picture(r, size, mode):
    """A coordinate beyond the border as one on it, in scipy.ndimage's arithmetic."""
    if mode >= CONSTANT or 0 <= r <= size - 1:
        return r
    if mode == NEAREST or size == 1:
        return 0.0 if r < 0 else float(size - 1)
    if mode == GRID_WRAP:
        return r - size * math.floor(r / size)
    if mode == WRAP:
        period = size - 1
        if r < 0:
            return r + period * (math.trunc(-r / period) + 1)
        return r - period * math.trunc(r / period)
    period, back = (2 * size - 2, 0) if mode == MIRROR else (2 * size, 1)
    if r < 0:
        r = period * math.trunc(-r / period) + r
        if r < -size or mode == MIRROR and r <= 1 - size:
            return r + period
        return -r - back
    r = r - period * math.trunc(r / period)
    return period - r - back if r >= size else r


@kernel
def pixel(index, size, mode):
    """Index of a pixel at most one beyond the border; -1 where the fill value counts instead."""
    if 0 <= index < size:
        return index
    if mode >= CONSTANT:
        return -1
    if mode == MIRROR and index == size and size > 1:
        return size - 2
    if mode == GRID_WRAP and index == size:
        return 0
    return 0 if index < 0 else size - 1


@kernel
def first_pixel(r, size, mode, nearest):
    """(index of the pixel before r, distance to it); index -2: nothing but the fill value."""
    if mode == CONSTANT and not 0 <= r <= size - 1:
        return -2, 0.0
    r = onto_picture(r, size, mode)
    if mode == GRID_CONSTANT and not -1 <= r <= size:
        return -2, 0.0
    if nearest:
        return int(math.floor(r + 0.5)), 0.0
    first = math.floor(r)
    return int(first), r - first


@parallel_kernel
def affine_rows(x, y, h, w, c, row_parts, column_parts, shifts, mode, nearest, fill):
    """row_parts (n, 2, h), column_parts (n, 2, w), shifts (n, 2)."""
    one = x.dtype.type(1)
    for task in prange(y.size // (w * c)):
        n, i = task // h, task % h
        picture = x[n * h * w * c : (n + 1) * h * w * c]
        y_row = y[task * w * c : (task + 1) * w * c]
        for j in range(w):
            r = row_parts[n, 0, i] + column_parts[n, 0, j] + shifts[n, 0]
            s = row_parts[n, 1, i] + column_parts[n, 1, j] + shifts[n, 1]
            if 0 <= r < h - 1 and 0 <= s < w - 1 and not nearest:
                p, q = int(r), int(s)
                a, b = x.dtype.type(r - p), x.dtype.type(s - q)
                at = (p * w + q) * c
                for k in range(c):
                    upper = picture[at + k]
                    upper += b * (picture[at + c + k] - upper)
                    lower = picture[at + w * c + k]
                    lower += b * (picture[at + w * c + c + k] - lower)
                    y_row[j * c + k] = upper + a * (lower - upper)
                continue
            p, of_row = first_pixel(r, h, mode, nearest)
            q, of_column = first_pixel(s, w, mode, nearest)
            if p == -2 or q == -2:
                for k in range(c):
                    y_row[j * c + k] = fill
                continue
            a, b = x.dtype.type(of_row), x.dtype.type(of_column)
            up, left = pixel(p, h, mode), pixel(q, w, mode)
            upper_left = -1 if up < 0 or left < 0 else (up * w + left) * c
            if nearest:
                for k in range(c):
                    y_row[j * c + k] = fill if upper_left < 0 else picture[upper_left + k]
                continue
            down, right = pixel(p + 1, h, mode), pixel(q + 1, w, mode)
            upper_right = -1 if up < 0 or right < 0 else (up * w + right) * c
            lower_left = -1 if down < 0 or left < 0 else (down * w + left) * c
            lower_right = -1 if down < 0 or right < 0 else (down * w + right) * c
            for k in range(c):
                v = fill if upper_left < 0 else picture[upper_left + k]
                total = (one - a) * (one - b) * v
                v = fill if upper_right < 0 else picture[upper_right + k]
                total += (one - a) * b * v
                v = fill if lower_left < 0 else picture[lower_left + k]
                total += a * (one - b) * v
                v = fill if lower_right < 0 else picture[lower_right + k]
                y_row[j * c + k] = total + a * b * v


@kernel
def give_back(dy, weight, dx, row, column, w):
    if row >= 0 and column >= 0:
        at = (row * w + column) * dy.size
        for k in range(dy.size):
            dx[at + k] += weight * dy[k]


@parallel_kernel
def affine_grad_pictures(dy, dx, h, w, c, row_parts, column_parts, shifts, mode, nearest):
    one = dx.dtype.type(1)
    for n in prange(shifts.shape[0]):
        dx_picture = dx[n * h * w * c : (n + 1) * h * w * c]
        fill_zero(dx_picture)
        for i in range(h):
            for j in range(w):
                r = row_parts[n, 0, i] + column_parts[n, 0, j] + shifts[n, 0]
                s = row_parts[n, 1, i] + column_parts[n, 1, j] + shifts[n, 1]
                p, of_row = first_pixel(r, h, mode, nearest)
                q, of_column = first_pixel(s, w, mode, nearest)
                if p == -2 or q == -2:
                    continue
                start = ((n * h + i) * w + j) * c
                g = dy[start : start + c]
                a, b = dx.dtype.type(of_row), dx.dtype.type(of_column)
                up, left = pixel(p, h, mode), pixel(q, w, mode)
                give_back(g, (one - a) * (one - b), dx_picture, up, left, w)
                if not nearest:
                    down, right = pixel(p + 1, h, mode), pixel(q + 1, w, mode)
                    give_back(g, (one - a) * b, dx_picture, up, right, w)
                    give_back(g, a * (one - b), dx_picture, down, left, w)
                    give_back(g, a * b, dx_picture, down, right, w)


def affine_parts(matrices, h, w):
    """m00 i and m10 i; m01 j and m11 j; m02 and m12."""
    row_parts = matrices[:, :, :1] * np.arange(h)
    column_parts = matrices[:, :, 1:2] * np.arange(w)
    return row_parts, column_parts, np.ascontiguousarray(matrices[:, :, 2])


def affine_transform(
    x, matrices, fill_mode="reflect", fill_value=0.0, interpolation="bilinear", out=None
):
    """y[i, j] = x at matrices[n] @ (i, j, 1): each (2, 3) matrix maps output to input pixels."""
    dtype = float_type("x", x)
    n, h, w, c = x.shape
    matrices = check_affine(matrices, n, fill_mode, interpolation)
    y = output(out, x.shape, dtype)
    if y.size:
        x = flat("x", x, x.shape, dtype)
        mode, nearest = FILL_MODES.index(fill_mode), interpolation == "nearest"
        parts = affine_parts(matrices, h, w)
        affine_rows(x, y.reshape(-1), h, w, c, *parts, mode, nearest, dtype.type(fill_value))
    return y


def affine_transform_grad(dy, matrices, fill_mode="reflect", interpolation="bilinear", out=None):
    """dx: every output pixel gives its gradient back to the pixels it was made of."""
    dtype = float_type("dy", dy)
    n, h, w, c = dy.shape
    matrices = check_affine(matrices, n, fill_mode, interpolation)
    dx = output(out, dy.shape, dtype)
    if dx.size:
        dy = flat("dy", dy, dy.shape, dtype)
        mode, nearest = FILL_MODES.index(fill_mode), interpolation == "nearest"
        affine_grad_pictures(
            dy, dx.reshape(-1), h, w, c, *affine_parts(matrices, h, w), mode, nearest
        )
    return dx
