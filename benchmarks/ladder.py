"""One convolution in steps, from nested loops to the library's kernels: `docs/kernels.md` explains.

    y[n, i, j, f] = max(bias[f] + sum over a, b, c of
                        x[n, i + a - 1, j + b - 1, c] kernel[a, b, c, f], 0)

64 pictures of 16 x 16 pixels, 64 channels to 64 filters, 3 x 3 "same", float32. `python -m
benchmarks.ladder` checks every step against the reference in float64, then prints the least time of
each, with one thread and with two; `--verify` only checks. Kernels of this file divide pictures or
tiles among the threads. Shapes need no care for remainders here: 64 filters are whole panels, and
matrices get memory for a whole tile or block after their last row.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numba
import numpy as np
from numba import prange
from numba.core import cgutils

from benchmarks import roofline
from minicnn import config, ops
from minicnn.ops import arena
from minicnn.ops.fast import amx, direct, simd, winograd
from minicnn.ops.fast.channel_sums import channel_sums
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.reference import convolution
from minicnn.ops.reference.convolution import im2col

PICTURES, HEIGHT, WIDTH, CHANNELS, FILTERS = 64, 16, 16, 64, 64
POSITIONS = PICTURES * HEIGHT * WIDTH
DEPTH = 3 * 3 * CHANNELS
OPERATIONS = 2 * POSITIONS * DEPTH * FILTERS

TILE = 14 if simd.REGISTERS == 32 else 6
PANEL = 2 * simd.lanes(np.dtype(np.float32))
BLOCK = 6 * TILE  # patches at a time: 14 * 6 rows of 576 float32 are 194 kB

# Least value of a result: RELU cuts at 0, LINEAR nowhere.
RELU, LINEAR = np.float32(0), np.float32(-np.inf)


def padded(x):
    """x with a border of zeros, one pixel wide."""
    n, height, width, channels = x.shape
    result = arena.zeros((n, height + 2, width + 2, channels), x.dtype)
    result[:, 1:-1, 1:-1] = x
    return result


# -- 1: nested loops -------------------------------------------------------------------------------


@parallel_kernel
def sums_innermost(x, kernel, bias, y):
    pictures, height, width, filters = y.shape
    for n in prange(pictures):
        for i in range(height):
            for j in range(width):
                for f in range(filters):
                    total = bias[f]
                    for a in range(3):
                        for b in range(3):
                            for c in range(kernel.shape[2]):
                                total += x[n, i + a, j + b, c] * kernel[a, b, c, f]
                    y[n, i, j, f] = max(total, RELU)


def on_padded(loops):
    """The convolution by such loops, which read a copy of x with a border."""

    def convolve(x, kernel, bias):
        y = arena.empty((*x.shape[:3], kernel.shape[3]))
        loops(padded(x), kernel, bias, y)
        return y

    return convolve


nested_loops = on_padded(sums_innermost)


# -- 2: im2col and a matrix product ----------------------------------------------------------------


def matrix_product(x, kernel, bias):
    windows = im2col(x, (3, 3), padding="same")
    patches = windows.reshape(-1, DEPTH)  # copies: every pixel lies in nine windows
    y = patches @ kernel.reshape(DEPTH, -1)
    y += bias
    np.maximum(y, 0, out=y)
    return y.reshape(*x.shape[:3], -1)


# -- 3: the loops in another order -----------------------------------------------------------------


@parallel_kernel
def filters_innermost(x, kernel, bias, y):
    pictures, height, width, filters = y.shape
    for n in prange(pictures):
        for i in range(height):
            for j in range(width):
                sums = y[n, i, j]
                sums[:] = bias
                for a in range(3):
                    for b in range(3):
                        for c in range(kernel.shape[2]):
                            pixel = x[n, i + a, j + b, c]
                            for f in range(filters):
                                sums[f] += pixel * kernel[a, b, c, f]
                for f in range(filters):
                    sums[f] = max(sums[f], RELU)


contiguous_loops = on_padded(filters_innermost)


# -- 4: a tile of the result in registers ----------------------------------------------------------


def tile_product(rows, vectors):
    """The micro-kernel: c = max(start + a @ b, least) for `rows` rows and `vectors` vectors."""

    def write(v, a, a0, a_row, b, b0, b_row, k, c, c0, c_row, start, start0, least):
        builder = v.builder
        sums = [[cgutils.alloca_once(builder, v.type) for _ in range(vectors)] for _ in range(rows)]

        def row_of(first):
            return [builder.add(first, v.integer(j * v.lanes)) for j in range(vectors)]

        for row in sums:
            for total, at in zip(row, row_of(start0), strict=True):
                builder.store(v.load(start, at), total)
        with v.count_up(k) as (step, _):
            b_row_k = [v.load(b, at) for at in row_of(builder.add(b0, builder.mul(step, b_row)))]
            for i, row in enumerate(sums):
                a_ik = v.load_splat(a, v.offset(builder.add(a0, step), (a_row, i)))
                for total, b_kj in zip(row, b_row_k, strict=True):
                    builder.store(v.multiply_add(a_ik, b_kj, builder.load(total)), total)
        lowest = v.splat(least)
        for i, row in enumerate(sums):
            for total, at in zip(row, row_of(v.offset(c0, (c_row, i))), strict=True):
                value = builder.load(total)
                below = builder.fcmp_ordered("<", value, lowest)
                v.store(builder.select(below, lowest, value), c, at)

    return simd.vector_intrinsic(write)


multiply_tile = tile_product(TILE, 2)


@parallel_kernel
def multiply(patches, b, b_row, b_panel, filters, start, y, least, positions):
    """y = max(start + patches @ b, least), PANEL columns of b for a block of rows at a time."""
    depth = patches.shape[1]
    for block in prange((positions + BLOCK - 1) // BLOCK):
        first = np.int64(block) * BLOCK
        last = min(first + BLOCK, positions)
        for f in range(0, filters, PANEL):
            for row in range(first, last, TILE):
                multiply_tile(patches, row * depth, depth, b, f // PANEL * b_panel, b_row, depth,
                              y, row * filters + f, filters, start, f, least)  # fmt: skip


@parallel_kernel
def lay_out(x, patches, height, width):
    """patches[p] = window of output position p; x is padded."""
    run = 3 * x.shape[3]
    rows = x.reshape(x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
    for n in prange(len(x)):
        for i in range(height):
            for j in range(width):
                p = (np.int64(n) * height + i) * width + j
                for a in range(3):
                    for t in range(run):
                        patches[p, a * run + t] = rows[n, i + a, j * x.shape[3] + t]


@parallel_kernel
def add_bias_and_rectify(y, bias):
    for p in prange(len(y)):
        for f in range(len(bias)):
            y[p, f] = max(y[p, f] + bias[f], RELU)


def _patches(x):
    patches = arena.empty((POSITIONS + TILE, DEPTH))
    lay_out(padded(x), patches, HEIGHT, WIDTH)
    return patches


def _finished(y, bias):
    add_bias_and_rectify(y[:POSITIONS], bias)
    return y[:POSITIONS].reshape(PICTURES, HEIGHT, WIDTH, -1)


def register_tile(x, kernel, bias):
    filters = kernel.shape[3]
    y = arena.empty((POSITIONS + TILE, filters))
    multiply(_patches(x), kernel, filters, PANEL, filters, np.zeros_like(bias), y, LINEAR,
             POSITIONS)  # fmt: skip
    return _finished(y, bias)


# -- 5: the kernel in panels -----------------------------------------------------------------------


def packed(kernel):
    """(panels, depth, PANEL): columns that are multiplied together lie together."""
    filters = kernel.shape[3]
    matrix = kernel.reshape(DEPTH, filters // PANEL, PANEL)
    return np.ascontiguousarray(matrix.transpose(1, 0, 2))


def packed_panels(x, kernel, bias):
    filters = kernel.shape[3]
    y = arena.empty((POSITIONS + TILE, filters))
    multiply(_patches(x), packed(kernel), PANEL, DEPTH * PANEL, filters, np.zeros_like(bias), y,
             LINEAR, POSITIONS)  # fmt: skip
    return _finished(y, bias)


# -- 6: patches gathered into the cache, bias and ReLU in registers --------------------------------


@kernel
def gather(x, first, count, patches):
    """patches[i] = window of output position first + i, zeros outside the picture."""
    _, height, width, channels = x.shape
    at = 0
    for p in range(first, first + count):
        n, rest = divmod(p, height * width)
        row, column = divmod(rest, width)
        for a in range(row - 1, row + 2):
            for b in range(column - 1, column + 2):
                if 0 <= a < height and 0 <= b < width:
                    pixel = ((n * height + a) * width + b) * channels
                    simd.copy_run(patches, at, x, pixel, channels)
                else:
                    simd.zero_run(patches, at, channels)
                at += channels


@parallel_kernel
def multiply_gathered(x, panels, bias, y, patches, positions):
    filters, depth = len(bias), panels.shape[1]
    blocks = (positions + BLOCK - 1) // BLOCK
    for worker in prange(len(patches)):
        own = patches[worker]
        for block in range(worker * blocks // len(patches), (worker + 1) * blocks // len(patches)):
            first = np.int64(block) * BLOCK
            count = min(BLOCK, positions - first)
            gather(x, first, count, own)
            for f in range(0, filters, PANEL):
                for i in range(0, count, TILE):
                    multiply_tile(own, i * depth, depth, panels, f * depth, PANEL, depth,
                                  y, (first + i) * filters + f, filters, bias, f, RELU)  # fmt: skip


def implicit_product(x, kernel, bias):
    filters = kernel.shape[3]
    y = arena.empty((POSITIONS + BLOCK, filters))
    patches = arena.empty((config.threads, BLOCK, DEPTH))
    multiply_gathered(x, packed(kernel), bias, y, patches, POSITIONS)
    return y[:POSITIONS].reshape(PICTURES, HEIGHT, WIDTH, filters)


# -- 7: fixed partitions ---------------------------------------------------------------------------


def kernel_grad_in_pieces(x, dy, pieces):
    """dK = X^T dY with the positions cut into pieces, whose sums are added up in order."""
    patches = im2col(x, (3, 3), padding="same").reshape(-1, DEPTH)
    parts = zip(np.split(patches, pieces), np.split(dy.reshape(-1, FILTERS), pieces), strict=True)
    return sum(part.T @ of_dy for part, of_dy in parts).reshape(3, 3, CHANNELS, FILTERS)


# -- 8: Winograd -----------------------------------------------------------------------------------


def winograd_in_numpy(x, kernel, bias, points=winograd.POINTS):
    """F(4x4, 3x3) as its equation says; heights and widths are multiples of four."""
    a_t, g, b_t = (np.array(matrix, x.dtype) for matrix in winograd.matrices(points))
    n, height, width, channels = x.shape
    d = im2col(x, (6, 6), strides=(4, 4), padding=((1, 1), (1, 1)))
    v = np.einsum("ij,nyxjkc,lk->ilnyxc", b_t, d, b_t, optimize=True)
    u = np.einsum("ij,jkcf,lk->ilcf", g, kernel, g, optimize=True)
    m = v.reshape(36, -1, channels) @ u.reshape(36, channels, -1)
    m = m.reshape(6, 6, n, height // 4, width // 4, -1)
    y = np.einsum("ij,jknyxf,lk->nyixlf", a_t, m, a_t, optimize=True)
    return np.maximum(y.reshape(n, height, width, -1) + bias, 0)


def library(algorithm, amx="off"):
    """The library's convolution by one of its algorithms, on vectors or on the tile unit."""

    def convolve(x, kernel, bias):
        with config.using(convolution=algorithm, amx=amx):
            return ops.conv2d(x, kernel, bias, padding="same", activation=("relu",))

    return convolve


STEPS = {
    "1 nested loops, the sum innermost": nested_loops,
    "2 im2col and np.matmul": matrix_product,
    "3 the same loops, filters innermost": contiguous_loops,
    "4 patches, a tile of y in registers": register_tile,
    "5 kernel packed into panels": packed_panels,
    "6 patches gathered in the cache, bias and ReLU in registers": implicit_product,
    "  the library's direct convolution": library("direct"),
    "8 Winograd in NumPy": winograd_in_numpy,
    "  the library's Winograd": library("winograd"),
}


# -- 9: the gradients ------------------------------------------------------------------------------


def input_grad(module, algorithm, amx="off"):
    def differentiate(x, kernel, dy):
        with config.using(convolution=algorithm, amx=amx):
            return module.conv2d_input_grad(dy, kernel, x.shape, padding="same")

    return differentiate


def kernel_grad(module, algorithm, amx="off"):
    def differentiate(x, kernel, dy):
        with config.using(convolution=algorithm, amx=amx):
            return module.conv2d_kernel_grad(x, dy, kernel.shape, padding="same")

    return differentiate


GRADIENTS = {
    f"9 gradient of the {side}, {name}": make(module, algorithm)
    for side, make in (("input", input_grad), ("kernel", kernel_grad))
    for name, module, algorithm in (
        ("im2col and np.matmul", convolution, "auto"),
        ("direct", ops, "direct"),
        ("Winograd", ops, "winograd"),
    )
}

if amx.is_available():
    STEPS |= {
        "  direct, on Intel's tile unit": library("direct", "auto"),
        "  Winograd, on the tile unit": library("winograd", "auto"),
    }
    GRADIENTS |= {
        "  gradient of the input, Winograd on the tile unit": input_grad(ops, "winograd", "auto"),
        "  gradient of the kernel, direct on the tile unit": kernel_grad(ops, "direct", "auto"),
    }


# -- Beside the way: parts that the page mentions --------------------------------------------------


def tile_speed(rows, vectors, k=256, times=2000):
    """A call and its operations: a tile product on data in the first-level cache, one thread."""
    tile = tile_product(rows, vectors)

    @numba.njit(error_model="numpy")
    def repeat(a, b, c, start, least):
        for _ in range(times):
            tile(a, 0, k, b, 0, c.shape[1], k, c, 0, c.shape[1], start, 0, least)

    lanes = simd.lanes(np.dtype(np.float32))
    a, b = np.ones((rows, k), np.float32), np.ones((k, vectors * lanes), np.float32)
    c, start = np.empty((rows, vectors * lanes), np.float32), np.zeros(vectors * lanes, np.float32)
    return lambda: repeat(a, b, c, start, LINEAR), 2 * rows * vectors * lanes * k * times


@parallel_kernel
def sums_in_float64(x, sums):
    """sums[s] = sum over the pixels of part s of x (parts, pixels, channels), all in float64."""
    for part in prange(len(x)):
        sums[part] = 0
        for p in range(x.shape[1]):
            for c in range(x.shape[2]):
                sums[part, c] += x[part, p, c]


def by_direct(x, kernel, groups):
    """The direct convolution, where the library would take another."""
    shape = direct.geometry(x.shape, kernel.shape, (1, 1), "same", (1, 1), groups)
    y = arena.empty(shape.output_shape)
    direct.convolve(x.reshape(-1), kernel.reshape(-1), None, shape, None, y.reshape(-1))
    return y


def asides():
    """{"group: variant": call}; the variants of a group give the same."""
    generator = np.random.default_rng(1)

    def normal(*shape):
        return generator.standard_normal(shape, np.float32)

    maps, dy, relu = normal(64, 32, 32, 32), normal(64, 32, 32, 32), ("relu",)
    large, pictures = normal(128, 32, 32, 128), normal(256, 32, 32, 3)
    x, one_each = normal(64, 16, 16, 64), normal(3, 3, 1, 64)
    wide, eight_each = normal(64, 14, 14, 256), normal(3, 3, 8, 256)

    def all_in_float64(maps):
        sums = np.empty((64, maps.shape[3]))
        sums_in_float64(maps.reshape(64, -1, maps.shape[3]), sums)
        return sums.sum(axis=0)

    def two_passes():
        dx = ops.activate_grad(dy, maps, relu)
        return dx, ops.bias_grad(dx)

    return {
        "sums, 32 channels, 8.4 MB: float64": lambda: all_in_float64(maps),
        "sums, 32 channels, 8.4 MB: channel_sums": lambda: channel_sums(
            maps.reshape(-1), maps.shape
        ),
        "sums, 3 channels, 3.1 MB: float64": lambda: all_in_float64(pictures),
        "sums, 3 channels, 3.1 MB: channel_sums": lambda: channel_sums(
            pictures.reshape(-1), pictures.shape
        ),
        "gradients of ReLU and bias: two passes": two_passes,
        "gradients of ReLU and bias: one pass": lambda: ops.activate_bias_grad(dy, maps, relu),
        "ReLU of 67 MB: into new memory": lambda: ops.activate(
            large, relu, out=np.empty_like(large)
        ),
        "ReLU of 67 MB: into a buffer of the arena": lambda: ops.activate(large, relu),
        "depthwise: direct": lambda: by_direct(x, one_each, 64),
        "depthwise: pixel by pixel": lambda: ops.conv2d(x, one_each, padding="same", groups=64),
        "32 groups of 8: direct": lambda: by_direct(wide, eight_each, 32),
        "32 groups of 8: four as one": lambda: ops.conv2d(
            wide, eight_each, padding="same", groups=32
        ),
    }


# -- Checking and timing ---------------------------------------------------------------------------


def data():
    """(x, kernel, bias, dy): kernels of a size at which y is as large as x."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((PICTURES, HEIGHT, WIDTH, CHANNELS), np.float32)
    kernel = generator.standard_normal((3, 3, CHANNELS, FILTERS), np.float32) / np.sqrt(DEPTH)
    bias = generator.standard_normal(FILTERS, np.float32)
    return x, kernel.astype(np.float32), bias, generator.standard_normal(x.shape, np.float32)


def relative_error(found, expected):
    """Root mean square of the difference, over that of what is expected."""
    difference = np.asarray(found, np.float64) - expected
    return float(np.sqrt(np.mean(difference**2) / np.mean(expected**2)))


def errors(x, kernel, bias, dy):
    """{step: its error against the reference in float64}."""
    exact = [array.astype(np.float64) for array in (x, kernel, bias, dy)]
    relu = ("relu",)
    y = convolution.conv2d(*exact[:3], padding="same", activation=relu)
    found = {name: relative_error(step(x, kernel, bias), y) for name, step in STEPS.items()}
    dx = convolution.conv2d_input_grad(exact[3], exact[1], x.shape, padding="same")
    dk = convolution.conv2d_kernel_grad(exact[0], exact[3], kernel.shape, padding="same")
    for name, step in GRADIENTS.items():
        expected = dx if "input" in name else dk
        found[name] = relative_error(step(x, kernel, dy), expected)
    found["Winograd in NumPy, points 0, 1, -1, 2, -2"] = relative_error(
        winograd_in_numpy(x, kernel, bias, (0, 1, -1, 2, -2)), y
    )
    return found


def equal_bits(x, kernel, bias, dy):
    """{what: share of numbers that are the same to the last bit}, by one cut and by another."""

    def same(function, one, other):
        return float(np.mean(function(one) == function(other)))

    def with_threads(step, *arguments):
        def run(count):
            with config.using(threads=count):
                return step(*arguments).copy()

        return run

    many = config.threads
    return {
        "dK by NumPy in 1 and in 2 pieces": same(lambda n: kernel_grad_in_pieces(x, dy, n), 1, 2),
        **{
            f"{name}, 1 and {many} threads": same(with_threads(step, x, kernel, last), 1, many)
            for steps, last in ((STEPS, bias), (GRADIENTS, dy))
            for name, step in steps.items()
            if "NumPy" not in name and "np.matmul" not in name
        },
    }


def check(x, kernel, bias, dy):
    """(errors, shares of equal bits), which are as they should be or an AssertionError says not."""
    found = errors(x, kernel, bias, dy)
    for name, error in found.items():
        assert error < 1e-5, f"{name}: {error:.1e}"
    bits = equal_bits(x, kernel, bias, dy)
    for name, share in bits.items():
        assert "NumPy" in name or share == 1, f"{name}: {share} equal"
    variants = {}
    for name, call in asides().items():
        result = call()
        parts = result if isinstance(result, tuple) else (result,)
        first = variants.setdefault(name.partition(":")[0], parts)
        for part, expected in zip(parts, first, strict=True):
            assert relative_error(part, expected) < 1e-5, name
    return found, bits


def least_times(calls, rounds=4, seconds=0.1):
    """{name: seconds of the quickest call}, in turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(0.03)  # until the threads of the library before have stopped to spin
            until = time.perf_counter() + seconds
            while True:
                start = time.perf_counter()
                call()
                now = time.perf_counter()
                best[name] = min(best[name], now - start)
                if now > until:
                    break
    return best


def measure():
    """What one process with its number of threads finds out."""
    x, kernel, bias, dy = data()
    error, bits = check(x, kernel, bias, dy)
    steps = {name: lambda step=step: step(x, kernel, bias) for name, step in STEPS.items()}
    steps |= {name: lambda step=step: step(x, kernel, dy) for name, step in GRADIENTS.items()}
    slow = {name: steps.pop(name) for name in list(steps) if name.startswith("1")}
    result = {
        "error": error,
        "bits": bits,
        "peaks": roofline.peaks(),
        "steps": least_times(slow, 2) | least_times(steps),
        "asides": least_times(asides()),
    }
    if config.threads == 1:
        shapes = [
            (1, 1),
            (4, 1),
            (8, 1),
            (28, 1),
            (4, 2),
            (8, 2),
            (14, 2),
            (15, 2),
            (16, 2),
            (9, 3),
        ]
        tiles = {f"{rows} x {vectors}": tile_speed(rows, vectors) for rows, vectors in shapes}
        times = least_times({name: call for name, (call, _) in tiles.items()}, 3, 0.02)
        result["tiles"] = {name: tiles[name][1] / times[name] for name in tiles}
        x, kernel, bias, _ = data()
        many = np.ascontiguousarray(np.tile(kernel, 8)), np.tile(bias, 8)
        result["512 filters"] = least_times(
            {
                "as it lies": lambda: register_tile(x, *many),
                "in panels": lambda: packed_panels(x, *many),
            },
            2,
        )
    return result


def show(results):
    """Tables of what the processes with one thread and with two found."""
    one, two = results
    print(f"\n{'step':62}1 thread  GFLOP/s  2 threads  GFLOP/s  error")
    for name, seconds in one["steps"].items():
        line = f"{name:62}"
        for found in (seconds, two["steps"][name]):
            line += f"{1e3 * found:7.2f} ms {OPERATIONS / found / 1e9:8.0f}"
        print(f"{line}  {two['error'][name]:.1e}")
    for result, threads in zip(results, ("1 thread", "2 threads"), strict=True):
        print(f"peak, {threads}: {result['peaks']['flops'] / 1e9:.0f} GFLOP/s; triad", end=" ")
        triad = result["peaks"]["bandwidth"].items()
        print(", ".join(f"{int(size) >> 20} MB {rate / 1e9:.0f} GB/s" for size, rate in triad))
    print("\nregister tiles, one thread, data in the first-level cache:")
    print(", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in one["tiles"].items()))
    for name, seconds in one["512 filters"].items():
        print(f"512 filters, kernel {name}: {1e3 * seconds:.1f} ms, one thread")
    print(f"\n{'variants':50}1 thread   2 threads")
    for name, seconds in one["asides"].items():
        print(f"{name:50}{1e3 * seconds:6.2f} ms  {1e3 * two['asides'][name]:7.2f} ms")
    show_checks(two)


def show_checks(result):
    print("\nrelative root mean square error against the reference in float64:")
    for name, error in result["error"].items():
        print(f"  {name:62}{error:.1e}")
    print("numbers that are equal to the last bit:")
    for name, share in result["bits"].items():
        print(f"  {name:78}{share:7.1%}")


def _in_process(threads, verify):
    """`measure` or `check` in a process whose libraries have that many threads."""
    names = ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    command = [sys.executable, "-m", "benchmarks.ladder", "--threads", str(threads)]
    run = subprocess.run(
        command + ["--verify"] * verify,
        env={**os.environ, **dict.fromkeys(names, str(threads))},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(run.stdout)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description=__doc__)
    parser.add_argument("--verify", action="store_true", help="check every step, time nothing")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # what a process was told
    options = parser.parse_args()
    if options.threads:
        config.threads, config.amx = options.threads, "off"
        if options.verify:
            error, bits = check(*data())
            print(json.dumps({"error": error, "bits": bits}))
        else:
            print(json.dumps(measure()))
    elif options.verify:
        show_checks(_in_process(2, verify=True))
    else:
        show([_in_process(threads, verify=False) for threads in (1, 2)])


if __name__ == "__main__":
    main()
