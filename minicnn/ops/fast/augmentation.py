"""Pictures moved, resized, recoloured and mixed, compiled; equations in reference/augmentation.py.

Design: a task is one row of one result picture (gradients of affine maps scatter: there a task is
one picture). The products m00 i, m01 j ... are made beforehand, so that a coordinate is a sum of
three numbers and has the same last bit as in scipy.ndimage: what lies exactly on the border stays
there. Pixels whose neighbours all lie on the picture, nearly all of them, take the short way:
their places are found for a row at a time, the blending loop then has no case in it (about twice
as fast on 32 x 32 x 3 as deciding pixel by pixel).
"""

import functools
import math

import numpy as np
from numba import prange

from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output
from minicnn.ops.fast.pooling import add_scaled, add_to
from minicnn.ops.fast.reshaping import copy, fill_zero
from minicnn.ops.geometry import (
    FILL_MODES,
    SECOND_KEY,
    check_affine,
    check_boxes,
    check_colours,
    check_order,
    check_per_picture,
    check_places,
    check_resize,
    resize_matrix,
)

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


@kernel
def blend_inside(x, y, offsets, of_row, of_column, row, c):
    """Pixels whose four neighbours lie on the picture; offsets: of the upper left ones."""
    for j in range(offsets.size):
        a, b = of_row[j], of_column[j]
        for k in range(c):
            at = np.uint64(offsets[j] + k)  # unsigned: no look whether an index counts from the end
            upper, lower = x[at], x[at + np.uint64(row)]
            upper += b * (x[at + np.uint64(c)] - upper)
            lower += b * (x[at + np.uint64(row + c)] - lower)
            y[np.uint64(j * c + k)] = upper + a * (lower - upper)


@kernel
def copy_inside(x, y, offsets, c):
    for j in range(offsets.size):
        for k in range(c):
            y[np.uint64(j * c + k)] = x[np.uint64(offsets[j] + k)]


@kernel
def border_pixel(x, y, r, s, h, w, mode, nearest, fill):
    """One pixel y of c numbers, wherever r, s lie."""
    c = y.size
    p, of_row = first_pixel(r, h, mode, nearest)
    q, of_column = first_pixel(s, w, mode, nearest)
    if p == -2 or q == -2:
        y[:] = fill
        return
    one = x.dtype.type(1)
    a, b = x.dtype.type(of_row), x.dtype.type(of_column)
    rows, columns = pixel(p, h, mode), pixel(q, w, mode)
    for down in range(1 if nearest else 2):
        for right in range(1 if nearest else 2):
            row = pixel(p + 1, h, mode) if down else rows
            column = pixel(q + 1, w, mode) if right else columns
            weight = (a if down else one - a) * (b if right else one - b)
            for k in range(c):
                v = fill if row < 0 or column < 0 else x[(row * w + column) * c + k]
                y[k] = weight * v if down + right == 0 else y[k] + weight * v


@parallel_kernel
def affine_rows(x, y, h, w, c, row_parts, column_parts, shifts, mode, nearest, fill):
    """row_parts (n, 2, h), column_parts (n, 2, w), shifts (n, 2)."""
    half = 0.5 if nearest else 0.0
    for task in prange(y.size // (w * c)):
        n, i = task // h, task % h
        picture = x[n * h * w * c : (n + 1) * h * w * c]
        y_row = y[task * w * c : (task + 1) * w * c]
        offsets = np.empty(w, np.int64)  # -1: a pixel at the border
        of_row, of_column = np.empty(w, x.dtype), np.empty(w, x.dtype)
        r0, s0, r1, s1 = row_parts[n, 0, i], row_parts[n, 1, i], shifts[n, 0], shifts[n, 1]
        for j in range(w):
            r = r0 + column_parts[n, 0, j] + r1
            s = s0 + column_parts[n, 1, j] + s1
            inside = 0 <= r < h - 1 and 0 <= s < w - 1
            r = r + half if inside else 0.0
            s = s + half if inside else 0.0
            p, q = math.floor(r), math.floor(s)
            of_row[j], of_column[j] = r - p, s - q
            offsets[j] = (np.int64(p) * w + np.int64(q)) * c if inside else -1
        j = 0
        while j < w:
            first = j
            while j < w and offsets[j] >= 0:
                j += 1
            part, y_part = offsets[first:j], y_row[first * c : j * c]
            if nearest:
                copy_inside(picture, y_part, part, c)
            elif c == 3:  # a constant that the compiler sees
                blend_inside(picture, y_part, part, of_row[first:j], of_column[first:j], w * 3, 3)
            else:
                blend_inside(picture, y_part, part, of_row[first:j], of_column[first:j], w * c, c)
            while j < w and offsets[j] < 0:
                r = r0 + column_parts[n, 0, j] + r1
                s = s0 + column_parts[n, 1, j] + s1
                border_pixel(picture, y_row[j * c : (j + 1) * c], r, s, h, w, mode, nearest, fill)
                j += 1


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


# --- pixels fetched -------------------------------------------------------------------------------


@kernel
def fill_pixels(y, values):
    """Every pixel of y gets the numbers `values`, one per channel."""
    c = values.size
    for at in range(0, y.size, c):
        for k in range(c):
            y[at + k] = values[k]


@kernel
def copy_reversed(x, y, c):
    """The pixels of x, the last one first."""
    for at in range(0, x.size, c):
        for k in range(c):
            y[np.uint64(at + k)] = x[np.uint64(x.size - c - at + k)]


@parallel_kernel
def gather_rows(x, y, h, w, c, rows, columns, straight, fill):
    """straight[n]: 1 where the columns of picture n stand side by side, -1 in reverse, else 0."""
    oh, ow = rows.shape[1], columns.shape[1]
    for task in prange(rows.size):
        n, i = task // oh, task % oh
        y_row = y[task * ow * c : (task + 1) * ow * c]
        if rows[n, i] < 0:
            fill_pixels(y_row, fill)
            continue
        start = (n * h + rows[n, i]) * w * c
        if straight[n] > 0:
            start += columns[n, 0] * c
            copy(x[start : start + ow * c], y_row)
            continue
        if straight[n] < 0:
            start += columns[n, ow - 1] * c
            if c == 3:  # a constant that the compiler sees
                copy_reversed(x[start : start + ow * 3], y_row, 3)
            else:
                copy_reversed(x[start : start + ow * c], y_row, c)
            continue
        x_row = x[start : start + w * c]
        for j in range(ow):
            q = columns[n, j] * c
            for k in range(c):
                y_row[j * c + k] = fill[k] if q < 0 else x_row[q + k]


@parallel_kernel
def gather_grad_pictures(dy, dx, h, w, c, rows, columns):
    oh, ow = rows.shape[1], columns.shape[1]
    for n in prange(rows.shape[0]):
        dx_picture = dx[n * h * w * c : (n + 1) * h * w * c]
        fill_zero(dx_picture)
        for i in range(oh):
            for j in range(ow):
                if rows[n, i] >= 0 and columns[n, j] >= 0:
                    at = (rows[n, i] * w + columns[n, j]) * c
                    start = ((n * oh + i) * ow + j) * c
                    for k in range(c):
                        dx_picture[at + k] += dy[start + k]


def gather_pixels(x, rows, columns, fill_value=0.0, out=None):
    """y[n, i, j] = x[n, rows[n, i], columns[n, j]]; -1 in rows (n, h') or columns (n, w') fills."""
    dtype = float_type("x", x)
    n, h, w, c = x.shape
    rows, columns = check_places(rows, columns, n, h, w)
    y = output(out, (n, rows.shape[1], columns.shape[1], c), dtype)
    if y.size:
        x = flat("x", x, x.shape, dtype)
        steps, whole = np.diff(columns, axis=1), columns.min(axis=1) >= 0
        ahead, back = ((steps == step).all(axis=1) & whole for step in (1, -1))
        straight = np.where(ahead, 1, np.where(back, -1, 0))
        fill = np.full(c, fill_value, dtype)
        gather_rows(x, y.reshape(-1), h, w, c, rows, columns, straight, fill)
    return y


def gather_pixels_grad(dy, rows, columns, input_shape, out=None):
    """dx: the sum over all places to which a pixel went."""
    dtype = float_type("dy", dy)
    n, h, w, c = input_shape
    rows, columns = check_places(rows, columns, n, h, w)
    dx = output(out, tuple(input_shape), dtype)
    if dx.size:
        dy = flat("dy", dy, (n, rows.shape[1], columns.shape[1], c), dtype)
        gather_grad_pictures(dy, dx.reshape(-1), h, w, c, rows, columns)
    return dx


# --- resizing -------------------------------------------------------------------------------------


@kernel
def blend_pixels(x, y, c, starts, taps, weights):
    for j in range(starts.size - 1):
        for k in range(c):
            total = x.dtype.type(0)
            for t in range(starts[j], starts[j + 1]):
                total += weights[np.uint64(t)] * x[np.uint64(taps[np.uint64(t)] * c + k)]
            y[np.uint64(j * c + k)] = total


@parallel_kernel
def resample_rows(x, y, h, w, c, row_starts, row_taps, row_weights, starts, taps, weights):
    """A row of y: blend whole rows of x, then pixels of the blended row.

    Pixels taps[starts[j] : starts[j + 1]] make up output pixel j, with those weights.
    """
    oh, ow = row_starts.size - 1, starts.size - 1
    for task in prange(y.size // (ow * c)):
        n, i = task // oh, task % oh
        blended = np.zeros(w * c, x.dtype)
        for t in range(row_starts[i], row_starts[i + 1]):
            source = (n * h + row_taps[t]) * w * c
            add_scaled(x[source : source + w * c], row_weights[t], blended)
        y_row = y[task * ow * c : (task + 1) * ow * c]
        if c == 3:  # a constant that the compiler sees
            blend_pixels(blended, y_row, 3, starts, taps, weights)
        else:
            blend_pixels(blended, y_row, c, starts, taps, weights)


@functools.lru_cache(maxsize=64)
def resize_taps(length, new_length, interpolation, antialias, transposed, dtype):
    """The non-zero weights of `resize_matrix` row by row: (starts, pixels, weights)."""
    matrix = resize_matrix(length, new_length, interpolation, antialias)
    matrix = matrix.T if transposed else matrix
    rows, pixels = np.nonzero(matrix)
    starts = np.searchsorted(rows, np.arange(len(matrix) + 1))
    return starts, pixels, matrix[rows, pixels].astype(dtype)


def resample(x, y, sizes, interpolation, antialias, transposed):
    """Fill y; sizes: (smaller index first) input and output length of A and of B."""
    n, h, w, c = x.shape
    dtype = y.dtype
    tables = [
        table
        for length, new_length in sizes
        for table in resize_taps(
            length, new_length, interpolation, bool(antialias), transposed, dtype
        )
    ]
    if y.size and not x.size:
        y.fill(0)
    elif y.size:
        resample_rows(flat("x", x, x.shape, dtype), y.reshape(-1), h, w, c, *tables)
    return y


def resize(x, size, interpolation="bilinear", antialias=False, out=None):
    """(n, h, w, c) -> (n, *size, c); A and B: see `resize_matrix`."""
    dtype = float_type("x", x)
    size = check_resize(size, interpolation)
    y = output(out, (len(x), *size, x.shape[3]), dtype)
    return resample(x, y, zip(x.shape[1:3], size, strict=True), interpolation, antialias, False)


def resize_grad(dy, size, interpolation="bilinear", antialias=False, out=None):
    """dx (n, *size, c) for inputs of that size: dx = A^T dy B."""
    dtype = float_type("dy", dy)
    size = check_resize(size, interpolation)
    dx = output(out, (len(dy), *size, dy.shape[3]), dtype)
    return resample(dy, dx, zip(size, dy.shape[1:3], strict=True), interpolation, antialias, True)


# --- levels ---------------------------------------------------------------------------------------

# Per-channel numbers are laid out for this many pixels, so that the loop over a picture has no
# index modulo c and fills whole vectors.
PATTERN = 16


@kernel
def channel_means(x, c, sums, means):
    """Means of a picture's channels, repeated for PATTERN pixels; sums: scratch in float64."""
    sums[:] = 0
    whole = x.size // sums.size * sums.size
    for start in range(0, whole, sums.size):
        add_to(x[start : start + sums.size], sums)
    add_to(x[whole:], sums[: x.size - whole])
    for k in range(c):
        total = 0.0
        for at in range(k, sums.size, c):
            total += sums[at]
        means[k::c] = total / (x.size // c)


@kernel
def stretch(x, means, factor, offsets, low, high, y):
    for k in range(x.size):
        v = (x[k] - means[k]) * factor + offsets[k]
        v = low if v < low else v
        y[k] = high if v > high else v


@parallel_kernel
def level_pictures(x, y, c, contrast, brightness, low, high):
    size = x.size // contrast.size
    for n in prange(contrast.size):
        picture, y_picture = x[n * size : (n + 1) * size], y[n * size : (n + 1) * size]
        means = np.zeros(PATTERN * c, x.dtype)
        if contrast[n] != 1:
            channel_means(picture, c, np.empty(PATTERN * c), means)
        offsets = means + brightness[n]
        for start in range(0, size, means.size):
            part = slice(start, min(start + means.size, size))
            stretch(picture[part], means, contrast[n], offsets, low, high, y_picture[part])


@kernel
def keep_unclipped(dy, x, means, factor, offsets, low, high, dx):
    for k in range(x.size):
        v = (x[k] - means[k]) * factor + offsets[k]
        dx[k] = 0 if v < low or v > high else dy[k]


@kernel
def scale_shift_channels(y, factor, offsets):
    for k in range(y.size):
        y[k] = y[k] * factor + offsets[k]


@parallel_kernel
def level_grad_pictures(dy, x, dx, c, contrast, brightness, low, high):
    size = x.size // contrast.size
    for n in prange(contrast.size):
        whole = slice(n * size, (n + 1) * size)
        picture, dy_picture, dx_picture = x[whole], dy[whole], dx[whole]
        sums, means = np.empty(PATTERN * c), np.zeros(PATTERN * c, x.dtype)
        if contrast[n] != 1:
            channel_means(picture, c, sums, means)
        offsets = means + brightness[n]
        for start in range(0, size, means.size):
            part = slice(start, min(start + means.size, size))
            g, v, result = dy_picture[part], picture[part], dx_picture[part]
            keep_unclipped(g, v, means, contrast[n], offsets, low, high, result)
        if contrast[n] != 1:
            channel_means(dx_picture, c, sums, means)
            means *= 1 - contrast[n]
            for start in range(0, size, means.size):
                part = slice(start, min(start + means.size, size))
                scale_shift_channels(dx_picture[part], contrast[n], means)


def adjust_levels(x, contrast, brightness, low, high, out=None):
    """y = clip((x - mean) contrast + mean + brightness, low, high); one factor, one sum each."""
    dtype = float_type("x", x)
    contrast = check_per_picture("contrast", contrast, len(x), dtype)
    brightness = check_per_picture("brightness", brightness, len(x), dtype)
    y = output(out, x.shape, dtype)
    if y.size:
        x, c = flat("x", x, x.shape, dtype), x.shape[-1]
        bounds = dtype.type(low), dtype.type(high)
        level_pictures(x, y.reshape(-1), c, contrast, brightness, *bounds)
    return y


def adjust_levels_grad(dy, x, contrast, brightness, low, high, out=None):
    """dx = contrast g + (1 - contrast) mean(g), g = dy where nothing was clipped."""
    dtype = float_type("x", x)
    contrast = check_per_picture("contrast", contrast, len(x), dtype)
    brightness = check_per_picture("brightness", brightness, len(x), dtype)
    dx = output(out, x.shape, dtype)
    if dx.size:
        dy, c = flat("dy", dy, x.shape, dtype), x.shape[-1]
        x, bounds = flat("x", x, x.shape, dtype), (dtype.type(low), dtype.type(high))
        level_grad_pictures(dy, x, dx.reshape(-1), c, contrast, brightness, *bounds)
    return dx


# --- colours --------------------------------------------------------------------------------------


@kernel
def saturation_gain(v, R, factor, low, high):
    """(k, wanted saturation, whether it was clipped) of a pixel."""
    if not (v > 0 and R > 0):
        return 0.0, 0.0, False
    s = R / v
    wanted = factor * s
    if wanted < low:
        return low / s, low, True
    if wanted > high:
        return high / s, high, True
    return factor, wanted, False


@parallel_kernel
def saturation_rows(x, y, row, rows, factors, low, high):
    """Rows of `row` numbers, `rows` of them per picture."""
    zero = x.dtype.type(0)
    for task in prange(x.size // row):
        factor = factors[task // rows]
        for at in range(task * row, (task + 1) * row, 3):
            r, g, b = x[at], x[at + 1], x[at + 2]
            v, m = max(r, g, b), min(r, g, b)
            v += (r + g + b) * zero  # NaN, which max may have dropped
            k, _, _ = saturation_gain(v, v - m, factor, low, high)
            y[at], y[at + 1], y[at + 2] = v + k * (r - v), v + k * (g - v), v + k * (b - v)


@kernel
def extremes(x, at):
    """Places of the largest and of the smallest channel of a pixel, the first of equal ones."""
    first = last = at
    for k in range(at + 1, at + 3):
        if x[k] > x[first]:
            first = k
        if x[k] < x[last]:
            last = k
    return first, last


@parallel_kernel
def saturation_grad_rows(dy, x, dx, row, rows, factors, low, high):
    for task in prange(x.size // row):
        factor = factors[task // rows]
        for at in range(task * row, (task + 1) * row, 3):
            first, last = extremes(x, at)
            v = np.float64(x[first])
            R = v - x[last]
            k, wanted, clipped = saturation_gain(v, R, factor, low, high)
            total = along = 0.0
            for i in range(at, at + 3):
                total += dy[i]
                along += dy[i] * (x[i] - v)
                dx[i] = k * dy[i]
            dx[first] += total * (1 - k)
            if clipped:
                through_R = -along * wanted * v / (R * R)
                dx[first] += along * wanted / R + through_R
                dx[last] -= through_R


@kernel
def hue_weight(t, channel):
    """(d, its slope) of a channel at hue t in [0, 6)."""
    if channel == 0:
        raw, slope = abs(t - 3) - 1, 1.0 if t > 3 else -1.0
    else:
        distance = t - 2 * channel
        raw, slope = 2 - abs(distance), -1.0 if distance > 0 else 1.0
    if raw <= 0:
        return 0.0, 0.0
    if raw >= 1:
        return 1.0, 0.0
    return raw, slope


@kernel
def turned_hue(x, at, first, R, shift, scale):
    """(t, N): hue after the turn and what it grew from; R and N in the scale [0, 1]."""
    channel = first - at
    N = (np.float64(x[at + (channel + 1) % 3]) - x[at + (channel + 2) % 3]) * scale
    t = 2 * channel + N / R + 6 * shift
    return t - 6 * math.floor(t / 6), N


@kernel
def ramp(v, zero, one):
    """v within [0, 1]."""
    v = zero if v < zero else v
    return one if v > one else v


@parallel_kernel
def hue_rows(x, y, row, rows, shifts, low, high):
    """In x's own type: colours scaled to [0, 1] leave float32 six digits, as in Keras."""
    zero, one, two = x.dtype.type(0), x.dtype.type(1), x.dtype.type(2)
    three, four, six = x.dtype.type(3), x.dtype.type(4), x.dtype.type(6)
    scale, span = one / (high - low), high - low
    for task in prange(x.size // row):
        turn = six * shifts[task // rows]
        for at in range(task * row, (task + 1) * row, 3):
            place = np.uint64(at)
            r = (x[place] - low) * scale
            g = (x[place + np.uint64(1)] - low) * scale
            b = (x[place + np.uint64(2)] - low) * scale
            v, m = max(r, max(g, b)), min(r, min(g, b))
            v += (r + g + b) * zero  # NaN, which max may have dropped
            R = v - m
            coloured = v > m and v > zero
            inverse = one / (R if coloured else one)
            t = four + (r - g) * inverse
            t = two + (b - r) * inverse if v == g else t
            t = (g - b) * inverse if v == r else t
            t += turn
            t -= six * math.floor(t / six)
            m, R = m if coloured else v, R if coloured else zero
            red = m + R * ramp(abs(t - three) - one, zero, one)
            green = m + R * ramp(two - abs(t - two), zero, one)
            blue = m + R * ramp(two - abs(t - four), zero, one)
            y[place] = ramp(red, zero, one) * span + low
            y[place + np.uint64(1)] = ramp(green, zero, one) * span + low
            y[place + np.uint64(2)] = ramp(blue, zero, one) * span + low


@parallel_kernel
def hue_grad_rows(dy, x, dx, row, rows, shifts, low, high):
    scale = 1 / (high - low)
    for task in prange(x.size // row):
        shift = shifts[task // rows]
        for at in range(task * row, (task + 1) * row, 3):
            first, last = extremes(x, at)
            v, m = (x[first] - low) * scale, (x[last] - low) * scale
            R, t, N = v - m, 0.0, 0.0
            coloured = R > 0 and v > 0
            if coloured:
                t, N = turned_hue(x, at, first, R, shift, scale)
            total = through_R = through_N = 0.0
            for channel in range(3):
                d, slope = hue_weight(t, channel)
                value = m + R * d if coloured else v
                if not (value < 0 or value > 1):
                    g = dy[at + channel]
                    total += g
                    through_R += g * d
                    through_N += g * slope
                dx[at + channel] = 0
            if coloured:
                through_R -= through_N * N / R
                dx[last] += total - through_R
                dx[first] += through_R
                dx[at + (first - at + 1) % 3] += through_N
                dx[at + (first - at + 2) % 3] -= through_N
            else:
                dx[first] += total


def recolour(rows, arrays, name, values, low, high, out, own_type=False):
    """Fill `out` from arrays by the kernel `rows`, with one of `values` per picture.

    arrays: x by name, for a gradient dy before it. Numbers are float64, or of x's type if
    `own_type`.
    """
    x = arrays["x"]
    check_colours(x)
    values = check_per_picture(name, values, len(x), np.float64)
    dtype = float_type("x", x)
    number = dtype if own_type else np.dtype(np.float64)
    result = output(out, x.shape, dtype)
    if result.size:
        given = [flat(key, array, x.shape, dtype) for key, array in arrays.items()]
        bounds = number.type(low), number.type(high)
        row, count = 3 * x.shape[2], x.shape[1]
        rows(*given, result.reshape(-1), row, count, values.astype(number), *bounds)
    return result


def adjust_saturation(x, factors, low, high, out=None):
    """Saturation s = (v - min) / v times a factor, kept within low, high; hue and value v stay."""
    return recolour(saturation_rows, {"x": x}, "factors", factors, low, high, out)


def adjust_saturation_grad(dy, x, factors, low, high, out=None):
    """dx = k dy, and what goes to the largest and the smallest channel through v, R and k."""
    arrays = {"dy": dy, "x": x}
    return recolour(saturation_grad_rows, arrays, "factors", factors, low, high, out)


def adjust_hue(x, shifts, low, high, out=None):
    """Turn the hue of every pixel by its picture's shift (1: all the way round) and clip."""
    return recolour(hue_rows, {"x": x}, "shifts", shifts, low, high, out, own_type=True)


def adjust_hue_grad(dy, x, shifts, low, high, out=None):
    """dx through m, R and t; piecewise linear, so the factors of the scaling cancel."""
    return recolour(hue_grad_rows, {"dy": dy, "x": x}, "shifts", shifts, low, high, out)


# --- boxes and mixtures ---------------------------------------------------------------------------


@kernel
def random_bits(counter, key):
    """The random uint32 of a uint64 counter, as in reference/elementwise.py."""
    h = np.uint32(np.uint32(counter) * np.uint32(0x9E3779B1) + np.uint32(key))
    upper = np.uint32(np.uint32(counter >> np.uint64(32)) * np.uint32(0x85EBCA77))
    h ^= np.uint32(np.uint32(key >> np.uint64(32)) + upper)
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@parallel_kernel
def erase_rows(x, y, h, w, boxes, fill, noisy, key, second_key, first, scale, low, high):
    """Rows of w c numbers; first: counter of the first number of the batch."""
    c = fill.size
    row = w * c
    for task in prange(x.size // row):
        n, i, start = task // h, task % h, task * row
        top, bottom, left, right = boxes[n]
        copy(x[start : start + row], y[start : start + row])
        if not top <= i < bottom:
            continue
        if not noisy:
            fill_pixels(y[start + left * c : start + right * c], fill)
            continue
        for at in range(start + left * c, start + right * c):
            counter = first + np.uint64(at)
            u = (random_bits(counter, key) + 0.5) / 4294967296.0
            angle = random_bits(counter, second_key) / 4294967296.0 * (2 * math.pi)
            v = math.sqrt(-2 * math.log(u)) * math.cos(angle) * scale
            v = low if v < low else v
            y[at] = high if v > high else v


def erase_boxes(x, boxes, fill_value=0.0, noise=None, out=None):
    """y = x outside of the boxes (n, 4), inside fill_value (a number, or one per channel).

    noise = (key, first_sample, scale, low, high) fills with clip(scale normal, low, high) instead.
    """
    dtype = float_type("x", x)
    n, h, w, c = x.shape
    boxes = check_boxes(boxes, n, h, w)
    fill = np.ascontiguousarray(np.broadcast_to(np.asarray(fill_value, dtype), (c,)))
    key, first_sample, *numbers = noise or (0, 0, 1.0, 0.0, 0.0)
    y = output(out, x.shape, dtype)
    if y.size:
        x = flat("x", x, x.shape, dtype)
        keys = np.uint64(key), np.uint64(key ^ SECOND_KEY), np.uint64(first_sample * h * w * c)
        numbers = map(float, numbers)
        erase_rows(x, y.reshape(-1), h, w, boxes, fill, noise is not None, *keys, *numbers)
    return y


@parallel_kernel
def cut_mix_rows(x, y, h, w, c, order, boxes):
    row = w * c
    for task in prange(x.size // row):
        n, i, start = task // h, task % h, task * row
        top, bottom, left, right = boxes[n]
        copy(x[start : start + row], y[start : start + row])
        if top <= i < bottom:
            other = (order[n] * h + i) * row
            part = x[other + left * c : other + right * c]
            copy(part, y[start + left * c : start + right * c])


@parallel_kernel
def cut_mix_grad_rows(dy, dx, h, w, c, inverse, boxes):
    row = w * c
    for task in prange(dy.size // row):
        n, i, start = task // h, task % h, task * row
        top, bottom, left, right = boxes[n]
        copy(dy[start : start + row], dx[start : start + row])
        if top <= i < bottom:
            fill_zero(dx[start + left * c : start + right * c])
        top, bottom, left, right = boxes[inverse[n]]
        if top <= i < bottom:
            other = (inverse[n] * h + i) * row
            part = dy[other + left * c : other + right * c]
            add_to(part, dx[start + left * c : start + right * c])


def cut_mix(x, order, boxes, out=None):
    """y[n] = x[n] outside of box n, x[order[n]] inside (Yun et al. 2019)."""
    dtype = float_type("x", x)
    n, h, w, c = x.shape
    order, boxes = check_order(order, n), check_boxes(boxes, n, h, w)
    y = output(out, x.shape, dtype)
    if y.size:
        cut_mix_rows(flat("x", x, x.shape, dtype), y.reshape(-1), h, w, c, order, boxes)
    return y


def cut_mix_grad(dy, order, boxes, out=None):
    """dx[n] = dy[n] outside of box n; and what came to stand in the box of another picture."""
    dtype = float_type("dy", dy)
    n, h, w, c = dy.shape
    inverse, boxes = np.argsort(check_order(order, n)), check_boxes(boxes, n, h, w)
    dx = output(out, dy.shape, dtype)
    if dx.size:
        dy = flat("dy", dy, dy.shape, dtype)
        cut_mix_grad_rows(dy, dx.reshape(-1), h, w, c, inverse, boxes)
    return dx


@kernel
def weigh(a, b, own, other, y):
    for k in range(y.size):
        y[k] = own * a[k] + other * b[k]


@parallel_kernel
def mix_rows(x, y, row, rows, order, own, other):
    for task in prange(x.size // row):
        n, i = task // rows, task % rows
        start, second = task * row, (order[n] * rows + i) * row
        a, b = x[start : start + row], x[second : second + row]
        weigh(a, b, own[n], other[n], y[start : start + row])


def mix(x, order, own, other, out=None):
    """y[n] = own[n] x[n] + other[n] x[order[n]] (Zhang et al. 2018); its own gradient.

    dx = mix(dy, inverse, own, other[inverse]) with inverse = argsort(order).
    """
    dtype = float_type("x", x)
    n, h, w, c = x.shape
    order = check_order(order, n)
    own = check_per_picture("own", own, n, dtype)
    other = check_per_picture("other", other, n, dtype)
    y = output(out, x.shape, dtype)
    if y.size:
        mix_rows(flat("x", x, x.shape, dtype), y.reshape(-1), w * c, h, order, own, other)
    return y
