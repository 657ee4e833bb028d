"""Batch normalization and then the maxima of 2x2 windows; equations in the files of either.

The gradient of the second is the dy of the first.
"""

from minicnn.ops.reference.elementwise import activate_bias_grad
from minicnn.ops.reference.normalization import batch_norm_train, batch_norm_train_grad
from minicnn.ops.reference.output import deliver
from minicnn.ops.reference.pooling import max_pool2d, max_pool2d_grad
from minicnn.ops.shapes import PAIRS, halved

WINDOWS = *PAIRS, "valid"  # size, strides, padding


def batch_norm_max_pool(x, gamma, beta, epsilon, activation=None, out=None, moving=None):
    """y (n, h/2, w/2, c), the winners' places, mean (c,), variance (c,) of x (n, h, w, c).

    `batch_norm_train`, then `max_pool2d` with windows of 2x2; h and w are even.
    """
    halved(x.shape)  # ValueError if it cannot be
    given = x, gamma, beta, epsilon, activation
    normalized, mean, variance = batch_norm_train(*given, moving=moving)
    y, index = max_pool2d(normalized, *WINDOWS)
    return deliver(y, x.dtype, out), index, mean, variance


def batch_norm_max_pool_grad(
    dy, index, x, gamma, mean, variance, epsilon, beta=None, activation=None, below=None, out=None
):
    """dx (n, h, w, c), its sum (c,), dgamma, dbeta from dy (n, h/2, w/2, c).

    With a rectifier `below`, of which x is the value, dx is the gradient before it.
    """
    halved(x.shape)  # ValueError if it cannot be
    dy = max_pool2d_grad(dy, index, x.shape, *WINDOWS)
    norm = (gamma, mean, variance, epsilon, beta)
    dx, dgamma, dbeta = batch_norm_train_grad(dy, x, *norm, activation)
    dx, total = activate_bias_grad(dx, x, below or ("leaky_relu", 1.0))
    return deliver(dx, x.dtype, out), total, dgamma, dbeta
