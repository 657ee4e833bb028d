"""Convolution and then the maxima of 2x2 windows; equations in the files of either."""

from minicnn.ops.reference.convolution import conv2d
from minicnn.ops.reference.pooling import max_pool2d
from minicnn.ops.shapes import PAIRS


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
