"""Batch normalization, compiled; the equations stand in reference/normalization.py.

Design: one pass for the sums and one for the result, each at the speed of memory (0.26 and 0.32 ms
for 2 million float32 on two cores). The sums run in float64 over d = x - first row: as d is not
larger than the deviations in the data, sum d^2 - (sum d)^2 / N loses nothing at a mean of 1e6.
Blocks of rows are cut by the shape alone and added in order, so the bits do not depend on the
number of threads. Several rows are folded into one (elementwise.fold), so that the inner loop runs
over at least 256 numbers.
"""

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast.elementwise import BLOCK, blocks, fold
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output

# --- the kernels: all arrays are flat, and a row has the length of the vectors of coefficients ---


@kernel
def moments_row(x, shift, s, q):
    for i in range(x.size):
        d = np.float64(x[i]) - shift[i]
        s[i] += d
        q[i] += d * d


@parallel_kernel
def moments(x, shift, sums, rows):
    """sums[b] = sum d, sum d^2 over the block b of `rows` rows, d = x - shift."""
    width = shift.size
    for b in prange(len(sums)):
        sums[b] = 0
        for start in range(b * rows * width, min((b + 1) * rows * width, x.size), width):
            moments_row(x[start : start + width], shift, sums[b, 0], sums[b, 1])


@kernel
def products_row(dy, x, mean, s, p, q):
    for i in range(x.size):
        d = np.float64(x[i] - mean[i])
        g = np.float64(dy[i])
        s[i] += g
        p[i] += g * d
        q[i] += d


@parallel_kernel
def products(dy, x, mean, sums, rows):
    """sums[b] = sum dy, sum dy d, sum d over the block b of `rows` rows, d = x - mean."""
    width = mean.size
    for b in prange(len(sums)):
        sums[b] = 0
        for start in range(b * rows * width, min((b + 1) * rows * width, x.size), width):
            row = slice(start, start + width)
            products_row(dy[row], x[row], mean, sums[b, 0], sums[b, 1], sums[b, 2])


@kernel
def normalize_row(x, mean, scale, offset, y):
    for i in range(x.size):
        y[i] = (x[i] - mean[i]) * scale[i] + offset[i]


@parallel_kernel
def normalize(x, mean, scale, offset, y):
    """y = (x - mean) scale + offset."""
    width = mean.size
    rows = max(1, BLOCK // width)
    for b in prange(blocks(x.size, width * rows)):
        for start in range(b * width * rows, min((b + 1) * width * rows, x.size), width):
            row = slice(start, start + width)
            normalize_row(x[row], mean, scale, offset, y[row])


@kernel
def input_grad_row(dy, x, mean, of_dy, of_x, constant, dx):
    for i in range(x.size):
        dx[i] = dy[i] * of_dy[i] - (x[i] - mean[i]) * of_x[i] - constant[i]


@parallel_kernel
def input_grad(dy, x, mean, of_dy, of_x, constant, dx):
    """dx = of_dy dy - of_x (x - mean) - constant."""
    width = mean.size
    rows = max(1, BLOCK // width)
    for b in prange(blocks(x.size, width * rows)):
        for start in range(b * width * rows, min((b + 1) * width * rows, x.size), width):
            row = slice(start, start + width)
            input_grad_row(dy[row], x[row], mean, of_dy, of_x, constant, dx[row])


# --- the ops ---

LARGEST_BLOCKS = 256  # bounds the memory of the partial sums: 256 blocks of 6 kB


class Rows:
    """How x (..., c) is cut: `factor` pixels to a row, `rows` rows to a block of sums."""

    def __init__(self, shape):
        self.channels = shape[-1]
        self.pixels = int(np.prod(shape[:-1]))
        self.factor = fold(self.pixels, self.channels)
        self.width = self.factor * self.channels
        count = self.pixels // self.factor
        self.rows = max(1, BLOCK // self.width, -(-count // LARGEST_BLOCKS))
        self.blocks = -(-count // self.rows)

    def spread(self, vector, dtype):
        """(c,) repeated to the length of a row."""
        return np.tile(np.asarray(vector, dtype), self.factor)

    def partial_sums(self, count):
        return arena.empty((self.blocks, count, self.width), np.float64)

    def total(self, sums):
        """(count, c): the blocks and the folded pixels added up, in order."""
        return sums.sum(axis=0).reshape(len(sums[0]), self.factor, self.channels).sum(axis=1)


def per_channel(channels, **vectors):
    """The vectors (c,) in float64; None stays None."""
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (channels,):
            raise ValueError(f"{name} has shape {vector.shape}, expected {(channels,)}")
    return [None if v is None else v.astype(np.float64) for v in vectors.values()]


def coefficients(gamma, variance, epsilon):
    """1 / sqrt(variance + epsilon) and gamma times it."""
    inverse = 1 / np.sqrt(variance + epsilon)
    return inverse, inverse if gamma is None else inverse * gamma


def batch_norm_train(x, gamma, beta, epsilon, out=None):
    """y, mean (c,), biased variance (c,) of x (..., c); gamma and beta may be None."""
    dtype = float_type("x", x)
    y = output(out, x.shape, dtype)
    cut = Rows(x.shape)
    gamma, beta = per_channel(cut.channels, gamma=gamma, beta=beta)
    x = flat("x", x, x.shape, dtype)
    first = x[: cut.channels].astype(np.float64)
    sums = cut.partial_sums(2)
    moments(x, cut.spread(first, np.float64), sums, cut.rows)
    s, q = cut.total(sums) / cut.pixels
    exact_mean = first + s
    variance = np.maximum(q - s * s, 0)
    mean = exact_mean.astype(dtype)
    _, scale = coefficients(gamma, variance, epsilon)
    offset = (mean - exact_mean) * scale  # what the rounded mean leaves
    apply(x, cut, mean, scale, offset if beta is None else offset + beta, y)
    return y, mean, variance.astype(dtype)


def apply(x, cut, mean, scale, offset, y):
    """y = (x - mean) scale + offset with vectors (c,)."""
    vectors = (cut.spread(vector, y.dtype) for vector in (mean, scale, offset))
    normalize(x, *vectors, y.reshape(-1))


def batch_norm_train_grad(dy, x, gamma, mean, variance, epsilon, out=None):
    """dx (..., c), dgamma (c,), dbeta (c,); mean and variance as batch_norm_train returned them."""
    dtype, cut, dx, dy, x, (dbeta, product, left) = gradient_sums(dy, x, mean, out)
    gamma, variance = per_channel(cut.channels, gamma=gamma, variance=variance)
    n = cut.pixels
    inverse, scale = coefficients(gamma, variance, epsilon)
    left = left / n  # mean of x - mean: what rounding to x's type took from the mean
    dgamma = (product - left * dbeta) * inverse
    of_x = scale * inverse * dgamma / n
    constant = scale * dbeta / n - of_x * left
    vectors = (cut.spread(vector, dtype) for vector in (mean, scale, of_x, constant))
    input_grad(dy, x, *vectors, dx.reshape(-1))
    return dx, dgamma.astype(dtype), dbeta.astype(dtype)


def gradient_sums(dy, x, mean, out):
    """The checked arguments of a gradient, and sum dy, sum dy (x - mean), sum (x - mean)."""
    dtype, shape = float_type("x", x), x.shape
    dx = output(out, shape, dtype)
    cut = Rows(shape)
    per_channel(cut.channels, mean=mean)
    dy, x = flat("dy", dy, shape, dtype), flat("x", x, shape, dtype)
    sums = cut.partial_sums(3)
    products(dy, x, cut.spread(mean, dtype), sums, cut.rows)
    return dtype, cut, dx, dy, x, cut.total(sums)


def batch_norm_inference(x, gamma, beta, mean, variance, epsilon, out=None):
    """y of x (..., c) with a given mean (c,) and variance (c,): the moving averages."""
    dtype = float_type("x", x)
    y = output(out, x.shape, dtype)
    cut = Rows(x.shape)
    gamma, beta, mean, variance = per_channel(
        cut.channels, gamma=gamma, beta=beta, mean=mean, variance=variance
    )
    _, scale = coefficients(gamma, variance, epsilon)
    offset = np.zeros(cut.channels) if beta is None else beta
    apply(flat("x", x, x.shape, dtype), cut, mean, scale, offset, y)
    return y


def batch_norm_inference_grad(dy, x, gamma, mean, variance, epsilon, out=None):
    """dx (..., c), dgamma (c,), dbeta (c,) where mean and variance are constants."""
    dtype, cut, dx, dy, x, (dbeta, product, _) = gradient_sums(dy, x, mean, out)
    gamma, variance = per_channel(cut.channels, gamma=gamma, variance=variance)
    inverse, scale = coefficients(gamma, variance, epsilon)
    zero = np.zeros(cut.channels)
    apply(dy, cut, zero, scale, zero, dx)
    return dx, (product * inverse).astype(dtype), dbeta.astype(dtype)
