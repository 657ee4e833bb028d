"""What the machine can do at most: multiply-adds per second, and bytes per second of a triad.

Both are kernels made as minicnn makes its own, so that they use the same instructions and threads.
"""

import statistics
import time

import numpy as np
from numba import prange

from minicnn.ops.arena import empty
from minicnn.ops.fast import simd
from minicnn.ops.fast.jit import parallel_kernel

# Independent sums: latency (4 cycles) times units (2) needs 8 at least; these fit into registers.
SUMS = 24 if simd.REGISTERS == 32 else 12
PIECES = 64
STEPS = 20_000
BLOCK = 8192  # elements of the triad that one thread takes at a time


@simd.vector_intrinsic
def multiply_adds(v, numbers, steps, sums, sums0):
    """sums[i] = sums[i] * numbers[0] + numbers[1], `steps` times, in SUMS registers."""
    builder = v.builder
    a, b = (v.load_splat(numbers, v.integer(i)) for i in range(2))
    places = [builder.add(sums0, v.integer(i * v.lanes)) for i in range(SUMS)]
    first = [v.load(sums, place) for place in places]
    before = builder.block
    loop, after = builder.append_basic_block("steps"), builder.append_basic_block("end")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(steps.type)
    values = [builder.phi(v.type) for _ in range(SUMS)]
    advanced = [v.multiply_add(value, a, b) for value in values]
    next_step = builder.add(step, v.integer(1))
    for phi, start, following in zip(
        (step, *values), (v.integer(0), *first), (next_step, *advanced), strict=True
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", next_step, steps), loop, after)
    builder.position_at_end(after)
    for value, place in zip(advanced, places, strict=True):
        v.store(value, sums, place)


@parallel_kernel
def multiply_add_pieces(numbers, steps, sums, piece_size):
    for piece in prange(PIECES):
        multiply_adds(numbers, steps, sums, np.int64(piece) * piece_size)


@parallel_kernel
def triad_blocks(a, b, c, scalar):
    for block in prange((a.size + BLOCK - 1) // BLOCK):
        start, stop = np.uint64(block * BLOCK), np.uint64(min((block + 1) * BLOCK, a.size))
        for i in range(start, stop):
            a[i] = b[i] + scalar * c[i]


def triad(byte_count):
    """A call a = b + s c that moves `byte_count` bytes (two arrays read, one written)."""
    size = max(byte_count // 12, 1)
    # Apart by a third of a page: addresses that agree in their last 12 bits hinder each other.
    a, b, c = (empty((size + 1024,), np.float32)[at : at + size] for at in (0, 336, 672))
    for array in (a, b, c):
        array.fill(1)
    scalar = np.float32(0.5)
    return lambda: triad_blocks(a, b, c, scalar)


def peaks(rounds=20, seconds=0.02):
    """{"flops": per second, "bandwidth": {bytes moved: bytes per second}, "medians": the same}.

    The best of all calls, because a peak is what the machine can do when nobody disturbs it. They
    are spread over `rounds`, in which all measures take turns for `seconds` each and make three
    calls at least, so that a disturbance of a second spoils none of them. The medians tell how
    much there was of that.
    """
    piece_size = SUMS * simd.lanes(np.dtype(np.float32))
    numbers = np.array([0.5, 1], np.float32)
    sums = np.ones(PIECES * piece_size, np.float32)
    operations = 2 * PIECES * STEPS * piece_size

    calls = {"flops": lambda: multiply_add_pieces(numbers, STEPS, sums, piece_size)}
    work = {"flops": operations}
    for megabytes in (1, 4, 16, 64, 256):
        byte_count = megabytes << 20
        calls[byte_count], work[byte_count] = triad(byte_count), byte_count
    times = {name: [] for name in calls}
    for call in calls.values():
        call()  # the first one compiles
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] += _times(call, seconds)

    def rates(of_times):
        found = {name: work[name] / of_times(times[name]) for name in calls}
        return {"flops": found.pop("flops"), "bandwidth": found}

    least = min(len(values) for values in times.values())
    return {**rates(min), "medians": rates(statistics.median), "calls": least}


def _times(function, seconds, least=3):
    """Seconds of each call, for that long in all."""
    times, end = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times
