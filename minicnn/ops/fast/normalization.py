"""Batch normalization, compiled; the equations stand in reference/normalization.py.

Design: one pass for the sums and one for the result, each at the speed of memory. The sums
(channel_sums.py) run over d = x - shift, where shift is the mean of a few pixels: as d is not
larger than the deviations in the data, sum d^2 - (sum d)^2 / N loses nothing at a mean of 1e6.

A rectifier after (or before) the normalization is a slope for numbers that are not positive: 0 for
ReLU, 1 for none. The gradient finds the sign by computing y again, from the same coefficients by
the same instructions as forward, so it is never another one.
"""

import numpy as np
from numba import prange

from minicnn.ops.fast.channel_sums import GROUP, Rows, Sum, across, add_to
from minicnn.ops.fast.elementwise import activate_bias_grad, blocks, resolve
from minicnn.ops.fast.jit import parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output
from minicnn.ops.fast.simd import vector_intrinsic

# --- the passes over a group of rows: arrays are flat, a row is as long as the coefficients ---


def not_positive(v, x, then, otherwise):
    """Lane by lane; NaN is neither."""
    return v.builder.select(v.builder.fcmp_ordered("<=", x, v.constant(0)), then, otherwise)


def normalized(v, d, scale, offset):
    """The one way to compute y of d = x - mean: forward and gradients agree on its sign."""
    return v.multiply_add(d, scale, offset)


@vector_intrinsic
def group_moments(v, x, first, rows, width, shift, sums):
    """sums = sum d, then sum d^2 of each column, d = x - shift."""

    def visit(columns, load, store):
        shifts = [load(shift, i) for i in columns]
        totals = [(Sum(v), Sum(v)) for _ in columns]
        with v.count_up(rows) as (r, _):
            at = v.builder.add(first, v.builder.mul(r, width))
            for i, of_i, (s, q) in zip(columns, shifts, totals, strict=True):
                d = v.subtract(load(x, v.builder.add(at, i)), of_i)
                s.add(d)
                q.add_product(d, d)
        for i, (s, q) in zip(columns, totals, strict=True):
            store(s.value, sums, i)
            store(q.value, sums, v.builder.add(i, width))

    across(v, width, visit)


@vector_intrinsic
def group_normalize(v, x, first, rows, width, vectors, slope, y):
    """y = (x - mean) scale + offset, times slope where that is not positive."""
    slopes, zero = v.splat(slope), v.constant(0)
    flat_below = v.builder.fcmp_ordered("==", slopes, zero)  # -inf * 0 is not 0

    def visit(columns, load, store):
        of_columns = coefficients_of(v, columns, load, vectors, width, 3)
        with v.count_up(rows) as (r, _):
            at = v.builder.add(first, v.builder.mul(r, width))
            for i, (mean, scale, offset) in zip(columns, of_columns, strict=True):
                here = v.builder.add(at, i)
                value = normalized(v, v.subtract(load(x, here), mean), scale, offset)
                below = v.builder.select(flat_below, zero, v.multiply(value, slopes))
                store(not_positive(v, value, below, value), y, here)

    across(v, width, visit)


@vector_intrinsic
def group_products(v, dy, x, first, rows, width, vectors, slope, sums):
    """sums = sum g, then sum g (x - mean) of each column; g is dy, times slope where y <= 0."""
    slopes, one = v.splat(slope), v.constant(1)

    def visit(columns, load, store):
        of_columns = coefficients_of(v, columns, load, vectors, width, 3)
        totals = [(Sum(v), Sum(v)) for _ in columns]
        with v.count_up(rows) as (r, _):
            at = v.builder.add(first, v.builder.mul(r, width))
            for i, (mean, scale, offset), (s, p) in zip(columns, of_columns, totals, strict=True):
                here = v.builder.add(at, i)
                d = v.subtract(load(x, here), mean)
                factor = not_positive(v, normalized(v, d, scale, offset), slopes, one)
                g = v.multiply(load(dy, here), factor)
                s.add(g)
                p.add_product(g, d)
        for i, (s, p) in zip(columns, totals, strict=True):
            store(s.value, sums, i)
            store(p.value, sums, v.builder.add(i, width))

    across(v, width, visit)


@vector_intrinsic
def group_input_grad(v, dy, x, first, rows, width, vectors, slope, slope_below, dx, sums):
    """dx = scale g + of_x (x - mean) + constant, times slope_below where x <= 0; and its sums."""
    slopes, slopes_below, one = v.splat(slope), v.splat(slope_below), v.constant(1)

    def visit(columns, load, store):
        of_columns = coefficients_of(v, columns, load, vectors, width, 5)
        totals = [Sum(v) for _ in columns]
        with v.count_up(rows) as (r, _):
            at = v.builder.add(first, v.builder.mul(r, width))
            for i, vectors_of_i, total in zip(columns, of_columns, totals, strict=True):
                mean, scale, offset, of_x, constant = vectors_of_i
                here = v.builder.add(at, i)
                value = load(x, here)
                d = v.subtract(value, mean)
                factor = not_positive(v, normalized(v, d, scale, offset), slopes, one)
                g = v.multiply(load(dy, here), factor)
                result = v.multiply_add(g, scale, v.multiply_add(d, of_x, constant))
                result = v.multiply(result, not_positive(v, value, slopes_below, one))
                total.add(result)
                store(result, dx, here)
        for i, total in zip(columns, totals, strict=True):
            store(total.value, sums, i)

    across(v, width, visit)


def coefficients_of(v, columns, load, vectors, width, count):
    """For each column the first `count` of the vectors."""
    return [[load(vectors, v.offset(i, (width, k))) for k in range(count)] for i in columns]


# --- the passes over an array, in blocks of `rows` rows ---


@parallel_kernel
def moments(x, shift, sums, rows):
    """sums[b] = sum d, sum d^2 over the block b, d = x - shift."""
    width = shift.size
    for b in prange(len(sums)):
        sums[b] = 0
        of_block = sums[b].reshape(2 * width)
        group, last = np.empty(2 * width, x.dtype), min((b + 1) * rows * width, x.size)
        for start in range(b * rows * width, last, GROUP * width):
            count = min(GROUP, (last - start) // width)
            group_moments(x, start, count, width, shift, group)
            add_to(of_block, group)


@parallel_kernel
def normalize(x, vectors, slope, y, rows):
    """y = (x - mean) scale + offset, times slope where that is not positive."""
    width = vectors.shape[1]
    for b in prange(blocks(x.size, rows * width)):
        last = min((b + 1) * rows * width, x.size)
        for start in range(b * rows * width, last, GROUP * width):
            count = min(GROUP, (last - start) // width)
            group_normalize(x, start, count, width, vectors, slope, y)


@parallel_kernel
def products(dy, x, vectors, slope, sums, rows):
    """sums[b] = sum g, sum g (x - mean) over the block b; g is dy, times slope where y <= 0."""
    width = vectors.shape[1]
    for b in prange(len(sums)):
        sums[b] = 0
        of_block = sums[b].reshape(2 * width)
        group, last = np.empty(2 * width, x.dtype), min((b + 1) * rows * width, x.size)
        for start in range(b * rows * width, last, GROUP * width):
            count = min(GROUP, (last - start) // width)
            group_products(dy, x, start, count, width, vectors, slope, group)
            add_to(of_block, group)


@parallel_kernel
def input_grad(dy, x, vectors, slope, slope_below, dx, sums, rows):
    """dx = scale g + of_x (x - mean) + constant, times slope_below where x <= 0; g as in products.

    sums[b] = sum dx over the block b.
    """
    width = vectors.shape[1]
    for b in prange(len(sums)):
        sums[b] = 0
        group, last = np.empty(width, x.dtype), min((b + 1) * rows * width, x.size)
        for start in range(b * rows * width, last, GROUP * width):
            count = min(GROUP, (last - start) // width)
            group_input_grad(dy, x, start, count, width, vectors, slope, slope_below, dx, group)
            add_to(sums[b, 0], group)


# --- the ops ---

SHIFT_PIXELS = 64  # their mean is within an eighth of a standard deviation of the whole mean


def per_channel(channels, **vectors):
    """The vectors (c,) in float64; None stays None."""
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (channels,):
            raise ValueError(f"{name} has shape {vector.shape}, expected {(channels,)}")
    return [None if v is None else v.astype(np.float64) for v in vectors.values()]


class Normalization:
    """Coefficients (c,) of y, and what forward and gradients must round alike."""

    def __init__(self, cut, dtype, gamma, beta, mean, variance, epsilon):
        gamma, beta, mean, variance = per_channel(
            cut.channels, gamma=gamma, beta=beta, mean=mean, variance=variance
        )
        self.mean = mean.astype(dtype)
        self.left = mean - self.mean  # what the rounded mean leaves
        self.inverse = 1 / np.sqrt(variance + epsilon)
        self.scale = self.inverse if gamma is None else self.inverse * gamma
        self.offset = -self.left * self.scale
        if beta is not None:
            self.offset += beta

    def vectors(self):
        return self.mean, self.scale, self.offset


def rectifier(activation, dtype):
    """The slope of a rectifier below zero; None has slope 1."""
    if activation is None:
        return dtype.type(1)
    if activation[0] not in ("relu", "leaky_relu"):
        raise ValueError(
            f"activation {activation[0]!r} cannot follow within batch normalization: "
            "pass ('relu',) or ('leaky_relu', slope), and apply others after"
        )
    _, numbers = resolve(activation, dtype)
    return numbers[0] if numbers else dtype.type(0)


def batch_norm_train(x, gamma, beta, epsilon, activation=None, out=None):
    """y (..., c), mean (c,), biased variance (c,) of x (..., c); gamma and beta may be None.

    Both statistics are float64: with them the gradients find the same y again. `activation`, a
    rectifier ("relu",) or ("leaky_relu", slope), is applied to y.
    """
    dtype = float_type("x", x)
    y, slope = output(out, x.shape, dtype), rectifier(activation, dtype)
    cut = Rows(x.shape)
    x = flat("x", x, x.shape, dtype)
    mean, variance = statistics(x, cut)
    norm = Normalization(cut, dtype, gamma, beta, mean, variance, epsilon)
    normalize(x, cut.spread(norm.vectors(), dtype), slope, y.reshape(-1), cut.rows)
    return y, mean, variance


def statistics(x, cut):
    """mean (c,) and biased variance (c,) of flat x."""
    shift = near_mean(x.reshape(cut.pixels, cut.channels))
    sums = cut.partial_sums(2)
    moments(x, cut.spread([shift], x.dtype)[0], sums, cut.rows)
    s, q = cut.total(sums) / cut.pixels
    return shift + s, np.maximum(q - s * s, 0)


def near_mean(x):
    """The mean of some pixels of x (pixels, c), in x's type."""
    step = max(1, len(x) // SHIFT_PIXELS)
    return x[::step][:SHIFT_PIXELS].mean(axis=0, dtype=np.float64).astype(x.dtype)


def batch_norm_train_grad(
    dy, x, gamma, mean, variance, epsilon, beta=None, activation=None, out=None
):
    """dx (..., c), dgamma (c,), dbeta (c,); mean and variance as batch_norm_train returned them.

    `beta` is needed for the sign of what `activation` was applied to; dy is the gradient after it.
    """
    norm = (gamma, beta, mean, variance, epsilon)
    dx, _, dgamma, dbeta = train_grad(dy, x, norm, activation, None, out)
    return dx, dgamma, dbeta


def batch_norm_activation_grad(
    dy, x, gamma, mean, variance, epsilon, below, beta=None, activation=None, out=None
):
    """dz, its sum (c,), dgamma, dbeta where x = below(z): `batch_norm_train_grad` gone on.

    For activations `below` whose derivative follows from their value x.
    """
    norm = (gamma, beta, mean, variance, epsilon)
    if below[0] in ("relu", "leaky_relu"):
        return train_grad(dy, x, norm, activation, below, out)
    dx, _, dgamma, dbeta = train_grad(dy, x, norm, activation, None, None)
    return (*activate_bias_grad(dx, x, below, out), dgamma, dbeta)


def train_grad(dy, x, norm, activation, below, out):
    """dx (times the derivative of a rectifier `below` at x), its sum, dgamma, dbeta."""
    dx = output(out, x.shape, float_type("x", x))
    cut, norm, slope, dy, x, dgamma, dbeta = gradient_sums(dy, x, norm, activation)
    dtype, sums = x.dtype, cut.partial_sums(1)
    vectors = input_grad_vectors(cut, norm, dgamma, dbeta, dtype)
    slope_below = rectifier(below, dtype)
    input_grad(dy, x, vectors, slope, slope_below, dx.reshape(-1), sums, cut.rows)
    total = cut.total(sums)[0]
    return dx, total.astype(dtype), dgamma.astype(dtype), dbeta.astype(dtype)


def gradient_sums(dy, x, norm, activation):
    """The checked arguments of a gradient, and those gradients that are sums."""
    dtype, shape, cut = float_type("x", x), x.shape, Rows(x.shape)
    norm, slope = Normalization(cut, dtype, *norm), rectifier(activation, dtype)
    dy, x = flat("dy", dy, shape, dtype), flat("x", x, shape, dtype)
    sums = cut.partial_sums(2)
    vectors = cut.spread(norm.vectors(), dtype)
    products(dy, x, vectors, slope, sums, cut.rows)
    return cut, norm, slope, dy, x, *weight_grads(norm, cut.total(sums))


def weight_grads(norm, sums):
    """dgamma and dbeta of sum g, sum g (x - mean)."""
    dbeta, product = sums
    return (product - norm.left * dbeta) * norm.inverse, dbeta


def input_grad_vectors(cut, norm, dgamma, dbeta, dtype):
    """The coefficients of `input_grad`, spread over a row."""
    of_x = norm.scale * norm.inverse * dgamma / cut.pixels
    constant = norm.scale * dbeta / cut.pixels - of_x * norm.left
    return cut.spread([*norm.vectors(), -of_x, -constant], dtype)


def batch_norm_inference(x, gamma, beta, mean, variance, epsilon, activation=None, out=None):
    """y of x (..., c) with a given mean (c,) and variance (c,): the moving averages."""
    dtype, cut = float_type("x", x), Rows(x.shape)
    y, slope = output(out, x.shape, dtype), rectifier(activation, dtype)
    norm = Normalization(cut, dtype, gamma, beta, mean, variance, epsilon)
    x = flat("x", x, x.shape, dtype)
    normalize(x, cut.spread(norm.vectors(), dtype), slope, y.reshape(-1), cut.rows)
    return y


def batch_norm_inference_grad(
    dy, x, gamma, mean, variance, epsilon, beta=None, activation=None, out=None
):
    """dx (..., c), dgamma (c,), dbeta (c,) where mean and variance are constants."""
    dx = output(out, x.shape, float_type("x", x))
    norm = (gamma, beta, mean, variance, epsilon)
    cut, norm, slope, dy, x, dgamma, dbeta = gradient_sums(dy, x, norm, activation)
    dtype, flat_dx, zero = x.dtype, dx.reshape(-1), np.zeros(cut.channels)
    if activation is None:
        vectors = cut.spread([zero, norm.scale, zero], dtype)
        normalize(dy, vectors, slope, flat_dx, cut.rows)
    else:
        vectors = cut.spread([*norm.vectors(), zero, zero], dtype)
        unused = cut.partial_sums(1)
        input_grad(dy, x, vectors, slope, dtype.type(1), flat_dx, unused, cut.rows)
    return dx, dgamma.astype(dtype), dbeta.astype(dtype)
