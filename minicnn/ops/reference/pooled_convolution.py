"""Convolution and then the maxima of 2x2 windows; equations in the files of either."""

from minicnn.ops.reference.convolution import conv2d, conv2d_kernel_grad
from minicnn.ops.reference.dense import bias_grad
from minicnn.ops.reference.elementwise import activate_grad
from minicnn.ops.reference.pooling import max_pool2d, max_pool2d_grad
from minicnn.ops.shapes import PAIRS, window_output_size


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
    y = conv2d(x, kernel, bias, strides, padding, dilation, groups, activation)
    return max_pool2d(y, *PAIRS, pool, out)


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

    y and index are what `conv2d_max_pool` gave; y may be None without an activation.
    """
    window = strides, padding, dilation, groups
    size = window_output_size(x.shape[1:3], kernel_shape[:2], strides, padding, dilation)
    if activation is not None:
        dy = activate_grad(dy, y, activation)
    dz = max_pool2d_grad(dy, index, (len(x), *size, kernel_shape[3]), *PAIRS, pool)
    return conv2d_kernel_grad(x, dz, kernel_shape, *window, out), bias_grad(dy)
