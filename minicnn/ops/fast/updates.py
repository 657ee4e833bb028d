"""One step of each optimiser in one pass over the flat buffers; formulas in reference/updates.py.

Design. A step is bound by memory, so each rule reads and writes every array once and keeps
nothing in between. The buffers are cut into blocks of a fixed length, so that the result does not
depend on the number of threads; a block of all arrays (5 at most) fits into the L2 cache. The
numbers of a rule are rounded to the arrays' dtype first: float32 loops then stay float32.
"""

import math

import numpy as np
from numba import prange

from minicnn.ops.fast.jit import kernel, parallel_kernel

__all__ = [
    "adadelta_update",
    "adagrad_update",
    "adam_update",
    "adamax_update",
    "average_update",
    "lion_update",
    "momentum_update",
    "nadam_update",
    "rmsprop_update",
    "sgd_update",
    "sum_of_squares",
]

BLOCK = 8192  # values: 32 kB of each float32 array


def sgd_update(value, g, rate):
    """value -= rate g."""
    _run(_sgd, (value, g), (rate,))


def momentum_update(value, g, velocity, rate, momentum, nesterov):
    """v = momentum v - rate g; value += v, or with nesterov value += momentum v - rate g."""
    _run(_nesterov if nesterov else _momentum, (value, g, velocity), (rate, momentum))


def rmsprop_update(value, g, square, momentum, mean, rate, rho, beta, epsilon):
    """s = rho s + (1 - rho) g^2; value -= rate g / sqrt(s + epsilon); see the reference."""
    _run(_rmsprop, (value, g, square, momentum, mean), (rate, rho, 1 - rho, beta, epsilon))


def adam_update(value, g, m, v, v_max, rate, beta_1, beta_2, epsilon):
    """m += (1 - beta_1)(g - m); v += (1 - beta_2)(g^2 - v); value -= rate m / (sqrt(v) + epsilon).

    v_max (or None): the largest v so far, taken instead of v.
    """
    _run(_adam, (value, g, m, v, v_max), (rate, 1 - beta_1, 1 - beta_2, epsilon))


def adamax_update(value, g, m, u, rate, beta_1, beta_2, epsilon):
    """m += (1 - beta_1)(g - m); u = max(beta_2 u, |g|); value -= rate m / (u + epsilon)."""
    _run(_adamax, (value, g, m, u), (rate, 1 - beta_1, beta_2, epsilon))


def nadam_update(value, g, m, v, rate, beta_1, beta_2, epsilon, ahead, now, correction):
    """Adam looking ahead: value -= rate (ahead m + now g) / (sqrt(correction v) + epsilon)."""
    numbers = (rate, 1 - beta_1, 1 - beta_2, epsilon, ahead, now, correction)
    _run(_nadam, (value, g, m, v), numbers)


def adagrad_update(value, g, square, rate, epsilon):
    """s += g^2; value -= rate g / sqrt(s + epsilon)."""
    _run(_adagrad, (value, g, square), (rate, epsilon))


def adadelta_update(value, g, square, square_step, rate, rho, epsilon):
    """s = rho s + (1 - rho) g^2; step = sqrt(d + eps) / sqrt(s + eps) g; see the reference."""
    _run(_adadelta, (value, g, square, square_step), (rate, rho, 1 - rho, epsilon))


def lion_update(value, g, m, rate, beta_1, beta_2):
    """value -= rate sign(beta_1 m + (1 - beta_1) g); m = beta_2 m + (1 - beta_2) g."""
    _run(_lion, (value, g, m), (rate, beta_1, 1 - beta_1, beta_2, 1 - beta_2))


def average_update(average, value, momentum):
    """average = momentum average + (1 - momentum) value."""
    _run(_average, (average, value), (momentum, 1 - momentum))


def sum_of_squares(x):
    """The sum of x^2 as a float, added up in float64."""
    partial = np.empty(-(-x.size // BLOCK), np.float64)
    _check((x,))
    _squares(x, partial)
    return math.fsum(partial)  # in a fixed order, exactly


def _run(rule, arrays, numbers):
    _check(arrays)
    real = arrays[0].dtype.type
    rule(*arrays, *(real(number) for number in numbers))


def _check(arrays):
    """Kernels trust their arguments: 1-D, contiguous, one length and dtype."""
    first = arrays[0]
    for array in arrays:
        if array is not None and (
            array.ndim != 1
            or array.size != first.size
            or array.dtype != first.dtype
            or array.dtype not in (np.float32, np.float64)
            or not array.flags.c_contiguous
        ):
            raise ValueError(
                f"updates take contiguous 1-D float arrays of one length and dtype: {array.shape} "
                f"{array.dtype} beside {first.shape} {first.dtype}"
            )


# -- kernels ---------------------------------------------------------------------------------------


@kernel
def _indices(block, size):
    """The indices of a block, unsigned: a loop whose index could be negative is not vectorised."""
    return range(np.uint64(block * BLOCK), np.uint64(min((block + 1) * BLOCK, size)))


@parallel_kernel
def _sgd(value, g, rate):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            value[i] -= rate * g[i]


@parallel_kernel
def _momentum(value, g, velocity, rate, momentum):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            velocity[i] = momentum * velocity[i] - rate * g[i]
            value[i] += velocity[i]


@parallel_kernel
def _nesterov(value, g, velocity, rate, momentum):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            velocity[i] = momentum * velocity[i] - rate * g[i]
            value[i] += momentum * velocity[i] - rate * g[i]


@parallel_kernel
def _rmsprop(value, g, square, momentum, mean, rate, rho, rest, beta, epsilon):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            square[i] = rho * square[i] + rest * g[i] * g[i]
            variance = square[i]
            if mean is not None:  # decided when the kernel is compiled, as below
                mean[i] = rho * mean[i] + rest * g[i]
                variance -= mean[i] * mean[i]
            step = rate * g[i] / math.sqrt(variance + epsilon)
            if momentum is not None:
                momentum[i] = beta * momentum[i] + step
                step = momentum[i]
            value[i] -= step


@parallel_kernel
def _adam(value, g, m, v, v_max, rate, rest_1, rest_2, epsilon):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            m[i] += rest_1 * (g[i] - m[i])
            v[i] += rest_2 * (g[i] * g[i] - v[i])
            square = v[i]
            if v_max is not None:
                v_max[i] = square = np.maximum(v_max[i], square)
            value[i] -= rate * m[i] / (math.sqrt(square) + epsilon)


@parallel_kernel
def _adamax(value, g, m, u, rate, rest_1, beta_2, epsilon):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            m[i] += rest_1 * (g[i] - m[i])
            u[i] = np.maximum(beta_2 * u[i], abs(g[i]))
            value[i] -= rate * m[i] / (u[i] + epsilon)


@parallel_kernel
def _nadam(value, g, m, v, rate, rest_1, rest_2, epsilon, ahead, now, correction):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            m[i] += rest_1 * (g[i] - m[i])
            v[i] += rest_2 * (g[i] * g[i] - v[i])
            step = ahead * m[i] + now * g[i]
            value[i] -= rate * step / (math.sqrt(correction * v[i]) + epsilon)


@parallel_kernel
def _adagrad(value, g, square, rate, epsilon):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            square[i] += g[i] * g[i]
            value[i] -= rate * g[i] / math.sqrt(square[i] + epsilon)


@parallel_kernel
def _adadelta(value, g, square, square_step, rate, rho, rest, epsilon):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            square[i] = rho * square[i] + rest * g[i] * g[i]
            step = math.sqrt(square_step[i] + epsilon) / math.sqrt(square[i] + epsilon) * g[i]
            square_step[i] = rho * square_step[i] + rest * step * step
            value[i] -= rate * step


@parallel_kernel
def _lion(value, g, m, rate, beta_1, rest_1, beta_2, rest_2):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            direction = beta_1 * m[i] + rest_1 * g[i]
            if direction != 0:  # x / |x| and not a comparison, so that NaN stays NaN
                value[i] -= rate * (direction / abs(direction))
            m[i] = beta_2 * m[i] + rest_2 * g[i]


@parallel_kernel
def _average(average, value, momentum, rest):
    for block in prange((value.size + BLOCK - 1) // BLOCK):
        for i in _indices(block, value.size):
            average[i] = momentum * average[i] + rest * value[i]


@parallel_kernel
def _squares(x, partial):
    for block in prange(partial.size):
        stop = min((block + 1) * BLOCK, x.size)
        # Four sums: a single one waits for each addition to finish before the next.
        a = b = c = d = 0.0
        tail = stop - (stop - block * BLOCK) % 4
        for i in range(block * BLOCK, tail, 4):
            a += np.float64(x[i]) * x[i]
            b += np.float64(x[i + 1]) * x[i + 1]
            c += np.float64(x[i + 2]) * x[i + 2]
            d += np.float64(x[i + 3]) * x[i + 3]
        for i in range(tail, stop):
            a += np.float64(x[i]) * x[i]
        partial[block] = (a + b) + (c + d)
