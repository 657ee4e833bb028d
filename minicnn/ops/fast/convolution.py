"""Convolution of NHWC pictures with HWIO kernels, and its two gradients.

    y[n, i, j, f] = activation(bias[f] + sum over a, b, c of
                               x[n, i s + a d - top, j s + b d - left, c] kernel[a, b, c, f])

This is the one place where an algorithm is chosen for a shape: see `algorithm_for`.
"""

import functools

import numpy as np
from numba import prange

from minicnn import config
from minicnn.ops import arena, shapes
from minicnn.ops.fast import (
    amx,
    amx_direct,
    amx_gradient,
    amx_winograd,
    amx_winograd_gradient,
    amx_winograd_rows,
    bands,
    depthwise,
    direct,
    few_filters,
    grouped,
    operands,
    winograd,
    winograd_panels,
)
from minicnn.ops.fast.direct import FORWARD, INPUT_GRAD, KERNEL_GRAD, geometry
from minicnn.ops.fast.jit import parallel_kernel
from minicnn.ops.fast.pooling import max_pool2d
from minicnn.ops.recording import noted

# Where Winograd is quicker than `bands`, by the size of the kernel. A vector runs along filters,
# MANY fill it: `bands` takes as long for fewer. 28 x 28, of the time of `bands` (two cores of a
# Xeon): 3x3, 8 to 8 channels 0.8 (the kernel's gradient 1.03), 10 to 24 and 24 to 10 0.5 to 0.65,
# 16 to 3 and 32 to 3 0.4 to 0.57, 4 to 16 1.4; 5x5, 32 to 6 0.63, 16 to 16 1.2 and 32 to 32 0.65
# (these two on a Zen 4).
MANY = 16
LEAST_CHANNELS = {3: 8, 5: 16}
LEAST_PRODUCTS = {3: 64, 5: 16 * 32}  # channels times filters
LEAST_GRADIENT = 128  # the same of a kernel's gradient
# They take a scale in their epilogue.
BY_TILES = (winograd, amx_winograd, amx_winograd_rows, winograd_panels)
WITH_FLOORS = (*BY_TILES, direct, bands, depthwise, few_filters, grouped)


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
    """y (n, oh, ow, f) of x (n, h, w, c) and kernel (kh, kw, c / groups, f).

    scale (f,) multiplies the sums before the bias is added.
    floor (f,), in place of an activation, bounds y from below: max(z, 0) scale + offset of a batch
    normalisation that follows is max(z scale + offset, offset), if the scale is positive.
    pool, "valid" or "same", gives the maxima of 2x2 windows of y instead, padded like that.
    """
    dtype = operands.float_type("x", x)
    shape = geometry(x.shape, kernel.shape, strides, padding, dilation, groups)
    filters, algorithm = shape.kernel_shape[3], algorithm_for(shape, dtype, FORWARD)
    if floor is not None:
        shapes.check_one_of_activation_and_floor(activation)
    if pool is not None and not pools_itself(algorithm, shape, activation):
        window = strides, padding, dilation, groups
        y = conv2d(x, kernel, bias, *window, activation, floor, scale=scale)
        return max_pool2d(y, *shapes.PAIRS, pool, out)[0]
    y_shape = shape.output_shape if pool is None else shapes.pooled_shape(shape.output_shape, pool)
    y = operands.output(out, y_shape, dtype)
    if bias is not None:
        bias = operands.flat("bias", bias, (filters,), dtype)
    if not y.size:
        return y
    x = operands.flat("x", x, shape.input_shape, dtype)
    kernel = operands.flat("kernel", kernel, shape.kernel_shape, dtype)
    if floor is not None:
        floor = operands.flat("floor", floor, (filters,), dtype)
        if algorithm in WITH_FLOORS:
            activation, floor = ("floor", floor), None
    more = {} if pool is None else {"pooled_shape": y_shape}  # for those that pool themselves
    if scale is not None:
        scale = operands.flat("scale", scale, (filters,), dtype)
        if algorithm in BY_TILES:
            more["scale"] = scale
        else:  # into memory that is used again: new pages cost more than the product
            scaled = arena.empty((kernel.size // filters, filters), dtype)
            noted(np.multiply, kernel.reshape(scaled.shape), scale, scaled)
            kernel = scaled.reshape(-1)
    algorithm.convolve(x, kernel, bias, shape, activation, y.reshape(-1), **more)
    if floor is not None:
        raise_to(y.reshape(-1, filters), floor)
    return y


def pools_itself(algorithm, shape, activation):
    """Whether the algorithm takes the maxima of 2x2 windows before outputs leave the caches."""
    simple = activation is None or activation[0] in shapes.RECTIFIERS
    in_registers = algorithm in BY_TILES and shape.dilation == (1, 1) and simple
    return in_registers or algorithm is bands


@parallel_kernel
def raise_to(y, floor):
    """y[i, f] = max(y[i, f], floor[f]) in place, for algorithms that do not do it themselves."""
    for i in prange(len(y)):
        for f in range(floor.size):
            y[i, f] = floor[f] if y[i, f] < floor[f] else y[i, f]


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
    """dx (n, h, w, c) from dy (n, oh, ow, f) and kernel (kh, kw, c / groups, f)."""
    dtype = operands.float_type("dy", dy)
    shape = geometry(input_shape, kernel.shape, strides, padding, dilation, groups)
    dy = operands.flat("dy", dy, shape.output_shape, dtype)
    dx = operands.output(out, shape.input_shape, dtype)
    if dx.size:
        kernel = operands.flat("kernel", kernel, shape.kernel_shape, dtype)
        algorithm = algorithm_for(shape, dtype, INPUT_GRAD)
        algorithm.convolve_input_grad(dy, kernel, shape, dx.reshape(-1))
    return dx


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
    """dkernel (kh, kw, c / groups, f) from x (n, h, w, c) and dy (n, oh, ow, f)."""
    dtype = operands.float_type("x", x)
    shape = geometry(x.shape, kernel_shape, strides, padding, dilation, groups)
    dy = operands.flat("dy", dy, shape.output_shape, dtype)
    dkernel = operands.output(out, shape.kernel_shape, dtype)
    if not dy.size:
        noted(np.copyto, dkernel, 0)
    elif dkernel.size:
        x = operands.flat("x", x, shape.input_shape, dtype)
        algorithm = algorithm_for(shape, dtype, KERNEL_GRAD)
        algorithm.convolve_kernel_grad(x, dy, shape, dkernel.reshape(-1))
    return dkernel


def algorithm_for(shape, dtype, product):
    """What computes one of the three products of this shape, as `config` allows."""
    return _chosen(shape, dtype, product, config.convolution, amx.is_available())


@functools.lru_cache(maxsize=1024)
def _chosen(*question):
    return choose(*question)


def choose(shape, dtype, product, wanted, on_unit):
    """The same for a setting of `config.convolution` and with or without the tile unit."""
    _, _, per_group, filters = shape.kernel_shape
    if per_group == 1 and filters == shape.groups > 1:
        return depthwise
    if shape.groups > 1:
        if grouped.is_small(shape, dtype):
            return grouped
        together, wide = grouped.merged(shape)
        if together > 1:
            of_wide = choose(wide, dtype, product, wanted, on_unit)
            return grouped.Merged(together, wide, of_wide)
    allowed = wanted != "direct" and winograd.is_defined(shape)
    pays = allowed and (wanted == "winograd" or (dtype == np.float32 and _pays(shape, product)))
    ordered = pays and wanted == "winograd"
    if dtype == np.float32 and not ordered and few_filters.pays(shape, product, pays):
        return few_filters
    algorithm = winograd if pays else direct
    on_unit = on_unit and dtype == np.float32
    if pays and product != KERNEL_GRAD:
        if on_unit and amx_winograd_rows.pays(shape, product):
            return amx_winograd_rows
        if winograd_panels.pays(shape, product, on_unit):
            return winograd_panels
    if on_unit:
        algorithm = _on_tile_unit(algorithm, shape, product)
    if algorithm is direct and bands.pays(shape, product):
        return bands
    return algorithm


def _on_tile_unit(algorithm, shape, product):
    """The same algorithm with its sums on the tile unit, where that is quicker."""
    taps, _, channels, filters = shape.kernel_shape
    filters //= shape.groups
    if product == KERNEL_GRAD:
        if algorithm is winograd:
            on_unit = taps == amx_winograd.TAPS and amx_winograd_gradient.pays(shape)
            return amx_winograd_gradient if on_unit else winograd
        return amx_gradient if amx_gradient.pays(shape) else direct
    if product == INPUT_GRAD:
        if taps == 1 and max(shape.strides) > 1:
            return algorithm  # `bands` writes zeros where no tap is: 0.40 ms, 0.67 on the unit
        channels, filters = filters, channels
    if algorithm is winograd:
        on_unit = taps == amx_winograd.TAPS and amx_winograd.pays(channels, filters)
        return amx_winograd if on_unit else winograd
    n, height, width, _ = shape.output_shape
    return amx_direct if amx_direct.pays(channels, filters, n * height * width) else direct


def _pays(shape, product):
    """Whether Winograd is quicker: enough channels to spread the cost of its transforms over, and
    not too many outputs of its tiles beyond the picture's edge, or that of a phase."""
    kh, kw, channels, filters = shape.kernel_shape
    _, height, width, _ = shape.output_shape
    down, across = map(winograd.tile_starts, (height, width), shape.dilation, (kh, kw))
    filters //= shape.groups
    enough = min(channels, filters) >= LEAST_CHANNELS[kh]
    enough = enough and channels * filters >= LEAST_PRODUCTS[kh]
    if product == KERNEL_GRAD:
        enough = enough and channels * filters >= LEAST_GRADIENT
    else:
        summed, made = (channels, filters) if product == FORWARD else (filters, channels)
        enough = enough or (shape.groups == 1 and summed >= MANY and made <= MANY // 2)
    return enough and winograd.ELEMENTS * len(down) * len(across) * 2 < kh * kw * height * width
