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
With strides a pixel of x is seen by two or three outputs, too few to copy it for: there a pixel of
y is made of those of x where they lie, all its channels at once.
Measured (two cores of an EPYC with Zen 4), before and after the planes: 16 pictures of 14 x 14, 256
channels, 5 x 5: y 1.05 and 0.37 ms, dx 0.82 and 0.37; 32 of 56 x 56, 64 channels, 3 x 3: 4.4 and
2.0, 4.7 and 1.8; 32 of 28 x 28, 128 channels, stride 2: 1.02 and 0.42, 1.1 and 0.52. The last
without planes (two cores of a Xeon): 0.69 and 0.70 of the time with them, and 5 x 5 with stride 2,
which keeps them, 0.89 and 1.2.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import prange
from numba.core import cgutils

from minicnn.ops import arena
from minicnn.ops.fast import gemm, planes, sharing, simd, threads
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.simd import Variable

_KIND = planes.Taps(numbers=False)
_products = planes.products("depthwise_products", _KIND)
_gradients = planes.gradients("depthwise_gradients", _KIND)
_gradients_of_three = planes.gradients("depthwise_gradients_of_three", _KIND, run=3)

ABREAST = 4  # vectors of channels whose sums are in registers
FEW = 3  # taps of a pixel of y for each one that the strides pass over
LINES = 8  # rows of y in a task
SOURCE, TAP, COUNT = range(3)  # of a row or column of y: its first in x, its first tap, how many
OUT_HEIGHT, OUT_WIDTH, CHANNELS, IMAGE, ROW, KERNEL_ROW, TAP_ROW, TAP_COLUMN = range(8)


# -- With strides ----------------------------------------------------------------------------------


@simd.vector_intrinsic
def _pixel(v, x, x0, x_row, taps, t0, tap_row, tap_column, rows, columns, channels, start, to_floor,
           y, y0, code, slope):  # fmt: skip
    """y[y0 + c] = start[c] + sum over rows a and columns b of
    x[x0 + a x_row + b channels + c] taps[t0 + a tap_row + b tap_column + c], then a rectifier."""
    builder = v.builder
    rectifying = gemm.is_rectifier(v, code)

    def compute(c, vectors, load, store):
        places = [builder.add(c, v.integer(i * v.lanes)) for i in range(vectors)]
        sums = [Variable(v, v.load(start, place)) for place in places]
        with v.count_up(rows) as (a, _):
            x_at = builder.add(x0, builder.mul(a, x_row))
            tap_at = builder.add(t0, builder.mul(a, tap_row))
            with v.count_up(columns) as (b, _):
                x_now = builder.add(x_at, builder.mul(b, channels))
                tap_now = builder.add(tap_at, builder.mul(b, tap_column))
                for total, place in zip(sums, places, strict=True):
                    value = load(x, builder.add(x_now, place))
                    weight = load(taps, builder.add(tap_now, place))
                    total.value = v.multiply_add(value, weight, total.value)
        for total, place in zip(sums, places, strict=True):
            change = gemm.rectified(v, code, slope, start, builder.add(to_floor, place))
            value = builder.select(rectifying, change(total.value), total.value)
            store(value, y, builder.add(y0, place))

    together = v.integer(ABREAST * v.lanes)
    whole = builder.mul(builder.sdiv(channels, together), together)
    with v.count_up(whole, ABREAST * v.lanes) as (c, _):
        compute(c, ABREAST, v.load, v.store)
    rest = cgutils.for_range_slice(builder, whole, channels, v.integer(v.lanes), simd.INTEGER)
    with rest as (c, _):
        v.whole_or_first(builder.sub(channels, c), lambda *access: compute(c, 1, *access))


@parallel_kernel
def _strided(x, table, down, across, taps, start, y, code, slope, workers, taken):
    sharing.open_tasks(taken)
    for worker in prange(workers):
        _worker_strided(np.int64(worker), x, table, down, across, taps, start, y, code, slope,
                        workers, taken)  # fmt: skip


@kernel
def _worker_strided(worker, x, table, down, across, taps, start, y, code, slope, workers, taken):
    channels, width = table[CHANNELS], table[OUT_WIDTH]
    to_floor = start.size // 2 if code == gemm.FLOOR else 0  # see gemm.start_vector
    lines = len(y) // (width * channels)
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, workers, taken)
        if task < 0:
            continue
        for line in range(task * LINES, min((task + 1) * LINES, lines)):
            image, row = divmod(line, table[OUT_HEIGHT])
            x_row = image * table[IMAGE] + down[row, SOURCE] * table[ROW]
            tap_row = down[row, TAP] * table[KERNEL_ROW]
            for column in range(width):
                _pixel(x, x_row + across[column, SOURCE] * channels, table[ROW], taps,
                       tap_row + across[column, TAP] * channels, table[TAP_ROW],
                       table[TAP_COLUMN], down[row, COUNT], across[column, COUNT], channels, start,
                       to_floor, y, (line * width + column) * channels, code, slope)  # fmt: skip
            if code > gemm.FLOOR:
                gemm.activate_row(y, line * width * channels, width * channels, code, slope)


class _Plan(NamedTuple):
    """Tables for `_strided`."""

    table: np.ndarray
    down: np.ndarray
    across: np.ndarray
    tasks: int


def _is_strided(shape):
    """Whether pixels are seen by so few outputs that copying them does not pay."""
    kh, kw = shape.kernel_shape[:2]
    passed = math.prod(shape.strides)
    return shape.dilation == (1, 1) and passed > 1 and kh * kw <= FEW * passed


@functools.lru_cache(maxsize=256)
def _strided_plan(shape, of_gradient):
    """For y from x, or for dx from dy, whose taps go the other way, a stride at a time."""
    source, made, steps = shape.input_shape, shape.output_shape, shape.strides
    tap_steps, axis_of = (1, 1), planes.forward_axis
    if of_gradient:
        source, made, steps = made, source, (1, 1)
        tap_steps, axis_of = [-stride for stride in shape.strides], planes.input_grad_axis
    _, height, width, channels = source
    n, out_height, out_width, _ = made
    kernel_row = shape.kernel_shape[1] * channels
    table = (out_height, out_width, channels, height * width * channels, width * channels,
             kernel_row, tap_steps[0] * kernel_row, tap_steps[1] * channels)  # fmt: skip
    axes = (
        _seen(axis_of(shape, axis), steps[axis], made[1 + axis], source[1 + axis])
        for axis in range(2)
    )
    return _Plan(np.array(table, np.int64), *axes, -(-n * out_height // LINES))


def _seen(phases, step, made, length):
    """(SOURCE, TAP, COUNT) of each row or column of the result."""
    lines = np.zeros((made, 3), np.int64)
    for phase in phases:
        for j in range(phase.count):
            cells = [(j * step + distance, tap) for distance, tap in phase.cells]
            cells = [(place, tap) for place, tap in cells if 0 <= place < length]
            if cells:
                lines[phase.first + j * phase.next] = *cells[0], len(cells)
    return lines


def _run_strided(plan, x, kernel, bias, activation, y):
    start = gemm.start_vector(bias, activation, int(plan.table[CHANNELS]), x.dtype)
    workers = min(threads.count(), plan.tasks)
    (taken,) = arena.scratch(((plan.tasks,), np.int64))
    _strided(x, *plan[:3], kernel, start, y, *gemm.activation_code(activation, x.dtype), workers,
             taken)  # fmt: skip


# -- The products ----------------------------------------------------------------------------------


def _sizes(dtype):
    lanes = simd.lanes(dtype)
    return planes.Sizes(unit=lanes, out_unit=lanes, tap_channels=1, pixel_size=lanes)


def convolve(x, kernel, bias, shape, activation, y):
    """y = activation(x * kernel + bias); flat arrays of one dtype, `bias` may be None."""
    if _is_strided(shape):
        _run_strided(_strided_plan(shape, False), x, kernel, bias, activation, y)
        return
    plan, lanes = planes.forward_plan(shape, _sizes(x.dtype), x.itemsize), simd.lanes(x.dtype)
    planes.multiply(_products, plan, x, kernel, lanes, gemm.ADJACENT, bias, activation, y)


def convolve_input_grad(dy, kernel, shape, dx):
    """dx from dy and the kernel; flat arrays of one dtype."""
    if _is_strided(shape):
        _run_strided(_strided_plan(shape, True), dy, kernel, None, None, dx)
        return
    plan, lanes = planes.input_grad_plan(shape, _sizes(dy.dtype), dy.itemsize), simd.lanes(dy.dtype)
    planes.multiply(_products, plan, dy, kernel, lanes, gemm.ADJACENT, None, None, dx)


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat arrays of one dtype."""
    plan = planes.kernel_grad_plan(shape, _sizes(x.dtype), x.itemsize, planes.TAPS)
    neighbours = shape.kernel_shape[1] == 3 and shape.strides[1] == shape.dilation[1] == 1
    gradients = _gradients_of_three if neighbours else _gradients
    planes.sum_up(gradients, plan, planes.TAPS, x, dy, simd.lanes(x.dtype), dk)
