"""Convolution and the maxima of 2x2 windows in one pass; equations in the files of either.

Design: what Winograd's last transform leaves in registers are whole windows; their maxima and
winners are stored and nothing else, a quarter of the outputs. bands.py computes a band of
rows into a buffer that stays in the caches and pools it there. Other algorithms are followed by
the pooling.
"""

from minicnn.ops import arena, shapes
from minicnn.ops.fast import operands
from minicnn.ops.fast.convolution import algorithm_for, conv2d, pools_itself
from minicnn.ops.fast.direct import FORWARD, geometry
from minicnn.ops.fast.pooling import max_pool2d


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
