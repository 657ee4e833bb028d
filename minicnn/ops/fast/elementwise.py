"""Activations, softmax, scaling, sums and dropout, compiled; equations in reference/elementwise.py.

Design: every op flattens its arrays and splits them into blocks of BLOCK numbers (or rows), one
`prange` over the blocks, and calls a serial loop on the slices. LLVM vectorises that loop because
it sees two plain arrays that start at index 0: the same loop written inside the prange took 0.54 ms
where this one takes 0.31 (ReLU, 2 million float32, two cores), the speed of memory, and compiled
twice as long. The loops of an activation are made, and compiled, when it is first used.
"""

import functools
import math

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast.channel_sums import BLOCK, GROUP, Rows, add_rows, fold, fold_sums
from minicnn.ops.fast.exponential import erfc, exp, expm1, like, log1p
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import flat, float_type, output, rounded
from minicnn.ops.recording import noted
from minicnn.ops.shapes import check_rectifier


@kernel
def blocks(size, length):
    """How many blocks of `length` hold `size` numbers."""
    return (size + length - 1) // length


# --- activations: the value, then the derivative, from y or from x; NaN fails every comparison ---


@kernel
def relu(x):
    return like(x, 0) if x <= 0 else x


@kernel
def relu_derivative(y):
    return like(y, 0) if y <= 0 else like(y, 1)


@kernel
def leaky_relu(x, slope):
    return x if x > 0 else slope * x


@kernel
def leaky_relu_derivative(y, slope):
    return slope if y <= 0 else like(y, 1)


@kernel
def relu_bounded(x, negative_slope, max_value, threshold):
    if x > threshold:
        return max_value if x > max_value else x
    if negative_slope == 0:  # -inf * 0 is not 0
        return x if x != x else like(x, 0)
    return negative_slope * (x - threshold)


@kernel
def relu_bounded_derivative(x, negative_slope, max_value, threshold):
    rising = like(x, 0) if x >= max_value else like(x, 1)
    return rising if x > threshold else negative_slope


@kernel
def negative_part(x):
    return like(x, 0) if x > 0 else x


@kernel
def elu(x, alpha):
    return x if x > 0 else alpha * expm1(negative_part(x))


@kernel
def elu_derivative(y, alpha):
    return like(y, 1) if y > 0 else y + alpha


SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
SELU_PRODUCT = SELU_ALPHA * SELU_SCALE


@kernel
def selu(x):
    below = like(x, SELU_PRODUCT) * expm1(negative_part(x))
    return like(x, SELU_SCALE) * x if x > 0 else below


@kernel
def selu_derivative(y):
    return like(y, SELU_SCALE) if y > 0 else y + like(y, SELU_PRODUCT)


@kernel
def celu(x, alpha):
    return x if x > 0 else alpha * expm1(negative_part(x) / alpha)


@kernel
def celu_derivative(x, alpha):
    return exp(negative_part(x) / alpha)


@kernel
def sigmoid(x):
    e = exp(-abs(x))
    return (e if x < 0 else like(x, 1)) / (like(x, 1) + e)


@kernel
def sigmoid_derivative(y):
    return y * (like(y, 1) - y)


@kernel
def tanh(x):
    p = expm1(like(x, -2) * abs(x))  # tanh |x| = (1 - exp(-2 |x|)) / (1 + exp(-2 |x|))
    t = -p / (like(x, 2) + p)
    return -t if x < 0 else t


@kernel
def tanh_derivative(y):
    return like(y, 1) - y * y


@kernel
def softplus(x):
    return (like(x, 0) if x <= 0 else x) + log1p(exp(-abs(x)))


@kernel
def softplus_derivative(x):
    return sigmoid(x)


@kernel
def softsign(x):
    return x / (like(x, 1) + abs(x))


@kernel
def softsign_derivative(x):
    d = like(x, 1) + abs(x)
    return like(x, 1) / (d * d)


@kernel
def exponential(x):
    return math.exp(x)


@kernel
def exponential_derivative(y):
    return y


@kernel
def silu(x):
    return x * sigmoid(x)


@kernel
def silu_derivative(x):
    s = sigmoid(x)
    return s * (like(x, 1) + x * (like(x, 1) - s))


@kernel
def gelu(x):
    return like(x, 0.5) * x * erfc(like(x, -math.sqrt(0.5)) * x)


@kernel
def gelu_derivative(x):
    half = like(x, 0.5)
    density = like(x, 1 / math.sqrt(2 * math.pi)) * exp(-half * x * x)
    return half * erfc(like(x, -math.sqrt(0.5)) * x) + x * density


GELU_INNER, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


@kernel
def gelu_tanh(x):
    inner = like(x, GELU_INNER) * (x + like(x, GELU_CUBE) * x * x * x)
    return like(x, 0.5) * x * (like(x, 1) + tanh(inner))


@kernel
def gelu_tanh_derivative(x):
    one, half = like(x, 1), like(x, 0.5)
    t = tanh(like(x, GELU_INNER) * (x + like(x, GELU_CUBE) * x * x * x))
    slope = like(x, GELU_INNER) * (one + like(x, 3 * GELU_CUBE) * x * x)
    return half * (one + t) + half * x * (one - t * t) * slope


@kernel
def hard_sigmoid(x):
    y = x * like(x, 1 / 6) + like(x, 0.5)
    y = like(x, 0) if y < 0 else y
    return like(x, 1) if y > 1 else y


@kernel
def hard_sigmoid_derivative(x):
    return like(x, 1 / 6) if abs(x) < 3 else like(x, 0)


@kernel
def hard_silu(x):
    return x * hard_sigmoid(x)


@kernel
def hard_silu_derivative(x):
    return x * like(x, 1 / 3) + like(x, 0.5) if abs(x) < 3 else hard_sigmoid(x)


@kernel
def hard_tanh(x):
    y = like(x, -1) if x < -1 else x
    return like(x, 1) if y > 1 else y


@kernel
def hard_tanh_derivative(x):
    return like(x, 1) if abs(x) < 1 else like(x, 0)


@kernel
def log_sigmoid(x):
    return -softplus(-x)


@kernel
def log_sigmoid_derivative(y):
    return -expm1(y)


@kernel
def mish(x):
    return x * tanh_of_softplus(x)


@kernel
def mish_derivative(x):
    t = tanh_of_softplus(x)
    return t + x * (like(x, 1) - t * t) * sigmoid(x)


@kernel
def tanh_of_softplus(x):
    e = exp(like(x, 40) if x > 40 else x)  # from x = 20 on the value is 1
    m = e * (e + like(x, 2))  # tanh(log z) = (z^2 - 1) / (z^2 + 1), z = 1 + exp(x)
    return m / (m + like(x, 2))


FUNCTIONS = {
    "relu": (relu, relu_derivative),
    "leaky_relu": (leaky_relu, leaky_relu_derivative),
    "relu_bounded": (relu_bounded, relu_bounded_derivative),
    "elu": (elu, elu_derivative),
    "selu": (selu, selu_derivative),
    "celu": (celu, celu_derivative),
    "sigmoid": (sigmoid, sigmoid_derivative),
    "tanh": (tanh, tanh_derivative),
    "softplus": (softplus, softplus_derivative),
    "softsign": (softsign, softsign_derivative),
    "exponential": (exponential, exponential_derivative),
    "silu": (silu, silu_derivative),
    "gelu": (gelu, gelu_derivative),
    "gelu_tanh": (gelu_tanh, gelu_tanh_derivative),
    "hard_sigmoid": (hard_sigmoid, hard_sigmoid_derivative),
    "hard_silu": (hard_silu, hard_silu_derivative),
    "hard_tanh": (hard_tanh, hard_tanh_derivative),
    "log_sigmoid": (log_sigmoid, log_sigmoid_derivative),
    "mish": (mish, mish_derivative),
}


@functools.cache
def value_loop(name):
    """The kernel y[i] = f(x[i], *numbers) of one activation."""
    function = FUNCTIONS[name][0]

    def serial(x, y, numbers):
        for i in range(x.size):
            y[i] = function(x[i], *numbers)

    serial.__qualname__ = f"{name}_value_serial"  # the cache tells kernels apart by this name
    serial = kernel(serial)

    def loop(x, y, numbers):
        for b in prange(blocks(x.size, BLOCK)):
            part = slice(b * BLOCK, (b + 1) * BLOCK)
            serial(x[part], y[part], numbers)

    loop.__qualname__ = f"{name}_value"
    return parallel_kernel(loop)


@functools.cache
def gradient_serial(name):
    """The kernel dx[i] = dy[i] f'(saved[i], *numbers) of one activation, on one thread."""
    derivative = FUNCTIONS[name][1]

    def serial(dy, saved, dx, numbers):
        for i in range(dy.size):
            dx[i] = dy[i] * derivative(saved[i], *numbers)

    serial.__qualname__ = f"{name}_gradient_serial"
    return kernel(serial)


@functools.cache
def gradient_loop(name):
    """The same on all threads."""
    serial = gradient_serial(name)

    def loop(dy, saved, dx, numbers):
        for b in prange(blocks(dy.size, BLOCK)):
            part = slice(b * BLOCK, (b + 1) * BLOCK)
            serial(dy[part], saved[part], dx[part], numbers)

    loop.__qualname__ = f"{name}_gradient"
    return parallel_kernel(loop)


@functools.cache
def gradient_sums_loop(name):
    """The same, and total (1, c) = the sum of dx, added up in `sums` while it is in the cache."""
    serial = gradient_serial(name)

    def loop(dy, saved, dx, numbers, sums, rows, total):
        width = sums.shape[2]
        step = GROUP * width * max(1, BLOCK // (GROUP * width))
        for b in prange(len(sums)):
            sums[b] = 0
            group, last = np.empty(width, dx.dtype), min((b + 1) * rows * width, dy.size)
            for start in range(b * rows * width, last, step):
                stop = min(start + step, last)
                part = slice(start, stop)
                serial(dy[part], saved[part], dx[part], numbers)
                add_rows(dx, start, stop, sums[b, 0], group)
        fold_sums(sums, total)

    loop.__qualname__ = f"{name}_gradient_sums"
    return parallel_kernel(loop)


def resolve(activation, dtype):
    """(name, numbers of the arrays' type): leaky_relu of slope 0 is relu, no bound is infinity."""
    name, *numbers = activation
    if name == "leaky_relu" and not numbers[0]:
        return "relu", ()
    return name, tuple(dtype.type(math.inf if number is None else number) for number in numbers)


def activate(x, activation, out=None):
    """y = f(x) for activation = (name, *numbers), such as ("relu",) or ("leaky_relu", 0.3)."""
    dtype = float_type("x", x)
    y = output(out, x.shape, dtype)
    name, numbers = resolve(activation, dtype)
    value_loop(name)(flat("x", x, x.shape, dtype), y.reshape(-1), numbers)
    return y


def activate_grad(dy, saved, activation, out=None):
    """dx = dy f'; saved is y for the names in shapes.DERIVATIVE_FROM_OUTPUT, x for the others."""
    dtype = float_type("dy", dy)
    dx = output(out, dy.shape, dtype)
    name, numbers = resolve(activation, dtype)
    saved = flat("saved", saved, dy.shape, dtype)
    gradient_loop(name)(flat("dy", dy, dy.shape, dtype), saved, dx.reshape(-1), numbers)
    return dx


def activate_bias_grad(dy, saved, activation, out=None):
    """dx as `activate_grad`, and its sums over all axes but the last: the bias's gradient."""
    dtype = float_type("dy", dy)
    dx = output(out, dy.shape, dtype)
    if not dy.size:
        return dx, np.zeros(dy.shape[-1], dtype)
    cut = Rows(dy.shape)
    name, numbers = resolve(activation, dtype)
    dy, saved = flat("dy", dy, dx.shape, dtype), flat("saved", saved, dx.shape, dtype)
    total = np.empty((1, cut.channels))
    sums = cut.partial_sums(1)
    gradient_sums_loop(name)(dy, saved, dx.reshape(-1), numbers, sums, cut.rows, total)
    return dx, rounded(total[0], dtype)


# --- softmax: a block of whole rows per task; the sums run in order, in float64 ---


@kernel
def exponentials(x, y):
    """y = exp(x - max x), and its sum; a NaN makes the sum NaN."""
    largest = x[0]
    for i in range(1, x.size):
        largest = x[i] if x[i] > largest else largest
    for i in range(x.size):
        y[i] = exp(x[i] - largest)
    total = 0.0
    for i in range(x.size):
        total += y[i]
    return largest, total


@kernel
def softmax_row(x, y):
    _, total = exponentials(x, y)
    factor = like(x[0], 1 / total)
    for i in range(x.size):
        y[i] *= factor


@kernel
def log_softmax_row(x, y):
    largest, total = exponentials(x, y)
    log_total = like(x[0], math.log(total))
    for i in range(x.size):
        y[i] = (x[i] - largest) - log_total


@kernel
def softmax_grad_row(dy, y, dx):
    total = 0.0
    for i in range(dy.size):
        total += dy[i] * y[i]
    total = like(dy[0], total)
    for i in range(dy.size):
        dx[i] = y[i] * (dy[i] - total)


@kernel
def log_softmax_grad_row(dy, y, dx):
    total = 0.0
    for i in range(dy.size):
        total += dy[i]
    total = like(dy[0], total)
    for i in range(dy.size):
        dx[i] = dy[i] - exp(y[i]) * total


@parallel_kernel
def softmax_rows(x, y, width, rows):
    for b in prange(blocks(x.size, width * rows)):
        for start in range(b * width * rows, min((b + 1) * width * rows, x.size), width):
            softmax_row(x[start : start + width], y[start : start + width])


@parallel_kernel
def log_softmax_rows(x, y, width, rows):
    for b in prange(blocks(x.size, width * rows)):
        for start in range(b * width * rows, min((b + 1) * width * rows, x.size), width):
            log_softmax_row(x[start : start + width], y[start : start + width])


@parallel_kernel
def softmax_grad_rows(dy, y, dx, width, rows):
    for b in prange(blocks(dy.size, width * rows)):
        for start in range(b * width * rows, min((b + 1) * width * rows, dy.size), width):
            row = slice(start, start + width)
            softmax_grad_row(dy[row], y[row], dx[row])


@parallel_kernel
def log_softmax_grad_rows(dy, y, dx, width, rows):
    for b in prange(blocks(dy.size, width * rows)):
        for start in range(b * width * rows, min((b + 1) * width * rows, dy.size), width):
            row = slice(start, start + width)
            log_softmax_grad_row(dy[row], y[row], dx[row])


def by_rows(loop, out, **arrays):
    """Run a row kernel over the last axis of equal-shaped arrays."""
    (name, first), *_ = arrays.items()
    shape, dtype = first.shape, float_type(name, first)
    y = output(out, shape, dtype)
    if y.size:
        rows = max(1, BLOCK // shape[-1])
        arrays = [flat(name, array, shape, dtype) for name, array in arrays.items()]
        loop(*arrays, y.reshape(-1), shape[-1], rows)
    return y


def softmax(x, out=None):
    """y = exp(x) / sum exp(x) over the last axis."""
    return by_rows(softmax_rows, out, x=x)


def softmax_grad(dy, y, out=None):
    """dx = y (dy - sum dy y)."""
    return by_rows(softmax_grad_rows, out, dy=dy, y=y)


def log_softmax(x, out=None):
    """y = x - log sum exp(x) over the last axis."""
    return by_rows(log_softmax_rows, out, x=x)


def log_softmax_grad(dy, y, out=None):
    """dx = dy - exp(y) sum dy."""
    return by_rows(log_softmax_grad_rows, out, dy=dy, y=y)


# --- scaling and sums ---


@kernel
def scale_shift_row(x, scale, offset, y):
    for i in range(x.size):
        y[i] = scale.dtype.type(x[i]) * scale[i] + offset[i]


@parallel_kernel
def scale_shift_rows(x, scale, offset, y):
    width = scale.size
    rows = max(1, BLOCK // width)
    for b in prange(blocks(x.size, width * rows)):
        for start in range(b * width * rows, min((b + 1) * width * rows, x.size), width):
            row = slice(start, start + width)
            scale_shift_row(x[row], scale, offset, y[row])


def scale_shift(x, scale, offset, dtype, out=None):
    """y = x scale + offset as `dtype`; scale and offset are numbers or (c,). x may be uint8."""
    dtype = np.dtype(dtype)
    y = output(out, x.shape, dtype)
    if not x.size:
        return y
    kept = np.uint8 if x.dtype == np.uint8 else dtype
    channels = x.shape[-1] if x.ndim else 1
    width = channels * fold(x.size // channels, channels)
    scale, offset = (
        _repeated(a, dtype, width)
        if isinstance(a, float | int)
        else np.tile(np.broadcast_to(np.asarray(a, dtype), channels), width // channels)
        for a in (scale, offset)
    )
    scale_shift_rows(flat("x", x, x.shape, kept), scale, offset, y.reshape(-1))
    return y


@functools.lru_cache(maxsize=64)
def _repeated(number, dtype, count):
    return np.full(count, number, dtype)


@kernel
def rectified(x, slope):
    """x, times slope where it is not positive; slope 1 is none."""
    below = like(x, 0) if slope == 0 else x * slope  # -inf * 0 is not 0
    return below if x <= 0 else x


@kernel
def add_serial(a, b, slope, y):
    for i in range(a.size):
        y[i] = rectified(a[i] + b[i], slope)


@parallel_kernel
def add_blocks(a, b, slope, y):
    for block in prange(blocks(a.size, BLOCK)):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        add_serial(a[part], b[part], slope, y[part])


def add(xs, activation=None, out=None):
    """The sum of a list of equal-shaped arrays, from left to right; its gradient is dy for each.

    `activation`, a rectifier ("relu",) or ("leaky_relu", slope), is applied to the sum.
    """
    shape, dtype = xs[0].shape, float_type("xs[0]", xs[0])
    slope, none = rectifier(activation, dtype), dtype.type(1)
    y = output(out, shape, dtype)
    first, *others = [flat(f"xs[{i}]", x, shape, dtype) for i, x in enumerate(xs)]
    total = y.reshape(-1)
    if not others:
        noted(np.copyto, y, xs[0] if activation is None else activate(xs[0], activation))
    for number, x in enumerate(others, 1):
        add_blocks(first, x, slope if number == len(others) else none, total)
        first = total
    return y


@kernel
def add_gradient_serial(a, b, y, slope, dx):
    for i in range(a.size):
        dx[i] = (a[i] + b[i]) * leaky_relu_derivative(y[i], slope)


@parallel_kernel
def add_gradient_blocks(a, b, y, slope, dx):
    for block in prange(blocks(a.size, BLOCK)):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        add_gradient_serial(a[part], b[part], y[part], slope, dx[part])


def add_grad(dys, y, activation, out=None):
    """dx of every x of y = add(xs, activation); dys: the gradients of those that read y."""
    *others, dy = dys
    if not others:
        return activate_grad(dy, y, activation, out)
    shape, dtype = y.shape, float_type("y", y)
    dx, slope = output(out, shape, dtype), rectifier(activation, dtype)
    others = others[0] if len(others) == 1 else add(others)
    add_gradient_blocks(flat("dys[0]", others, shape, dtype), flat("dys[-1]", dy, shape, dtype),
                        flat("y", y, shape, dtype), slope, dx.reshape(-1))  # fmt: skip
    return dx


@functools.lru_cache(maxsize=64)
def rectifier(activation, dtype):
    """The slope of a rectifier below zero; None has slope 1."""
    if activation is None:
        return dtype.type(1)
    check_rectifier(activation)
    _, numbers = resolve(activation, dtype)
    return numbers[0] if numbers else dtype.type(0)


# --- dropout: no mask is kept, because the bits are a function of the counter ---


@kernel
def dropout_serial(x, y, start, key_low, key_high, threshold, scale):
    """One stretch of counters whose upper 32 bits are the same: all arithmetic is 32 bits wide."""
    low = np.uint32(start)
    upper = np.uint32(key_high + np.uint32(start >> np.uint64(32)) * np.uint32(0x85EBCA77))
    for i in range(x.size):
        h = np.uint32(np.uint32(low + np.uint32(i)) * np.uint32(0x9E3779B1) + key_low)
        h ^= upper
        h = np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        h = np.uint32(h)
        h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
        h = np.uint32(h ^ (h >> np.uint32(16)))
        y[i] = x[i] * (scale if h >= threshold else like(scale, 0))


@parallel_kernel
def dropout_blocks(x, y, first, key, threshold, scale):
    key_low, key_high = np.uint32(key[0]), np.uint32(key[0] >> np.uint64(32))
    for b in prange(blocks(x.size, BLOCK)):
        start, stop = b * BLOCK, min((b + 1) * BLOCK, x.size)
        counter = first + np.uint64(start)
        carry = np.uint64(0x100000000) - (counter & np.uint64(0xFFFFFFFF))
        middle = start + min(np.int64(carry), stop - start)
        for part, at in ((slice(start, middle), counter), (slice(middle, stop), counter + carry)):
            dropout_serial(x[part], y[part], at, key_low, key_high, threshold, scale)


@kernel
def scale_row(x, scale, y):
    for i in range(x.size):
        y[i] = x[i] * scale[i]


@parallel_kernel
def scale_maps(x, scale, y, pixels):
    """y[n, p, c] = x[n, p, c] scale[n, c]."""
    samples = x.size // (pixels * scale.shape[1])
    channels = scale.shape[1]
    for n in prange(samples):
        for start in range(n * pixels * channels, (n + 1) * pixels * channels, channels):
            row = slice(start, start + channels)
            scale_row(x[row], scale[n], y[row])


def dropout(x, rate, key, first_sample=0, noise_shape=None, out=None):
    """y = keep x / (1 - rate), keep drawn with the shape noise_shape as a function of the 64-bit
    key (a number or an array ()), of the sample's number first_sample + n and of the place in the
    sample; 0 <= rate < 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"rate is {rate}: give 0 <= rate < 1, the fraction to drop.")
    dtype = float_type("x", x)
    y = output(out, x.shape, dtype)
    shape = x.shape if noise_shape is None else tuple(noise_shape)
    first = np.uint64(first_sample) * np.uint64(math.prod(shape[1:]))
    draw = (
        first,
        np.asarray(key, np.uint64).reshape(1),
        np.uint32(min(round(rate * 2**32), 2**32 - 1)),
        dtype.type(1 / (1 - rate)),
    )
    if shape == x.shape:
        dropout_blocks(flat("x", x, shape, dtype), y.reshape(-1), *draw)
        return y
    factor = arena.empty(shape, dtype)
    noted(np.copyto, factor, 1)
    dropout_blocks(factor.reshape(-1), factor.reshape(-1), *draw)
    if x.ndim > 2 and shape == (len(x), *[1] * (x.ndim - 2), x.shape[-1]):
        factor = factor.reshape(len(x), -1)
        pixels = math.prod(x.shape[1:-1])
        scale_maps(flat("x", x, x.shape, dtype), factor, y.reshape(-1), pixels)
    else:
        noted(np.multiply, x, factor, y)
    return y


def dropout_grad(dy, rate, key, first_sample=0, noise_shape=None, out=None):
    """dx = keep dy / (1 - rate): the same map as forward, with the same key and samples."""
    return dropout(dy, rate, key, first_sample, noise_shape, out)
