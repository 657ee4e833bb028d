"""Depthwise convolution: every channel has a kernel of its own (groups = channels = filters).

    y[o, c]  = activation(bias[c] + sum over taps t of x[i(o, t), c] K[t, c])
    dx[i, c] = sum over taps t of dy[o(i, t), c] K[t, c]
    dK[t, c] = sum over o of x[i(o, t), c] dy[o, c]

o, i     pixel of the output, of the input;  i = o stride + t dilation - before, per axis
s        a plane (planes.py): one vector of channels of some rows of x

Design. No channel is ever added to another, so there is no matrix product: the only work is
a * b + c on vectors of channels. Some columns of a row of y stay in registers while the taps pass,
so that a tap costs one load of the kernel and one of s per column; the last columns of a row
overlap those before them. For dK, TAPS taps stay in registers while the pixels of a band pass.
"""

from numba.core import cgutils

from minicnn.ops.fast import gemm, planes, simd
from minicnn.ops.fast.jit import kernel

COLUMNS = 14, 8, 4, 1  # of tiles; with a vector of the kernel and one of s they fit 16 registers
TAPS = 9  # of a tile for dK: all of a 3x3 kernel


def _row_tile(columns):
    """Intrinsic: `columns` neighbours in a row of y, one vector of channels."""

    def write(v, s, s0, taps, t0, count, kernel, k0, start, channel, floor0, y, y0, y_step, left,
              code, slope, streaming):  # fmt: skip
        """y[j] = start + sum over t of s[s0 + taps[t] + j] kernel[t], then a rectifier."""
        builder = v.builder
        first = v.load(start, channel)
        sums = [cgutils.alloca_once(builder, v.type) for _ in range(columns)]
        for total in sums:
            builder.store(first, total)
        with v.count_up(count) as (t, _):
            here = builder.add(s0, v.load_integer(taps, builder.add(t0, t)))
            weight = v.load(kernel, v.offset(k0, (t, v.lanes)))
            for j, total in enumerate(sums):
                value = v.load(s, builder.add(here, v.integer(j * v.lanes)))
                builder.store(v.multiply_add(value, weight, builder.load(total)), total)
        finish_row(v, sums, start, floor0, y, y0, y_step, left, code, slope, streaming)

    return simd.vector_intrinsic(write)


def finish_row(v, sums, start, floor0, y, y0, y_step, left, code, slope, streaming):
    """The rectifier, if there is one, then the first `left` lanes of each sum to y."""
    builder = v.builder
    with builder.if_then(gemm.is_rectifier(v, code)):
        change = gemm.rectified(v, code, slope, start, floor0)
        for total in sums:
            builder.store(change(builder.load(total)), total)

    def finish(store):
        for j, total in enumerate(sums):
            store(builder.load(total), y, v.offset(y0, (y_step, j)))

    with builder.if_else(builder.icmp_signed("!=", streaming, v.integer(0))) as (yes, no):
        with yes:
            finish(v.stream)
        with no:
            v.whole_or_first(left, lambda load, store: finish(store))


_columns_14, _columns_8, _columns_4, _one_column = map(_row_tile, COLUMNS)


@kernel
def _product_row(s, s0, lanes, taps, t0, count, kernel, k0, start, channel, y, y0, y_step, width,
                 left, code, slope, streaming):  # fmt: skip
    floor0 = channel + (start.size // 2 if code == gemm.FLOOR else 0)  # see gemm.start_vector
    column = 0
    while column < width:
        rest = width - column
        if rest >= COLUMNS[0]:
            _columns_14(s, s0 + column * lanes, taps, t0, count, kernel, k0, start, channel, floor0,
                        y, y0 + column * y_step, y_step, left, code, slope, streaming)  # fmt: skip
            column += COLUMNS[0]
        elif rest > COLUMNS[2] and width >= COLUMNS[1]:
            column = min(column, width - COLUMNS[1])
            _columns_8(s, s0 + column * lanes, taps, t0, count, kernel, k0, start, channel, floor0,
                       y, y0 + column * y_step, y_step, left, code, slope, streaming)  # fmt: skip
            column += COLUMNS[1]
        elif width >= COLUMNS[2]:
            column = min(column, width - COLUMNS[2])
            _columns_4(s, s0 + column * lanes, taps, t0, count, kernel, k0, start, channel, floor0,
                       y, y0 + column * y_step, y_step, left, code, slope, streaming)  # fmt: skip
            column += COLUMNS[2]
        else:
            _one_column(s, s0 + column * lanes, taps, t0, count, kernel, k0, start, channel, floor0,
                        y, y0 + column * y_step, y_step, left, code, slope, streaming)  # fmt: skip
            column += 1


@simd.vector_intrinsic
def _tap_tile(v, s, s_row, taps, t0, rows, columns, dy, dy0, dy_step, left, sums, sums0, x, ahead,
              ahead_count, dy_ahead, dy_ahead_count):  # fmt: skip
    """sums[t] += sum over rows and columns of s[taps[t] + pixel] dy[pixel], for TAPS taps.

    With every row, some vectors of x and dy are fetched that are needed later.
    """
    builder = v.builder
    offsets = [v.load_integer(taps, builder.add(t0, v.integer(i))) for i in range(TAPS)]
    places = [builder.add(sums0, v.integer(i * v.lanes)) for i in range(TAPS)]
    totals = [cgutils.alloca_once(builder, v.type) for _ in range(TAPS)]

    def compute(load, store):
        for total, place in zip(totals, places, strict=True):
            builder.store(v.load(sums, place), total)
        with v.count_up(rows) as (row, _):
            v.prefetch(x, v.offset(ahead, (builder.mul(row, ahead_count), v.lanes)), ahead_count)
            dy_next = v.offset(dy_ahead, (builder.mul(row, dy_ahead_count), v.lanes))
            v.prefetch(dy, dy_next, dy_ahead_count)
            there = builder.add(dy0, builder.mul(builder.mul(row, columns), dy_step))
            with v.count_up(columns) as (j, _):
                factor = load(dy, builder.add(there, builder.mul(j, dy_step)))
                pixel = v.offset(builder.mul(row, s_row), (j, v.lanes))
                for total, offset in zip(totals, offsets, strict=True):
                    value = v.load(s, builder.add(pixel, offset))
                    builder.store(v.multiply_add(value, factor, builder.load(total)), total)
        for total, place in zip(totals, places, strict=True):
            v.store(builder.load(total), sums, place)

    v.whole_or_first(left, compute)


_products = planes.products(_product_row)
_gradients = planes.gradients(TAPS, _tap_tile)


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
    plan = planes.kernel_grad_plan(shape, _sizes(x.dtype), x.itemsize, TAPS)
    planes.sum_up(_gradients, plan, x, dy, simd.lanes(x.dtype), dk)
