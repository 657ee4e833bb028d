"""Checks of constructor arguments that several layers share; each returns the value to keep."""

import numpy as np

from minicnn import config


def _is_integer(value):
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def integer(layer, name, value):
    """Any integer."""
    if not _is_integer(value):
        layer.fail(f"takes an integer as {name}, not {value!r}")
    return int(value)


def positive_int(layer, name, value):
    """An integer >= 1."""
    if not _is_integer(value) or value < 1:
        layer.fail(f"takes a positive integer as {name}, not {value!r}")
    return int(value)


def int_pair(layer, name, value, smallest=1):
    """An integer or two of them -> a pair (rows, columns)."""
    pair = (value, value) if _is_integer(value) else value
    if (
        not isinstance(pair, tuple | list)
        or len(pair) != 2
        or not all(map(_is_integer, pair))
        or min(pair) < smallest
    ):
        layer.fail(f"takes an integer >= {smallest} or a pair of them as {name}, not {value!r}")
    return (int(pair[0]), int(pair[1]))


def window_padding(layer, value):
    """'valid' or 'same', in any case as old scripts write it ('Same')."""
    lowered = value.lower() if isinstance(value, str) else value
    if lowered not in ("valid", "same"):
        layer.fail(f"takes 'valid' or 'same' as padding, not {value!r}")
    return lowered


def number(layer, name, value, allowed, test):
    """A number for which `test` holds; `allowed` says in words what that means."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not test(value):
        layer.fail(f"takes a number {allowed} as {name}, not {value!r}")
    return float(value)


def fraction(layer, name, value):
    """A number in [0, 1)."""
    return number(layer, name, value, "in [0, 1)", lambda v: 0 <= v < 1)


def not_negative(layer, name, value):
    """A number >= 0."""
    return number(layer, name, value, ">= 0", lambda v: v >= 0)


def data_format(layer, value):
    """None or 'channels_last'; images are NHWC throughout this library."""
    value = value or config.image_data_format
    if value != "channels_last":
        layer.fail(
            f"takes images as (n, height, width, channels), data_format='channels_last', not "
            f"{value!r}; convert once with x.transpose(0, 2, 3, 1)"
        )
    return value


def optional_seed(layer, value):
    """None or an integer >= 0."""
    if value is not None and (not _is_integer(value) or value < 0):
        layer.fail(f"takes None or an integer >= 0 as seed, not {value!r}")
    return None if value is None else int(value)


def known_axes(layer, shape, axes, fix="give Input a full shape"):
    """The sizes of these axes of an input shape; they must be known when the layer is built."""
    sizes = [shape[axis] for axis in axes]
    if None in sizes:
        layer.fail(f"needs to know axes {tuple(axes)} of its input {tuple(shape)}; {fix}")
    return sizes
