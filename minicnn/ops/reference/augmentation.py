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

from minicnn.ops.geometry import (
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
from minicnn.ops.reference.elementwise import random_bits
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


# --- pixels fetched: flips, crops, shifts ---------------------------------------------------------


def gather_pixels(x, rows, columns, fill_value=0.0, out=None):
    """y[n, i, j] = x[n, rows[n, i], columns[n, j]]; -1 in rows (n, h') or columns (n, w') fills."""
    n, h, w, _ = x.shape
    rows, columns = check_places(rows, columns, n, h, w)
    y = x[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    inside = (rows >= 0)[:, :, None, None] & (columns >= 0)[:, None, :, None]
    return deliver(np.where(inside, y, fill_value), x.dtype, out)


def gather_pixels_grad(dy, rows, columns, input_shape, out=None):
    """dx: the sum over all places to which a pixel went."""
    n, h, w, _ = input_shape
    rows, columns = check_places(rows, columns, n, h, w)
    inside = (rows >= 0)[:, :, None, None] & (columns >= 0)[:, None, :, None]
    dx = np.zeros(input_shape)
    np.add.at(
        dx,
        (np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]),
        np.where(inside, dy, 0),
    )
    return deliver(dx, dy.dtype, out)


# --- resizing: y = A x B^T ------------------------------------------------------------------------


def resize(x, size, interpolation="bilinear", antialias=False, out=None):
    """(n, h, w, c) -> (n, *size, c); A and B: see `resize_matrix`."""
    h, w = check_resize(size, interpolation)
    A = resize_matrix(x.shape[1], h, interpolation, bool(antialias))
    B = resize_matrix(x.shape[2], w, interpolation, bool(antialias))
    return deliver(np.einsum("ip,npqc,jq->nijc", A, x, B, optimize=True), x.dtype, out)


def resize_grad(dy, size, interpolation="bilinear", antialias=False, out=None):
    """dx (n, *size, c) for inputs of that size: dx = A^T dy B."""
    h, w = check_resize(size, interpolation)
    A = resize_matrix(h, dy.shape[1], interpolation, bool(antialias))
    B = resize_matrix(w, dy.shape[2], interpolation, bool(antialias))
    return deliver(np.einsum("ip,nijc,jq->npqc", A, dy, B, optimize=True), dy.dtype, out)


# --- levels and colours ---------------------------------------------------------------------------


def levels(x, contrast, brightness):
    """(x - mean) contrast + mean + brightness, not clipped; mean: per picture and channel."""
    contrast = check_per_picture("contrast", contrast, len(x), np.float64)[:, None, None, None]
    brightness = check_per_picture("brightness", brightness, len(x), np.float64)
    mean = x.mean(axis=(1, 2), keepdims=True, dtype=np.float64) if x.size else 0
    mean = np.where(contrast == 1, 0, mean)  # brightness alone leaves NaN where it is
    return (x - mean) * contrast + mean + brightness[:, None, None, None]


def adjust_levels(x, contrast, brightness, low, high, out=None):
    """y = clip((x - mean) contrast + mean + brightness, low, high); one factor, one sum each."""
    return deliver(np.clip(levels(x, contrast, brightness), low, high), x.dtype, out)


def adjust_levels_grad(dy, x, contrast, brightness, low, high, out=None):
    """dx = contrast g + (1 - contrast) mean(g), g = dy where nothing was clipped."""
    y = levels(x, contrast, brightness)
    g = np.where((y < low) | (y > high), 0, dy)
    contrast = np.asarray(contrast, np.float64)[:, None, None, None]
    mean = g.mean(axis=(1, 2), keepdims=True, dtype=np.float64) if x.size else 0
    return deliver(contrast * g + (1 - contrast) * mean, x.dtype, out)


def saturations(x, factors, low, high):
    """Value v, range R and gain k of y = v + k (x - v); where the bound that clipped s is."""
    check_colours(x)
    factors = check_per_picture("factors", factors, len(x), np.float64)[:, None, None]
    v = x.max(axis=-1).astype(np.float64)
    R = v - x.min(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.where(v > 0, R / v, 0)
        wanted = np.clip(factors * s, low, high)
        k = np.where(s > 0, wanted / s, 0)
    clipped = (s > 0) & ((factors * s < low) | (factors * s > high))
    return v, R, k, wanted, clipped


def adjust_saturation(x, factors, low, high, out=None):
    """Saturation s = (v - min) / v times a factor, kept within low, high; hue and value v stay.

    In HSV every channel is v (1 - s + s d), d in [0, 1] following from the hue: with s' for s,
    y = v + s'/s (x - v), and no hue has to be computed. Where v <= 0, s is 0 and y = v.
    """
    v, _, k, _, _ = saturations(x, factors, low, high)
    v, k = v[..., None], k[..., None]
    return deliver(v + k * (x - v), x.dtype, out)


def adjust_saturation_grad(dy, x, factors, low, high, out=None):
    """dx = k dy, and what goes to the largest and the smallest channel through v, R and k.

    Where s was clipped to s', k = s' v / R depends on x also.
    """
    v, R, k, wanted, clipped = saturations(x, factors, low, high)
    total, along = dy.sum(axis=-1), (dy * (x - v[..., None])).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        through_v = np.where(clipped, along * wanted / R, 0)
        through_R = np.where(clipped, -along * wanted * v / R**2, 0)
    largest = np.eye(3)[x.argmax(axis=-1)] * (total * (1 - k) + through_v + through_R)[..., None]
    smallest = np.eye(3)[x.argmin(axis=-1)] * through_R[..., None]
    return deliver(k[..., None] * dy + largest - smallest, x.dtype, out)


def hues(x, shifts, low, high):
    """Everything about turned hues; x scaled to [0, 1].

    The hue t in [0, 6) is the place on the circle red 0, green 2, blue 4: 0 + (g - b) / R where red
    is the largest, 2 + (b - r) / R for green, 4 + (r - g) / R for blue. From t + 6 shift back:
    y = m + R d(t), d_red = |t - 3| - 1, d_green = 2 - |t - 2|, d_blue = 2 - |t - 4|, within [0, 1].
    """
    check_colours(x)
    shifts = check_per_picture("shifts", shifts, len(x), np.float64)[:, None, None]
    x = (x.astype(np.float64) - low) / (high - low)
    v, m = x.max(axis=-1), x.min(axis=-1)
    R, first = v - m, x.argmax(axis=-1)
    ahead = np.take_along_axis(x, (first + 1)[..., None] % 3, axis=-1)[..., 0]
    behind = np.take_along_axis(x, (first + 2)[..., None] % 3, axis=-1)[..., 0]
    coloured = (R > 0) & (v > 0)
    N = ahead - behind
    t = (2 * first + N / np.where(coloured, R, 1) + 6 * shifts) % 6
    t = t[..., None]
    raw = np.concatenate([np.abs(t - 3) - 1, 2 - np.abs(t - 2), 2 - np.abs(t - 4)], axis=-1)
    slope = np.concatenate([np.sign(t - 3), -np.sign(t - 2), -np.sign(t - 4)], axis=-1)
    d, slope = np.clip(raw, 0, 1), np.where((raw > 0) & (raw < 1), slope, 0)
    y = np.where(coloured[..., None], m[..., None] + R[..., None] * d, v[..., None])
    return y, (R, N, first, x.argmin(axis=-1), coloured, d, slope)


def adjust_hue(x, shifts, low, high, out=None):
    """Turn the hue of every pixel by its picture's shift (1: all the way round) and clip.

    low, high: black and full value. Value and saturation stay.
    """
    y, _ = hues(x, shifts, low, high)
    return deliver(np.clip(y, 0, 1) * (high - low) + low, x.dtype, out)


def adjust_hue_grad(dy, x, shifts, low, high, out=None):
    """dx through m, R and t; piecewise linear, so the factors of the scaling cancel."""
    y, (R, N, first, last, coloured, d, slope) = hues(x, shifts, low, high)
    g = np.where((y < 0) | (y > 1), 0, dy)
    total, safe = g.sum(axis=-1), np.where(coloured, R, 1)
    through_N = (g * slope).sum(axis=-1)  # t = ... + N / R: the R of y = m + R d cancels
    through_R = (g * d).sum(axis=-1) - through_N * N / safe
    one = np.eye(3)
    dx = one[last] * (total - through_R)[..., None] + one[first] * through_R[..., None]
    dx += (one[(first + 1) % 3] - one[(first + 2) % 3]) * through_N[..., None]
    grey = one[first] * total[..., None]
    return deliver(np.where(coloured[..., None], dx, grey), x.dtype, out)


# --- boxes and mixtures ---------------------------------------------------------------------------


def in_boxes(boxes, n, h, w):
    """(n, h, w, 1): whether a pixel lies in its picture's box."""
    top, bottom, left, right = check_boxes(boxes, n, h, w).T[:, :, None, None]
    i, j = np.arange(h)[:, None], np.arange(w)
    return ((top <= i) & (i < bottom) & (left <= j) & (j < right))[..., None]


def normal_numbers(shape, key, first_sample):
    """Normal numbers that depend on key, sample and place alone (Box and Muller 1958)."""
    samples, size = shape[0], int(np.prod(shape[1:]))
    counters = np.arange(samples * size, dtype=np.uint64) + np.uint64(first_sample * size)
    u = (random_bits(counters, key) + 0.5) / 2**32
    angle = random_bits(counters, key ^ SECOND_KEY) / 2**32 * (2 * np.pi)
    return (np.sqrt(-2 * np.log(u)) * np.cos(angle)).reshape(shape)


def erase_boxes(x, boxes, fill_value=0.0, noise=None, out=None):
    """y = x outside of the boxes (n, 4), inside fill_value (a number, or one per channel).

    noise = (key, first_sample, scale, low, high) fills with clip(scale normal, low, high) instead.
    """
    n, h, w, c = x.shape
    inside = np.broadcast_to(in_boxes(boxes, n, h, w), x.shape)
    filling = np.broadcast_to(np.asarray(fill_value, np.float64), (c,))
    if noise is not None:
        key, first_sample, scale, low, high = noise
        filling = np.clip(normal_numbers(x.shape, key, first_sample) * scale, low, high)
    return deliver(np.where(inside, filling, x), x.dtype, out)


def cut_mix(x, order, boxes, out=None):
    """y[n] = x[n] outside of box n, x[order[n]] inside (Yun et al. 2019)."""
    n, h, w, _ = x.shape
    order = check_order(order, n)
    return deliver(np.where(in_boxes(boxes, n, h, w), x[order], x), x.dtype, out)


def cut_mix_grad(dy, order, boxes, out=None):
    """dx[n] = dy[n] outside of box n; and what came to stand in the box of another picture."""
    n, h, w, _ = dy.shape
    inside = in_boxes(boxes, n, h, w)
    dx = np.where(inside, 0, dy)
    dx[check_order(order, n)] += np.where(inside, dy, 0)
    return deliver(dx, dy.dtype, out)


def mix(x, order, own, other, out=None):
    """y[n] = own[n] x[n] + other[n] x[order[n]] (Zhang et al. 2018); its own gradient.

    dx = mix(dy, inverse, own, other[inverse]) with inverse = argsort(order).
    """
    order = check_order(order, len(x))
    own, other = (
        check_per_picture(name, values, len(x), np.float64)[:, None, None, None]
        for name, values in (("own", own), ("other", other))
    )
    return deliver(own * x + other * x[order], x.dtype, out)
