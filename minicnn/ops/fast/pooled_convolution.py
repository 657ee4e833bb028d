"""Convolution and the maxima of 2x2 windows in one pass; equations in the files of either.

Design: what Winograd's last transform leaves in registers are whole windows; their maxima and
winners are stored and nothing else, a quarter of the outputs. bands.py computes a band of
rows into a buffer that stays in the caches and pools it there; for the gradient of a kernel it
spreads the gradient of the maxima into such a buffer. Other algorithms are followed by the pooling,
and follow its gradient.
"""

import numpy as np

from minicnn.ops import arena, shapes
from minicnn.ops.fast import bands, operands
from minicnn.ops.fast.convolution import (
    algorithm_for,
    conv2d,
    conv2d_kernel_grad,
    pools_itself,
)
from minicnn.ops.fast.dense import bias_grad
from minicnn.ops.fast.direct import FORWARD, KERNEL_GRAD, geometry
from minicnn.ops.fast.elementwise import rectifier
from minicnn.ops.fast.pooling import max_pool2d, max_pool2d_activation_grad, max_pool2d_grad


def conv2d_max_pool(
    x,
    kernel,
    bias=None,
    strides=(1, 1),
    padding="valid",
    dilation=(1, 1),
    groups=1,
    activation=None,
    pool="valid",
    out=None,
):
    """y (n, ph, pw, f), the maxima of 2x2 windows of conv2d's y, and their places (uint8).

    `conv2d`, then `max_pool2d` with windows of 2x2 and padding `pool`.
    """
    dtype = operands.float_type("x", x)
    shape = geometry(x.shape, kernel.shape, strides, padding, dilation, groups)
    algorithm = algorithm_for(shape, dtype, FORWARD)
    if not pools_itself(algorithm, shape, activation):
        y = conv2d(x, kernel, bias, strides, padding, dilation, groups, activation)
        return max_pool2d(y, *shapes.PAIRS, pool, out)
    y_shape = shapes.pooled_shape(shape.output_shape, pool)
    y = operands.output(out, y_shape, dtype)
    index = arena.empty(y_shape, shapes.window_index_dtype(shapes.PAIRS[0]))
    if y.size:
        if bias is not None:
            bias = operands.flat("bias", bias, shape.kernel_shape[3:], dtype)
        x = operands.flat("x", x, shape.input_shape, dtype)
        kernel = operands.flat("kernel", kernel, shape.kernel_shape, dtype)
        algorithm.convolve(x, kernel, bias, shape, activation, y.reshape(-1), y_shape,
                           index.reshape(-1))  # fmt: skip
    return y, index


def conv2d_max_pool_kernel_grad(
    x,
    dy,
    index,
    y,
    kernel_shape,
    strides=(1, 1),
    padding="valid",
    dilation=(1, 1),
    groups=1,
    activation=None,
    pool="valid",
    out=None,
):
    """dkernel (kh, kw, c / groups, f) and dbias (f,) from dy (n, ph, pw, f).

    y and index are what `conv2d_max_pool` gave; y may be None without an activation. The gradient
    of the convolution's outputs, four times as large as dy, is not written where bands.py computes.
    """
    dtype = operands.float_type("x", x)
    window = strides, padding, dilation, groups
    shape = geometry(x.shape, kernel_shape, *window)
    simple = activation is None or activation[0] in shapes.RECTIFIERS
    if not (algorithm_for(shape, dtype, KERNEL_GRAD) is bands and simple and dy.size):
        windows = shape.output_shape, *shapes.PAIRS, pool
        if activation is None:
            dz, dbias = max_pool2d_grad(dy, index, *windows), bias_grad(dy)
        else:
            dz, dbias = max_pool2d_activation_grad(dy, index, y, activation, *windows)
        return conv2d_kernel_grad(x, dz, kernel_shape, *window, out), dbias
    y_shape = shapes.pooled_shape(shape.output_shape, pool)
    dkernel = operands.output(out, shape.kernel_shape, dtype)
    dy = operands.flat("dy", dy, y_shape, dtype)
    index = operands.flat("index", index, y_shape, shapes.window_index_dtype(shapes.PAIRS[0]))
    maxima = dy if activation is None else operands.flat("y", y, y_shape, dtype)
    total = np.empty((1, y_shape[3]))
    pooled = y_shape, index, maxima, rectifier(activation, dtype), total
    x = operands.flat("x", x, shape.input_shape, dtype)
    bands.convolve_kernel_grad(x, dy, shape, dkernel.reshape(-1), pooled)
    return dkernel, operands.rounded(total[0], dtype)
