"""What every pair of a compiled and a reference op has to pass."""

import numpy as np
import pytest

from minicnn import config

GUARD = 64  # numbers before and after `out` that must stay as they are


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def floats(arguments, change):
    """The arguments with every float array (also in a list) replaced by change(array)."""
    replaced = []
    for argument in arguments:
        if isinstance(argument, list):
            replaced.append(floats(argument, change))
        elif isinstance(argument, np.ndarray) and argument.dtype.kind == "f":
            replaced.append(change(argument))
        else:
            replaced.append(argument)
    return replaced


def every_other(array):
    """The same numbers, not contiguous in memory."""
    wide = np.full((*array.shape, 2), np.nan, array.dtype)
    wide[..., 0] = array
    return wide[..., 0]


def assert_equal_bits(results, expected):
    for a, b in zip(as_tuple(results), as_tuple(expected), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.fixture(scope="session")
def agree():
    """agree(fast, reference, *arguments, tolerance=0): the results are equal, or near, to float.

    The compiled op also must give the same bits with one thread, with arguments that are not
    contiguous and into `out`, whose surroundings it leaves alone, and write no argument.
    """

    def check(fast, reference, *arguments, tolerance=0):
        before = floats(arguments, np.copy)
        results = as_tuple(fast(*arguments))
        expected = as_tuple(reference(*arguments))
        for a, b in zip(results, expected, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            scale = 1 + np.abs(b[np.isfinite(b)]).max(initial=0)
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(scale))

        y = results[0]
        buffer = np.full(y.size + 2 * GUARD, 12345, y.dtype)
        out = buffer[GUARD : GUARD + y.size].reshape(y.shape)
        again = as_tuple(fast(*arguments, out=out))
        assert again[0] is out
        assert_equal_bits(again, results)
        assert (buffer[:GUARD] == 12345).all() and (buffer[GUARD + y.size :] == 12345).all()

        assert_equal_bits(fast(*floats(arguments, every_other)), results)
        with config.using(threads=1):
            assert_equal_bits(fast(*arguments), results)
        for a, b in zip(floats(arguments, np.copy), before, strict=True):
            np.testing.assert_equal(a, b)

    return check
