"""Products of matrices in registers: the core of convolution, dense layers and Winograd.

    c[i, j] = start[j] + sum_k a[i, k] b[k, j]        c (rows, columns), a (rows, k), b (k, columns)

a0, b0, c0      index of the first element in the flat arrays a, b, c
a_row, a_step   distance of neighbours in a along i and along k (so a may be a transposed matrix)
c_row           distance of neighbours in c along i
panel           PANEL columns of b, packed: element (k, j) lies at k * PANEL + j; the last panel
                is packed as half a panel where no more columns are left

Design. A tile of TILE rows by two vectors stays in registers while k runs: per step two loads of
b and one broadcast of a per row feed 2 * TILE multiply-adds, which is more arithmetic than the
load ports can hinder (AVX-512: 14 x 2 of 32 registers, AVX2: 6 x 2 of 16). b is packed into
panels so that it streams through the cache in one line; a is read where it lies, TILE rows at a
time. Lower tiles take their place where fewer rows are computed in vain then: 128 rows are eight
tiles of 14 and two of 8, 32 are four of 8. What the last tile computes beyond the rows that are
wanted (a must have that much memory behind it) goes through a spare tile; nothing is masked and no
shape has a slow path. Kernel gradients of 16, 32 and 128 channels take 0.87 to 0.95 of the time
that one low tile, the last, left them (two cores of a Zen 4). The
order of a sum depends on nothing but k. Measured on one core of a Xeon with AVX-512: 187 GFLOP/s
for 56 x 1152 by 1152 x 64, 154 for 28 x 27 by 27 x 32.
"""

import functools
import math

import numpy as np
from numba import prange

from minicnn.ops.fast import simd
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.recording import noted

# Accumulators, two vectors of b and (AVX2, SSE) one broadcast have to fit into the registers.
TILE = 14 if simd.REGISTERS == 32 else 6
SHORT = 8 if simd.REGISTERS == 32 else 4  # a lower tile
ROWS = 2 * TILE  # of the half panel's tile; blocks of rows are multiples of it

EXACT, WHOLE, ADD = range(3)  # how `block_product` writes

# For arguments of kernels: Numba compiles a second variant for a number written out in a call.
ORIGIN, ADJACENT = 0, 1

# Activations that an epilogue can apply: contract of the code that the kernels take at run time.
# FLOOR is max(z, floor) with a floor for every column, which lie behind the start values.
LINEAR, RELU, LEAKY_RELU, FLOOR, ELU, SIGMOID, TANH = range(7)
_CODES = {
    "relu": RELU,
    "leaky_relu": LEAKY_RELU,
    "floor": FLOOR,
    "elu": ELU,
    "sigmoid": SIGMOID,
    "tanh": TANH,
}


def activation_code(activation, dtype):
    """(code, parameter) for the kernels of None or a tuple (name, *numbers)."""
    if activation is None:
        return LINEAR, dtype.type(0)
    name, *numbers = activation
    if name not in _CODES:
        known = sorted(set(_CODES) - {"floor"})
        raise ValueError(
            f"activation {name!r} cannot be fused; one of {known} can: apply others after"
        )
    return _CODES[name], dtype.type(numbers[0] if numbers and name != "floor" else 0)


def start_vector(bias, activation, columns, dtype):
    """What the sums of `columns` columns begin with, and behind it the floors of FLOOR; both are
    followed by the zeros that a last panel reads. Kernels do not write to it."""
    if bias is None and activation is None:
        return _zero_start(columns, dtype)
    start = np.zeros((2, columns + 2 * simd.lanes(dtype)), dtype)
    if bias is not None:
        noted(np.copyto, start[0, :columns], bias[:columns])
    if activation is not None and activation[0] == "floor":
        noted(np.copyto, start[1, :columns], activation[1][:columns])
    return start.reshape(-1)


@functools.lru_cache(maxsize=256)
def _zero_start(columns, dtype):
    return np.zeros(2 * (columns + 2 * simd.lanes(dtype)), dtype)


def _tile_product(rows, vectors):
    """The micro-kernel for a tile of `rows` x `vectors`, an intrinsic."""

    def write(
        v, a, a0, a_row, a_step, b, b0, k, c, c0, c_row, start, start0, floor0, add, code, slope
    ):
        """c = [c +] start + a @ b, then the activation if it is a rectifier."""
        builder = v.builder
        width = v.integer(vectors * v.lanes)

        def parts(index):
            return [builder.add(index, v.integer(i * v.lanes)) for i in range(vectors)]

        first = [v.load(start, i) for i in parts(start0)]
        before = builder.block
        loop, after = builder.append_basic_block("k"), builder.append_basic_block("k_end")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, a_at, b_at = (builder.phi(width.type) for _ in range(3))
        sums = [[builder.phi(v.type) for _ in range(vectors)] for _ in range(rows)]
        b_values = [v.load(b, i) for i in parts(b_at)]
        new_sums = []
        for i in range(rows):
            value = v.load_splat(a, v.offset(a_at, (a_row, i)))
            new_sums.append(
                [v.multiply_add(value, x, s) for x, s in zip(b_values, sums[i], strict=True)]
            )
        next_step = builder.add(step, v.integer(1))
        advances = (
            (step, v.integer(0), next_step),
            (a_at, a0, builder.add(a_at, a_step)),
            (b_at, b0, builder.add(b_at, width)),
            *(x for i in range(rows) for x in zip(sums[i], first, new_sums[i], strict=True)),
        )
        for phi, at_first, at_next in advances:
            phi.add_incoming(at_first, before)
            phi.add_incoming(at_next, loop)
        builder.cbranch(builder.icmp_signed("<", next_step, k), loop, after)
        builder.position_at_end(after)

        def finish(change):
            for i in range(rows):
                row = parts(v.offset(c0, (c_row, i)))
                for vector, (value, at) in enumerate(zip(new_sums[i], row, strict=True)):
                    v.store(change(value, at, vector), c, at)

        with builder.if_else(builder.icmp_signed("!=", add, v.integer(0))) as (adding, writing):
            with adding:
                finish(lambda value, at, vector: v.add(v.load(c, at), value))
            with writing, builder.if_else(is_rectifier(v, code)) as (rectifier, linear):
                with rectifier:
                    change = [rectified(v, code, slope, start, i) for i in parts(floor0)]
                    finish(lambda value, at, vector: change[vector](value))
                with linear:
                    finish(lambda value, at, vector: value)

    return simd.vector_intrinsic(write)


def is_rectifier(v, code):
    """Whether the activation is one that is applied in registers."""
    found = [v.builder.icmp_signed("==", code, v.integer(c)) for c in (RELU, LEAKY_RELU, FLOOR)]
    return v.builder.or_(found[0], v.builder.or_(found[1], found[2]))


def rectified(v, code, slope, floors, floor0):
    """The function of a vector that RELU, LEAKY_RELU or FLOOR is; `floors` must be readable."""
    builder = v.builder
    has_floor = builder.icmp_signed("==", code, v.integer(FLOOR))
    leaky = builder.icmp_signed("==", code, v.integer(LEAKY_RELU))
    floor = builder.select(has_floor, v.load(floors, floor0), v.constant(0))
    slopes = v.splat(slope)

    def change(value):
        below = builder.select(leaky, v.multiply(value, slopes), floor)  # 0 * -infinity is not 0
        return v.where_less(value, floor, below, value)

    return change


_whole_panel = _tile_product(TILE, 2)
_short_panel = _tile_product(SHORT, 2)
_half_panel = _tile_product(ROWS, 1)
_short_half_panel = _tile_product(2 * SHORT, 1)


@kernel
def block_product(
    a,
    a0,
    a_row,
    a_step,
    rows,
    b,
    b0,
    columns,
    k,
    c,
    c0,
    c_row,
    start,
    start0,
    mode,
    code,
    slope,
    spare,
):
    """c (rows, columns) = activation(start + a @ b), with b in panels; k >= 1.

    mode is EXACT (write this block and not a byte more, by way of the tile `spare` at its edges),
    WHOLE (c has room for whole tiles) or ADD (the same, and c += start + a @ b).
    """
    lanes = simd.VECTOR_BYTES // c.itemsize
    to_floor = start.size // 2 if code == FLOOR else 0  # see start_vector
    for j in range(0, columns, 2 * lanes):
        half = columns - j <= lanes
        width, height, low = (lanes, ROWS, 2 * SHORT) if half else (2 * lanes, TILE, SHORT)
        b_at, start_at = b0 + j * k, start0 + j
        floor_at = start_at + to_floor
        tall, short = _tiles(rows, height, low)
        for number in range(tall + short):
            is_short = number >= tall
            i = min(number, tall) * height + (number - tall) * low * is_short
            here = low if is_short else height
            inside = mode != EXACT or (i + here <= rows and j + width <= columns)
            if inside:
                target, at, step = c, c0 + i * c_row + j, c_row
            else:
                target, at, step = spare, 0, width
            a_at = a0 + i * a_row
            if half and is_short:
                _short_half_panel(a, a_at, a_row, a_step, b, b_at, k, target, at, step, start,
                                  start_at, floor_at, mode == ADD, code, slope)  # fmt: skip
            elif half:
                _half_panel(a, a_at, a_row, a_step, b, b_at, k, target, at, step, start, start_at,
                            floor_at, mode == ADD, code, slope)  # fmt: skip
            elif is_short:
                _short_panel(a, a_at, a_row, a_step, b, b_at, k, target, at, step, start, start_at,
                             floor_at, mode == ADD, code, slope)  # fmt: skip
            else:
                _whole_panel(a, a_at, a_row, a_step, b, b_at, k, target, at, step, start, start_at,
                             floor_at, mode == ADD, code, slope)  # fmt: skip
            if not inside:
                _copy_tile(spare, width, c, c0 + i * c_row + j, c_row, min(here, rows - i),
                           min(width, columns - j))  # fmt: skip
    if code > FLOOR:
        for i in range(rows):
            activate_row(c, c0 + i * c_row, columns, code, slope)


@kernel
def _tiles(rows, height, low):
    """How many tiles of `height` rows and of `low` cover `rows` with the fewest rows in all."""
    best, short = (rows + height - 1) // height, 0
    least = best * height
    for tall in range(rows // height, max(rows // height - 3, -1), -1):
        more = (rows - tall * height + low - 1) // low
        if tall * height + more * low < least:
            best, short, least = tall, more, tall * height + more * low
    return best, short


@kernel
def _copy_tile(spare, width, c, c0, c_row, rows, columns):
    for row in range(rows):
        for column in range(columns):
            c[c0 + row * c_row + column] = spare[row * width + column]


@kernel
def activate_row(c, c0, columns, code, parameter):
    """Any activation, in place, while the row is in the cache; NaN stays NaN."""
    one = c.dtype.type(1)
    for j in range(c0, c0 + columns):
        x = c[j]
        if code == RELU:
            c[j] = 0 if x < 0 else x
        elif code == LEAKY_RELU:
            c[j] = parameter * x if x < 0 else x
        elif code == ELU:
            c[j] = parameter * math.expm1(x) if x < 0 else x
        elif code == SIGMOID:
            c[j] = one / (one + math.exp(-x))
        else:
            c[j] = math.tanh(x)


@kernel
def share(number, pieces, length):
    """(first, last) of piece `number` of `pieces` nearly equal ones of 0..length."""
    return number * length // pieces, (number + 1) * length // pieces


@kernel
def add_segments(partial, at, columns, dk, dk_at):
    """dk[dk_at : + columns] = the sum of partial[segment, at : + columns] in their order."""
    for j in range(columns):
        total = partial[0, at + j]
        for segment in range(1, len(partial)):
            total += partial[segment, at + j]
        dk[dk_at + j] = total


# The index of a prange is unsigned: np.int64 makes it a number like all others, or arithmetic with
# it would give floats and kernels called with it would be compiled twice.


@parallel_kernel
def pack_panels(b, row_starts, column_step, columns, packed_columns, packed):
    """Pack matrices into panels: packed[m] = b[row_starts[m, k] + j * column_step], all k and j.

    `packed` (matrices, k, packed_columns) holds them panel by panel, filled up with zeros.
    """
    matrices, k = row_starts.shape
    for number in prange(matrices * k):
        m, row = divmod(np.int64(number), k)
        pack_row(b, row_starts[m, row], column_step, columns, packed, m * k * packed_columns, row,
                 k)  # fmt: skip


@kernel
def pack_row(b, b0, step, columns, packed, packed0, row, k):
    """Row `row` of k of one matrix into the panels that begin at packed0."""
    lanes = simd.VECTOR_BYTES // packed.itemsize
    for j in range(0, columns, 2 * lanes):
        width = lanes if columns - j <= lanes else 2 * lanes
        at = packed0 + j * k + row * width
        count = min(width, columns - j)
        if step == 1:
            simd.copy_run(packed, at, b, b0 + j, count)
        else:
            for i in range(count):
                packed[at + i] = b[b0 + (j + i) * step]
            for i in range(count, width):
                packed[at + i] = 0
