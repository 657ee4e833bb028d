"""The products of dense layers with few outputs, as at the end of a classifier.

    y = activation(x K + bias)      dx = dy K^T      dK = x^T dy      K (k, n), n up to 16

Design. n fills a vector badly, k fills many: vectors run along k, in rows of x as they lie and in
rows of K^T, which is made first. Tiles of sums stay in registers: (rows of x, columns) of vectors
that are added up across at last for y, (rows, vectors of k) for dx, (vectors of k, columns) for
dK, which is turned back in squares. A row or a column that does not exist is the last one once
more. For y two threads turn K each for itself: with one for both they took longer than one alone.
Measured beside `dense_products` or `direct` (two cores of a Xeon, microseconds of y, dx, dK):
64 x 2048 by 2048 x 10: 57, 57, 49, not 105, 75, 62; 1 x 2048 by the same: 30, 21, 22, not 93, 72,
19.
"""

import functools

import numpy as np
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import gemm, sharing, simd, threads
from minicnn.ops.fast.dense_products import PACKED, transpose_square
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.simd import Variable

MOST_COLUMNS = 16
# Of a tile: vectors along k, or rows of x; and what lies across them.
HIGH, WIDE = (4, 5) if simd.REGISTERS == 32 else (2, 4)


def _add_products(v, count, step, left, right):
    """Sums over k = 0, step, ... of left(load, k, i) * right(load, k, j), HIGH lists of WIDE
    variables; and add(load, k), which adds one more product to each."""
    sums = [[Variable(v, v.constant(0)) for _ in range(WIDE)] for _ in range(HIGH)]

    def add(load, k):
        lefts = [left(load, k, i) for i in range(HIGH)]
        for j in range(WIDE):
            factor = right(load, k, j)
            for row, value in zip(sums, lefts, strict=True):
                row[j].value = v.multiply_add(value, factor, row[j].value)

    with v.count_up(count, step) as (k, _):
        add(v.load, k)
    return sums, add


def _existing(v, first, number, count):
    """first + number, or the last of `count` if there are no more."""
    index, last = v.builder.add(first, v.integer(number)), v.builder.sub(count, v.integer(1))
    return v.builder.select(v.builder.icmp_signed("<", index, last), index, last)


@simd.vector_intrinsic
def _rows_by_columns(v, x, row, rows, depth, turned, turned_row, column, columns, start, y):
    """y[row + i, column + j] = start[j] + the sum over k of x[row + i, k] K[k, column + j]."""
    builder = v.builder
    x_rows = [_existing(v, row, i, rows) for i in range(HIGH)]
    numbers = [_existing(v, column, j, columns) for j in range(WIDE)]
    x_starts = [builder.mul(i, depth) for i in x_rows]
    k_starts = [builder.mul(j, turned_row) for j in numbers]
    whole = builder.and_(depth, v.integer(-v.lanes))
    rest = builder.sub(depth, whole)
    sums, add = _add_products(
        v, whole, v.lanes,
        lambda load, k, i: load(x, builder.add(x_starts[i], k)),
        lambda load, k, j: load(turned, builder.add(k_starts[j], k)),
    )  # fmt: skip
    with builder.if_then(builder.icmp_signed(">", rest, v.integer(0))):
        add(lambda array, index: v.load_first(array, index, rest), whole)
    for i, line in enumerate(sums):
        for j, total in enumerate(line):
            value = builder.fadd(v.sum(total.value), builder.load(v.address(start, numbers[j])))
            place = builder.add(builder.mul(x_rows[i], columns), numbers[j])
            builder.store(value, v.address(y, place))


@simd.vector_intrinsic
def _rows_by_vectors(v, dy, row, rows, columns, turned, turned_row, first, depth, dx):
    """dx[row + j, first : + HIGH vectors] = the sum over the columns of dy[row + j] * K^T."""
    builder = v.builder
    numbers = [_existing(v, row, j, rows) for j in range(WIDE)]
    dy_starts = [builder.mul(j, columns) for j in numbers]
    places = [builder.add(first, v.integer(i * v.lanes)) for i in range(HIGH)]
    sums, _ = _add_products(
        v, columns, 1,
        lambda load, k, i: load(turned, builder.add(builder.mul(k, turned_row), places[i])),
        lambda _, k, j: v.load_splat(dy, builder.add(dy_starts[j], k)),
    )  # fmt: skip
    for i, place in enumerate(places):
        for j, number in enumerate(numbers):
            at = builder.add(builder.mul(number, depth), place)
            v.store_first(sums[i][j].value, dx, at, builder.sub(depth, place))


@simd.vector_intrinsic
def _vectors_by_columns(v, x, first, rows, depth, dy, column, columns, turned, turned_row):
    """turned[column + j, : HIGH vectors] = the sum over the rows of x[:, first : ] * dy[:, j]."""
    builder = v.builder
    numbers = [_existing(v, column, j, columns) for j in range(WIDE)]
    places = [builder.add(first, v.integer(i * v.lanes)) for i in range(HIGH)]
    sums, _ = _add_products(
        v, rows, 1,
        lambda _, k, i: v.load_first(
            x, builder.add(builder.mul(k, depth), places[i]), builder.sub(depth, places[i])
        ),
        lambda _, k, j: v.load_splat(dy, builder.add(builder.mul(k, columns), numbers[j])),
    )  # fmt: skip
    for i, line in enumerate(sums):
        for number, total in zip(numbers, line, strict=True):
            at = builder.add(builder.mul(number, turned_row), v.integer(i * v.lanes))
            v.store(total.value, turned, at)


@simd.vector_intrinsic
def _copy_exactly(v, target, target0, source, source0, count):
    """target[target0 : +count] = source[source0 : +count], and nothing else is touched."""
    with v.count_up(count, v.lanes) as (i, _):
        value = v.load(source, v.builder.add(source0, i))
        v.store_first(value, target, v.builder.add(target0, i), v.builder.sub(count, i))


@kernel
def _turn(matrix, first, last, depth, columns, turned, row):
    """turned[j * row + k] = matrix[k * columns + j] for k from `first` to `last`, and some lanes of
    garbage behind them."""
    lanes = simd.VECTOR_BYTES // turned.itemsize
    for k in range(first, last, lanes):
        for j in range(0, columns, lanes):
            transpose_square(matrix, k * columns + j, columns, min(lanes, depth - k),
                             min(lanes, columns - j), turned, j * row + k, row)  # fmt: skip


@parallel_kernel
def _products(x, rows, depth, matrix, columns, turned, row, start, y, code, slope, workers):
    if len(turned) == 1:
        for piece in prange((depth + PACKED - 1) // PACKED):
            first = np.int64(piece) * PACKED
            _turn(matrix, first, min(first + PACKED, depth), depth, columns, turned[0], row)
    for worker in prange(workers):
        if len(turned) > 1:
            _turn(matrix, 0, depth, depth, columns, turned[np.int64(worker)], row)
        _worker_products(np.int64(worker), workers, x, rows, depth, columns, turned, row, start, y,
                         code, slope)  # fmt: skip


@kernel
def _worker_products(worker, workers, x, rows, depth, columns, all_turned, row, start, y, code,
                     slope):  # fmt: skip
    turned = all_turned[worker % len(all_turned)]
    first, last = gemm.share(worker, workers, (rows + HIGH - 1) // HIGH)
    for i in range(first * HIGH, min(last * HIGH, rows), HIGH):
        for j in range(0, columns, WIDE):
            _rows_by_columns(x, i, rows, depth, turned, row, j, columns, start, y)
        if code != gemm.LINEAR:
            count = min(HIGH, rows - i) * columns
            gemm.activate_row(y, i * columns, count, code, slope)


@parallel_kernel
def _input_grads(dy, rows, depth, matrix, columns, turned, row, dx, workers):
    for worker in prange(workers):
        _worker_input_grads(np.int64(worker), workers, dy, rows, depth, matrix, columns, turned,
                            row, dx)  # fmt: skip


@kernel
def _worker_input_grads(worker, workers, dy, rows, depth, matrix, columns, turned, row, dx):
    step = HIGH * (simd.VECTOR_BYTES // dx.itemsize)
    first, last = gemm.share(worker, workers, (depth + step - 1) // step)
    _turn(matrix, first * step, min(last * step, depth), depth, columns, turned, row)
    for i in range(0, rows, WIDE):
        for k in range(first * step, last * step, step):
            _rows_by_vectors(dy, i, rows, columns, turned, row, k, depth, dx)


@parallel_kernel
def _kernel_grads(x, rows, depth, dy, columns, scratch, dk, workers):
    for worker in prange(workers):
        _worker_kernel_grads(np.int64(worker), workers, x, rows, depth, dy, columns,
                             scratch[np.int64(worker)], dk)  # fmt: skip


@kernel
def _worker_kernel_grads(worker, workers, x, rows, depth, dy, columns, scratch, dk):
    lanes = simd.VECTOR_BYTES // x.itemsize
    step = HIGH * lanes
    squares = scratch[MOST_COLUMNS * step :]
    first, last = gemm.share(worker, workers, (depth + step - 1) // step)
    for k in range(first * step, min(last * step, depth), step):
        for j in range(0, columns, WIDE):
            _vectors_by_columns(x, k, rows, depth, dy, j, columns, scratch, step)
        for i in range(0, min(step, depth - k), lanes):
            count = min(lanes, depth - k - i)
            for j in range(0, columns, lanes):
                transpose_square(scratch, j * step + i, step, min(lanes, columns - j), count,
                                 squares, j, MOST_COLUMNS)  # fmt: skip
            for number in range(count):
                _copy_exactly(dk, (k + i + number) * columns, squares, number * MOST_COLUMNS,
                              columns)  # fmt: skip


# -- The products ----------------------------------------------------------------------------------


def fits(columns):
    """Whether products with a matrix of so many columns are for this file."""
    return columns <= MOST_COLUMNS


@functools.lru_cache(maxsize=64)
def _row(depth, lanes):
    """Of K^T: whole tiles and a vector, or all rows would fall on the same sets of a cache."""
    return (-(-depth // (HIGH * lanes)) * HIGH + 1) * lanes


def multiply(x, matrix, bias, sizes, activation, y):
    """y (m, n) = activation(x (m, k) @ matrix (k, n) + bias), flat."""
    m, k, n = sizes
    row = _row(k, simd.lanes(x.dtype))
    copies = sharing.copies(threads.count(), n * row * x.itemsize)
    (turned,) = arena.scratch(arena.rows(copies, n * row, x.dtype))
    start = gemm.start_vector(bias, activation, n, x.dtype)
    code, slope = gemm.activation_code(activation, x.dtype)
    _products(x, m, k, matrix, n, turned, row, start, y, code, slope, threads.count())


def input_gradient(dy, matrix, sizes, dx):
    """dx (m, k) = dy (m, n) @ matrix (k, n)^T, flat."""
    m, k, n = sizes
    row = _row(k, simd.lanes(dy.dtype))
    (turned,) = arena.scratch(((n * row,), dy.dtype))
    _input_grads(dy, m, k, matrix, n, turned, row, dx, threads.count())


def kernel_gradient(x, dy, sizes, dk):
    """dk (k, n) = x (m, k)^T @ dy (m, n), flat."""
    m, k, n = sizes
    lanes = simd.lanes(x.dtype)
    size = MOST_COLUMNS * (HIGH + 1) * lanes
    (scratch,) = arena.scratch(arena.rows(threads.count(), size, x.dtype))
    _kernel_grads(x, m, k, dy, n, scratch, dk, threads.count())
