"""Batch normalization shifts and scales every channel to mean 0 and variance 1 over the batch, then
to a learned mean beta and deviation gamma. In training its gradient also flows through mean and
variance, which depend on every pixel; in inference they are constants.

Over the N values of one channel (Ioffe and Szegedy 2015, section 3):

    u = (x - mean) / sqrt(variance + epsilon)          y = gamma u + beta
    dbeta = sum dy        dgamma = sum dy u
    inference:  dx = gamma / sqrt(variance + epsilon)  dy
    training:   dx = gamma / sqrt(variance + epsilon) (dy - dbeta / N - u dgamma / N)

The two terms more take out of dy its mean and its part along u: no change of x in these two
directions can change u.

A rectifier may follow: y = f(gamma u + beta). Its gradient dy f' takes the place of dy above, where
the sign of gamma u + beta is computed again, so that y need not be kept.
"""

import numpy as np

from minicnn.ops.reference.elementwise import activate, activate_bias_grad, activate_grad
from minicnn.ops.reference.output import deliver
from minicnn.ops.shapes import check_rectifier


def as_rows(x):
    """(..., c) -> (N, c) in float64: all sums here run over thousands of rows."""
    return x.reshape(-1, x.shape[-1]).astype(np.float64)


def batch_norm_train(x, gamma, beta, epsilon, activation=None, out=None, moving=None):
    """y (..., c), mean (c,), biased variance (c,) of x (..., c); gamma and beta may be None.

    Both statistics are float64: with them the gradients find the same y again. `activation`, a
    rectifier ("relu",) or ("leaky_relu", slope), is applied to y. `moving`, (mean, variance,
    momentum), becomes momentum * moving + (1 - momentum) * statistics in place.
    """
    mean, variance = batch_norm_statistics(x, moving=moving)
    y = batch_norm_inference(x, gamma, beta, mean, variance, epsilon, activation, out)
    return y, mean, variance


def batch_norm_statistics(x, out=None, moving=None):
    """(2, c), mean and biased variance of x (..., c), float64: what `batch_norm_train` begins
    with."""
    rows = as_rows(x)
    mean = rows.mean(axis=0)
    statistics = deliver(np.array([mean, ((rows - mean) ** 2).mean(axis=0)]), np.float64, out)
    if moving is not None:
        *averages, momentum = moving
        for average, new in zip(averages, statistics, strict=True):
            average[...] = momentum * average + (1 - momentum) * new
    return statistics


def batch_norm_train_grad(
    dy, x, gamma, mean, variance, epsilon, beta=None, activation=None, out=None, sums=None
):
    """dx (..., c), dgamma (c,), dbeta (c,); mean and variance as batch_norm_train returned them.

    `beta` is needed for the sign of what `activation` was applied to; dy is the gradient after it.
    `sums` (2, c), of dy and dy (x - mean), are those of `add_normalized_grad`: they spare a pass.
    """
    u, scale = normalized(x, mean, variance, epsilon)
    dy_rows = before_activation(as_rows(dy), u, gamma, beta, activation)
    dbeta = dy_rows.sum(axis=0) if sums is None else sums[0]
    dgamma = (dy_rows * u).sum(axis=0) if sums is None else sums[1] * scale
    dx = affine(scale * (dy_rows - dbeta / len(u) - u * dgamma / len(u)), gamma)
    dx = deliver(dx.reshape(x.shape), x.dtype, out)
    return dx, dgamma.astype(x.dtype), dbeta.astype(x.dtype)


def batch_norm_activation_grad(
    dy, x, gamma, mean, variance, epsilon, below, beta=None, activation=None, out=None, sums=None
):
    """dz, its sum (c,), dgamma, dbeta where x = below(z): `batch_norm_train_grad` gone on.

    For activations `below` whose derivative follows from their value x.
    """
    dx, dgamma, dbeta = batch_norm_train_grad(
        dy, x, gamma, mean, variance, epsilon, beta, activation, sums=sums
    )
    return (*activate_bias_grad(dx, x, below, out), dgamma, dbeta)


def batch_norm_inference(x, gamma, beta, mean, variance, epsilon, activation=None, out=None):
    """y of x (..., c) with a given mean (c,) and variance (c,): the moving averages."""
    u, _ = normalized(x, mean, variance, epsilon)
    y = affine(u, gamma, beta)
    if activation is not None:
        check_rectifier(activation)
        y = activate(y, activation)
    return deliver(y.reshape(x.shape), x.dtype, out)


def batch_norm_inference_grad(
    dy, x, gamma, mean, variance, epsilon, beta=None, activation=None, out=None
):
    """dx (..., c), dgamma (c,), dbeta (c,) where mean and variance are constants."""
    u, scale = normalized(x, mean, variance, epsilon)
    dy_rows = before_activation(as_rows(dy), u, gamma, beta, activation)
    dx = deliver(affine(scale * dy_rows, gamma).reshape(x.shape), x.dtype, out)
    return dx, (dy_rows * u).sum(axis=0).astype(x.dtype), dy_rows.sum(axis=0).astype(x.dtype)


def normalized(x, mean, variance, epsilon):
    """u (N, c) and the factor 1 / sqrt(variance + epsilon) in it."""
    scale = 1 / np.sqrt(variance.astype(np.float64) + epsilon)
    return (as_rows(x) - mean) * scale, scale


def before_activation(dy, u, gamma, beta, activation):
    """The gradient of gamma u + beta where dy is that of its activation."""
    if activation is None:
        return dy
    check_rectifier(activation)
    return activate_grad(dy, affine(u, gamma, beta), activation)


def affine(u, gamma, beta=None):
    """gamma u + beta, each only where it exists (scale=False, center=False)."""
    if gamma is not None:
        u = u * gamma
    if beta is not None:
        u = u + beta
    return u
