"""Convolution in many small groups: group by group, or several groups as one.

    y[p, g, f]     = activation(bias[g, f] + sum over t, c of s[p + t, c] K[t, c, g, f])
    dK[t, c, g, f] = sum over p of s[p + t, c] dy[p, g, f]

    K'[t, (s, c), (g, s', f)] = K[t, c, (g, s', f)] if s = s' else 0        s, s' = 0..m-1

g, c, f     group, channel and filter within a group
p, t        pixel of the output, cell of the kernel
s           a plane (planes.py): the channels of one group in some rows of x; in the last line: the
            place of a group among m
m           how many groups become one

Design. Where a vector or half of one holds the channels of a group, and its filters, some columns
of a row of y stay in registers, a vector of filters each, while cells and channels pass: a tap
costs a load of the kernel, and one number of s per column, which is broadcast by the product that
needs it. Half vectors of AVX-512 are used because some processors execute two at a time. 32
pictures of 14 x 14, 256 channels in 32 groups (two cores of an EPYC with Zen 4): y 1.6 ms, with
groups merged 5.6; dx 1.6 instead of 5.9, dK 1.6 instead of 4.5.

Larger groups, and all where the processor has a tile unit, are taken m as one: m times the
multiplications, but on full panels (docs/kernels.md, "Groups of few channels"). A NaN or an
infinity then reaches all m groups.
"""

import functools

import numpy as np

from minicnn.ops import arena
from minicnn.ops.fast import gemm, planes, simd
from minicnn.ops.fast.tiles import HALVES
from minicnn.ops.recording import noted

WIDE_ENOUGH = 32  # channels and filters of a merged group


# -- Group by group --------------------------------------------------------------------------------

_products = [planes.products("group_products", False), planes.products("half_products", HALVES)]
_gradients = [
    planes.gradients("group_gradients", False),
    planes.gradients("half_gradients", HALVES),
]


def is_small(shape, dtype):
    """Whether a vector holds the channels of a group, and its filters; single ones would leave
    most of it empty (1 channel to 2 filters: dK took twice as long as with groups merged)."""
    return min(_sides(shape)) > 1 and max(_sides(shape)) <= simd.lanes(dtype)


def _sides(shape):
    return shape.kernel_shape[2], shape.kernel_shape[3] // shape.groups


def _half_and_lanes(shape, dtype):
    """Whether half a vector holds as many, and the lanes of the vectors to use."""
    lanes = simd.lanes(dtype)
    half = HALVES and 2 * max(_sides(shape)) <= lanes
    return half, lanes // 2 if half else lanes


def convolve(x, kernel, bias, shape, activation, y):
    """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None."""
    (channels, filters), (half, lanes) = _sides(shape), _half_and_lanes(shape, x.dtype)
    plan = planes.forward_plan(shape, planes.Sizes(channels, filters, channels, lanes), x.itemsize)
    planes.multiply(_products[half], plan, x, kernel, filters, gemm.ADJACENT, bias, activation, y)


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat arrays of one dtype."""
    (channels, filters), (half, lanes) = _sides(shape), _half_and_lanes(shape, dy.dtype)
    sizes = planes.Sizes(filters, channels, filters, lanes)
    plan = planes.input_grad_plan(shape, sizes, dy.itemsize)
    step = shape.kernel_shape[3]
    planes.multiply(_products[half], plan, dy, kernel, filters, step, None, None, dx)


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat arrays of one dtype."""
    (channels, filters), (half, lanes) = _sides(shape), _half_and_lanes(shape, x.dtype)
    cells, taps = planes.gradient_tile(lanes)
    sizes = planes.Sizes(channels, filters, channels, lanes)
    plan = planes.kernel_grad_plan(shape, sizes, x.itemsize, cells * taps)
    planes.sum_up(_gradients[half], plan, cells * taps, x, dy, filters, dk)


# -- Several groups as one -------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def merged(shape):
    """(m, the geometry with every m groups as one); m = 1 where that would not pay."""
    kh, kw, per_group, filters = shape.kernel_shape
    least = min(per_group, filters // shape.groups)
    for m in range(1, shape.groups + 1):
        if shape.groups % m == 0 and (m * least >= WIDE_ENOUGH or m == shape.groups):
            break
    if m * max(per_group, filters // shape.groups) > 2 * WIDE_ENOUGH:
        m = 1  # one side is wide already: the zeros would cost more than they save
    kernel_shape = (kh, kw, m * per_group, filters)
    return m, shape._replace(kernel_shape=kernel_shape, groups=shape.groups // m)


class Merged:
    """The three products by way of `algorithm` on the geometry `wide`, m groups at a time."""

    def __init__(self, m, wide, algorithm):
        self.m, self.wide, self.algorithm = m, wide, algorithm

    def _by_place(self, kernel, kernel_shape):
        """Views (kh, kw, c, groups / m, m, f) of a kernel and (kh, kw, m, c, ...) of a wide one."""
        kh, kw, per_group, filters = kernel_shape
        together = kernel_shape[2] == self.wide.kernel_shape[2]
        rows = (self.m, per_group // self.m) if together else (per_group,)
        return kernel.reshape(kh, kw, *rows, self.wide.groups, self.m, -1)

    def _merge(self, kernel, shape):
        wide = arena.empty((self.m * kernel.size,), kernel.dtype)
        noted(np.copyto, wide, 0)
        places = self._by_place(wide, self.wide.kernel_shape)
        narrow = self._by_place(kernel, shape.kernel_shape)
        for s in range(self.m):
            noted(np.copyto, places[:, :, s, :, :, s], narrow[:, :, :, :, s])
        return wide

    def convolve(self, x, kernel, bias, shape, activation, y):
        """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None."""
        self.algorithm.convolve(x, self._merge(kernel, shape), bias, self.wide, activation, y)

    def convolve_input_grad(self, dy, kernel, shape, dx):
        """dx from dy and the kernel; flat arrays of one dtype."""
        self.algorithm.convolve_input_grad(dy, self._merge(kernel, shape), self.wide, dx)

    def convolve_kernel_grad(self, x, dy, shape, dk):
        """dk from x and dy; flat arrays of one dtype."""
        dwide = arena.empty((self.m * dk.size,), dk.dtype)
        self.algorithm.convolve_kernel_grad(x, dy, self.wide, dwide)
        places = self._by_place(dwide, self.wide.kernel_shape)
        narrow = self._by_place(dk, shape.kernel_shape)
        for s in range(self.m):
            noted(np.copyto, narrow[:, :, :, :, s], places[:, :, s, :, :, s])
