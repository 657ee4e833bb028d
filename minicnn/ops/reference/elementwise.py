"""These ops treat every number by itself, or every row in the case of softmax. An activation is a
function f beside its derivative, and the gradient of y = f(x) is dx = dy f'(x).

Some derivatives follow from y alone (tanh' = 1 - y^2), so that x need not be kept: these functions
take y, the others x (`shapes.DERIVATIVE_FROM_OUTPUT` lists the first kind).

    softmax:      y = exp(x) / sum exp(x)      dx = y (dy - sum dy y)      sums over the last axis
    log_softmax:  y = x - log sum exp(x)       dx = dy - exp(y) sum dy
    dropout:      y = keep x / (1 - rate)      dx = keep dy / (1 - rate)   keep: 0 or 1, drawn
"""

import math

import numpy as np
from scipy.special import erfc

from minicnn.ops.reference.output import deliver
from minicnn.ops.shapes import check_rectifier

# --- activations: the value, then the derivative, from y or from x ---


def relu(x):
    return np.maximum(x, 0)


def relu_derivative(y):
    return np.where(y <= 0, 0, 1)


def leaky_relu(x, slope):
    return x * np.where(x > 0, 1, slope) if slope else relu(x)  # slope 0: -inf * 0 is not 0


def leaky_relu_derivative(y, slope):
    return np.where(y <= 0, slope, 1)


def relu_bounded(x, negative_slope, max_value, threshold):
    """x from threshold to max_value (None: no bound), negative_slope (x - threshold) below it."""
    below = negative_slope * (x - threshold) if negative_slope else np.where(np.isnan(x), x, 0)
    return np.where(x > threshold, np.minimum(x, upper_bound(max_value)), below)


def relu_bounded_derivative(x, negative_slope, max_value, threshold):
    rising = np.where(x >= upper_bound(max_value), 0, 1)
    return np.where(x > threshold, rising, negative_slope)


def upper_bound(max_value):
    return np.inf if max_value is None else max_value


def elu(x, alpha):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_derivative(y, alpha):
    return np.where(y > 0, 1, y + alpha)


# Klambauer et al. 2017, equation 14: with these, mean 0 and variance 1 reproduce themselves.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def selu(x):
    return SELU_SCALE * elu(x, SELU_ALPHA)


def selu_derivative(y):
    return np.where(y > 0, SELU_SCALE, y + SELU_SCALE * SELU_ALPHA)


def celu(x, alpha):
    return np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / alpha)


def celu_derivative(x, alpha):
    return np.exp(np.minimum(x, 0) / alpha)


def sigmoid(x):
    """1 / (1 + exp(-x)), written so that exp never sees a positive number."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def sigmoid_derivative(y):
    return y * (1 - y)


def tanh(x):
    return np.tanh(x)


def tanh_derivative(y):
    return 1 - y * y


def softplus(x):
    """log(1 + exp(x)), without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softplus_derivative(x):
    return sigmoid(x)


def softsign(x):
    return x / (1 + np.abs(x))


def softsign_derivative(x):
    return 1 / (1 + np.abs(x)) ** 2


def exponential(x):
    with np.errstate(over="ignore"):  # exp(1000) is inf
        return np.exp(x)


def exponential_derivative(y):
    return y


def silu(x):
    return x * sigmoid(x)


def silu_derivative(x):
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def gelu(x):
    """x P(X < x) for a standard normal X, exact; by erfc, so that P keeps its digits at x << 0."""
    return 0.5 * x * erfc(-math.sqrt(0.5) * x)


def gelu_derivative(x):
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * erfc(-math.sqrt(0.5) * x) + x * density


def gelu_tanh(x):
    """Hendrycks and Gimpel 2016, section 2: the approximation that BERT and GPT-2 use."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_tanh_derivative(x):
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner


def hard_sigmoid(x):
    return np.clip(x / 6 + 0.5, 0, 1)


def hard_sigmoid_derivative(x):
    return np.where(np.abs(x) < 3, 1 / 6, 0)


def hard_silu(x):
    return x * hard_sigmoid(x)


def hard_silu_derivative(x):
    return np.where(np.abs(x) < 3, x / 3 + 0.5, hard_sigmoid(x))


def hard_tanh(x):
    return np.clip(x, -1, 1)


def hard_tanh_derivative(x):
    return np.where(np.abs(x) < 1, 1, 0)


def log_sigmoid(x):
    return -softplus(-x)


def log_sigmoid_derivative(y):
    return -np.expm1(y)


def mish(x):
    return x * np.tanh(softplus(x))


def mish_derivative(x):
    t = np.tanh(softplus(x))
    return t + x * (1 - t * t) * sigmoid(x)


ACTIVATIONS = {
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


def activate(x, activation, out=None):
    """y = f(x) for activation = (name, *numbers), such as ("relu",) or ("leaky_relu", 0.3)."""
    name, *numbers = activation
    value, _ = ACTIVATIONS[name]
    return deliver(value(x, *numbers), x.dtype, out)


def activate_grad(dy, saved, activation, out=None):
    """dx = dy f'; saved is y for the names in DERIVATIVE_FROM_OUTPUT, x for the others."""
    name, *numbers = activation
    _, derivative = ACTIVATIONS[name]
    return deliver(dy * derivative(saved, *numbers), dy.dtype, out)


def activate_bias_grad(dy, saved, activation, out=None):
    """dx as `activate_grad`, and its sums over all axes but the last: the bias's gradient."""
    dx = activate_grad(dy, saved, activation, out)
    return dx, dx.sum(axis=tuple(range(dx.ndim - 1)), dtype=np.float64).astype(dx.dtype)


# --- softmax ---


def softmax(x, out=None):
    """y = exp(x) / sum exp(x) over the last axis; its maximum is taken off first: no overflow."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return deliver(e / e.sum(axis=-1, keepdims=True), x.dtype, out)


def softmax_grad(dy, y, out=None):
    """dx = y (dy - sum dy y): a row's probabilities always sum to 1, so dx sums to 0."""
    return deliver(y * (dy - (dy * y).sum(axis=-1, keepdims=True)), dy.dtype, out)


def log_softmax(x, out=None):
    """y = x - log sum exp(x) over the last axis."""
    z = x - x.max(axis=-1, keepdims=True)
    return deliver(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)), x.dtype, out)


def log_softmax_grad(dy, y, out=None):
    """dx = dy - exp(y) sum dy."""
    return deliver(dy - np.exp(y) * dy.sum(axis=-1, keepdims=True), dy.dtype, out)


# --- scaling, sums, dropout ---


def scale_shift(x, scale, offset, dtype, out=None):
    """y = x scale + offset as `dtype`; scale and offset are numbers or (c,). x may be uint8."""
    dtype = np.dtype(dtype)
    y = x.astype(dtype) * np.asarray(scale, dtype) + np.asarray(offset, dtype)
    return deliver(y, dtype, out)


def add(xs, activation=None, out=None):
    """The sum of a list of equal-shaped arrays, from left to right; its gradient is dy for each.

    `activation`, a rectifier ("relu",) or ("leaky_relu", slope), is applied to the sum.
    """
    y = xs[0].copy()
    for x in xs[1:]:
        y += x
    if activation is not None:
        check_rectifier(activation)
        y = activate(y, activation)
    return deliver(y, y.dtype, out)


def add_grad(dys, y, activation, out=None):
    """dx of every x of y = add(xs, activation); dys: the gradients of those that read y."""
    check_rectifier(activation)
    return activate_grad(add(dys), y, activation, out)


def random_bits(counters, key):
    """A random uint32 for each uint64 counter: two words of key, then MurmurHash3's finaliser.

    The bits depend on counter and key alone: neither a state nor a mask has to be kept, and the
    order in which they are drawn does not matter.
    """
    key_low, key_high = (np.uint32(key >> shift & 0xFFFFFFFF) for shift in (0, 32))
    h = counters.astype(np.uint32) * np.uint32(0x9E3779B1) + key_low
    h ^= key_high + (counters >> np.uint64(32)).astype(np.uint32) * np.uint32(0x85EBCA77)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    return h ^ h >> np.uint32(16)


def dropout(x, rate, key, first_sample=0, noise_shape=None, out=None):
    """y = keep x / (1 - rate): every number is zeroed with probability rate, 0 <= rate < 1.

    keep has the shape noise_shape (1: shared along this axis; None: x's shape) and is a function of
    key (64 bits), of the sample's number first_sample + n and of the place in the sample.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate is {rate}: give 0 <= rate < 1, the fraction to drop.")
    samples, *of_sample = x.shape if noise_shape is None else noise_shape
    size = math.prod(of_sample)
    sample = np.arange(first_sample, first_sample + samples, dtype=np.uint64)
    counters = sample[:, None] * np.uint64(size) + np.arange(size, dtype=np.uint64)
    keep = random_bits(counters, int(key)) >= min(round(rate * 2**32), 2**32 - 1)
    factor = keep.reshape(samples, *of_sample) * x.dtype.type(1 / (1 - rate))
    return deliver(x * factor, x.dtype, out)


def dropout_grad(dy, rate, key, first_sample=0, noise_shape=None, out=None):
    """dx = keep dy / (1 - rate): the same map as forward, with the same key and samples."""
    return dropout(dy, rate, key, first_sample, noise_shape, out)
