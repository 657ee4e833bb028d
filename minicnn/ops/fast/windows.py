"""Windows: which pixels of x a pixel of the result sees, for kernels that read them where they lie.

    y[p] = sum over taps t of x[window(p) + t] K[t]        p: all pixels of a phase

phase   pixels of the result that meet the same taps: all of y; of dx, those with one remainder by
        the stride
run     taps side by side in a row of the kernel, whose pixels of x are side by side too
tile    some neighbours in a row of a phase, whose results are in registers while the taps pass

Design. Nothing is copied, so nothing frames the picture with zeros. Taps above and below it are
left out, line by line. Beside it a vector of zeros is read, in a second text for the tiles at the
ends of a row: the address is chosen, not the value, so nothing outside is touched. dx is the
product of dy with the kernel turned around, phase by phase.
"""

import functools
from typing import NamedTuple

import numpy as np

from minicnn.ops.fast import simd
from minicnn.ops.fast.jit import kernel

# Columns of the integer tables that describe the work to the kernels.
(IMAGES, HEIGHT, WIDTH, CHANNELS, OUT_HEIGHT, OUT_WIDTH, DOWN, ACROSS, ROW_PHASES,
 PIXEL_STEP) = range(10)  # fmt: skip
FIRST, NEXT, COUNT, FIRST_TAP, LAST_TAP, LEFT, RIGHT = range(7)  # a phase of columns
ROW, COLUMN, CELL = range(3)  # a run of taps: how far in x its first one is, its cell of the kernel
RUN_SIZE = 3


# -- In kernels ------------------------------------------------------------------------------------


def text_for(v, columns, most, at_edge, write):
    """write(columns, at_edge) for whatever tile it is when the kernel runs: one of `most` columns
    in the picture, one at an edge, or a single pixel."""
    builder = v.builder
    with builder.if_else(builder.icmp_signed("==", columns, v.integer(most))) as (tile, single):
        with tile:
            beside = builder.icmp_signed("!=", at_edge, v.integer(0))
            with builder.if_else(beside) as (edge, inside):
                with edge:
                    write(most, True)
                with inside:
                    write(most, False)
        with single:
            write(1, True)


class Pixels:
    """The pixels of x that the runs of a tile see: the first at x[x0], in `column` of its row, the
    next `step` pixels away."""

    def __init__(self, v, x, x0, column, step, channels, zeros, width, at_edge):
        self.v, self.x, self.x0, self.zeros = v, x, x0, zeros
        self.column, self.step, self.width, self.at_edge = column, step, width, at_edge
        self.x_step = v.builder.mul(step, channels)

    def of_run(self, taps, t):
        """(pixel(m), where pixel m of run t begins, where the run's first weights are)."""
        v, builder = self.v, self.v.builder
        row, column, cell = (self._number(taps, t, which) for which in (ROW, COLUMN, CELL))
        first, first_column = builder.add(self.x0, row), builder.add(self.column, column)

        def pixel(m):
            place = v.address(self.x, v.offset(first, (self.x_step, m)))
            if not self.at_edge:
                return place
            there = v.offset(first_column, (self.step, m))
            inside = builder.icmp_unsigned("<", there, self.width)  # below 0 it is very large
            return builder.select(inside, place, self.zeros)

        return pixel, cell

    def some_inside(self, taps, t, count):
        """Whether one of the first `count` pixels of run t is in the picture."""
        v, builder = self.v, self.v.builder
        first = builder.add(self.column, self._number(taps, t, COLUMN))
        last = v.offset(first, (self.step, count - 1))
        return builder.and_(
            builder.icmp_signed("<", first, self.width),
            builder.icmp_signed(">=", last, v.integer(0)),
        )

    def _number(self, taps, t, which):
        v = self.v
        at = v.builder.add(v.builder.mul(t, v.integer(RUN_SIZE)), v.integer(which))
        return v.load_integer(taps, at)


@kernel
def seen_by(line, table):
    """Of row number `line` of the result: its phase, and where its windows begin, as a row of its
    picture and as an element of x."""
    image, i = divmod(line, table[OUT_HEIGHT])
    j, row_phase = divmod(i, table[ROW_PHASES])
    row = j * table[DOWN]
    return row_phase, row, (image * table[HEIGHT] + row) * table[WIDTH] * table[CHANNELS]


@kernel
def taps_inside(runs, table, phase, row, cell_size, taps):
    """The runs of a phase whose row of x, counted from `row`, is in the picture; how many."""
    count = 0
    for t in range(phase[FIRST_TAP], phase[LAST_TAP]):
        if 0 <= row + runs[t, ROW] < table[HEIGHT]:
            distance = runs[t, ROW] * table[WIDTH] + runs[t, COLUMN]
            taps[count, ROW] = distance * table[CHANNELS]
            taps[count, COLUMN] = runs[t, COLUMN]
            taps[count, CELL] = runs[t, CELL] * cell_size
            count += 1
    return count


@kernel
def tile_at(column, most, phase, table):
    """(columns of the tile to take at `column`, `most` or 1, where it begins, whether it is at an
    edge); the last tile of a row overlaps the one before it."""
    width = most if phase[COUNT] >= most else 1
    begin = min(column, phase[COUNT] - width)
    inside = begin * table[ACROSS] + phase[LEFT] >= 0
    last = (begin + width - 1) * table[ACROSS] + phase[RIGHT]
    return width, begin, not inside or last >= table[WIDTH]


@functools.lru_cache(maxsize=16)
def zeros(channels, dtype):
    """A pixel beside the picture; kernels do not write to it."""
    return np.zeros(channels + simd.lanes(dtype), dtype)


# -- Plans: the tables for the kernels, made in Python once per shape ------------------------------


class Axis(NamedTuple):
    """Pixels first, first + next, ... of the result, `count` of them; their cells of the kernel as
    (distance in x, number), by distance."""

    first: int
    next: int
    count: int
    cells: list


def forward_axis(shape, axis):
    rate, before = shape.dilation[axis], shape.padding[axis][0]
    cells = [(t * rate - before, t) for t in range(shape.kernel_shape[axis])]
    return [Axis(0, 1, shape.output_shape[1 + axis], cells)]


def input_grad_axis(shape, axis):
    """As direct.py's `_input_grad_plan`: dx[phase + stride j] sees dy[j + a constant]."""
    size, stride = shape.input_shape[1 + axis], shape.strides[axis]
    phases = []
    for phase in range(min(stride, size)):
        shifts = [
            (phase + shape.padding[axis][0] - t * shape.dilation[axis], t)
            for t in range(shape.kernel_shape[axis])
        ]
        cells = sorted((shift // stride, t) for shift, t in shifts if shift % stride == 0)
        phases.append(Axis(phase, stride, -(-(size - phase) // stride), cells))
    return phases


class Form(NamedTuple):
    """What the texts of tiles are made for."""

    run: int  # taps side by side
    apart: int  # pixels of x from what a pixel of y sees to what its neighbour sees

    def seen(self, columns):
        """(m, [(tap, column) for which it counts]) for all pixels that `columns` neighbours see."""
        for m in range((columns - 1) * self.apart + self.run):
            counts = [(i, divmod(m - i, self.apart)) for i in range(self.run)]
            yield m, [(i, j) for i, (j, rest) in counts if rest == 0 and 0 <= j < columns]


SINGLE_TAPS = Form(1, 1)  # serves every geometry


class Plan(NamedTuple):
    table: np.ndarray
    phases: np.ndarray  # [phase of rows, phase of columns]
    runs: np.ndarray
    form: Form
    turned: bool  # the taps of a run lie the other way round in the kernel
    lines: int  # rows of the result


@functools.lru_cache(maxsize=256)
def plan(shape, of_gradient, forms=()):
    """For y from x and for dK, or for dx from dy; in one of `forms` that fits, or single taps."""
    if of_gradient:
        source, made, steps = shape.output_shape, shape.input_shape, (1, 1)
        axes = [input_grad_axis(shape, axis) for axis in range(2)]
    else:
        source, made, steps = shape.input_shape, shape.output_shape, shape.strides
        axes = [forward_axis(shape, axis) for axis in range(2)]
    cells_across = shape.kernel_shape[1]
    form = Form(cells_across, steps[1])
    if form not in forms or shape.dilation[1] > 1 or (of_gradient and shape.strides[1] > 1):
        form = SINGLE_TAPS
    phases, runs = [], []
    for down in axes[0]:
        for across in axes[1]:
            first = len(runs)
            runs += [
                (a, b, i * cells_across + j)
                for a, i in down.cells
                for b, j in across.cells[:: form.run]
            ]
            distances = [b for b, _ in across.cells] or [0]
            phases.append(
                (across.first, across.next, across.count, first, len(runs), min(distances),
                 max(distances))
            )  # fmt: skip
    pixel_step = steps[1] if form.run == 1 else 1
    table = (*source, *made[1:3], *steps, len(axes[0]), pixel_step)
    return Plan(
        np.array(table, np.int64),
        np.array(phases, np.int64).reshape(len(axes[0]), len(axes[1]), -1),
        np.array(runs, np.int64).reshape(-1, RUN_SIZE),
        form,
        of_gradient,
        made[0] * made[1],
    )
