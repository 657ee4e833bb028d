"""Products of matrices on Intel's tile unit (AMX), in float32 accuracy from bfloat16 parts.

    x = x1 + x2 + x3      x1 = cut(x), x2 = cut(x - x1), x3 = x - x1 - x2: exact, 3 x 8 bits
    x y = x3 y1 + x2 y1 + x2 y2 + x1 y2 + x1 y1 + x1 y3      what is left out is below 2^-21 |x y|

cut      a float32 without its lower 16 bits: a bfloat16, by one instruction. Rounded, it would take
         two, the rest would be below 2^-26, and the sum's error no smaller: 4.1e-7 both ways for
         7x7, 64 channels (5.5e-7 and 5.9e-7 for 3x3, 128 channels by Winograd; 9e-7 and 1.05e-6
         without the unit), of which 3e-8 are always towards zero.

part     x1, x2 or x3 of a float32, a bfloat16 (the upper half of a float32)
step     32 values of k: the depth of a tile
line     64 bytes, the 32 values of one part of a step: word i holds value i and value 16 + i
tile     16 lines; of a: 16 rows, of b: 16 pairs of k for 16 columns
PANEL    columns of b that are multiplied at once: two tiles
BLOCK    rows of a that are multiplied at once: two tiles
short    a step of 16 values: two of their parts fill a line, word i holds those of value i

Design. A tile product of 16 x 16 x 32 takes 16 cycles, 16 times as many operations as the two FMA
units do, so that six products for the six terms above are at most 16 / 6 times as fast. They are
exact and the sums in float32, in an order that depends on nothing but k. Small terms come first.
A tile of sums and one of each operand are in use, which loads 28 tiles for 24 products of a block;
two tiles of sums would load 22, four 14. Alone a core does the 24 in 155 ns all three ways, its
peak; but one whose other hardware thread is busy has few places left that a tile could be renamed
to: 247 ns with three tiles in use, 282 with five, 555 with all eight (a Xeon, 2026-11-28). Every
line is loaded twice, so a block goes through a few steps at a time: with 256 channels 0.95 of the
time of all at once.
Values are split without moving one across lanes: the upper halves of two vectors are merged into
words, which only permutes k, on both sides alike.
Rows that straddle cache lines would load 4 times as slowly, so everything is made of lines.
The unit is reset before the kernel ends: a thread pays for it on a switch only while it computes.

A NaN stays one, an infinity becomes NaN, a value below 2^-110 loses its last bits.
"""

import contextlib
import ctypes
import functools
import itertools
import platform
import sys

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from minicnn import config
from minicnn.ops.fast import simd
from minicnn.ops.fast.jit import kernel, parallel_kernel

STEP = 32  # values of k in a line
LINE = 64  # bytes
PARTS = 3
BLOCK = PANEL = 32
TILE_BYTES = 1024
CHUNK = 4  # steps of a block whose operands, 48 kB, stay in the first-level cache
ASKED = 16  # lines from each place that `asking_add_whole_panel` asks for in a step

_SYSCALL_ARCH_PRCTL = 158
_REQUEST_PERMISSION = 0x1023  # ARCH_REQ_XCOMP_PERM
_TILE_DATA = 18  # number of the state component


def is_available():
    """Whether kernels may use the tile unit: processor, system and `config.amx` agree."""
    return config.amx == "auto" and _is_permitted()


@functools.cache
def _is_permitted():
    """Numba compiles for such a processor, and Linux lets this process (and its threads) use it."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    wanted = {"+amx-tile", "+amx-bf16", "+avx512f"}
    if not wanted <= set(features.split(",")):
        return False
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    request = ctypes.CDLL(None, use_errno=True).syscall
    return request(_SYSCALL_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


# -- Instructions ----------------------------------------------------------------------------------

_BYTE, _WORD = ir.IntType(8), ir.IntType(32)
_BYTES = _BYTE.as_pointer()
_WORDS = ir.VectorType(_WORD, 16)
_FLOATS = ir.VectorType(ir.FloatType(), 16)


def _instruction(builder, name, arguments):
    function_type = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.x86.{name}")
    builder.call(function, arguments)


def _count(value):
    return ir.Constant(simd.INTEGER, value)


def _prefetch(builder, address):
    """Ask for a line, into the second-level cache."""
    place = builder.inttoptr(address, ir.FloatType().as_pointer())
    simd.Vectors(builder, ir.FloatType()).prefetch(place, _count(0))


def _integer_intrinsic(write):
    """Make a kernel function of `write(builder, *values)`, all of them addresses or integers."""
    names = write.__code__.co_varnames[1 : write.__code__.co_argcount]

    def typed(*_):
        def generate(context, builder, signature, arguments):
            write(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * len(names)), generate

    space = {"typed": typed}
    parameters = "".join(f", {name}" for name in names)
    exec(f"def {write.__name__}(typing{parameters}): return typed()", space)
    return intrinsic(space[write.__name__])


@_integer_intrinsic
def begin(builder):
    """Set the unit of this thread up: eight tiles of 16 lines."""
    layout = bytearray(64)
    layout[0] = 1  # the palette: how the next bytes are read
    for tile in range(8):
        layout[16 + 2 * tile] = LINE
        layout[48 + tile] = 16
    value = ir.Constant(ir.ArrayType(_BYTE, 64), layout)
    place = cgutils.alloca_once_value(builder, value)
    _instruction(builder, "ldtilecfg", [builder.bitcast(place, _BYTES)])


@_integer_intrinsic
def end(builder):
    """Give the unit back."""
    _instruction(builder, "tilerelease", [])


# Lines of a and tiles of b whose products are added up in a step, small ones first.
TERMS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2))
# The same for a short step of 16 values, two parts of which fill a line: [x1 x2] and [x1 x3] of a,
# [y3 y1], [y2 y2] and [y1 y1] of b.
SHORT_TERMS = ((1, 0), (0, 1), (0, 2))


_SUM, _LEFT, _RIGHT = (ir.Constant(_BYTE, number) for number in range(3))  # tiles in use


def _multiply(builder, tile_columns, count, a_at, a_row, a_part, b_at, b_row, b_part, c, c_row,
              begin_sum, terms=TERMS, beside=None):  # fmt: skip
    """c (32 rows, 16 columns per tile column) = what `begin_sum(zero, load, address, column)`
    loads + a @ b.

    a_at(step), b_at(step): where the lines of a step begin; parts lie a_part and b_part apart,
    the tile columns of b (a number of bytes from the first) follow b_at's second result.
    beside(step, rows): writes what is done with a share of the 32 rows after a product of tiles.
    """

    def load(tile, address, stride):
        _instruction(builder, "tileloadd64", [tile, builder.inttoptr(address, _BYTES), stride])

    def at(address, distance, times):
        if times == 0:
            return address
        return builder.add(address, builder.mul(distance, _count(times)))

    products = 2 * tile_columns * len(terms)
    with _chunks(builder, count) as (first, steps):
        written = 0
        for j, i in itertools.product(range(tile_columns), range(2)):
            address = builder.add(at(c, c_row, 16 * i), _count(LINE * j))
            with builder.if_else(builder.icmp_signed("==", first, _count(0))) as (new, begun):
                with new:
                    begin_sum(lambda: _instruction(builder, "tilezero", [_SUM]), load, address, j)
                with begun:
                    load(_SUM, address, c_row)
            with cgutils.for_range(builder, steps, intp=simd.INTEGER) as loop:
                step = builder.add(first, loop.index)
                a_now, (b_now, b_column) = a_at(step), b_at(step)
                a_now, b_now = at(a_now, a_row, 16 * i), at(b_now, b_column, j)
                a_loaded = b_loaded = None
                for a_wanted, b_wanted in terms:
                    if a_wanted != a_loaded:
                        load(_LEFT, at(a_now, a_part, a_wanted), a_row)
                    if b_wanted != b_loaded:
                        load(_RIGHT, at(b_now, b_part, b_wanted), b_row)
                    a_loaded, b_loaded = a_wanted, b_wanted
                    _instruction(builder, "tdpbf16ps", [_SUM, _LEFT, _RIGHT])
                    if beside is not None:
                        share = (BLOCK * n // products for n in (written, written + 1))
                        beside(step, range(*share))
                    written += 1
            place = builder.inttoptr(address, _BYTES)
            _instruction(builder, "tilestored64", [_SUM, place, c_row])


@contextlib.contextmanager
def _chunks(builder, count):
    """A loop over chunks of steps: (the first step, how many)."""
    with cgutils.for_range_slice(builder, _count(0), count, _count(CHUNK), simd.INTEGER) as loop:
        first, _ = loop
        left = builder.sub(count, first)
        is_last = builder.icmp_signed("<", left, _count(CHUNK))
        yield first, builder.select(is_last, left, _count(CHUNK))


def _asking(builder, lines, *places):
    """beside(step, rows) of `_multiply`: a share of so many lines a step, from each of the places
    on, is asked for."""

    def ask(step, rows):
        for place in places:
            first = builder.add(place, builder.mul(step, _count(lines * LINE)))
            for line in range(rows.start * lines // BLOCK, rows.stop * lines // BLOCK):
                _prefetch(builder, builder.add(first, _count(line * LINE)))

    return ask


def _panel_intrinsic(tile_columns, terms=TERMS, asks=False):
    """c (32 rows, 16 columns per tile column) = start + a @ b; a start at 0 means zeros.

    All arguments are addresses and bytes. Line (row i, step s, part p) of a lies at
    a + steps[s] + i * a_row + p * a_part; the tiles of b in the order step, part, column. If it
    asks, the next tiles of b lie at `ahead`.
    """

    def panel_product(builder, a, a_row, a_part, steps, count, b, c, c_row, start, ahead):
        def a_at(step):
            entry = builder.gep(builder.inttoptr(steps, simd.INTEGER.as_pointer()), [step])
            return builder.add(a, builder.load(entry))

        def b_at(step):
            size = _count(PARTS * tile_columns * TILE_BYTES)
            return builder.add(b, builder.mul(step, size)), _count(TILE_BYTES)

        def begin_sum(zero, load, _, column):
            with builder.if_else(builder.icmp_signed("==", start, _count(0))) as (plain, biased):
                with plain:
                    zero()
                with biased:
                    load(_SUM, builder.add(start, _count(LINE * column)), _count(0))

        _multiply(builder, tile_columns, count, a_at, a_row, a_part, b_at, _count(LINE),
                  _count(tile_columns * TILE_BYTES), c, c_row, begin_sum, terms,
                  _asking(builder, PARTS * tile_columns * 16, ahead) if asks else None)  # fmt: skip

    return _integer_intrinsic(panel_product)


def _woven_intrinsic(tile_columns, terms=TERMS, asks=False):
    """c (32 rows, 16 columns per tile column) = a @ b, while 32 rows of `depth` floats, source_row
    bytes apart, become lines at `target` as those of a are: a_row bytes apart, parts adjacent. If
    it asks, the next tiles of b lie at `ahead`."""

    def woven_product(builder, a, a_row, steps, b, c, c_row, source, source_row, depth, target,
                      ahead):  # fmt: skip
        def at(address, distance, times):
            return builder.add(address, builder.mul(_count(distance), times))

        def a_at(step):
            return at(a, PARTS * LINE, step)

        def b_at(step):
            return at(b, PARTS * tile_columns * TILE_BYTES, step), _count(TILE_BYTES)

        def begin_sum(zero, *_):
            zero()

        ask = _asking(builder, PARTS * tile_columns * 16, ahead) if asks else None

        def beside(step, rows):
            if asks:
                ask(step, rows)
            for row in rows:
                low = builder.add(at(source, 2 * LINE, step), builder.mul(source_row, _count(row)))
                place = builder.add(at(target, PARTS * LINE, step), builder.mul(a_row, _count(row)))
                if terms is SHORT_TERMS:
                    lines = _split_short(builder, _float_vector(builder, low))
                else:
                    left = builder.sub(depth, builder.mul(step, _count(STEP)))
                    lines = _split(builder, *_float_pair(builder, low, left))
                _store_lines(builder, lines, place, _count(LINE))

        _multiply(builder, tile_columns, steps, a_at, a_row, _count(LINE), b_at, _count(LINE),
                  _count(tile_columns * TILE_BYTES), c, c_row, begin_sum, terms,
                  beside)  # fmt: skip

    return _integer_intrinsic(woven_product)


def _adding_intrinsic(tile_columns, asks=False):
    """c (32 rows, 16 columns per tile column) += a @ b; steps and parts lie evenly apart.

    If it asks, ASKED lines a step are asked for from each of three places on.
    """

    def adding_product(builder, a, a_row, a_part, a_step, count, b, b_row, b_part, b_step,
                       b_column, c, c_row, first, second, third):  # fmt: skip
        def a_at(step):
            return builder.add(a, builder.mul(step, a_step))

        def b_at(step):
            return builder.add(b, builder.mul(step, b_step)), b_column

        def begin_sum(_, load, address, __):
            load(_SUM, address, c_row)

        ask = _asking(builder, ASKED, first, second, third) if asks else None
        _multiply(builder, tile_columns, count, a_at, a_row, a_part, b_at, b_row, b_part, c, c_row,
                  begin_sum, beside=ask)  # fmt: skip

    return _integer_intrinsic(adding_product)


whole_panel, half_panel = _panel_intrinsic(2), _panel_intrinsic(1)
short_whole_panel = _panel_intrinsic(2, SHORT_TERMS)
short_half_panel = _panel_intrinsic(1, SHORT_TERMS)
asking_whole_panel = _panel_intrinsic(2, asks=True)
add_whole_panel, add_half_panel = _adding_intrinsic(2), _adding_intrinsic(1)
asking_add_whole_panel = _adding_intrinsic(2, asks=True)
woven_whole_panel, woven_half_panel = _woven_intrinsic(2), _woven_intrinsic(1)
asking_woven_whole_panel = _woven_intrinsic(2, asks=True)
short_woven_whole_panel = _woven_intrinsic(2, SHORT_TERMS)
short_woven_half_panel = _woven_intrinsic(1, SHORT_TERMS)


def _parts(builder, rest):
    """The three parts of a vector of floats, in the upper halves of words."""
    upper = ir.Constant(_WORDS, [-65536] * 16)
    parts = []
    for _ in range(PARTS - 1):
        parts.append(builder.and_(builder.bitcast(rest, _WORDS), upper))
        rest = builder.fsub(rest, builder.bitcast(parts[-1], _FLOATS))
    # The last has eight bits at most, unless it is too small to be a normal number.
    return [*parts, builder.and_(builder.bitcast(rest, _WORDS), upper)]


def _words(builder, low, high):
    """Words (high, low) of two vectors of parts."""
    return builder.or_(builder.lshr(low, ir.Constant(_WORDS, [16] * 16)), high)


def _split(builder, low, high):
    """The three lines of words (high, low) of two vectors of floats."""
    parts = zip(_parts(builder, low), _parts(builder, high), strict=True)
    return [_words(builder, *pair) for pair in parts]


def _split_short(builder, values):
    """The two lines of a short step, of a vector of floats of a."""
    first, second, third = _parts(builder, values)
    return [_words(builder, first, other) for other in (second, third)]


def _float_pair(builder, address, count):
    """32 floats of which the first `count` exist, others are zero: two vectors."""
    low = _float_vector(builder, address, count)
    following = builder.add(address, _count(LINE)), builder.sub(count, _count(STEP // 2))
    return low, _float_vector(builder, *following)


def _float_vector(builder, address, count=None):
    """16 floats; zeros from `count` on, where memory is not touched."""
    pointer = builder.inttoptr(address, _FLOATS.as_pointer())
    if count is None:
        return builder.load(pointer, align=4)
    vectors = simd.Vectors(builder, ir.FloatType())
    return vectors.load_first(
        builder.bitcast(pointer, ir.FloatType().as_pointer()), _count(0), count
    )


def _store_lines(builder, lines, target, part_step):
    for part, line in enumerate(lines):
        offset = builder.mul(part_step, _count(part))
        place = builder.inttoptr(builder.add(target, offset), _WORDS.as_pointer())
        builder.store(line, place, align=LINE)


@_integer_intrinsic
def split_pair(builder, low, high, target, part_step):
    """Lines at target + part * part_step of 16 floats at `low` and 16 at `high`."""
    values = [_float_vector(builder, address) for address in (low, high)]
    _store_lines(builder, _split(builder, *values), target, part_step)


@_integer_intrinsic
def split_short_row(builder, source, target):
    """The two lines of a short step, of a row of 16 floats of a."""
    lines = _split_short(builder, _float_vector(builder, source))
    _store_lines(builder, lines, target, _count(LINE))


@_integer_intrinsic
def split_short_column(builder, source, target, part_step):
    """The lines of a short step, in the tiles of b, of one value of k in 16 columns."""
    first, second, third = _parts(builder, _float_vector(builder, source))
    pairs = (third, first), (second, second), (first, first)
    _store_lines(builder, [_words(builder, *pair) for pair in pairs], target, part_step)


@_integer_intrinsic
def split_first(builder, source, count, target, part_step):
    """The same of 32 floats at `source`, of which the first `count` exist: others are zero."""
    lines = _split(builder, *_float_pair(builder, source, count))
    _store_lines(builder, lines, target, part_step)


@_integer_intrinsic
def transpose(builder, source, row_step, target):
    """16 lines of 16 floats at `target`: the columns of 16 rows that lie row_step bytes apart."""
    rows = [
        _float_vector(builder, builder.add(source, builder.mul(row_step, _count(i))))
        for i in range(16)
    ]
    for distance in (1, 2, 4, 8):  # exchange squares of this size beside the diagonal
        first = [j if not j & distance else 16 + j - distance for j in range(16)]
        second = [j + distance if not j & distance else 16 + j for j in range(16)]
        masks = [ir.Constant(_WORDS, order) for order in (first, second)]
        for i in range(16):
            if not i & distance:
                pair = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = (builder.shuffle_vector(*pair, m) for m in masks)
    for i, row in enumerate(rows):
        place = builder.add(target, _count(LINE * i))
        builder.store(row, builder.inttoptr(place, _FLOATS.as_pointer()), align=LINE)


@_integer_intrinsic
def zero_lines(builder, target, count):
    """`count` lines of zeros."""
    with cgutils.for_range(builder, count, intp=simd.INTEGER) as loop:
        at = builder.add(target, builder.mul(loop.index, _count(LINE)))
        place = builder.inttoptr(at, _WORDS.as_pointer())
        builder.store(ir.Constant(_WORDS, [0] * 16), place, align=LINE)


@kernel
def split_row(source, count, target):
    """`count` floats at an address as lines (step, part) from another address on."""
    while count > 0:
        if count >= STEP:
            split_pair(source, source + LINE, target, LINE)
        else:
            split_first(source, count, target, LINE)
        source += 2 * LINE
        target += PARTS * LINE
        count -= STEP


@kernel
def split_columns(source, row_step, squares, target, part_step):
    """Lines at target + i * LINE + part * part_step of the 16 columns i of STEP rows of floats,
    which lie row_step bytes apart; `squares` is room for two tiles."""
    half = STEP // 2
    transpose(source, row_step, squares)
    transpose(source + half * row_step, row_step, squares + TILE_BYTES)
    for i in range(16):
        low = squares + i * LINE
        split_pair(low, low + TILE_BYTES, target + i * LINE, part_step)


@kernel
def block_product(a, a_row, a_part, steps, count, b, columns, c, c_row, start, ahead):
    """32 rows and up to 32 columns of c = start + a @ b, all addresses; start 0 means zeros.

    c has room for 32 columns, or 16 where `columns` is no more. Where b comes from beyond the
    second-level cache, `ahead` is where its next tiles are, else 0.
    """
    if columns <= PANEL // 2:
        half_panel(a, a_row, a_part, steps, count, b, c, c_row, start, ahead)
    elif ahead == 0:
        whole_panel(a, a_row, a_part, steps, count, b, c, c_row, start, ahead)
    else:
        asking_whole_panel(a, a_row, a_part, steps, count, b, c, c_row, start, ahead)


@kernel
def woven_block_product(a, a_row, steps, b, columns, c, c_row, source, source_row, depth, target,
                        ahead):  # fmt: skip
    """c = a @ b, as `block_product` does it; meanwhile 32 rows of `depth` floats at `source` are
    split into lines at `target`, as `split_row` (of up to 16 floats `split_short_row`) does it."""
    if depth <= STEP // 2:
        if columns > PANEL // 2:
            short_woven_whole_panel(a, a_row, steps, b, c, c_row, source, source_row, depth, target,
                                    ahead)  # fmt: skip
        else:
            short_woven_half_panel(a, a_row, steps, b, c, c_row, source, source_row, depth, target,
                                   ahead)  # fmt: skip
    elif columns <= PANEL // 2:
        woven_half_panel(a, a_row, steps, b, c, c_row, source, source_row, depth, target, ahead)
    elif ahead == 0:
        woven_whole_panel(a, a_row, steps, b, c, c_row, source, source_row, depth, target, ahead)
    else:
        asking_woven_whole_panel(a, a_row, steps, b, c, c_row, source, source_row, depth, target,
                                 ahead)  # fmt: skip


@kernel
def short_block_product(a, a_row, a_part, steps, count, b, columns, c, c_row, start):
    """`block_product` of short steps."""
    if columns > PANEL // 2:
        short_whole_panel(a, a_row, a_part, steps, count, b, c, c_row, start, 0)
    else:
        short_half_panel(a, a_row, a_part, steps, count, b, c, c_row, start, 0)


# Columns of the integer table that describes the right matrices to `pack`.
(TAPS, CHANNELS, CHANNEL_STEP, COLUMNS, COLUMN_STEP, GROUPS, GROUP_STEP) = range(7)


@kernel
def packed_panel(steps):
    """Bytes of a panel of b."""
    return steps * PARTS * 2 * TILE_BYTES


@parallel_kernel
def pack(b, taps, table, packed):
    """Right matrices of all groups as tiles: (group, panel, tap, step, part, tile column).

    Row (tap, channel), column j is b[taps[tap] + channel * CHANNEL_STEP + j * COLUMN_STEP].
    """
    panels = (table[COLUMNS] + PANEL - 1) // PANEL
    for piece in prange(table[GROUPS] * panels * table[TAPS]):
        _pack_piece(np.int64(piece), b, taps, table, packed)


@kernel
def _pack_piece(piece, b, taps, table, packed):
    channels, columns = table[CHANNELS], table[COLUMNS]
    panels = (columns + PANEL - 1) // PANEL
    group_panel, tap = divmod(piece, table[TAPS])
    group, panel = divmod(group_panel, panels)
    steps = (channels + STEP - 1) // STEP
    at = packed.ctypes.data + group_panel * packed_panel(table[TAPS] * steps)
    width = min(PANEL, columns - panel * PANEL)
    tiles = 2 if width > PANEL // 2 else 1
    at += tap * steps * PARTS * tiles * TILE_BYTES
    row_step, column_step = table[CHANNEL_STEP], table[COLUMN_STEP]
    start = taps[tap] + group * table[GROUP_STEP] + panel * PANEL * column_step
    square = np.zeros(STEP * PANEL, np.float32)
    half = STEP // 2
    for step in range(steps):
        rows = min(STEP, channels - step * STEP)
        first = start + step * STEP * row_step
        if column_step == 1 and rows == STEP and width == tiles * half:
            low, distance = b.ctypes.data + 4 * first, 4 * row_step
        else:
            low, distance = square.ctypes.data, 4 * PANEL
            if rows < STEP:
                square[:] = 0
            for j in range(width):
                for row in range(rows):
                    square[row * PANEL + j] = b[first + row * row_step + j * column_step]
        for tile in range(tiles):
            for row in range(half):
                line = low + row * distance + tile * LINE
                split_pair(line, line + half * distance, at + tile * TILE_BYTES + row * LINE,
                           tiles * TILE_BYTES)  # fmt: skip
        at += PARTS * tiles * TILE_BYTES
