"""A sum of two terms, one of them or both normalized on the way: the end of a residual block.

    y  = activation(z1 + z2)     z = scale (x - mean) + offset, or given
    dx = f'(y) (sum of dys)      and of every normalized term sum dx, sum dx (x - mean)

Design. Batch normalization needs two passes over x, one for its statistics and one for z. Where z
is only added to something, the second is that of the sum, so z is never written; backward, what the
normalization needs to know of dx is summed where dx is made, which spares the first of its two
passes. 128 pictures of 32 x 32, 16 channels: 0.75 of the time forward, 0.82 backward (with one
thread 0.74, and 1.0 to 1.07; two cores of a Xeon). The bits are those of one after the other. A
second normalized term or a second dy that does not exist is the first once more: it is in the cache
already.
"""

import numpy as np
from numba import prange

from minicnn.ops.fast import threads
from minicnn.ops.fast.channel_sums import GROUP, Rows, Sum, across, add_to, fold_sums
from minicnn.ops.fast.elementwise import add, rectifier
from minicnn.ops.fast.gemm import share
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.normalization import (
    both_statistics,
    coefficients_of,
    forward_vectors,
    normalized,
    not_positive,
    past_caches,
    weights,
)
from minicnn.ops.fast.operands import flat, float_type, output
from minicnn.ops.fast.simd import REGISTERS, end_of_stream, vector_intrinsic

NOT_STREAMING = 0  # dx is read at once
TILE = REGISTERS // 8  # vectors of columns at a time: six coefficients, or two and three sums, each


@vector_intrinsic
def group_sum(v, first_x, second_x, first, rows, width, first_of, second_of, slope, y, streaming):
    """y = z1 + z2, times slope where that is not positive."""
    slopes, zero = v.splat(slope), v.constant(0)
    flat_below = v.builder.fcmp_ordered("==", slopes, zero)  # -inf * 0 is not 0

    def visit(columns, load, store):
        of_terms = [
            coefficients_of(v, columns, load, vectors, width, 3)
            for vectors in (first_of, second_of)
        ]
        with v.count_up(rows) as (r, _):
            at = v.builder.add(first, v.builder.mul(r, width))
            for i, *of_column in zip(columns, *of_terms, strict=True):
                here = v.builder.add(at, i)
                value = v.add(*(
                    normalized(v, v.subtract(load(x, here), mean), scale, offset)
                    for x, (mean, scale, offset) in zip((first_x, second_x), of_column, strict=True)
                ))  # fmt: skip
                below = v.builder.select(flat_below, zero, v.multiply(value, slopes))
                store(not_positive(v, value, below, value), y, here)

    across(v, width, visit, streaming, TILE)


@vector_intrinsic
def group_sum_grad(v, dy, second_dy, several, y, slope, first_x, second_x, first, rows, width,
                   first_means, second_means, dx, streaming, sums):  # fmt: skip
    """dx = dy + second_dy, if there are several, times slope where y <= 0; sums = sum dx, then
    sum dx (x - mean) of both terms."""
    slopes, one, zero = v.splat(slope), v.constant(1), v.constant(0)
    both = v.builder.icmp_signed("!=", several, v.integer(0))

    def visit(columns, load, store):
        means = [[load(one, i) for i in columns] for one in (first_means, second_means)]
        totals = [(Sum(v), Sum(v), Sum(v)) for _ in columns]
        with v.count_up(rows) as (r, _):
            at = v.builder.add(first, v.builder.mul(r, width))
            for i, *of_column, total in zip(columns, *means, totals, strict=True):
                here = v.builder.add(at, i)
                second = v.builder.select(both, load(second_dy, here), zero)
                factor = not_positive(v, load(y, here), slopes, one)
                g = v.multiply(v.add(load(dy, here), second), factor)
                store(g, dx, here)
                total[0].add(g)
                for product, x, mean in zip(total[1:], (first_x, second_x), of_column, strict=True):
                    product.add_product(g, v.subtract(load(x, here), mean))
        keep = v.store if store == v.stream else store  # the sums are needed at once
        for i, total in zip(columns, totals, strict=True):
            for k, one_of_them in enumerate(total):
                keep(one_of_them.value, sums, v.offset(i, (width, k)))

    across(v, width, visit, streaming, TILE)


@parallel_kernel
def sum_of_terms(first_x, second_x, first_gamma, first_beta, first_statistics, first_epsilon,
                 second_gamma, second_beta, second_statistics, second_epsilon, both, slope, rows,
                 blocks, vectors, y, streaming):  # fmt: skip
    """y = z1 + z2 of normalized terms, of which the second is given where not `both` are."""
    first_of, second_of = vectors[:3], vectors[3:]
    forward_vectors(first_statistics, first_gamma, first_beta, first_epsilon, first_of)
    if both:
        forward_vectors(second_statistics, second_gamma, second_beta, second_epsilon, second_of)
    else:
        second_of[0], second_of[1], second_of[2] = 0, 1, 0
    for b in prange(blocks):
        sum_block(first_x, second_x, np.int64(b), rows, first_of, second_of, slope, y, streaming)


@kernel
def sum_block(first_x, second_x, b, rows, first_of, second_of, slope, y, streaming):
    width = first_of.shape[1]
    last = min((b + 1) * rows * width, y.size)
    for start in range(b * rows * width, last, GROUP * width):
        count = min(GROUP, (last - start) // width)
        group_sum(first_x, second_x, start, count, width, first_of, second_of, slope, y,
                  streaming)  # fmt: skip
    if streaming:
        end_of_stream(y)


@parallel_kernel
def gradient_of_sum(dy, second_dy, several, y, slope, first_x, second_x, first_statistics,
                    second_statistics, rows, sums, means, dx, streaming, totals,
                    workers):  # fmt: skip
    """dx, and totals (2, 2, c) = sum dx, sum dx (x - mean) of each term."""
    channels = first_statistics.shape[1]
    for c in range(channels):
        means[0, c::channels] = first_statistics[0, c]
        means[1, c::channels] = second_statistics[0, c]
    for worker in prange(workers):
        first, last = share(np.int64(worker), workers, len(sums))
        for b in range(last - 1, first - 1, -1):  # who comes next begins with the first
            gradient_block(dy, second_dy, several, y, slope, first_x, second_x, b, rows, means, dx,
                           streaming, sums[b])  # fmt: skip
    three = np.empty((3, channels))
    fold_sums(sums, three)
    for term in range(2):
        totals[term, 0] = three[0]
        totals[term, 1] = three[1 + term]


@kernel
def gradient_block(dy, second_dy, several, y, slope, first_x, second_x, b, rows, means, dx,
                   streaming, sums):  # fmt: skip
    """dx of the block b, and its sums (3, width)."""
    width = means.shape[1]
    sums[:] = 0
    all_three, group = sums.reshape(3 * width), np.empty(3 * width, dx.dtype)
    last = min((b + 1) * rows * width, dx.size)
    for start in range(b * rows * width, last, GROUP * width):
        count = min(GROUP, (last - start) // width)
        group_sum_grad(dy, second_dy, several, y, slope, first_x, second_x, start, count, width,
                       means[0], means[1], dx, streaming, group)  # fmt: skip
        add_to(all_three, group)
    if streaming:
        end_of_stream(dx)


# --- the ops ---


def add_normalized(terms, activation=None, out=None):
    """The sum of two terms: arrays (..., c), or what `batch_norm_train` would make of them, as
    (x, gamma, beta, mean, variance, epsilon); at least one is of that kind.

    `activation`, a rectifier ("relu",) or ("leaky_relu", slope), is applied to the sum.
    """
    first, second, _ = _normalized_first(terms)
    shape, dtype = first[0].shape, float_type("terms", first[0])
    cut, y, slope = Rows(shape), output(out, shape, dtype), rectifier(activation, dtype)
    both = isinstance(second, tuple)
    numbers = _numbers(first, cut, dtype)
    others = _numbers(second, cut, dtype) if both else numbers
    x, other = (
        flat("a term", one, shape, dtype) for one in (first[0], second[0] if both else second)
    )
    sum_of_terms(x, other, *numbers, *others, both, slope, cut.rows, cut.blocks,
                 cut.scratch(0, 6, dtype)[1], y.reshape(-1), past_caches(cut, y))  # fmt: skip
    return y


def add_normalized_grad(dys, y, activation, terms, out=None):
    """dx of both terms of y = add_normalized(terms, activation), and for each the sums (2, c) that
    `batch_norm_train_grad` takes in place of its first pass; dys: the gradients of those that read
    y. None for a term that was not normalized."""
    first, second, swapped = _normalized_first(terms)
    shape, dtype = y.shape, float_type("y", y)
    cut, dx, slope = Rows(shape), output(out, shape, dtype), rectifier(activation, dtype)
    if len(dys) > 2:
        dys = [add(dys[:-1]), dys[-1]]
    dy, second_dy = (flat(f"dys[{i}]", dys[i], shape, dtype) for i in (0, -1))
    both = isinstance(second, tuple)
    seen = _seen(first, cut, dtype)
    x, statistics = zip(seen, _seen(second, cut, dtype) if both else seen, strict=True)
    totals = np.empty((2, 2, cut.channels))
    gradient_of_sum(
        dy, second_dy, len(dys) > 1, flat("y", y, shape, dtype), slope, *x, *statistics, cut.rows,
        *cut.scratch(3, 2, dtype), dx.reshape(-1), NOT_STREAMING, totals, threads.count(),
    )  # fmt: skip
    sums = totals[0], totals[1] if both else None
    return dx, *(sums[::-1] if swapped else sums)


def _normalized_first(terms):
    """Both terms, the first of them normalized, and whether they have changed places."""
    swapped = not isinstance(terms[0], tuple)
    return *(terms[::-1] if swapped else terms), swapped


def _numbers(term, cut, dtype):
    """What the kernel takes of a normalized term besides x."""
    _, gamma, beta, mean, variance, epsilon = term
    return *weights(cut, dtype, gamma, beta), both_statistics(cut, mean, variance), epsilon


def _seen(term, cut, dtype):
    """x and the statistics of a normalized term."""
    x, _, _, mean, variance, _ = term
    return flat("a term", x, x.shape, dtype), both_statistics(cut, mean, variance)
