"""Pictures moved, resized, recoloured and mixed: one set of parameters per picture of a batch.

Affine maps read the input at r = M (row, column, 1)^T for every output pixel and blend the four
pixels around r with weights (1 - a)(1 - b), a (1 - b), (1 - a) b, a b, or take the nearest one.
Beyond the border the picture goes on as the fill mode says, with the names of scipy.ndimage:

    reflect        d c b a | a b c d | d c b a        mirror      d c b | a b c d | c b a
    nearest        a a a a | a b c d | d d d d        grid-wrap   a b c d | a b c d | a b c d
    constant       k beyond the centres of the outermost pixels, no blending with them
    grid-constant  k k k k | a b c d | k k k k        wrap        a b c d | b c d | b c d

The maps are linear in the picture, so each gradient is the transposed map.
"""

import numpy as np

from minicnn.ops.geometry import check_affine
from minicnn.ops.reference.output import deliver


def coordinates(matrices, h, w):
    """Where each output pixel reads: rows and columns of the input, (n, h, w) each."""
    i, j = np.arange(h)[:, None], np.arange(w)
    m = matrices[:, :, :, None, None]
    r = m[:, :, 0] * i + m[:, :, 1] * j + m[:, :, 2]
    return r[:, 0], r[:, 1]


def onto_picture(r, size, fill_mode):
    """Coordinates beyond the border as coordinates on it, in scipy.ndimage's arithmetic."""
    if fill_mode in ("constant", "grid-constant"):
        return r
    if fill_mode == "nearest" or size == 1:
        return np.clip(r, 0, size - 1)
    if fill_mode == "grid-wrap":
        return r - size * np.floor(r / size)
    if fill_mode == "wrap":
        period = size - 1
        below, above = r + period * (np.trunc(-r / period) + 1), r - period * np.trunc(r / period)
    elif fill_mode == "mirror":
        period = 2 * size - 2
        below, above = period * np.trunc(-r / period) + r, r - period * np.trunc(r / period)
        below = np.where(below <= 1 - size, below + period, -below)
        above = np.where(above >= size, period - above, above)
    else:
        period = 2 * size
        below, above = period * np.trunc(-r / period) + r, r - period * np.trunc(r / period)
        below = np.where(below < -size, below + period, -below - 1)
        above = np.where(above >= size, period - above - 1, above)
    return np.where(r < 0, below, np.where(r > size - 1, above, r))


def pixel(index, size, fill_mode):
    """An index that lies at most one beyond the border as one on the picture."""
    if fill_mode == "mirror":
        index = np.where(index == size, size - 2, index)
    elif fill_mode == "grid-wrap":
        index = np.where(index == size, 0, index)
    return np.clip(index, 0, size - 1)


def neighbours(r, size, fill_mode, interpolation):
    """Per coordinate the pixels that count: [(index, weight, whether it is on the picture)]."""
    outside = (r < 0) | (r > size - 1) if fill_mode == "constant" else np.zeros(r.shape, bool)
    r = onto_picture(r, size, fill_mode)
    if interpolation == "nearest":
        first, weights = np.floor(r + 0.5), [np.ones_like(r)]
    else:
        first = np.floor(r)
        weights = [1 - (r - first), r - first]
    found = []
    for step, weight in enumerate(weights):
        inside = ~outside
        if fill_mode == "grid-constant":
            inside = (first + step >= 0) & (first + step <= size - 1)
        index = np.clip(first + step, -1, size).astype(np.int64)
        found.append((pixel(index, size, fill_mode), weight, inside))
    return found


def corners(matrices, h, w, fill_mode, interpolation):
    """All (rows, columns, weight, inside) that an output pixel is made of; (n, h, w) each."""
    r, s = coordinates(matrices, h, w)
    for row, a, row_inside in neighbours(r, h, fill_mode, interpolation):
        for column, b, column_inside in neighbours(s, w, fill_mode, interpolation):
            yield row, column, (a * b)[..., None], (row_inside & column_inside)[..., None]


def affine_transform(
    x, matrices, fill_mode="reflect", fill_value=0.0, interpolation="bilinear", out=None
):
    """y[i, j] = x at matrices[n] @ (i, j, 1): each (2, 3) matrix maps output to input pixels."""
    n, h, w, _ = x.shape
    matrices = check_affine(matrices, n, fill_mode, interpolation)
    if not x.size:
        return deliver(x, x.dtype, out)
    sample, y = np.arange(n)[:, None, None], 0
    for row, column, weight, inside in corners(matrices, h, w, fill_mode, interpolation):
        y = y + weight * np.where(inside, x[sample, row, column], fill_value)
    return deliver(y, x.dtype, out)


def affine_transform_grad(dy, matrices, fill_mode="reflect", interpolation="bilinear", out=None):
    """dx: every output pixel gives its gradient back to the pixels it was made of."""
    n, h, w, _ = dy.shape
    matrices = check_affine(matrices, n, fill_mode, interpolation)
    sample, dx = np.arange(n)[:, None, None], np.zeros(dy.shape)
    if dy.size:
        for row, column, weight, inside in corners(matrices, h, w, fill_mode, interpolation):
            np.add.at(dx, (sample, row, column), np.where(inside, weight * dy, 0))
    return deliver(dx, dy.dtype, out)
