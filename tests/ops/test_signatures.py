"""Every op exists in both sets, with one signature."""

import importlib
import inspect

import pytest

from minicnn.ops import NAMES

FILES = [file for file in NAMES if file != "updates"]  # the optimisers test their own


def public_functions(module, names):
    return {name: inspect.signature(getattr(module, name)) for name in names}


@pytest.mark.parametrize("file", FILES)
def test_both_sets_have_the_same_signatures(file):
    reference = importlib.import_module(f"minicnn.ops.reference.{file}")
    fast = importlib.import_module(f"minicnn.ops.fast.{file}")
    assert public_functions(fast, NAMES[file]) == public_functions(reference, NAMES[file])
    for signature in public_functions(fast, NAMES[file]).values():
        assert signature.parameters["out"].default is None


@pytest.mark.parametrize("file", FILES)
def test_no_op_is_left_out(file):
    """A function of one set with an argument `out` is an op: it is listed, and in the other set."""
    for op_set in ("reference", "fast"):
        module = importlib.import_module(f"minicnn.ops.{op_set}.{file}")
        ops = {
            name
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__
            and not name.startswith("_")
            and inspect.signature(function).parameters.get("out") is not None
            and inspect.signature(function).parameters["out"].default is None
        }
        assert ops == set(NAMES[file])
