"""Dense layers: the products of convolution on pictures of one pixel, and sums over rows.

    y = activation(x K + bias)      dx = dy K^T      dK = x^T dy      db = sum over rows of dy

BLAS stays out of the training step: its threads would spin beside Numba's and cost far more than
the product itself.
"""

import numpy as np

from minicnn.ops.fast import amx, amx_direct, dense_products, direct, operands
from minicnn.ops.fast.channel_sums import channel_sums

# Multiplications: with fewer the tile unit saves less than 0.1 ms a step (0.03 for 64 x 2048 by
# 2048 x 10), but its kernels take 4 s to compile, and many a network has no other use for them.
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
        algorithm = _algorithm(shape, dtype)
        if algorithm is direct and dense_products.fits(m, k, dtype.itemsize):
            sizes = m, k, n
            dense_products.multiply(x, kernel, False, bias, sizes, activation, y.reshape(-1))
        else:
            algorithm.convolve(x, kernel, bias, shape, activation, y.reshape(-1))
    return y


def dense_input_grad(dy, kernel, out=None):
    """dx (m, k) = dy (m, n) @ kernel^T."""
    dtype = operands.float_type("dy", dy)
    m, (k, n) = dy.shape[0], kernel.shape
    dy = operands.flat("dy", dy, (m, n), dtype)
    dx = operands.output(out, (m, k), dtype)
    if dx.size:
        kernel = operands.flat("kernel", kernel, (k, n), dtype)
        shape = _geometry((m, k), (k, n))
        algorithm = _algorithm(_geometry((m, n), (n, k)), dtype)
        if algorithm is direct and dense_products.fits(m, n, dtype.itemsize):
            dense_products.multiply(dy, kernel, True, None, (m, n, k), None, dx.reshape(-1))
        else:
            algorithm.convolve_input_grad(dy, kernel, shape, dx.reshape(-1))
    return dx


def _algorithm(shape, dtype):
    """The module that multiplies; `shape` is that of the product, not of the layer."""
    m, (_, _, k, n) = shape.input_shape[0], shape.kernel_shape
    worth = dtype == np.float32 and m * k * n >= WORTH_COMPILING and amx_direct.pays(k, n, m)
    return amx_direct if worth and amx.is_available() else direct


def dense_kernel_grad(x, dy, out=None):
    """dkernel (k, n) = x^T @ dy."""
    dtype = operands.float_type("x", x)
    (m, k), n = x.shape, dy.shape[-1]
    dy = operands.flat("dy", dy, (m, n), dtype)
    dkernel = operands.output(out, (k, n), dtype)
    if not m:
        dkernel.fill(0)
    elif dkernel.size:
        x = operands.flat("x", x, (m, k), dtype)
        if m <= dense_products.MOST_ROWS:
            dense_products.kernel_gradient(x, dy, (m, k, n), dkernel.reshape(-1))
        else:
            direct.convolve_kernel_grad(x, dy, _geometry((m, k), (k, n)), dkernel.reshape(-1))
    return dkernel


def bias_grad(dy, out=None):
    """db (n,): the sum of dy (..., n) over all axes but the last, added up in float64."""
    dtype = operands.float_type("dy", dy)
    columns = dy.shape[-1]
    db = operands.output(out, (columns,), dtype)
    db[:] = channel_sums(operands.flat("dy", dy, dy.shape, dtype), dy.shape)
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
