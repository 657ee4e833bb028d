"""Convolution in many small groups: several groups are taken as one, with zeros between them.

    K'[t, (s, c), (g, s', f)] = K[t, c, (g, s', f)] if s = s' else 0        s, s' = 0..m-1

m           how many groups become one
s, s'       the place of a group among its m
c, f        channel and filter within a group

Design. A matrix product whose panels are a vector of filters wide has nothing to do in a group of 8
channels. m groups as one group cost m times the multiplications, most of them by zero, on full
vectors (times: docs/kernels.md, "Groups of few channels"). A NaN or an infinity reaches all m
groups.
"""

import functools

from minicnn.ops import arena

WIDE_ENOUGH = 32  # channels and filters of a merged group


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
        wide.fill(0)
        places = self._by_place(wide, self.wide.kernel_shape)
        narrow = self._by_place(kernel, shape.kernel_shape)
        for s in range(self.m):
            places[:, :, s, :, :, s] = narrow[:, :, :, :, s]
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
            narrow[:, :, :, :, s] = places[:, :, s, :, :, s]
