"""Dense layers: the products of convolution on pictures of one pixel, and sums over rows.

    y = activation(x K + bias)      dx = dy K^T      dK = x^T dy      db = sum over rows of dy

BLAS stays out of the training step: its threads would spin beside Numba's and cost far more than
the product itself.
"""

import numpy as np

from minicnn.ops.fast import amx, amx_dense, dense_heads, dense_products, direct, operands
from minicnn.ops.fast.channel_sums import channel_sums
from minicnn.ops.recording import noted

# Multiplications: with fewer the tile unit saves less than 0.1 ms a step (0.03 for 64 x 2048 by
# 2048 x 10), but its kernels take 3 s to compile, and many a network has no other use for them.
WORTH_COMPILING = 1 << 25


def dense(x, kernel, bias=None, activation=None, out=None):
    """y (m, n) = activation(x (m, k) @ kernel (k, n) + bias)."""
    dtype = operands.float_type("x", x)
    shape = _geometry(x.shape, kernel.shape)
    y = operands.output(out, (x.shape[0], kernel.shape[1]), dtype)
    if bias is not None:
        bias = operands.flat("bias", bias, (kernel.shape[1],), dtype)
    if y.size:
        (m, k), n = x.shape, kernel.shape[1]
        x = operands.flat("x", x, x.shape, dtype)
        kernel = operands.flat("kernel", kernel, kernel.shape, dtype)
        products = _products(m, k, n, dtype)
        if dense_heads.fits(n):
            dense_heads.multiply(x, kernel, bias, (m, k, n), activation, y.reshape(-1))
        elif products is not None:
            products.multiply(x, kernel, False, bias, (m, k, n), activation, y.reshape(-1))
        else:
            direct.convolve(x, kernel, bias, shape, activation, y.reshape(-1))
    return y


def dense_input_grad(dy, kernel, out=None):
    """dx (m, k) = dy (m, n) @ kernel^T."""
    dtype = operands.float_type("dy", dy)
    m, (k, n) = dy.shape[0], kernel.shape
    dy = operands.flat("dy", dy, (m, n), dtype)
    dx = operands.output(out, (m, k), dtype)
    if dx.size:
        kernel = operands.flat("kernel", kernel, (k, n), dtype)
        products = _products(m, n, k, dtype)
        if dense_heads.fits(n):
            dense_heads.input_gradient(dy, kernel, (m, k, n), dx.reshape(-1))
        elif products is not None:
            products.multiply(dy, kernel, True, None, (m, n, k), None, dx.reshape(-1))
        else:
            direct.convolve_input_grad(dy, kernel, _geometry((m, k), (k, n)), dx.reshape(-1))
    return dx


def _worth(m, k, n, dtype):
    return dtype == np.float32 and m * k * n >= WORTH_COMPILING and amx.is_available()


def _products(m, k, n, dtype):
    """The module for products of (m, k) and (k, n), or None if `direct` is to do them."""
    if _worth(m, k, n, dtype) and amx_dense.fits(m, k, n):
        return amx_dense
    return dense_products if dense_products.fits(m, k, dtype.itemsize) else None


def dense_kernel_grad(x, dy, out=None):
    """dkernel (k, n) = x^T @ dy."""
    dtype = operands.float_type("x", x)
    (m, k), n = x.shape, dy.shape[-1]
    dy = operands.flat("dy", dy, (m, n), dtype)
    dkernel = operands.output(out, (k, n), dtype)
    if not m:
        noted(np.copyto, dkernel, 0)
    elif dkernel.size:
        x = operands.flat("x", x, (m, k), dtype)
        if dense_heads.fits(n):
            dense_heads.kernel_gradient(x, dy, (m, k, n), dkernel.reshape(-1))
        elif _worth(m, k, n, dtype) and amx_dense.fits_gradient(m, k, n):
            amx_dense.kernel_gradient(x, dy, (m, k, n), dkernel.reshape(-1))
        elif m <= dense_products.MOST_ROWS:
            dense_products.kernel_gradient(x, dy, (m, k, n), dkernel.reshape(-1))
        else:
            direct.convolve_kernel_grad(x, dy, _geometry((m, k), (k, n)), dkernel.reshape(-1))
    return dkernel


def bias_grad(dy, out=None):
    """db (n,): the sum of dy (..., n) over all axes but the last, added up in float64."""
    dtype = operands.float_type("dy", dy)
    columns = dy.shape[-1]
    db = operands.output(out, (columns,), dtype)
    noted(np.copyto, db, channel_sums(operands.flat("dy", dy, dy.shape, dtype), dy.shape))
    return db


def _geometry(x_shape, kernel_shape):
    if len(x_shape) != 2 or len(kernel_shape) != 2 or x_shape[1] != kernel_shape[0]:
        raise ValueError(
            f"x has shape {tuple(x_shape)} and kernel {tuple(kernel_shape)}: (m, k) and (k, n) are "
            "needed; flatten x to two axes first"
        )
    (m, k), (_, n) = x_shape, kernel_shape
    if not k:
        raise ValueError("x has shape (m, 0): there is nothing to multiply")
    return direct.Geometry(
        (m, 1, 1, k), (1, 1, k, n), (m, 1, 1, n), (1, 1), ((0, 0), (0, 0)), (1, 1), 1
    )
