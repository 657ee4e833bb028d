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
"""

import numpy as np

from minicnn.ops.reference.elementwise import activate_bias_grad
from minicnn.ops.reference.output import deliver


def as_rows(x):
    """(..., c) -> (N, c) in float64: all sums here run over thousands of rows."""
    return x.reshape(-1, x.shape[-1]).astype(np.float64)


def batch_norm_train(x, gamma, beta, epsilon, out=None):
    """y, mean (c,), biased variance (c,) of x (..., c); gamma and beta may be None."""
    rows = as_rows(x)
    mean = rows.mean(axis=0)
    variance = ((rows - mean) ** 2).mean(axis=0)
    y = (rows - mean) / np.sqrt(variance + epsilon)
    y = affine(y, gamma, beta).reshape(x.shape)
    return deliver(y, x.dtype, out), mean.astype(x.dtype), variance.astype(x.dtype)


def batch_norm_train_grad(dy, x, gamma, mean, variance, epsilon, out=None):
    """dx (..., c), dgamma (c,), dbeta (c,); mean and variance as batch_norm_train returned them."""
    rows, dy_rows = as_rows(x), as_rows(dy)
    scale = 1 / np.sqrt(variance.astype(np.float64) + epsilon)
    u = rows - mean
    u -= u.mean(axis=0)  # what rounding to x's type took from the mean
    u *= scale
    dbeta = dy_rows.sum(axis=0)
    dgamma = (dy_rows * u).sum(axis=0)
    dx = affine(scale * (dy_rows - dbeta / len(u) - u * dgamma / len(u)), gamma)
    dx = deliver(dx.reshape(x.shape), x.dtype, out)
    return dx, dgamma.astype(x.dtype), dbeta.astype(x.dtype)


def batch_norm_activation_grad(dy, x, gamma, mean, variance, epsilon, activation, out=None):
    """dz, its sum (c,), dgamma, dbeta where x = activation(z): `batch_norm_train_grad` gone on.

    For activations whose derivative follows from their value x.
    """
    dx, dgamma, dbeta = batch_norm_train_grad(dy, x, gamma, mean, variance, epsilon)
    return (*activate_bias_grad(dx, x, activation, out), dgamma, dbeta)


def batch_norm_inference(x, gamma, beta, mean, variance, epsilon, out=None):
    """y of x (..., c) with a given mean (c,) and variance (c,): the moving averages."""
    y = (as_rows(x) - mean) / np.sqrt(variance.astype(np.float64) + epsilon)
    return deliver(affine(y, gamma, beta).reshape(x.shape), x.dtype, out)


def batch_norm_inference_grad(dy, x, gamma, mean, variance, epsilon, out=None):
    """dx (..., c), dgamma (c,), dbeta (c,) where mean and variance are constants."""
    dy_rows = as_rows(dy)
    scale = 1 / np.sqrt(variance.astype(np.float64) + epsilon)
    dbeta = dy_rows.sum(axis=0)
    dgamma = (dy_rows * (as_rows(x) - mean) * scale).sum(axis=0)
    dx = deliver(affine(scale * dy_rows, gamma).reshape(x.shape), x.dtype, out)
    return dx, dgamma.astype(x.dtype), dbeta.astype(x.dtype)


def affine(u, gamma, beta=None):
    """gamma u + beta, each only where it exists (scale=False, center=False)."""
    if gamma is not None:
        u = u * gamma
    if beta is not None:
        u = u + beta
    return u
