"""The crossentropy of a softmax and its gradient, compiled; equations: reference/crossentropy.py.

Design: some rows of logits at a time go through all steps while they are in the first-level cache.
The steps that cost most are loops over numbers that have nothing to do with each other, in float64,
so that LLVM vectorises them: one class of ROWS rows, which are transposed for it, or, in rows of
WIDE classes and more, PARTS classes of one row, whose partial maxima and sums are put together at
the end. Where that happens depends on the shape alone, and so do the bits.

    l = log(total) sum t - sum t z      total = sum exp z      z = x - max x

For t >= 0 both parts of l are 0 or above: nothing cancels.
"""

import math

import numpy as np
from numba import prange

from minicnn.ops.fast.exponential import exp, log1p
from minicnn.ops.fast.jit import kernel, parallel_kernel
from minicnn.ops.fast.operands import FLOATS, flat, float_type, output

BLOCK = 8192  # numbers in a task: as softmax
ROWS = 72  # nine vectors of 8 float64; columns 576 bytes apart do not share the cache's sets
PARTS = 64  # a power of two
# Of 100 classes, a number takes 2.1 ns in a tile and 3.2 in a row, whose rest is slow (Zen 4).
WIDE = 128
LN2 = math.log(2)


@kernel
def largest_of(x, largest):
    for r in range(x.size):
        largest[r] = x[r] if x[r] > largest[r] else largest[r]


@kernel
def weigh(x, largest, t, on, off, weight, product):
    """weight = sum t, product = sum t z; NaN is left to the sum of the exponentials."""
    for r in range(x.size):
        soft = t[r] * on + off
        weight[r] += soft
        product[r] += soft * (x[r] - largest[r]) if soft != 0 else 0.0


@kernel
def exponentials(x, largest, e, total):
    for r in range(x.size):
        p = exp(np.float64(x[r]) - largest[r])
        e[r] = p
        total[r] += p


@kernel
def logarithms(x, y):
    """log(x) for x >= 1: of 2^k m it is k ln 2 + log m."""
    for r in range(x.size):
        bits = np.float64(x[r]).view(np.int64)
        k = np.float64((bits >> 52) - 1023)
        m = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
        y[r] = x[r] if x[r] != x[r] else k * LN2 + log1p(m - 1.0)


@kernel
def put_together(parts, is_maximum):
    """parts[0] = the maximum or the sum of all."""
    half = parts.size // 2
    while half:
        for r in range(half):
            a, b = parts[r], parts[half + r]
            parts[r] = (a if a > b else b) if is_maximum else a + b
        half //= 2


# --- narrow rows: a tile of them, column by column ---


@kernel
def load(x, width, rows, tile):
    """tile[i rows + r] = x[r width + i]."""
    for r in range(rows):
        row = x[r * width : (r + 1) * width]
        for i in range(width):
            tile[i * rows + r] = row[i]


@kernel
def store(e, width, rows, scale, dx):
    """dx = scale e."""
    for r in range(rows):
        row = dx[r * width : (r + 1) * width]
        for i in range(width):
            row[i] = e[i * rows + r] * scale[r]


@kernel
def store_soft(e, width, rows, scale, t, on, off, factors, dx):
    """dx = scale e - factor (t on + off)."""
    for r in range(rows):
        row, soft = dx[r * width : (r + 1) * width], t[r * width : (r + 1) * width]
        for i in range(width):
            row[i] = e[i * rows + r] * scale[r] - factors[r] * (soft[i] * on + off)


@kernel
def narrow(x, labels, t, factors, on, off, width, values, dx, work):
    """Some rows: their values and, unless dx is empty, their gradients."""
    rows = values.size
    size = width * rows
    z, e, soft = work[0, :size], work[1, :size], work[2, :size]
    largest, total, log_total = work[3, :rows], work[4, :rows], work[5, :rows]
    weight, product = work[6, :rows], work[7, :rows]
    largest[:] = -np.inf
    total[:] = 0.0
    load(x, width, rows, z)
    for i in range(0, size, rows):
        largest_of(z[i : i + rows], largest)
    for i in range(0, size, rows):
        exponentials(z[i : i + rows], largest, e[i : i + rows], total)
    logarithms(total, log_total)
    if t.size:
        weight[:] = 0.0
        product[:] = 0.0
        load(t, width, rows, soft)
        for i in range(0, size, rows):
            weigh(z[i : i + rows], largest, soft[i : i + rows], on, off, weight, product)
        for r in range(rows):
            values[r] = log_total[r] * weight[r] - product[r]
    else:
        weight[:] = 1.0
        for r in range(rows):
            known = 0 <= labels[r] < width
            values[r] = log_total[r] - (z[labels[r] * rows + r] - largest[r]) if known else 0.0
    if not dx.size:
        return
    for r in range(rows):
        total[r] = weight[r] * factors[r] / total[r]
    if t.size:
        store_soft(e, width, rows, total, t, on, off, factors, dx)
        return
    store(e, width, rows, total, dx)
    for r in range(rows):
        if 0 <= labels[r] < width:
            dx[r * width + labels[r]] = e[labels[r] * rows + r] * total[r] - factors[r]
        else:
            dx[r * width : (r + 1) * width] = 0


# --- a wide row ---


@kernel
def scaled(e, scale, dx):
    for i in range(e.size):
        dx[i] = e[i] * scale


@kernel
def scaled_soft(e, scale, t, on, off, factor, dx):
    for i in range(e.size):
        dx[i] = e[i] * scale - factor * (t[i] * on + off)


@kernel
def wide(x, labels, t, factors, on, off, values, dx, work):
    """One row: its value and, unless dx is empty, its gradient."""
    width, label = x.size, -1
    e = work[0, :width]
    largest, total, log_total = work[3, :PARTS], work[4, :PARTS], work[5, :1]
    weight, product = work[6, :PARTS], work[7, :PARTS]
    largest[:] = -np.inf
    total[:] = 0.0
    for i in range(0, width, PARTS):
        largest_of(x[i : min(i + PARTS, width)], largest)
    put_together(largest, True)
    largest[:] = largest[0]
    for i in range(0, width, PARTS):
        end = min(i + PARTS, width)
        exponentials(x[i:end], largest, e[i:end], total)
    put_together(total, False)
    logarithms(total[:1], log_total)
    if t.size:
        weight[:] = 0.0
        product[:] = 0.0
        for i in range(0, width, PARTS):
            end = min(i + PARTS, width)
            weigh(x[i:end], largest, t[i:end], on, off, weight, product)
        put_together(weight, False)
        put_together(product, False)
        values[0] = log_total[0] * weight[0] - product[0]
    else:
        label, weight[0] = labels[0], 1.0
        known = 0 <= label < width
        values[0] = log_total[0] - (x[label] - largest[0]) if known else 0.0
    if not dx.size:
        return
    scale = weight[0] * factors[0] / total[0]
    if t.size:
        scaled_soft(e, scale, t, on, off, factors[0], dx)
    elif 0 <= label < width:
        scaled(e, scale, dx)
        dx[label] = e[label] * scale - factors[0]
    else:
        dx[:] = 0


# Two kernels: a model has rows of one kind, and compiles but one of them.


@parallel_kernel
def narrow_rows(x, labels, t, factors, on, off, values, dx, width):
    """labels (n,) or t (n, width) is empty; so are factors and dx where no gradient is wanted."""
    count = max(1, BLOCK // width)
    for b in prange((values.size + count - 1) // count):
        work = np.empty((8, ROWS * width))
        end = min((b + 1) * count, values.size)
        for first in range(b * count, end, ROWS):
            rows = slice(first, min(first + ROWS, end))
            part = slice(first * width, rows.stop * width)
            arrays = x[part], labels[rows], t[part], factors[rows]
            narrow(*arrays, on, off, width, values[rows], dx[part], work)


@parallel_kernel
def wide_rows(x, labels, t, factors, on, off, values, dx, width):
    count = max(1, BLOCK // width)
    for b in prange((values.size + count - 1) // count):
        work = np.empty((8, width))
        for r in range(b * count, min((b + 1) * count, values.size)):
            row, part = slice(r, r + 1), slice(r * width, (r + 1) * width)
            arrays = x[part], labels[row], t[part], factors[row]
            wide(*arrays, on, off, values[row], dx[part], work)


def softmax_crossentropy(x, targets, factors, smoothing=0.0, out=None):
    """-sum_i t_i log q_i (n,), and factors times its gradient (n, c); None where factors is None.

    targets: distributions (n, c), or integer labels (n,), of which one outside 0..c-1 counts 0.
    """
    dtype, (samples, classes) = float_type("x", x), x.shape
    if not classes:
        raise ValueError(f"x has shape {x.shape}: give at least one class")
    values, dx = np.empty(samples), None
    labels, t = np.empty(0, np.int64), np.empty(0, dtype)
    unknown = None
    if targets.ndim == 1:
        labels = flat("targets", targets, (samples,), np.int64)
        if smoothing:
            unknown = (labels < 0) | (labels >= classes)
            targets = (labels[:, None] == np.arange(classes)).astype(dtype)
    if targets.ndim == 2:
        kept = targets.dtype if targets.dtype in FLOATS else dtype
        t = flat("targets", targets, x.shape, kept)
    gradient, scale = np.empty(0, dtype), np.empty(0)
    if factors is not None:
        dx = output(out, x.shape, dtype)
        gradient, scale = dx.reshape(-1), flat("factors", factors, (samples,), np.float64)
    if samples:
        off = smoothing / classes
        x = flat("x", x, x.shape, dtype)
        loop = wide_rows if classes >= WIDE else narrow_rows
        loop(x, labels, t, scale, 1.0 - smoothing, off, values, gradient, classes)
    if unknown is not None:
        values[unknown] = 0
        if dx is not None:
            dx[unknown] = 0
    return values, dx
