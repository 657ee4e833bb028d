"""Micro-kernels of products whose left matrix is a table of offsets: s[windows[k] + offsets[i]].

    c[outs[i] + j] = start[j] + sum_k s[taps[k] + pixels[i]] b[k, j]      i: a position, k: a tap
    c[i, j] = sum_k s[pixels[k] + taps[i]] b[k, j]                        i: a tap, k: a position

Tiles of two vectors, of one, and of half a vector of AVX-512, which some processors multiply two
at a time. As in `gemm.py` a tile stays in registers while k runs; here a number of s is broadcast
from where it lies, so nothing has to be gathered, and c is written to the last element wanted and
not further.
"""

from minicnn.ops.fast import gemm, simd
from minicnn.ops.fast.gemm import ROWS, TILE

RUN = 9  # taps of a row of a 3x3 kernel with three channels: the first layer of many networks
HALVES = simd.VECTOR_BYTES == 64  # half a vector is a vector of an older set of instructions
# Lower tiles, of which fewer rows are computed in vain: 128 = 7 * 14 + 3 * 10, 72 = 3 * 24.
LOW, MIDDLE = (10, 24) if simd.REGISTERS == 32 else (5, 9)


def _accumulate(v, s, windows, offsets, count, b, b0, b_row, last, first):
    """sums[i][j] += s[windows[k] + offsets[i]] * b[b0 + k * b_row, vector j], k = 0 ... count - 1.

    `first` are the sums at the beginning, rows of vectors. Of the last vector of b only `last`
    elements are read, unless that is None. offsets(window, i, values) is where row i reads once
    there are `values`: an address and an index from there on.
    """
    builder, rows, vectors = v.builder, len(first), len(first[0])
    before, loop = builder.block, builder.append_basic_block("k")
    after = builder.append_basic_block("k_end")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(simd.INTEGER)
    sums = [[builder.phi(v.type) for _ in range(vectors)] for _ in range(rows)]
    *parts, end = _parts(v, builder.add(b0, builder.mul(k, b_row)), vectors)
    factors = [v.load(b, part) for part in parts]
    factors.append(v.load(b, end) if last is None else v.load_first(b, end, last))
    window = builder.gep(s, [v.load_integer(windows, k)])
    new = []
    for i in range(rows):
        before_it = new[-1] if HALVES and vectors == 2 and new else []
        value = v.load_splat(*offsets(window, i, before_it))
        new.append([v.multiply_add(value, *each) for each in zip(factors, sums[i], strict=True)])
    following = builder.add(k, v.integer(1))
    k.add_incoming(v.integer(0), before)
    k.add_incoming(following, loop)
    for i in range(rows):
        for phi, begin, end in zip(sums[i], first[i], new[i], strict=True):
            phi.add_incoming(begin, before)
            phi.add_incoming(end, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return new


def _after(builder, address, values):
    """The same address, of which LLVM does not know that it is known before `values`.

    Otherwise all numbers of a step are loaded ahead, and then no registers are left for the sums:
    34 instead of 113 GFLOP/s (a core of a Zen 4, 14 positions, 72 taps). The processor, which finds
    no instruction here, waits for nothing.
    """
    kind = simd.ir.FunctionType(address.type, [address.type, *[value.type for value in values]])
    constraints = "=r,0" + ",v" * len(values)
    return builder.call(simd.ir.InlineAsm(kind, "", constraints), [address, *values])


def _listed(v, offsets):
    """Rows that lie anywhere: an index register, or a load, for each."""
    base = [None]

    def place(window, i, values):
        base[0] = _after(v.builder, base[0], values) if values else window
        return base[0], offsets[i]

    return place


def _even(v, first, step):
    """Rows that lie `step` apart: four are reached from one register, by the step, its double and
    its triple. A row of one vector needs a load for its number, which the processor does twice in a
    cycle, as it multiplies; a second load for an offset takes time. 32 pictures of 218 x 178, 3
    colours to 16 filters: 6.6 ms, not 8.4 (two cores of a Xeon)."""
    steps = [v.integer(0), *(v.builder.mul(step, v.integer(k)) for k in range(1, 5))]
    base = [None]

    def place(window, i, _):
        if i == 0:
            base[0] = v.builder.gep(window, [first])
        elif i % 4 == 0:
            base[0] = _after(v.builder, v.builder.gep(base[0], [steps[4]]), [])
        return base[0], steps[i % 4]

    return place


def _runs(v, offsets, length):
    """Rows of which each run of so many are neighbours: an address for a run, and numbers that the
    instructions hold. Without a load for every offset: gradient of the kernel, 3 colours to 16
    filters, 162 GFLOP/s, not 129 (one core of a Xeon)."""
    base = [None]

    def place(window, i, _):
        if i % length == 0:
            base[0] = _after(v.builder, v.builder.gep(window, [offsets[i]]), [])
        return base[0], v.integer(i % length)

    return place


def _parts(v, index, vectors):
    return [v.builder.add(index, v.integer(i * v.lanes)) for i in range(vectors)]


def _write(v, sums, valid, c, place, store, store_last, changes=None):
    """The first `valid` rows to c, each at place(its number); those beyond go where the last one is
    written afterwards. `changes`: a function for each vector of a row, applied when it is stored,
    as registers for the changed ones of all rows are not left."""
    final = v.builder.sub(valid, v.integer(1))
    for i, row in reversed(list(enumerate(sums))):
        inside = v.builder.icmp_signed("<", v.integer(i), final)
        *parts, end = _parts(v, place(v.builder.select(inside, v.integer(i), final)), len(row))
        if changes is not None:
            row = [f(x) for f, x in zip(changes, row, strict=True)]
        for value, at in zip(row, parts, strict=False):
            store(value, c, at)
        store_last(row[-1], c, end)


def _write_whole_or_first(v, sums, valid, last, c, place, changes=None):
    whole = v.builder.icmp_signed("==", last, v.integer(v.lanes))
    with v.builder.if_else(whole) as (all_of_it, some_of_it):
        with all_of_it:
            _write(v, sums, valid, c, place, v.store, v.store, changes)
        with some_of_it:
            _write(
                v, sums, valid, c, place, v.store,
                lambda value, array, at: v.store_first(value, array, at, last), changes,
            )  # fmt: skip


def _position_tile(rows, vectors, half=False, packed=True, even=False):
    """The micro-kernel for a tile of `rows` positions by `vectors`, an intrinsic.

    `packed`: b has whole vectors in every row, whatever `last` is. `even`: pixels are equally far
    apart, as they are in a row of the picture.
    """

    def write(v, s, pixels, outs, p0, valid, taps, t0, count, b, b0, b_row, last, c, c0, start,
              start0, floor0, code, slope, streaming):  # fmt: skip
        """c = start + s @ b for the first `valid` rows from p0 on and `count` taps from t0 on, then
        the activation if it is a rectifier; the last vector of a row has `last` elements.
        `streaming`: past the caches."""
        builder = v.builder
        if half:
            v = v.of_lanes(v.lanes // 2)
        offsets = [
            v.load_integer(pixels, builder.add(p0, v.integer(i)))
            for i in range(2 if even else rows)
        ]
        places = _listed(v, offsets)
        if even:
            places = _even(v, offsets[0], builder.sub(offsets[1], offsets[0]))
        first = [v.load(start, at) for at in _parts(v, start0, vectors)]
        read = None if packed else last
        windows = builder.gep(taps, [t0])
        sums = _accumulate(v, s, windows, places, count, b, b0, b_row, read, [first] * rows)

        def place(row):
            return builder.add(c0, v.load_integer(outs, builder.add(p0, row)))

        def finish(changes):
            if half:  # its rows do not begin where a vector does
                _write_whole_or_first(v, sums, valid, last, c, place, changes)
                return
            with builder.if_else(builder.icmp_signed("!=", streaming, v.integer(0))) as (yes, no):
                with yes:
                    _write(v, sums, valid, c, place, v.stream, v.stream, changes)
                with no:
                    _write_whole_or_first(v, sums, valid, last, c, place, changes)

        with builder.if_else(gemm.is_rectifier(v, code)) as (rectifier, other):
            with rectifier:
                floors = _parts(v, floor0, vectors)
                finish([gemm.rectified(v, code, slope, start, at) for at in floors])
            with other:
                finish(None)

    return simd.vector_intrinsic(write)


def _tap_tile(rows, vectors, half=False, run=None):
    """The micro-kernel for a tile of `rows` taps by `vectors`, an intrinsic; `run`: taps that lie
    side by side."""

    def write(v, s, pixels, count, taps, t0, valid, b, b0, b_row, last, c, c0, c_row, add):
        """c = [c +] s^T @ b for the first `valid` rows; the last vector of a row has `last`
        elements. With `add`, c has room for whole tiles."""
        builder = v.builder
        if half:
            v = v.of_lanes(v.lanes // 2)
        offsets = [v.load_integer(taps, builder.add(t0, v.integer(i))) for i in range(rows)]
        places = _listed(v, offsets) if run is None else _runs(v, offsets, run)
        zeros = [[v.constant(0)] * vectors] * rows
        sums = _accumulate(v, s, pixels, places, count, b, b0, b_row, last, zeros)
        with builder.if_else(builder.icmp_signed("!=", add, v.integer(0))) as (adding, writing):
            with adding:
                for i in range(rows):
                    at = _parts(v, v.offset(c0, (c_row, i)), vectors)
                    for value, place in zip(sums[i], at, strict=True):
                        v.store(v.add(v.load(c, place), value), c, place)
            with writing:
                _write_whole_or_first(
                    v, sums, valid, last, c, lambda row: builder.add(c0, builder.mul(row, c_row))
                )

    return simd.vector_intrinsic(write)


positions_two = _position_tile(TILE, 2)
positions_two_low = _position_tile(LOW, 2)
positions_one = _position_tile(ROWS, 1)
positions_one_even = _position_tile(ROWS, 1, even=True)
positions_one_low = _position_tile(TILE, 1, packed=False)
positions_half = _position_tile(ROWS, 1, HALVES)
taps_two = _tap_tile(TILE, 2)
taps_two_low = _tap_tile(LOW, 2)
taps_one = _tap_tile(ROWS, 1)
taps_one_runs = _tap_tile(ROWS, 1, run=RUN)
taps_one_middle = _tap_tile(MIDDLE, 1)
taps_one_low = _tap_tile(TILE, 1)
taps_half = _tap_tile(ROWS, 1, HALVES)
taps_half_middle = _tap_tile(MIDDLE, 1, HALVES)
taps_half_low = _tap_tile(TILE, 1, HALVES)
