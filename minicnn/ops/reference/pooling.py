"""Pooling replaces every window of a channel by one number, its maximum or its mean. Backward, the
maximum hands its gradient to the pixel that won and the mean hands everybody an equal share.

With the windows W[n, i, j, a, b, c] of the padded x as in convolution.py:

    max:      y = max over a, b of W           dW[a, b] = dy if (a, b) won, else 0
    average:  y = sum over a, b of W / m       dW[a, b] = dy / m        m: pixels not in the padding

and dx = col2im(dW), because a pixel may lie in several windows.
"""

import numpy as np

from minicnn.ops.reference.convolution import col2im, im2col
from minicnn.ops.reference.elementwise import activate_bias_grad
from minicnn.ops.reference.output import deliver
from minicnn.ops.shapes import pool_padding, window_index_dtype


def inside(input_shape, pool_size, strides, padding):
    """(1, oh, ow, kh, kw, 1): 1 where a window's cell lies on the image, 0 on the padding."""
    return im2col(np.ones((1, *input_shape[1:3], 1)), pool_size, strides, padding)


def max_pool2d(x, pool_size, strides, padding, out=None):
    """(n, h, w, c) -> the maxima (n, oh, ow, c) and the winner's place a * kw + b in its window.

    The first maximum wins, as in Keras; NaN counts as larger than everything, so it propagates.
    """
    padding = pool_padding(padding, x.shape[1:3], pool_size, strides)
    windows = im2col(x, pool_size, strides, padding, fill=-np.inf)
    n, oh, ow, kh, kw, c = windows.shape
    cells = windows.reshape(n, oh, ow, kh * kw, c)
    index = cells.argmax(axis=3)
    y = np.take_along_axis(cells, index[:, :, :, None], axis=3)[:, :, :, 0]
    # Where all pixels are -inf, argmax may have taken a cell of the padding: take the first pixel.
    first = inside(x.shape, pool_size, strides, padding).reshape(1, oh, ow, kh * kw, 1).argmax(3)
    index = np.where(np.isneginf(y), first, index)
    return deliver(y, x.dtype, out), index.astype(window_index_dtype(pool_size))


def max_pool2d_grad(dy, index, input_shape, pool_size, strides, padding, out=None):
    """dx (n, h, w, c): every dy (n, oh, ow, c) is added to the pixel that won its window."""
    padding = pool_padding(padding, input_shape[1:3], pool_size, strides)
    n, oh, ow, c = dy.shape
    cells = np.zeros((n, oh, ow, pool_size[0] * pool_size[1], c), dy.dtype)
    np.put_along_axis(cells, index[:, :, :, None].astype(np.intp), dy[:, :, :, None], axis=3)
    dwindows = cells.reshape(n, oh, ow, *pool_size, c)
    return deliver(col2im(dwindows, input_shape, strides, padding), dy.dtype, out)


def max_pool2d_activation_grad(
    dy, index, y, activation, input_shape, pool_size, strides, padding, out=None
):
    """dz (n, h, w, c) and its sum (c,), where y = max_pool2d(activation(z)).

    `max_pool2d_grad` and the derivative of an activation that follows from its value: that is y
    where dy goes to.
    """
    dy, total = activate_bias_grad(dy, y, activation)
    return max_pool2d_grad(dy, index, input_shape, pool_size, strides, padding, out), total


def average_pool2d(x, pool_size, strides, padding, out=None):
    """(n, h, w, c) -> (n, oh, ow, c): the mean of each window; padding is not counted."""
    padding = pool_padding(padding, x.shape[1:3], pool_size, strides)
    pixels = inside(x.shape, pool_size, strides, padding).sum(axis=(3, 4))
    y = im2col(x, pool_size, strides, padding).sum(axis=(3, 4)) / pixels
    return deliver(y, x.dtype, out)


def average_pool2d_grad(dy, input_shape, pool_size, strides, padding, out=None):
    """dx (n, h, w, c): every pixel of a window gets dy / (pixels in it)."""
    padding = pool_padding(padding, input_shape[1:3], pool_size, strides)
    n, oh, ow, c = dy.shape
    pixels = inside(input_shape, pool_size, strides, padding).sum(axis=(3, 4))
    share = (dy / pixels)[:, :, :, None, None]
    dwindows = np.broadcast_to(share, (n, oh, ow, *pool_size, c))
    return deliver(col2im(dwindows, input_shape, strides, padding), dy.dtype, out)


def global_average_pool2d(x, out=None):
    """(n, h, w, c) -> (n, c): the mean over all pixels."""
    return deliver(x.mean(axis=(1, 2), dtype=np.float64), x.dtype, out)


def global_average_pool2d_grad(dy, input_shape, out=None):
    """dx (n, h, w, c): every pixel gets dy / (h w)."""
    n, h, w, c = input_shape
    share = (dy / (h * w)).reshape(n, 1, 1, c)
    return deliver(np.broadcast_to(share, input_shape), dy.dtype, out)


def global_max_pool2d(x, out=None):
    """(n, h, w, c) -> the maxima (n, c) and the winner's place row * w + column (int32)."""
    n, h, w, c = x.shape
    pixels = x.reshape(n, h * w, c)
    index = pixels.argmax(axis=1)
    y = np.take_along_axis(pixels, index[:, None], axis=1)[:, 0]
    return deliver(y, x.dtype, out), index.astype(np.int32)


def global_max_pool2d_grad(dy, index, input_shape, out=None):
    """dx (n, h, w, c): dy (n, c) at the pixel that won, 0 elsewhere."""
    n, h, w, c = input_shape
    dx = np.zeros((n, h * w, c), dy.dtype)
    np.put_along_axis(dx, index[:, None].astype(np.intp), dy[:, None], axis=1)
    return deliver(dx.reshape(input_shape), dy.dtype, out)
