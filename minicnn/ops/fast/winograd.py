"""Convolution with fewer multiplications: Winograd's F(4x4, 3x3) and F(2x2, 5x5).

    Y  = A^T [(G g G^T) * (B^T d B)] A      outputs Y from 6x6 inputs d and the kernel g
    dg = G^T [(B^T d B) * (A dY A^T)] G     the kernel's gradient from the same tiles

(Lavin and Gray, "Fast Algorithms for Convolutional Networks", 2015; * element by element, summed
over the channels for Y and over the tiles for dg.)

d, v     a tile of the input, and its transform B^T d B     (element e = 0..35, tile, channel)
g, u     the kernel, and its transform G g G^T              (panel of filters, e, channel, filter)
m        sum of the products of v and u, then Y = A^T m A   (e, tile, filter)

A 3x3 kernel has 4x4 outputs a tile, for which the definition needs 144 multiplications, a 5x5
kernel 2x2 outputs, which need 100. For each of the 36 elements the sum over the channels is a
matrix product (tiles x channels times channels x filters). The data gradient is the same with dy
for x and the kernel turned around.

The matrices come from the interpolation points 0, +-5/8, +-3/2, infinity, made with exact
fractions. These points lose half as many digits as the usual 0, +-1, +-2: what matters is that
the powers of all points and of their differences stay near 1. B^T depends on the points alone.

Design. A block of tiles is transformed, multiplied and transformed back while everything is in
the second-level cache; x is read and y written once. Transforms work on a vector of channels
with nearly the whole tile in registers, which takes columns that are loaded late and rows that are
stored early; rows for the points +-p share their even and odd halves, so that a line of six takes
12 instructions. Pixels are reached through a table of addresses per
tile, in which pixels outside the picture are a row of zeros (reading) or a place nobody looks at
(writing): any picture size and padding run the same code. So does a dilation d: outputs that lie d
apart belong to a convolution without one, of every d-th pixel, so a tile takes every d-th pixel
and the tiles of all these phases lie interleaved. The table also tells which pixels to ask for a
dozen tiles before they are used; else each tile waits for memory. The sum for dg is cut into
segments whose number depends on the shapes only, so any number of threads gives the same bits.

Measured (two cores of a Xeon with AVX-512, 64 pictures 16 x 16, 64 channels to 64): 1.5 ms where
direct convolution takes 4.0; gradient of the kernel 2.1 ms against 4.5. With dilation 2 (two cores
of a Zen 4, 16 pictures 32 x 32, 64 to 64): 2.4 ms against 6.4, 2.9 against 7.4; 5x5 (32 pictures
27 x 27, 48 to 128): 18 ms against 34, 20 against 43. Asking ahead (128 pictures 32 x 32, 16 to 16):
2.8 -> 2.4 ms, gradient of the kernel 3.6 -> 2.4; 64 to 64 channels 1.0 to 1.1 times as fast. Tiles
in registers: the same two 1.9 -> 1.6 ms and 1.8 -> 1.5.

A NaN or infinity reaches all outputs of the tiles that see it, not only those that see the pixel.
"""

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange

from minicnn.ops import arena
from minicnn.ops.fast import gemm, sharing, simd, threads
from minicnn.ops.fast.gemm import ROWS
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.pooling import first_wins
from minicnn.ops.recording import noted

POINTS = (0, Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))  # and infinity
TILE = 6  # pixels of a tile per axis, as many as points
ELEMENTS = TILE * TILE

# Transformed inputs of a block: fit L2 beside the kernel's panels. For a gradient of the kernel
# those of dy count, too: 32 pictures 109 x 89, 16 to 32, 8.3 -> 7.0 ms (two cores of a Xeon).
V_BYTES = 640 * 1024
GROUP = 2  # panels of filters that are multiplied before their outputs are transformed back
PIECE_BYTES = 2304 * 1024  # sums of a piece of a large kernel's gradient: 128 x 128 in float32
PARTIAL_BYTES = 8 << 20  # sums of all segments of a kernel gradient, before their transform
AHEAD = 12  # tiles; 2, 4, 8, 16 and 32 gained less, for no reason that was found
TASKS = 8  # of a kernel gradient, at most: what more threads could share
SEGMENT = 256  # tiles


def matrices(points=POINTS, out=4, taps=3):
    """(A^T, G, B^T) as lists of fractions for the given finite points and infinity.

    y_i = sum_t g_t d_(i+t) is the transpose of multiplying polynomials by interpolation (Cook and
    Toom): column j of A^T and row j of G hold powers of point j, row j of B^T the coefficients of
    prod (x - other points); G carries the Lagrange denominators.
    """
    points = [Fraction(p) for p in points]

    def from_roots(roots):
        coefficients = [Fraction(1)]
        for root in roots:
            shifted = [Fraction(0), *coefficients]
            for i, c in enumerate(coefficients):
                shifted[i] -= root * c
            coefficients = shifted
        return coefficients

    size = out + taps - 1
    a_t = [[p**i for p in points] + [Fraction(int(i == out - 1))] for i in range(out)]
    g, b_t = [], []
    for j, p in enumerate(points):
        others = points[:j] + points[j + 1 :]
        denominator = Fraction(1)
        for other in others:
            denominator *= p - other
        g.append([p**i / denominator for i in range(taps)])
        b_t.append([*from_roots(others), *[Fraction(0)] * (size - len(points))])
    g.append([Fraction(int(i == taps - 1)) for i in range(taps)])
    b_t.append(from_roots(points))
    return a_t, g, b_t


def transposed(matrix):
    return [list(column) for column in zip(*matrix, strict=True)]


A_T, G = {}, {}  # by the taps of the kernel
for _taps in (3, 5):
    A_T[_taps], G[_taps], B_T = matrices(POINTS, TILE + 1 - _taps, _taps)

# A size is a tuple with an element for each tap along an axis. Its length is part of its type:
# what takes one is compiled for each size by itself, with its matrices, when it is first met.
SIZES = {taps: (0,) * taps for taps in A_T}


# -- Transforms of one tile on a vector of channels ------------------------------------------------


def _multiply_line(v, matrix, line):
    """matrix @ line for a list of vectors, sharing work between the points +p and -p."""
    pairs = _mirrored_columns(matrix)
    if pairs:  # columns of +p and -p differ in the sign of odd rows: add and subtract them first
        sums = {j: (v.add(line[j], line[k]), v.subtract(line[j], line[k])) for j, k in pairs}
        alone = [j for j in range(len(line)) if not any(j in pair for pair in pairs)]
        result = []
        for row in matrix:
            terms = [(row[j], line[j]) for j in alone]
            terms += [(row[j], sums[j][row[j] != row[k]]) for j, k in pairs]
            terms.sort(key=lambda term: term[0] != 1)  # a coefficient 1 first saves a product
            result.append(v.combine(*zip(*terms, strict=True)))
        return result
    result, mirrored = [None] * len(matrix), _mirrored_rows(matrix)
    for i, k in mirrored:  # rows even + odd and even - odd
        even = [(a + b) / 2 for a, b in zip(matrix[i], matrix[k], strict=True)]
        odd = [(a - b) / 2 for a, b in zip(matrix[i], matrix[k], strict=True)]
        scale = [c for c in odd if c][-1]
        even = _combine_last_first(v, even, line)
        odd = _combine_last_first(v, [c / scale for c in odd], line)
        result[i] = v.multiply_add(odd, v.constant(scale), even)
        result[k] = v.multiply_add(odd, v.constant(-scale), even)
    for i, row in enumerate(matrix):
        if result[i] is None:
            result[i] = _combine_last_first(v, row, line)
    return result


def _combine_last_first(v, row, line):
    """The leading coefficient of a polynomial is often 1, which saves a product."""
    return v.combine(row[::-1], line[::-1])


def _mirrored_rows(matrix):
    """Pairs of rows whose half sum and half difference have no column in common."""
    return [
        (i, i + 1)
        for i in range(len(matrix) - 1)
        if matrix[i] != matrix[i + 1]
        and all(abs(a) == abs(b) for a, b in zip(matrix[i], matrix[i + 1], strict=True))
        and sum(map(bool, matrix[i])) > 1
    ]


def _mirrored_columns(matrix):
    return _mirrored_rows(transposed(matrix)) if len(matrix) < len(matrix[0]) else []


def _sandwich(v, matrix, columns):
    """The rows of matrix @ tile @ matrix^T, from the columns of the tile: lists of vectors.

    Columns that are loaded when they are asked for and rows that are stored one by one leave
    nearly all of a tile in registers; otherwise half of it goes to memory and back.
    """
    half = transposed([_multiply_line(v, matrix, column) for column in columns])
    return (_multiply_line(v, matrix, row) for row in half)


def _store_whole_or_first(v, tile, place, count, streaming=None):
    cells = [(tile[i][j], place(i, j)) for i in range(len(tile)) for j in range(len(tile[0]))]

    def write(store):
        for value, (array, index) in cells:
            store(value, array, index)

    def keep():
        v.whole_or_first(count, lambda load, store: write(store))

    if streaming is None:
        keep()
        return
    with v.builder.if_else(v.builder.icmp_signed("!=", streaming, v.integer(0))) as (yes, no):
        with yes:
            write(v.stream)
        with no:
            keep()


def _from_pixels(v, matrix, table, table0, channel, count, target, target0, element_step):
    """A tile from a table of addresses, channels channel : +count, to strided target."""
    side, out = len(matrix[0]), len(matrix)

    def pixel(i, j):
        entry = v.builder.add(table0, v.integer(i * side + j))
        return v.at_address(v.load_integer(table, entry)), channel

    def transform(load):
        columns = ([load(*pixel(i, j)) for i in range(side)] for j in range(side))
        for i, row in enumerate(_sandwich(v, matrix, columns)):
            for j, value in enumerate(row):
                v.store(value, target, v.offset(target0, (element_step, i * out + j)))

    v.read_first(count, transform)


@simd.vector_intrinsic
def _prefetch_input(v, size, like, table, table0, channel, count):
    """Ask for `count` channels of the middle pixels of a tile, those around are the middle of its
    neighbours; `like` is an array of the input's type."""
    margin, out = (size - 1) // 2, TILE + 1 - size
    middle = range(margin, margin + out)
    _prefetch(v, table, table0, [i * TILE + j for i in middle for j in middle], channel, count)


@simd.vector_intrinsic
def _prefetch_output_grad(v, size, like, table, table0, channel, count):
    """The same of a tile of dy, all of whose pixels are its own."""
    _prefetch(v, table, table0, range((TILE + 1 - size) ** 2), channel, count)


def _prefetch(v, table, table0, entries, channel, count):
    with v.count_up(count, v.lanes) as (c, _):
        place = v.builder.add(channel, c)
        for entry in entries:
            pixel = v.load_integer(table, v.builder.add(table0, v.integer(entry)))
            v.prefetch(v.at_address(pixel), place)


@simd.vector_intrinsic
def _transform_input(v, table, table0, channel, count, target, target0, element_step):
    """B^T d B."""
    _from_pixels(v, B_T, table, table0, channel, count, target, target0, element_step)


@simd.vector_intrinsic
def _transform_output_grad(v, size, table, table0, channel, count, target, target0, element_step):
    """A dY A^T."""
    matrix = transposed(A_T[size])
    _from_pixels(v, matrix, table, table0, channel, count, target, target0, element_step)


@simd.vector_intrinsic
def _transform_kernel(v, size, source, source0, tap_step, target, target0, element_step):
    """u = G g G^T."""
    columns = (
        [v.load(source, v.offset(source0, (tap_step, i * size + j))) for i in range(size)]
        for j in range(size)
    )
    for i, row in enumerate(_sandwich(v, G[size], columns)):
        for j, value in enumerate(row):
            v.store(value, target, v.offset(target0, (element_step, i * TILE + j)))


@simd.vector_intrinsic
def _transform_kernel_row(
    v, size, factors, row, source, source0, tap_step, target, target0, element_step
):
    """The elements of one row of u = G (g G^T); `factors` are G."""
    taps = len(G[size][0])
    first = v.builder.mul(row, v.integer(taps))
    of_row = [v.load_splat(factors, v.builder.add(first, v.integer(i))) for i in range(taps)]
    line = []
    for j in range(taps):
        total = None
        for i in range(taps):
            tap = v.load(source, v.offset(source0, (tap_step, i * taps + j)))
            total = v.multiply(tap, of_row[i]) if i == 0 else v.multiply_add(tap, of_row[i], total)
        line.append(total)
    for j, value in enumerate(_multiply_line(v, G[size], line)):
        v.store(value, target, v.offset(target0, (element_step, j)))


@simd.vector_intrinsic
def _transform_kernel_grad(
    v, size, source, source0, element_step, target, target0, tap_step, count
):
    """dg = G^T du G, the first `count` of a vector."""
    rows = [
        [v.load(source, v.offset(source0, (element_step, i * TILE + j))) for j in range(TILE)]
        for i in range(TILE)
    ]
    tile = list(_sandwich(v, transposed(G[size]), transposed(rows)))
    _store_whole_or_first(
        v, tile, lambda i, j: (target, v.offset(target0, (tap_step, i * size + j))), count
    )


@simd.vector_intrinsic
def _transform_output(
    v, size, m, m0, element_step, scale, start, channel, floor0, count, table, table0, pooled,
    index, streaming, code, slope,
):  # fmt: skip
    """Y = scale A^T m A + bias, then the activation if it is a rectifier, then the maxima if
    `pooled`, and the winners' places if it is WITH_PLACES; `index` only tells their type."""
    builder, out = v.builder, TILE + 1 - size
    columns = (
        [v.load(m, v.offset(m0, (element_step, i * TILE + j))) for i in range(TILE)]
        for j in range(TILE)
    )
    factor, bias = v.load(scale, channel), v.load(start, channel)
    tile = [
        [v.multiply_add(y, factor, bias) for y in row] for row in _sandwich(v, A_T[size], columns)
    ]

    def entry(number):
        return v.load_integer(table, builder.add(table0, v.integer(number)))

    def store(tile):
        with builder.if_else(builder.icmp_signed("!=", pooled, v.integer(0))) as (yes, no):
            with yes:
                inside, side = (entry(ROWS_INSIDE), entry(COLUMNS_INSIDE)), out // 2
                cells = [(i, j) for i in range(side) for j in range(side)]
                places = {(i, j): v.at_address(entry(i * side + j)) for i, j in cells}
                with_places = builder.icmp_signed("==", pooled, v.integer(WITH_PLACES))
                with builder.if_else(with_places) as (training, predicting):
                    with training:
                        maxima, winners = _maxima(v, tile, *inside)
                        for i, j in cells:
                            address = entry(PLACES + i * side + j)
                            _store_numbers(v, winners[i][j], address, index, channel, count)
                        _store_whole_or_first(
                            v, maxima, lambda i, j: (places[i, j], channel), count, streaming
                        )
                    with predicting:
                        maxima, _ = _maxima(v, tile, *inside)
                        _store_whole_or_first(
                            v, maxima, lambda i, j: (places[i, j], channel), count, streaming
                        )
            with no:
                _store_whole_or_first(
                    v, tile, lambda i, j: (v.at_address(entry(i * out + j)), channel), count,
                    streaming,
                )  # fmt: skip

    with builder.if_else(gemm.is_rectifier(v, code)) as (rectifier, linear):
        with rectifier:
            change = gemm.rectified(v, code, slope, start, floor0)
            store([[change(y) for y in row] for row in tile])
        with linear:
            store(tile)


def _maxima(v, tile, rows, columns):
    """The first maxima of 2x2 windows of a tile, of which `rows` x `columns` lie inside the
    picture, and their places in their windows; what is not used costs nothing."""

    def larger(a, b, inside):
        """Of two pairs of value and place; what lies outside does not count."""
        wins, select = first_wins(v, a[0], b[0]), v.builder.select
        return [select(inside, select(wins, y, x), x) for x, y in zip(a, b, strict=True)]

    def halved(pairs, count):
        return [
            [larger(a, b, v.builder.icmp_signed("<", v.integer(2 * i + 1), count))
             for a, b in zip(*pair, strict=True)]
            for i, pair in enumerate(pairs)
        ]  # fmt: skip

    numbered = [
        [(value, v.number(v.integer(i % 2 * 2 + j % 2))) for j, value in enumerate(row)]
        for i, row in enumerate(tile)
    ]
    columns_first = transposed(numbered)
    narrow = transposed(halved(zip(columns_first[::2], columns_first[1::2], strict=True), columns))
    largest = halved(zip(narrow[::2], narrow[1::2], strict=True), rows)
    return [[[pair[k] for pair in row] for row in largest] for k in range(2)]


def _store_numbers(v, value, address, index, channel, count):
    target = v.builder.inttoptr(address, index.type)
    whole = v.builder.icmp_signed(">=", count, v.integer(v.lanes))
    with v.builder.if_else(whole) as (then, otherwise):
        with then:
            v.store_numbers(value, target, channel)
        with otherwise:
            v.store_numbers(value, target, channel, count)


# -- Kernels ---------------------------------------------------------------------------------------

# Columns of the integer table that describes the pictures to the kernels.
# CHANNELS and FILTERS are those of one group, PIXEL and OUT_PIXEL those of all groups together.
# OUT_HEIGHT and OUT_WIDTH are those of y, SUM_... those before the maxima of pooled outputs.
# From STARTS on follow the first rows of the tiles down and the first columns of those across.
(HEIGHT, WIDTH, PIXEL, CHANNELS, OUT_HEIGHT, OUT_WIDTH, OUT_PIXEL, FILTERS, SUM_HEIGHT, SUM_WIDTH,
 STEP_Y, STEP_X, TILES_DOWN, TILES_ACROSS, TILES, STARTS) = range(16)  # fmt: skip

# Where the pixels of tiles lie in a picture: the element of pixel k is the sum of number k in the
# line of the tile's row and in that of its column, which follow those of the rows. It is negative
# outside the picture, where one of the two is OUTSIDE. Lines are whole vectors of PLACE_LANES;
# those of addresses have ENTRIES, room for all of a tile.
OUTSIDE = -(1 << 61)
PLACE_LANES = 8
ENTRIES = -(-ELEMENTS // PLACE_LANES) * PLACE_LANES

# Behind the addresses of the at most 2x2 outputs of a pooled tile: how much of it lies inside.
# Then, from PLACES on, where the winners' places go.
ROWS_INSIDE, COLUMNS_INSIDE, PLACES = 4, 5, 6
UNPOOLED, POOLED, WITH_PLACES = range(3)
NO_PLACES = np.empty(0, np.uint8)


@kernel
def _place(table, tile):
    """(image, tile down, tile across) of a tile."""
    image, rest = divmod(tile, table[TILES_DOWN] * table[TILES_ACROSS])
    down, across = divmod(rest, table[TILES_ACROSS])
    return image, down, across


@kernel
def _next_place(table, image, down, across):
    """The same of the tile after it, without a division."""
    across += 1
    if across == table[TILES_ACROSS]:
        down, across = down + 1, 0
        if down == table[TILES_DOWN]:
            image, down = image + 1, 0
    return image, down, across


@kernel
def _start(table, down, across):
    """(row, column) of the first output of a tile, before the maxima of pooled outputs."""
    return table[STARTS + down], table[STARTS + table[TILES_DOWN] + across]


@kernel
def _picture_sizes(table):
    """Elements of a picture of the input and of the output."""
    x_picture = table[HEIGHT] * table[WIDTH] * table[PIXEL]
    return x_picture, table[OUT_HEIGHT] * table[OUT_WIDTH] * table[OUT_PIXEL]


@kernel
def _addresses(array, picture, places, elsewhere, table, first, count, addresses):
    """addresses[q, k] of pixel k of tile first + q in `array`, where a picture has `picture`
    elements; that of `elsewhere` if it lies outside."""
    image, down, across = _place(table, first)
    length = places.shape[1]
    for q in range(count):
        rows, columns = down * length, (table[TILES_DOWN] + across) * length
        _address_line(places, rows, columns, length, elsewhere, array, image * picture, addresses,
                      q * ENTRIES)  # fmt: skip
        image, down, across = _next_place(table, image, down, across)


@simd.vector_intrinsic
def _address_line(v, places, rows, columns, length, elsewhere, array, first, addresses, line):
    """A line of addresses, of the sums of two lines of places from element `first` on.

    Vectors by hand: the compiler's loop took 75 cycles for a tile, a tenth of a convolution of 16
    to 16 channels that has two of them.
    """
    builder = v.builder
    kind = ir.VectorType(simd.INTEGER, PLACE_LANES)

    def at(table, index):
        return builder.bitcast(builder.gep(table, [index]), kind.as_pointer())

    shift = (simd.VECTOR_BYTES // v.lanes).bit_length() - 1  # of places to bytes
    shift = ir.Constant(kind, [shift] * PLACE_LANES)
    base, outside = (
        v.broadcast(builder.ptrtoint(one, simd.INTEGER), kind)
        for one in (v.address(array, first), elsewhere)
    )
    with v.count_up(length, PLACE_LANES) as (k, _):
        place = builder.add(
            *(builder.load(at(places, builder.add(of, k)), align=8) for of in (rows, columns))
        )
        inside = builder.icmp_signed(">=", place, ir.Constant(kind, None))
        address = builder.select(inside, builder.add(base, builder.shl(place, shift)), outside)
        builder.store(address, at(addresses, builder.add(line, k)), align=8)


@kernel
def outputs(size):
    """Of a tile, along an axis."""
    return TILE + 1 - len(size)


@kernel
def _pooled_addresses(size, y, index, outside, table, first, count, addresses):
    """How much of the tiles from `first` on lies inside the picture, and, from PLACES on, addresses
    in `index`, unless it is empty, as those in y before them."""
    image, down, across = _place(table, first)
    for q in range(count):
        top, left = _start(table, down, across)
        addresses[q, ROWS_INSIDE] = table[SUM_HEIGHT] - top
        addresses[q, COLUMNS_INSIDE] = table[SUM_WIDTH] - left
        image, down, across = _next_place(table, image, down, across)
        for k in range((outputs(size) // 2) ** 2 if index.size else 0):
            there = addresses[q, k]
            if there != outside.ctypes.data:
                there = index.ctypes.data + (there - y.ctypes.data) // y.itemsize
            addresses[q, PLACES + k] = there


@kernel
def panel_step(rows, lanes):
    """Distance of the 36 elements in a panel of u, an odd number of vectors as in `block_steps`."""
    return rows * 2 * lanes + lanes


@kernel
def _transform_strip(size, g, taps, row_step, column_step, strip, rows, columns, u):
    """u (panels, 36, rows, panel width) of g[taps[t] + row * row_step + column * column_step], for
    a strip of rows; a square of lanes x lanes is transposed if the layout asks."""
    lanes = simd.VECTOR_BYTES // u.itemsize
    first = strip * lanes
    count = min(lanes, rows - first)
    line = taps.size * lanes
    square = np.zeros(lanes * line, u.dtype)
    u_step = panel_step(rows, lanes)
    for column in range(0, columns, lanes):
        length = min(lanes, columns - column)
        for t in range(taps.size):
            at = taps[t] + first * row_step + column * column_step
            if column_step == 1:
                for row in range(count):
                    for i in range(length):
                        square[row * line + t * lanes + i] = g[at + row * row_step + i]
                continue
            for i in range(length):
                for row in range(count):
                    square[row * line + t * lanes + i] = g[at + row * row_step + i * column_step]
        panel = column // (2 * lanes)
        width = lanes if columns - panel * 2 * lanes <= lanes else 2 * lanes
        for row in range(count):
            u0 = panel * ELEMENTS * u_step + (first + row) * width + column - panel * 2 * lanes
            _transform_kernel(size, square, row * line, lanes, u, u0, u_step)


@parallel_kernel
def tiles_product(size, g, taps, row_step, column_step, u, x, table, x_places, y_places, scale,
                  start, y, pooled, index, streaming, code, slope, block, zeros, outside, v, m,
                  addresses, taken):  # fmt: skip
    """y = activation(scale (x * g) + bias), or its maxima; the kernel is transformed first, into
    the one u of all workers, or into each one's own."""
    lanes, channels = simd.VECTOR_BYTES // x.itemsize, table[CHANNELS]
    strips = (channels + lanes - 1) // lanes
    sharing.open_tasks(taken)
    if len(u) == 1:
        for strip in prange(strips):
            _transform_strip(size, g, taps, row_step, column_step, np.int64(strip), channels,
                             table[FILTERS], u[0])  # fmt: skip
    for worker in prange(len(v)):
        for strip in range(strips if len(u) > 1 else 0):
            _transform_strip(size, g, taps, row_step, column_step, strip, channels, table[FILTERS],
                             u[np.int64(worker)])  # fmt: skip
        _tiles_product(np.int64(worker), size, x, table, x_places, y_places, u, scale, start, y,
                       pooled, index, streaming, code, slope, block, zeros, outside, v, m,
                       addresses, taken)  # fmt: skip


@kernel
def _tiles_product(worker, size, x, table, x_places, y_places, us, scale, start, y, pooled, index,
                   streaming, code, slope, block, zeros, outside, vs, ms, tables,
                   taken):  # fmt: skip
    """One worker's part of the blocks of tiles."""
    lanes = simd.VECTOR_BYTES // x.itemsize
    channels, filters = table[CHANNELS], table[FILTERS]
    x_picture, y_picture = _picture_sizes(table)
    u, v, m, addresses = us[worker % len(us)], vs[worker], ms[worker], tables[worker]
    v_row = (channels + lanes - 1) // lanes * lanes
    v_step, m_step = block_steps(block, v_row, filters, lanes)
    u_step = panel_step(channels, lanes)
    to_floor = start.size // 2 if code == gemm.FLOOR else 0
    group = GROUP * 2 * lanes
    known_to = -1
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(vs), taken)
        first, last = tiles_of(task, block, len(vs), taken.size, table[TILES])
        if task < 0 or first >= last:
            continue
        count = min(block, last - first)
        known = min(count + AHEAD, last - first)
        begin = 0 if first == known_to else -AHEAD
        _addresses(x, x_picture, x_places, zeros, table, first, known, addresses)
        _transform_inputs(size, zeros, addresses, begin, count, known, 0, channels, v, v_row,
                          v_step)  # fmt: skip
        _addresses(y, y_picture, y_places, outside, table, first, count, addresses)
        if pooled:
            _pooled_addresses(size, y, index, outside, table, first, count, addresses)
        for f in range(0, filters, group):
            columns = min(group, filters - f)
            m_row = (columns + lanes - 1) // lanes * lanes
            for panel in range(0, columns, 2 * lanes):
                width = min(2 * lanes, m_row - panel)
                u0 = (f + panel) // (2 * lanes) * ELEMENTS * u_step
                for e in range(ELEMENTS):
                    gemm.block_product(
                        v, e * v_step, v_row, gemm.ADJACENT, count, u, u0 + e * u_step, width,
                        channels, m, e * m_step + panel, m_row, zeros, gemm.ORIGIN, gemm.WHOLE,
                        gemm.LINEAR, slope, zeros,
                    )  # fmt: skip
            for q in range(count):
                for j in range(0, columns, lanes):
                    _transform_output(
                        size, m, q * m_row + j, m_step, scale, start, f + j, f + j + to_floor,
                        columns - j, addresses, q * ENTRIES, pooled, index, streaming, code,
                        slope,
                    )  # fmt: skip
        if code > gemm.FLOOR:
            _activate_tiles(size, y, table, first, count, code, slope)
        known_to = first + count
    simd.end_of_stream(y)


@kernel
def tiles_of(task, block, workers, tasks, tiles):
    """(first tile of a block, last of its worker's share); the shares differ by one tile at most,
    the last block of a share may be short, or have no tiles."""
    worker, number = divmod(task, tasks // workers)
    first, last = gemm.share(worker, workers, tiles)
    return first + number * block, last


@kernel
def _transform_inputs(size, like, addresses, begin, count, known, channel, channels, v, v_row,
                      v_step):  # fmt: skip
    """v of the first `count` tiles. The pixels of tile q + AHEAD, up to `known`, are asked for
    before tile q is transformed; begin is -AHEAD if nobody has asked for the first ones."""
    lanes = simd.VECTOR_BYTES // v.itemsize
    for q in range(begin, count):
        if q + AHEAD < known:
            _prefetch_input(size, like, addresses, (q + AHEAD) * ENTRIES, channel, channels)
        for c in range(0, channels if q >= 0 else 0, lanes):
            _transform_input(addresses, q * ENTRIES, channel + c, channels - c, v, q * v_row + c,
                             v_step)  # fmt: skip


@kernel
def block_steps(block, v_row, filters, lanes):
    """Distance of the 36 elements in v and m; an odd number of cache lines, so that the stores of
    a transform do not all fall into the same few sets of the first-level cache."""
    rows = (block + ROWS - 1) // ROWS * ROWS
    m_row = min((filters + lanes - 1) // lanes, GROUP * 2) * lanes
    return rows * v_row + lanes, rows * m_row + lanes


@kernel
def _activate_tiles(size, y, table, first, count, code, slope):
    out = outputs(size)
    height, width, pixel = table[OUT_HEIGHT], table[OUT_WIDTH], table[OUT_PIXEL]
    step_y, step_x = table[STEP_Y], table[STEP_X]
    for tile in range(first, first + count):
        image, down, across = _place(table, tile)
        top, left = _start(table, down, across)
        for row in range(top, min(top + out * step_y, height), step_y):
            for column in range(left, min(left + out * step_x, width), step_x):
                at = ((image * height + row) * width + column) * pixel
                gemm.activate_row(y, at, table[FILTERS], code, slope)


@parallel_kernel
def tiles_gradient(size, x, table, x_places, dy_places, dy, dk, block, part, split, zeros, sums,
                   partial, v, m, addresses, taken):  # fmt: skip
    """dk (kh, kw, channels, filters): segments of the tiles apart, then their sum."""
    sharing.open_tasks(taken)
    for worker in prange(len(v)):
        _tiles_gradient(np.int64(worker), size, x, table, x_places, dy_places, dy, dk, block, part,
                        split, zeros, sums, partial, v, m, addresses, taken)  # fmt: skip
    filters, dk_row = table[FILTERS], table[OUT_PIXEL]
    if partial.size:
        for row in prange(len(size) ** 2 * table[CHANNELS]):
            number = np.int64(row)
            gemm.add_segments(partial, number * filters, filters, dk, number * dk_row)


@kernel
def _tiles_gradient(worker, size, x, table, x_places, dy_places, dy, dk, block, part, split, zeros,
                    all_sums, partial, vs, ms, tables, taken):  # fmt: skip
    """One worker's part of the tasks (segment of the tiles, piece of dk)."""
    lanes = simd.VECTOR_BYTES // x.itemsize
    filters = table[FILTERS]
    x_picture, dy_picture = _picture_sizes(table)
    sums, v, m, addresses = all_sums[worker], vs[worker], ms[worker], tables[worker]
    v_row = (part + lanes - 1) // lanes * lanes
    v_step, _ = block_steps(block, v_row, filters, lanes)
    m_step = block * split + lanes
    sums_step = (part + ROWS - 1) // ROWS * ROWS * split
    for turn in range(taken.size):
        task = sharing.task_of(turn, worker, len(vs), taken)
        if task < 0:
            continue
        segment, first, last, c0, channels, f, columns = gradient_task(task, part, split, partial,
                                                                       table)  # fmt: skip
        padded = (columns + lanes - 1) // lanes * lanes
        mode, begin = gemm.WHOLE, -AHEAD
        while first < last:
            count = min(block, last - first)
            known = min(count + AHEAD, last - first)
            _addresses(x, x_picture, x_places, zeros, table, first, known, addresses)
            _transform_inputs(size, zeros, addresses, begin, count, known, c0, channels, v, v_row,
                              v_step)  # fmt: skip
            _addresses(dy, dy_picture, dy_places, zeros, table, first, known, addresses)
            for q in range(begin, count):
                if q + AHEAD < known:
                    _prefetch_output_grad(size, dy, addresses, (q + AHEAD) * ENTRIES, f, columns)
                for j in range(0, columns if q >= 0 else 0, lanes):
                    panel = j // (2 * lanes) * (2 * lanes)
                    at = panel * count + q * min(2 * lanes, padded - panel) + j - panel
                    _transform_output_grad(size, addresses, q * ENTRIES, f + j, columns - j,
                                           m, at, m_step)  # fmt: skip
            for e in range(ELEMENTS):
                gemm.block_product(
                    v, e * v_step, gemm.ADJACENT, v_row, channels, m, e * m_step, padded, count,
                    sums, e * sums_step, split, zeros, gemm.ORIGIN, mode, gemm.LINEAR, zeros[0],
                    zeros,
                )  # fmt: skip
            mode, begin = gemm.ADD, 0
            first += count
        finish_piece(size, sums, split, sums_step, c0, channels, f, columns, segment, partial,
                     table, dk)  # fmt: skip


@kernel
def gradient_task(task, part, split, partial, table):
    """(segment, its first and last tile, a piece of dk: first channel, channels, filter, filters)
    of a task; a segment has all pieces one behind the other."""
    channels, filters = table[CHANNELS], table[FILTERS]
    across = (filters + split - 1) // split
    segment, piece = divmod(task, (channels + part - 1) // part * across)
    first, last = gemm.share(segment, max(len(partial), 1), table[TILES])
    c0, f0 = piece // across * part, piece % across * split
    return segment, first, last, c0, min(part, channels - c0), f0, min(split, filters - f0)


@kernel
def finish_piece(size, sums, sums_row, sums_step, c0, channels, f0, columns, segment, partial,
                 table, dk):  # fmt: skip
    """G^T . G of the sums of a piece: a quarter of the numbers that other threads have to read. To
    `partial`, (segment, tap, channel, filter), or if it is empty at once to dk."""
    lanes = simd.VECTOR_BYTES // dk.itemsize
    target, row = dk, table[OUT_PIXEL]
    if partial.size:
        target, row = partial[segment], table[FILTERS]
    for i in range(channels):
        for j in range(0, columns, lanes):
            _transform_kernel_grad(size, sums, i * sums_row + j, sums_step, target,
                                   (c0 + i) * row + f0 + j, table[CHANNELS] * row,
                                   columns - j)  # fmt: skip


# -- The three products ----------------------------------------------------------------------------


def is_defined(shape):
    """Whether this algorithm computes convolutions of this geometry."""
    height, width = shape.kernel_shape[:2]
    return height == width and height in SIZES and shape.strides == (1, 1)


@functools.lru_cache(maxsize=256)
def tile_starts(length, dilation, taps):
    """The first outputs of the tiles along an axis that has `length` of them."""
    strips = range(0, length, dilation * (TILE + 1 - taps))  # shared by up to `dilation` tiles
    return [strip + phase for strip in strips for phase in range(min(dilation, length - strip))]


def convolve(x, kernel, bias, shape, activation, y, pooled_shape=None, index=None, scale=None,
             product=None):  # fmt: skip
    """y = activation(scale (x * kernel) + bias); flat arrays of one dtype, both may be None.

    With pooled_shape y has that shape and holds the maxima of 2x2 windows, and `index`, if given,
    their places in them. `product` computes a group in place of `_product`.
    """
    product = product or _product
    size, _, channels, all_filters = shape.kernel_shape
    filters = all_filters // shape.groups
    plan = forward_plan(shape, pooled_shape)
    floors = activation[1] if activation is not None and activation[0] == "floor" else None
    pooled = UNPOOLED if pooled_shape is None else POOLED if index is None else WITH_PLACES
    for g in range(shape.groups):
        own = slice(g * filters, None)
        if activation is not None and activation[0] == "floor":
            activation = "floor", floors[own]
        product((SIZES[size], kernel[own], plan.taps, all_filters, 1), x[g * channels :], plan,
                None if scale is None else scale[own], None if bias is None else bias[own],
                activation, y[own], pooled, NO_PLACES if index is None else index[own])  # fmt: skip


def convolve_input_grad(dy, kernel, shape, dx, product=None):
    """dx from dy and the kernel, turned by 180 degrees, filters and channels exchanged."""
    product = product or _product
    size, _, channels, all_filters = shape.kernel_shape
    filters = all_filters // shape.groups
    plan = input_grad_plan(shape)
    for g in range(shape.groups):
        own = slice(g * filters, None)
        product((SIZES[size], kernel[own], plan.taps, 1, all_filters), dy[own], plan, None, None,
                None, dx[g * channels :])  # fmt: skip


def by(product):
    """(convolve, convolve_input_grad) whose groups are computed by `product`, as `_product` is."""
    return (
        functools.partial(convolve, product=product),
        functools.partial(convolve_input_grad, product=product),
    )


def convolve_kernel_grad(x, dy, shape, dk):
    """dk from x and dy; flat arrays of one dtype."""
    lanes = simd.lanes(x.dtype)
    size, _, channels, all_filters = shape.kernel_shape
    filters = all_filters // shape.groups
    plan = forward_plan(shape)
    cut = _gradient_sizes(size, *plan.sizes, lanes, x.dtype, threads.count())
    zeros = _zeros(max(channels, filters) + 2 * lanes, x.dtype)
    scratch = arena.scratch(*cut.scratch)
    for g in range(shape.groups):
        own = slice(g * filters, None)
        tiles_gradient(SIZES[size], x[g * channels :], *plan.tables, dy[own], dk[own], cut.block,
                       cut.part, cut.split, zeros, *scratch)  # fmt: skip


class _GradientSizes(NamedTuple):
    """Of a launch of `tiles_gradient`."""

    block: int  # tiles
    part: int  # channels
    split: int  # filters
    scratch: tuple


@functools.lru_cache(maxsize=256)
def _gradient_sizes(size, channels, filters, tiles, lanes, dtype, most_workers):
    segments, part, split = _division(tiles, channels, filters, lanes, dtype.itemsize)
    pieces = -(-channels // part) * -(-filters // split)
    block = _block(-(-tiles // segments), part + split, lanes, dtype.itemsize)  # v and m
    workers = min(most_workers, segments * pieces)
    sums = ELEMENTS * (-(-part // ROWS) * ROWS) * split
    v_row = -(-part // lanes) * lanes
    v_step, _ = block_steps(block, v_row, filters, lanes)
    m_step = block * split + lanes
    scratch = (
        arena.rows(workers, sums, dtype),
        partial_sums(segments, size, channels * filters, dtype),
        arena.rows(workers, ELEMENTS * v_step + ROWS + lanes, dtype),
        arena.rows(workers, ELEMENTS * m_step, dtype),
        ((workers, block + AHEAD, ENTRIES), np.int64),
        ((segments * pieces,), np.int64),
    )
    return _GradientSizes(block, part, split, scratch)


def partial_sums(segments, size, products, dtype):
    """What `arena.scratch` is asked for."""
    return (segments, size * size * products) if segments > 1 else (0, 0), dtype


def _division(tiles, channels, filters, lanes, itemsize):
    """(segments of the tiles, channels and filters of a piece of dk), by the shape alone.

    The sums of a piece, 36 channels * filters, are read and written once a block of tiles, so they
    should stay near: 512 x 512, 14 x 14, takes 27 ms so, and 36 in pieces of all channels. Every
    piece transforms its tiles anew, so they are large: 64 x 64 took 1.2 times as long as 128 x 128
    for 256 x 256. What fits into one such piece is cut into those of 64 x 64 all the same, beside
    whose sums a block stays in the second-level cache: 0.81 to 0.95 of the time for 128 x 128 and
    64 x 128. A segment costs the memory of partial sums: at most TASKS of both, of SEGMENT tiles or
    more.
    """
    part, split = channels, -(-filters // (2 * lanes)) * 2 * lanes
    whole = ELEMENTS * part * split * itemsize
    most = PIECE_BYTES if whole > PIECE_BYTES else PIECE_BYTES // 4
    if whole > most:
        side = int((most / (ELEMENTS * itemsize)) ** 0.5)
        split = min(split, max(side // (2 * lanes), 1) * 2 * lanes)
        part = min(part, max(most // (ELEMENTS * itemsize * split) // lanes, 1) * lanes)
    pieces = -(-channels // part) * -(-filters // split)
    size = ELEMENTS * channels * filters * itemsize
    enough = max(tiles // SEGMENT, min(2, tiles // (2 * ROWS)))
    segments = max(1, min(TASKS // pieces, enough, PARTIAL_BYTES // size))
    if pieces == 1 and segments == 3 and 4 * size <= PARTIAL_BYTES:
        segments = 4  # of two, more pieces would have to be made
    segments = 1 << segments.bit_length() - 1  # equal shares for 2, 4 and 8 threads
    if segments * pieces < 4:  # few tiles: more pieces, so that threads have something to share
        panels = -(-filters // (2 * lanes))
        split = min(split, -(-panels // min(4 // segments, panels)) * 2 * lanes)
    return segments, part, split


def _product(right, x, plan, scale, bias, activation, y, pooled=UNPOOLED, index=NO_PLACES):
    """One group: x and y begin at its first channel and filter; `right` are its size, kernel and
    strides as `_transform_strip` takes them."""
    channels, filters, tiles = plan.sizes
    lanes = simd.lanes(x.dtype)
    sizes = _sizes(channels, filters, tiles, lanes, x.dtype, threads.count())
    u, v, m, addresses, taken = arena.scratch(*sizes.scratch)
    tiles_product(
        *right, u, x, *plan.tables, *_ending(plan, scale, bias, activation, y, pooled, index),
        sizes.block, sizes.zeros, sizes.outside, v, m, addresses, taken,
    )  # fmt: skip


def _ending(plan, scale, bias, activation, y, pooled, index):
    """What the kernels take, from `scale` to `slope`, for what becomes of the products."""
    _, filters, _ = plan.sizes
    code, slope = gemm.activation_code(activation, y.dtype)
    start = gemm.start_vector(bias, activation, filters, y.dtype)
    factors = _scale_vector(scale, filters, y.dtype)
    return factors, start, y, pooled, index, _streaming(filters, plan, y, code), code, slope


def _scale_vector(scale, filters, dtype):
    """The scale, or ones, and behind it what the last vector reads."""
    if scale is None:
        return _ones(filters + simd.lanes(dtype), dtype)
    vector = np.empty(filters + simd.lanes(dtype), dtype)
    noted(np.copyto, vector[:filters], scale[:filters])
    vector[filters:] = 1
    return vector


@functools.lru_cache(maxsize=64)
def _ones(size, dtype):
    return np.ones(size, dtype)


class _Sizes(NamedTuple):
    """Of a launch of `tiles_product`."""

    block: int  # tiles
    zeros: np.ndarray  # what is read for pixels outside the picture
    outside: np.ndarray  # where outputs outside the picture go
    scratch: tuple


@functools.lru_cache(maxsize=256)
def _sizes(channels, filters, tiles, lanes, dtype, most_workers):
    workers = min(most_workers, -(-tiles // ROWS))
    share = -(-tiles // workers)
    block = _block(share, channels, lanes, dtype.itemsize)
    v_row = -(-channels // lanes) * lanes
    v_step, m_step = block_steps(block, v_row, filters, lanes)
    u = -(-filters // (2 * lanes)) * ELEMENTS * panel_step(channels, lanes)
    scratch = (
        arena.rows(sharing.copies(workers, u * dtype.itemsize), u, dtype),
        arena.rows(workers, ELEMENTS * v_step + ROWS * v_row, dtype),
        arena.rows(workers, ELEMENTS * m_step, dtype),
        ((workers, block + AHEAD, ENTRIES), np.int64),
        ((workers * -(-share // block),), np.int64),
    )
    zeros = _zeros(channels + 2 * lanes, dtype)
    return _Sizes(block, zeros, _outside(filters, dtype), scratch)


def _streaming(filters, plan, y, code):
    """Whether the outputs go past the caches: then they are whole vectors, and nothing but the
    transform touches them."""
    whole = filters % simd.lanes(y.dtype) == 0 and code <= gemm.FLOOR
    return int(whole and simd.streams(y, plan.pixel))


@functools.lru_cache(maxsize=64)
def _outside(filters, dtype):
    """Where outputs outside the picture go; the arena aligns arrays of this size."""
    return arena.empty((max(filters + simd.lanes(dtype), arena.SMALLEST),), dtype)


def _block(tiles, channels, lanes, itemsize):
    """Tiles that are transformed at once: whole tiles of the micro-kernel, evenly divided."""
    most = V_BYTES // (ELEMENTS * (-(-channels // lanes) * lanes) * itemsize)
    most = max(most // ROWS, 1) * ROWS
    return min(most, -(-tiles // ROWS) * ROWS)


class Plan(NamedTuple):
    """What tells the kernels of the pictures: made in Python once per shape."""

    taps: np.ndarray  # where those of the kernel begin, turned by 180 degrees for dx
    sizes: tuple  # channels, filters and tiles
    pixel: int  # numbers of an output pixel, of all groups
    tables: tuple  # of numbers; (tiles down + tiles across, 36) places of the pixels of a tile of
    # the input; the same for its outputs or the maxima of their windows


@functools.lru_cache(maxsize=256)
def forward_plan(shape, pooled_shape=None):
    """Of the pictures as the forward product sees them."""
    pads = [before for before, _ in shape.padding]
    return _plan(shape.input_shape, shape.output_shape, pads, shape, False, pooled_shape)


@functools.lru_cache(maxsize=256)
def input_grad_plan(shape):
    """The same with dy for x and dx for y."""
    pads = [
        (shape.kernel_shape[0] - 1) * dilation - before
        for (before, _), dilation in zip(shape.padding, shape.dilation, strict=True)
    ]
    return _plan(shape.output_shape, shape.input_shape, pads, shape, True)


def _plan(x_shape, sum_shape, pads, shape, turned, pooled_shape=None):
    n, h, w, c = x_shape
    _, *sums, f = sum_shape
    _, oh, ow, _ = pooled_shape or sum_shape
    steps, out = shape.dilation, TILE + 1 - shape.kernel_shape[0]
    starts = [tile_starts(*axis) for axis in zip(sums, steps, shape.kernel_shape[:2], strict=True)]
    down, across = map(len, starts)
    fields = [h, w, c, c // shape.groups, oh, ow, f, f // shape.groups, *sums, *steps, down, across,
              n * down * across]  # fmt: skip
    side = out // 2 if pooled_shape else out
    seen = [np.array(axis) - pad for axis, pad in zip(starts, pads, strict=True)]
    made = [np.array(axis) * side // out for axis in starts]
    tables = (
        np.array([*fields, *starts[0], *starts[1]], np.int64),
        _places(seen, steps, TILE, (h, w, c)),
        _places(made, steps, side, (oh, ow, f)),
    )
    taps = np.arange(shape.kernel_shape[0] ** 2) * math.prod(shape.kernel_shape[2:])
    if turned:
        taps = taps[::-1].copy()
    return Plan(taps, (fields[CHANNELS], fields[FILTERS], fields[TILES]), f, tables)


def _places(starts, steps, side, picture_shape):
    """Lines for the tiles down and across, whose side x side pixels from the first on lie `steps`
    apart: where in a picture, or OUTSIDE."""
    *lengths, pixel = picture_shape
    number = np.divmod(np.arange(side * side), side)
    lines = []
    for axis, element in enumerate((lengths[1] * pixel, pixel)):
        at = starts[axis][:, np.newaxis] + number[axis] * steps[axis]
        inside = (at >= 0) & (at < lengths[axis])
        lines.append(np.where(inside, at * element, OUTSIDE))
    lines = np.concatenate(lines)
    return np.pad(lines, ((0, 0), (0, -side * side % PLACE_LANES)), constant_values=OUTSIDE)


@functools.lru_cache(maxsize=64)
def _zeros(size, dtype):
    return np.zeros(size, dtype)
