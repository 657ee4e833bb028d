"""Depthwise convolution: every channel has a kernel of its own (groups = channels = filters).

    y[o, c]  = activation(bias[c] + sum over taps t of x[i(o, t), c] K[t, c])
    dx[i, c] = sum over taps t of dy[o(i, t), c] K[t, c]
    dK[t, c] = sum over o of x[i(o, t), c] dy[o, c]

o, i     pixel of the output, of the input;  i = o stride + t dilation - before, per axis
s        a plane (planes.py): one vector of channels of some rows of x

Design. No channel is ever added to another, so there is no matrix product: the only work is
a * b + c on vectors of channels. Some columns of a row of y stay in registers while the taps pass,
so that a tap costs one load of the kernel and one of s per column; the last columns of a row
overlap those before them. For dK, nine taps stay in registers while the pixels of a band pass; of
three neighbours in a row of the kernel two have their vector of s from the pixel before (0.91 of
the time of 32 pictures of 56 x 56, 64 channels, on a Xeon, where loads were the limit).
Measured (two cores of an EPYC with Zen 4), before and after the planes: 16 pictures of 14 x 14, 256
channels, 5 x 5: y 1.05 and 0.37 ms, dx 0.82 and 0.37; 32 of 56 x 56, 64 channels, 3 x 3: 4.4 and
2.0, 4.7 and 1.8; 32 of 28 x 28, 128 channels, stride 2: 1.02 and 0.42, 1.1 and 0.52.
"""

from minicnn.ops.fast import gemm, planes, simd

_KIND = planes.Taps(numbers=False)
_products = planes.products("depthwise_products", _KIND)
_gradients = planes.gradients("depthwise_gradients", _KIND)
_gradients_of_three = planes.gradients("depthwise_gradients_of_three", _KIND, run=3)


def _sizes(dtype):
    lanes = simd.lanes(dtype)
    return planes.Sizes(unit=lanes, out_unit=lanes, tap_channels=1, pixel_size=lanes)


def convolve(x, kernel, bias, shape, activation, y):
    """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None."""
    plan, lanes = planes.forward_plan(shape, _sizes(x.dtype), x.itemsize), simd.lanes(x.dtype)
    planes.multiply(_products, plan, x, kernel, lanes, gemm.ADJACENT, bias, activation, y)


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat arrays of one dtype."""
    plan, lanes = planes.input_grad_plan(shape, _sizes(dy.dtype), dy.itemsize), simd.lanes(dy.dtype)
    planes.multiply(_products, plan, dy, kernel, lanes, gemm.ADJACENT, None, None, dx)


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat arrays of one dtype."""
    plan = planes.kernel_grad_plan(shape, _sizes(x.dtype), x.itemsize, planes.TAPS)
    neighbours = shape.kernel_shape[1] == 3 and shape.strides[1] == shape.dilation[1] == 1
    gradients = _gradients_of_three if neighbours else _gradients
    planes.sum_up(gradients, plan, planes.TAPS, x, dy, simd.lanes(x.dtype), dk)
