"""Batch normalization, compiled; the equations stand in reference/normalization.py.

Design: one pass for the sums and one for the result, each at the speed of memory (0.25 and 0.32 ms
for 2 million float32 on two cores). The sums (channel_sums.py) run over d = x - shift, where shift
is the mean of a few pixels: as d is not larger than the deviations in the data, sum d^2 -
(sum d)^2 / N loses nothing at a mean of 1e6.
"""

import functools

import numpy as np
from numba import prange

from minicnn.ops.fast.channel_sums import (
    BLOCK,
    GROUP,
    Rows,
    add_moments,
    add_products,
    add_rows,
)
from minicnn.ops.fast.elementwise import FUNCTIONS, blocks, resolve
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output

# --- the kernels: all arrays are flat, and a row has the length of the vectors of coefficients ---


@parallel_kernel
def moments(x, shift, sums, rows):
    """sums[b] = sum d, sum d^2 over the block b of `rows` rows, d = x - shift."""
    size = rows * shift.size
    for b in prange(len(sums)):
        sums[b] = 0
        add_moments(x[b * size : (b + 1) * size], shift, sums[b, 0], sums[b, 1])


@parallel_kernel
def products(dy, x, mean, sums, rows):
    """sums[b] = sum dy, sum dy d, sum d over the block b of `rows` rows, d = x - mean."""
    size = rows * mean.size
    for b in prange(len(sums)):
        sums[b] = 0
        part = slice(b * size, (b + 1) * size)
        add_products(dy[part], x[part], mean, sums[b, 0], sums[b, 1], sums[b, 2])


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


@functools.cache
def activation_grad_loop(name):
    """The kernel of `input_grad` times an activation's derivative at x, and its row sums."""
    derivative = FUNCTIONS[name][1]

    def serial(dy, x, mean, of_dy, of_x, constant, dz, numbers):
        for i in range(x.size):
            dx = dy[i] * of_dy[i] - (x[i] - mean[i]) * of_x[i] - constant[i]
            dz[i] = dx * derivative(x[i], *numbers)

    serial.__qualname__ = f"batch_norm_{name}_grad_serial"
    serial = kernel(serial)

    def loop(dy, x, mean, of_dy, of_x, constant, dz, numbers, sums, rows):
        width = mean.size
        step = GROUP * width * max(1, BLOCK // (GROUP * width))
        for b in prange(len(sums)):
            sums[b] = 0
            last = min((b + 1) * rows * width, x.size)
            for first in range(b * rows * width, last, step):
                block = slice(first, min(first + step, last))
                for start in range(first, min(first + step, last), width):
                    row = slice(start, start + width)
                    serial(dy[row], x[row], mean, of_dy, of_x, constant, dz[row], numbers)
                add_rows(dz[block], sums[b, 0])

    loop.__qualname__ = f"batch_norm_{name}_grad"
    return parallel_kernel(loop)


# --- the ops ---

SHIFT_PIXELS = 64  # their mean is within an eighth of a standard deviation of the whole mean


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
    shift = near_mean(x.reshape(cut.pixels, cut.channels))
    sums = cut.partial_sums(2)
    moments(x, cut.spread(shift, dtype), sums, cut.rows)
    s, q = cut.total(sums) / cut.pixels
    exact_mean = shift + s
    variance = np.maximum(q - s * s, 0)
    mean = exact_mean.astype(dtype)
    _, scale = coefficients(gamma, variance, epsilon)
    offset = (mean - exact_mean) * scale  # what the rounded mean leaves
    apply(x, cut, mean, scale, offset if beta is None else offset + beta, y)
    return y, mean, variance.astype(dtype)


def near_mean(x):
    """The mean of some pixels of x (pixels, c), in x's type."""
    step = max(1, len(x) // SHIFT_PIXELS)
    return x[::step][:SHIFT_PIXELS].mean(axis=0, dtype=np.float64).astype(x.dtype)


def apply(x, cut, mean, scale, offset, y):
    """y = (x - mean) scale + offset with vectors (c,)."""
    vectors = (cut.spread(vector, y.dtype) for vector in (mean, scale, offset))
    normalize(x, *vectors, y.reshape(-1))


def batch_norm_train_grad(dy, x, gamma, mean, variance, epsilon, out=None):
    """dx (..., c), dgamma (c,), dbeta (c,); mean and variance as batch_norm_train returned them."""
    cut, dx, dy, x, vectors, dgamma, dbeta = train_grad_parts(
        dy, x, gamma, mean, variance, epsilon, out
    )
    input_grad(dy, x, *vectors, dx.reshape(-1))
    return dx, dgamma, dbeta


def batch_norm_activation_grad(dy, x, gamma, mean, variance, epsilon, activation, out=None):
    """dz, its sum (c,), dgamma, dbeta where x = activation(z): `batch_norm_train_grad` gone on.

    For activations whose derivative follows from their value x.
    """
    cut, dz, dy, x, vectors, dgamma, dbeta = train_grad_parts(
        dy, x, gamma, mean, variance, epsilon, out
    )
    name, numbers = resolve(activation, x.dtype)
    sums = cut.partial_sums(1)
    activation_grad_loop(name)(dy, x, *vectors, dz.reshape(-1), numbers, sums, cut.rows)
    return dz, cut.total(sums)[0].astype(x.dtype), dgamma, dbeta


def train_grad_parts(dy, x, gamma, mean, variance, epsilon, out):
    """What `input_grad` needs, checked, and the two gradients that are sums."""
    dtype, cut, dx, dy, x, (dbeta, product, left) = gradient_sums(dy, x, mean, out)
    gamma, variance = per_channel(cut.channels, gamma=gamma, variance=variance)
    n = cut.pixels
    inverse, scale = coefficients(gamma, variance, epsilon)
    left = left / n  # mean of x - mean: what rounding to x's type took from the mean
    dgamma = (product - left * dbeta) * inverse
    of_x = scale * inverse * dgamma / n
    constant = scale * dbeta / n - of_x * left
    vectors = [cut.spread(vector, dtype) for vector in (mean, scale, of_x, constant)]
    return cut, dx, dy, x, vectors, dgamma.astype(dtype), dbeta.astype(dtype)


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
