"""A convolution lays every window of the image out as one row of a matrix (im2col) and multiplies
this matrix by the kernel. Both gradients are matrix products over the same rows; the input's is
then added back, window by window, to where im2col took it from (col2im).

With stride s, dilation d and x already padded (written for one group):

    y[n, i, j, f]  = sum over a, b, c   x[n, i s + a d, j s + b d, c]  k[a, b, c, f]   + bias[f]

Each x and each k meets dy[n, i, j, f] where it met y[n, i, j, f], with the other one as factor:

    dk[a, b, c, f] = sum over n, i, j   x[n, i s + a d, j s + b d, c]  dy[n, i, j, f]
    dx[n, p, q, c] = sum over f and all i, a, j, b with i s + a d = p and j s + b d = q
                                        dy[n, i, j, f]  k[a, b, c, f]

As matrices, one row per output pixel (n, i, j) and one column per kernel cell (a, b, c):

    Y = X K        dK = X^T dY        dX = dY K^T, then col2im
"""

import numpy as np

from minicnn.ops.reference.elementwise import activate
from minicnn.ops.reference.output import deliver
from minicnn.ops.shapes import (
    PAIRS,
    check_one_of_activation_and_floor,
    conv2d_shape,
    pool_padding,
    resolve_padding,
    window_output_size,
)


def im2col(x, kernel_size, strides=(1, 1), padding="valid", dilation=(1, 1), fill=0):
    """All windows of x (n, h, w, c) as a read-only view (n, oh, ow, kh, kw, c) of the padded x.

    Nothing is copied: pixel [n, i, j, a, b, c] of the view is x[n, i s + a d, j s + b d, c], so a
    step along i is a step of s rows in memory, and a step along a is a step of d rows.
    """
    rows, columns = resolve_padding(padding, x.shape[1:3], kernel_size, strides, dilation)
    out_size = window_output_size(x.shape[1:3], kernel_size, strides, (rows, columns), dilation)
    x = np.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=fill)
    image, row, pixel, channel = x.strides
    return np.lib.stride_tricks.as_strided(
        x,
        shape=(len(x), *out_size, *kernel_size, x.shape[3]),
        strides=(
            image,
            row * strides[0],
            pixel * strides[1],
            row * dilation[0],
            pixel * dilation[1],
            channel,
        ),
        writeable=False,
    )


def col2im(windows, input_shape, strides=(1, 1), padding="valid", dilation=(1, 1)):
    """Add all windows (n, oh, ow, kh, kw, c) up where im2col took them from: (n, h, w, c).

    It is the transpose of im2col: a pixel that lay in five windows gets the sum of five numbers.
    """
    n, oh, ow, kh, kw, c = windows.shape
    (sh, sw), (dh, dw), (_, h, w, _) = strides, dilation, input_shape
    (top, bottom), (left, right) = resolve_padding(padding, (h, w), (kh, kw), strides, dilation)
    x = np.zeros((n, top + h + bottom, left + w + right, c), windows.dtype)
    for a in range(kh):
        for b in range(kw):
            rows = slice(a * dh, a * dh + oh * sh, sh)
            columns = slice(b * dw, b * dw + ow * sw, sw)
            x[:, rows, columns] += windows[:, :, :, a, b]
    return x[:, top : top + h, left : left + w]


def split_groups(channels, filters, groups):
    """Per group, the slices of input channels and of filters that see each other."""
    c, f = channels // groups, filters // groups
    return [(slice(g * c, (g + 1) * c), slice(g * f, (g + 1) * f)) for g in range(groups)]


def conv2d(
    x,
    kernel,
    bias=None,
    strides=(1, 1),
    padding="valid",
    dilation=(1, 1),
    groups=1,
    activation=None,
    floor=None,
    pool=None,
    out=None,
    scale=None,
):
    """y (n, oh, ow, f) of x (n, h, w, c) and kernel (kh, kw, c / groups, f): Y = X K, per group.

    scale (f,) multiplies the sums before the bias is added. floor (f,), in place of an activation,
    bounds y from below. pool, "valid" or "same", gives the maxima of 2x2 windows of y instead,
    padded like that.
    """
    kh, kw, c, f = kernel.shape
    windows = im2col(x, (kh, kw), strides, padding, dilation)
    y = np.empty(conv2d_shape(x.shape, kernel.shape, strides, padding, dilation), x.dtype)
    for of_x, of_y in split_groups(x.shape[3], f, groups):
        X = windows[..., of_x].reshape(-1, kh * kw * c)
        K = kernel[..., of_y].reshape(kh * kw * c, f // groups)
        y[..., of_y] = (X @ K).reshape(*y.shape[:3], f // groups)
    if scale is not None:
        y *= scale
    if bias is not None:
        y += bias
    if floor is not None:
        check_one_of_activation_and_floor(activation)
        y = np.maximum(y, floor)
    if activation is not None:
        y = activate(y, activation)
    if pool is not None:
        padding = pool_padding(pool, y.shape[1:3], *PAIRS)
        y = im2col(y, *PAIRS, padding, fill=-np.inf).max(axis=(3, 4))
    return deliver(y, x.dtype, out)


def conv2d_kernel_grad(
    x,
    dy,
    kernel_shape,
    strides=(1, 1),
    padding="valid",
    dilation=(1, 1),
    groups=1,
    out=None,
):
    """dkernel (kh, kw, c / groups, f) from x (n, h, w, c) and dy (n, oh, ow, f): dK = X^T dY."""
    kh, kw, c, f = kernel_shape
    windows = im2col(x, (kh, kw), strides, padding, dilation)
    dkernel = np.empty(kernel_shape, x.dtype)
    for of_x, of_y in split_groups(x.shape[3], f, groups):
        X = windows[..., of_x].reshape(-1, kh * kw * c)
        dY = dy[..., of_y].reshape(-1, f // groups)
        dkernel[..., of_y] = (X.T @ dY).reshape(kh, kw, c, f // groups)
    return deliver(dkernel, x.dtype, out)


def conv2d_input_grad(
    dy,
    kernel,
    input_shape,
    strides=(1, 1),
    padding="valid",
    dilation=(1, 1),
    groups=1,
    out=None,
):
    """dx (n, h, w, c) from dy (n, oh, ow, f) and the kernel: dX = dY K^T, then col2im."""
    kh, kw, c, f = kernel.shape
    dwindows = np.empty((*dy.shape[:3], kh, kw, input_shape[3]), dy.dtype)
    for of_x, of_y in split_groups(input_shape[3], f, groups):
        dY = dy[..., of_y].reshape(-1, f // groups)
        K = kernel[..., of_y].reshape(kh * kw * c, f // groups)
        dwindows[..., of_x] = (dY @ K.T).reshape(*dy.shape[:3], kh, kw, c)
    dx = col2im(dwindows, input_shape, strides, padding, dilation)
    return deliver(dx, dy.dtype, out)
