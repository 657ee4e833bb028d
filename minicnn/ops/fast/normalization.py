"""Batch normalization, compiled; the equations stand in reference/normalization.py.

Design: one pass for the sums and one for the result, each at the speed of memory, and the few
numbers between them, all in one kernel: with NumPy between two it took 0.12 ms, not 0.11, over 64
pictures of 8 x 8 pixels, 128 channels. Each thread takes its blocks from the last to the first for
the sums, then from the first to the last: what was just written, and then just read, may still be
in its cache (training ResNet-20 and the CIFAR-10 network: 1.01 to 1.02 times as fast on a Xeon with
2 MB of second-level cache). The sums (channel_sums.py) run over d = x - shift, where
shift is the mean of a few pixels: as d is not larger than the deviations in the data,
sum d^2 - (sum d)^2 / N loses nothing at a mean of 1e6.

A rectifier after (or before) the normalization is a slope for numbers that are not positive: 0 for
ReLU, 1 for none. The gradient finds the sign by computing y again, from the same coefficients by
the same instructions as forward, so it is never another one.
"""

import functools
import math

import numpy as np
from numba import prange

from minicnn.ops.fast import threads
from minicnn.ops.fast.channel_sums import GROUP, Rows, Sum, across, add_to, fold_sums
from minicnn.ops.fast.elementwise import activate_bias_grad, rectifier
from minicnn.ops.fast.gemm import share
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output, rounded
from minicnn.ops.fast.simd import end_of_stream, streams, vector_intrinsic
from minicnn.ops.recording import noted
from minicnn.ops.shapes import RECTIFIERS

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
def group_normalize(v, x, first, rows, width, vectors, slope, y, streaming):
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

    across(v, width, visit, streaming)


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
def group_input_grad(v, dy, x, first, rows, width, vectors, slope, slope_below, dx, streaming,
                     sums):  # fmt: skip
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
        keep = v.store if store == v.stream else store  # the sums are needed at once
        for i, total in zip(columns, totals, strict=True):
            keep(total.value, sums, i)

    across(v, width, visit, streaming)


def coefficients_of(v, columns, load, vectors, width, count):
    """For each column the first `count` of the vectors."""
    return [[load(vectors, v.offset(i, (width, k))) for k in range(count)] for i in columns]


# --- one block of `rows` rows ---


@kernel
def moments_of_block(x, b, rows, shift, sums):
    """sums (2, width) = sum d, sum d^2 over the block b, d = x - shift."""
    width = shift.size
    sums[:] = 0
    both, group = sums.reshape(2 * width), np.empty(2 * width, x.dtype)
    last = min((b + 1) * rows * width, x.size)
    for start in range(b * rows * width, last, GROUP * width):
        count = min(GROUP, (last - start) // width)
        group_moments(x, start, count, width, shift, group)
        add_to(both, group)


@kernel
def moments_of_share(worker, workers, x, rows, shift, sums):
    """`moments_of_block` for a worker's share of the blocks, the last one first."""
    first, last = share(worker, workers, len(sums))
    for b in range(last - 1, first - 1, -1):
        moments_of_block(x, b, rows, shift, sums[b])


@kernel
def normalize_block(x, b, rows, vectors, slope, y, streaming):
    """y = (x - mean) scale + offset, times slope where that is not positive."""
    width = vectors.shape[1]
    last = min((b + 1) * rows * width, x.size)
    for start in range(b * rows * width, last, GROUP * width):
        count = min(GROUP, (last - start) // width)
        group_normalize(x, start, count, width, vectors, slope, y, streaming)
    if streaming:
        end_of_stream(y)


@kernel
def products_of_block(dy, x, b, rows, vectors, slope, sums):
    """sums = sum g, sum g (x - mean) over the block b; g is dy, times slope where y <= 0."""
    width = vectors.shape[1]
    sums[:] = 0
    both, group = sums.reshape(2 * width), np.empty(2 * width, x.dtype)
    last = min((b + 1) * rows * width, x.size)
    for start in range(b * rows * width, last, GROUP * width):
        count = min(GROUP, (last - start) // width)
        group_products(dy, x, start, count, width, vectors, slope, group)
        add_to(both, group)


@kernel
def input_grad_block(dy, x, b, rows, vectors, slope, slope_below, dx, streaming, sums):
    """dx of the block b, and in `sums` its sum; g as in products_of_block."""
    width = vectors.shape[1]
    sums[:] = 0
    group, last = np.empty(width, x.dtype), min((b + 1) * rows * width, x.size)
    for start in range(b * rows * width, last, GROUP * width):
        count = min(GROUP, (last - start) // width)
        group_input_grad(dy, x, start, count, width, vectors, slope, slope_below, dx, streaming,
                         group)  # fmt: skip
        add_to(sums, group)
    if streaming:
        end_of_stream(dx)


# --- the numbers between the passes, in float64 ---

SHIFT_PIXELS = 64  # their mean is within an eighth of a standard deviation of the whole mean


@kernel
def near_mean(x, channels, shift):
    """shift (width,) = the mean of some pixels of x, repeated along a row."""
    pixels = x.size // channels
    step = max(1, pixels // SHIFT_PIXELS)
    count = min(SHIFT_PIXELS, (pixels + step - 1) // step)
    for c in range(channels):
        total = 0.0
        for i in range(count):
            total += x[i * step * channels + c]
        shift[c::channels] = total / count


@kernel
def moments_from_sums(sums, shift, pixels, statistics):
    """statistics (2, c) = mean and biased variance from the sums of all blocks."""
    fold_sums(sums, statistics)
    for c in range(statistics.shape[1]):
        s, q = statistics[0, c] / pixels, statistics[1, c] / pixels
        statistics[0, c], statistics[1, c] = shift[c] + s, max(q - s * s, 0.0)


@kernel
def move(moving_mean, moving_variance, momentum, statistics):
    """Move both, unless they are empty, towards the statistics of the batch."""
    for c in range(moving_mean.size):
        mean, variance = statistics[0, c], statistics[1, c]
        moving_mean[c] = momentum * moving_mean[c] + (1 - momentum) * mean
        moving_variance[c] = momentum * moving_variance[c] + (1 - momentum) * variance


@kernel
def forward_vectors(statistics, gamma, beta, epsilon, vectors):
    """The first three of `vectors`, mean, scale and offset, repeated along a row."""
    channels = gamma.size
    for c in range(channels):
        vectors[0, c::channels] = statistics[0, c]
        left = statistics[0, c] - vectors[0, c]  # what the rounded mean leaves
        scale = gamma[c] / math.sqrt(statistics[1, c] + epsilon)
        vectors[1, c::channels] = scale
        vectors[2, c::channels] = beta[c] - left * scale


@kernel
def gradient_vectors(statistics, gamma, epsilon, pixels, by_batch, vectors, grads):
    """grads[1:], sum g and sum g (x - mean), become dgamma and dbeta; the last two of `vectors` say
    what each x and a constant add to dx: nothing where the statistics are not those of the batch.
    """
    channels = gamma.size
    for c in range(channels):
        dbeta, product = grads[1, c], grads[2, c]
        left = statistics[0, c] - vectors[0, c]
        inverse = 1 / math.sqrt(statistics[1, c] + epsilon)
        dgamma = (product - left * dbeta) * inverse
        scale = gamma[c] * inverse
        of_x = scale * inverse * dgamma / pixels if by_batch else 0.0
        constant = scale * dbeta / pixels if by_batch else 0.0
        vectors[3, c::channels] = -of_x
        vectors[4, c::channels] = of_x * left - constant
        grads[1, c], grads[2, c] = dgamma, dbeta


# --- the kernels ---


@parallel_kernel
def normalize_by_batch(x, gamma, beta, epsilon, slope, rows, sums, vectors, moving_mean,
                       moving_variance, momentum, statistics, y, streaming, workers):  # fmt: skip
    """y, and statistics (2, c) = mean and variance of x; the moving ones are moved towards them."""
    near_mean(x, gamma.size, vectors[0])
    for worker in prange(workers):
        moments_of_share(np.int64(worker), workers, x, rows, vectors[0], sums)
    moments_from_sums(sums, vectors[0], x.size // gamma.size, statistics)
    move(moving_mean, moving_variance, momentum, statistics)
    forward_vectors(statistics, gamma, beta, epsilon, vectors)
    for worker in prange(workers):
        first, last = share(np.int64(worker), workers, len(sums))
        for b in range(first, last):
            normalize_block(x, b, rows, vectors, slope, y, streaming)


@parallel_kernel
def statistics_of_batch(x, rows, sums, vectors, moving_mean, moving_variance, momentum, statistics,
                        workers):  # fmt: skip
    """What `normalize_by_batch` does before it normalizes."""
    channels = statistics.shape[1]
    near_mean(x, channels, vectors[0])
    for worker in prange(workers):
        moments_of_share(np.int64(worker), workers, x, rows, vectors[0], sums)
    moments_from_sums(sums, vectors[0], x.size // channels, statistics)
    move(moving_mean, moving_variance, momentum, statistics)


@parallel_kernel
def normalize_by_given(x, gamma, beta, epsilon, slope, rows, blocks, vectors, statistics, y,
                       streaming):  # fmt: skip
    """y with the given mean and variance."""
    forward_vectors(statistics, gamma, beta, epsilon, vectors)
    for b in prange(blocks):
        normalize_block(x, np.int64(b), rows, vectors, slope, y, streaming)


@parallel_kernel
def gradients(dy, x, gamma, beta, epsilon, slope, slope_below, by_batch, known, rows, sums, vectors,
              statistics, dx, streaming, grads, workers):  # fmt: skip
    """dx, times slope_below where x <= 0; grads = its sum, dgamma and dbeta. `known`, unless it is
    empty, is what the first pass would find."""
    forward_vectors(statistics, gamma, beta, epsilon, vectors)
    if known.size:
        grads[1:] = known
    else:
        for worker in prange(workers):
            first, last = share(np.int64(worker), workers, len(sums))
            for b in range(last - 1, first - 1, -1):
                products_of_block(dy, x, b, rows, vectors, slope, sums[b])
        fold_sums(sums, grads[1:])
    gradient_vectors(statistics, gamma, epsilon, x.size // gamma.size, by_batch, vectors, grads)
    for worker in prange(workers):
        first, last = share(np.int64(worker), workers, len(sums))
        for b in range(first, last):
            input_grad_block(dy, x, b, rows, vectors, slope, slope_below, dx, streaming,
                             sums[b, 0])  # fmt: skip
    fold_sums(sums, grads[:1])


# --- the ops ---


def weights(cut, dtype, gamma, beta):
    """gamma and beta (c,) in dtype; ones and zeros for None."""
    given = []
    for name, vector, instead in (("gamma", gamma, 1), ("beta", beta, 0)):
        if vector is None:
            vector = _constant(cut.channels, dtype, instead)
        given.append(flat(name, vector, (cut.channels,), dtype))
    return given


@functools.lru_cache(maxsize=64)
def _constant(channels, dtype, value):
    return np.full(channels, value, dtype)


def past_caches(cut, result):
    """Whether a result goes past the caches."""
    return int(streams(result, cut.width, vectors=2))


def both_statistics(cut, mean, variance):
    """(2, c) in float64."""
    statistics = np.empty((2, cut.channels))
    for row, name, vector in zip(statistics, ("mean", "variance"), (mean, variance), strict=True):
        if vector.shape != row.shape:
            raise ValueError(f"{name} has shape {vector.shape}, expected {row.shape}")
        noted(np.copyto, row, vector)
    return statistics


def moving_averages(cut, dtype, moving):
    """moving mean and variance (c,), which are written, and the momentum; of None, empty ones."""
    if moving is None:
        empty = _constant(0, dtype, 0)
        return empty, empty, 0.0
    *averages, momentum = moving
    return *(output(one, (cut.channels,), dtype) for one in averages), float(momentum)


def batch_norm_train(x, gamma, beta, epsilon, activation=None, out=None, moving=None):
    """y (..., c), mean (c,), biased variance (c,) of x (..., c); gamma and beta may be None.

    Both statistics are float64: with them the gradients find the same y again. `activation`, a
    rectifier ("relu",) or ("leaky_relu", slope), is applied to y. `moving`, (mean, variance,
    momentum), becomes momentum * moving + (1 - momentum) * statistics in place.
    """
    dtype, cut = float_type("x", x), Rows(x.shape)
    y, slope = output(out, x.shape, dtype), rectifier(activation, dtype)
    gamma, beta = weights(cut, dtype, gamma, beta)
    x, statistics = flat("x", x, x.shape, dtype), np.empty((2, cut.channels))
    normalize_by_batch(x, gamma, beta, epsilon, slope, cut.rows, *cut.scratch(2, 3, dtype),
                       *moving_averages(cut, dtype, moving), statistics, y.reshape(-1),
                       past_caches(cut, y), threads.count())  # fmt: skip
    return y, *statistics


def batch_norm_statistics(x, out=None, moving=None):
    """(2, c), mean and biased variance of x (..., c), float64: what `batch_norm_train` begins
    with."""
    dtype, cut = float_type("x", x), Rows(x.shape)
    statistics = output(out, (2, cut.channels), np.dtype(np.float64))
    statistics_of_batch(flat("x", x, x.shape, dtype), cut.rows, *cut.scratch(2, 1, dtype),
                        *moving_averages(cut, dtype, moving), statistics,
                        threads.count())  # fmt: skip
    return statistics


def batch_norm_train_grad(
    dy, x, gamma, mean, variance, epsilon, beta=None, activation=None, out=None, sums=None
):
    """dx (..., c), dgamma (c,), dbeta (c,); mean and variance as batch_norm_train returned them.

    `beta` is needed for the sign of what `activation` was applied to; dy is the gradient after it.
    `sums` (2, c), of dy and dy (x - mean), are those of `add_normalized_grad`: they spare a pass.
    """
    norm = (gamma, beta, mean, variance, epsilon)
    dx, _, dgamma, dbeta = all_grads(dy, x, norm, activation, None, True, out, sums)
    return dx, dgamma, dbeta


def batch_norm_activation_grad(
    dy, x, gamma, mean, variance, epsilon, below, beta=None, activation=None, out=None, sums=None
):
    """dz, its sum (c,), dgamma, dbeta where x = below(z): `batch_norm_train_grad` gone on.

    For activations `below` whose derivative follows from their value x.
    """
    norm = (gamma, beta, mean, variance, epsilon)
    if below[0] in RECTIFIERS:
        return all_grads(dy, x, norm, activation, below, True, out, sums)
    dx, _, dgamma, dbeta = all_grads(dy, x, norm, activation, None, True, None, sums)
    return (*activate_bias_grad(dx, x, below, out), dgamma, dbeta)


_UNKNOWN = np.empty((2, 0))


def all_grads(dy, x, norm, activation, below, by_batch, out, sums=None):
    """dx (times the derivative of a rectifier `below` at x), its sum, dgamma, dbeta."""
    gamma, beta, mean, variance, epsilon = norm
    dtype, shape, cut = float_type("x", x), x.shape, Rows(x.shape)
    dx, grads = output(out, shape, dtype), np.empty((3, cut.channels))
    gamma, beta = weights(cut, dtype, gamma, beta)
    gradients(flat("dy", dy, shape, dtype), flat("x", x, shape, dtype), gamma, beta, epsilon,
              rectifier(activation, dtype), rectifier(below, dtype), by_batch,
              _UNKNOWN if sums is None else sums, cut.rows,
              *cut.scratch(2, 5, dtype), both_statistics(cut, mean, variance), dx.reshape(-1),
              past_caches(cut, dx), grads, threads.count())  # fmt: skip
    return dx, *rounded(grads, dtype)


def batch_norm_inference(x, gamma, beta, mean, variance, epsilon, activation=None, out=None):
    """y of x (..., c) with a given mean (c,) and variance (c,): the moving averages."""
    dtype, cut = float_type("x", x), Rows(x.shape)
    y, slope = output(out, x.shape, dtype), rectifier(activation, dtype)
    gamma, beta = weights(cut, dtype, gamma, beta)
    normalize_by_given(flat("x", x, x.shape, dtype), gamma, beta, epsilon, slope, cut.rows,
                       cut.blocks, cut.scratch(0, 3, dtype)[1],
                       both_statistics(cut, mean, variance), y.reshape(-1),
                       past_caches(cut, y))  # fmt: skip
    return y


def batch_norm_inference_grad(
    dy, x, gamma, mean, variance, epsilon, beta=None, activation=None, out=None
):
    """dx (..., c), dgamma (c,), dbeta (c,) where mean and variance are constants."""
    norm = (gamma, beta, mean, variance, epsilon)
    dx, _, dgamma, dbeta = all_grads(dy, x, norm, activation, None, False, out)
    return dx, dgamma, dbeta
