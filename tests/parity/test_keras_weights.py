"""Initializers, regularizers and constraints against Keras."""

import inspect

import jax
import keras
import numpy as np
import pytest
from oracle import as_keras, close, disagreements, numbers

from minicnn import constraints, initializers, regularizers

KERNEL = (3, 3, 40, 50)  # 18,000 values: the mean of as many is within 4 standard errors

DETERMINISTIC = [
    ("Zeros", {}, (3, 4)),
    ("Ones", {}, (3, 4)),
    ("Constant", dict(value=0.7), (3, 4)),
    ("Identity", dict(gain=2.0), (4, 4)),
    ("Identity", {}, (3, 5)),
]
RANDOM = [
    ("RandomNormal", dict(mean=0.3, stddev=0.2)),
    ("RandomUniform", dict(minval=-1.0, maxval=0.5)),
    ("TruncatedNormal", dict(mean=-0.2, stddev=0.3)),
    ("VarianceScaling", dict(scale=3.0, mode="fan_out", distribution="uniform")),
    ("VarianceScaling", dict(mode="fan_avg", distribution="untruncated_normal")),
    ("VarianceScaling", dict(distribution="truncated_normal")),
    ("VarianceScaling", dict(mode="fan_avg", input_axes=(0, 2), output_axes=(1, 3))),
    ("GlorotUniform", {}),
    ("GlorotNormal", {}),
    ("HeUniform", {}),
    ("HeNormal", {}),
    ("LecunUniform", {}),
    ("LecunNormal", {}),
]
REGULARIZERS = [
    ("L1", {}),
    ("L1", dict(l1=0.3)),
    ("L2", dict(l2=0.2)),
    ("L1L2", dict(l1=0.1, l2=0.2)),
    ("OrthogonalRegularizer", {}),
    ("OrthogonalRegularizer", dict(factor=0.5, mode="columns")),
]
CONSTRAINTS = [
    ("MaxNorm", {}),
    ("MaxNorm", dict(max_value=0.5, axis=[0, 1])),
    ("UnitNorm", dict(axis=1)),
    ("MinMaxNorm", dict(min_value=0.5, max_value=1.2, rate=0.7, axis=0)),
    ("NonNeg", {}),
]


def cases(table):
    return pytest.mark.parametrize(
        ("name", "options"),
        [(entry[0], entry[1]) for entry in table],
        ids=[f"{entry[0]}-{entry[1]}" for entry in table],
    )


@pytest.mark.parametrize(("name", "options", "shape"), DETERMINISTIC)
def test_deterministic_initializer(name, options, shape):
    ours = getattr(initializers, name)(**options)(shape)
    close(ours, getattr(keras.initializers, name)(**options)(shape), 0)
    assert ours.dtype == np.float32


@cases(RANDOM)
def test_random_initializer(name, options):
    """Other draws of the same distribution: its moments, and where it ends."""
    ours = getattr(initializers, name)(**options, seed=1)(KERNEL)
    theirs = np.asarray(getattr(keras.initializers, name)(**options, seed=1)(KERNEL))
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    deviation, count = theirs.std(), theirs.size
    # Standard errors: deviation / sqrt(n) of a mean, at most twice that of standard deviation
    # and higher moments of these distributions; two samples are compared: sqrt(2).
    error = 4 * np.sqrt(2 / count)
    assert abs(ours.mean() - theirs.mean()) < error * deviation
    assert abs(ours.std() - theirs.std()) < error * deviation
    standard = [(x - x.mean()) / deviation for x in (ours, theirs)]
    tails = [np.mean(np.abs(x) > 1.5) for x in standard]
    assert abs(tails[0] - tails[1]) < error
    if "Normal" in name and name != "TruncatedNormal" or "untruncated" in str(options):
        return
    # bounded: 18,000 uniform draws come within 0.1 % of the ends, truncated ones within 1 %
    for end in (np.min, np.max):
        assert abs(end(ours) - end(theirs)) < 0.02 * deviation


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 2, 3, 4)])
def test_orthogonal_initializer(shape):
    for library in (initializers, keras.initializers):
        w = np.asarray(library.Orthogonal(gain=2.0, seed=1)(shape)).reshape(-1, shape[-1])
        smaller = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
        close(smaller, 4 * np.eye(len(smaller)))


@pytest.mark.parametrize("library", [initializers, keras.initializers])
def test_a_seeded_initializer_repeats_itself(library):
    initializer = library.GlorotUniform(seed=3)
    np.testing.assert_array_equal(initializer((2, 3)), initializer((2, 3)))


@pytest.mark.parametrize("library", [initializers, keras.initializers])
def test_an_initializer_without_seed_does_not(library):
    initializer = library.RandomNormal()
    first = np.asarray(initializer((2, 3)))
    if library is initializers:
        assert not np.array_equal(first, initializer((2, 3)))
    else:  # Keras draws a seed once per object; ours draws anew for every weight
        assert not np.array_equal(first, library.RandomNormal()((2, 3)))


@cases(REGULARIZERS)
def test_regularizer(name, options):
    w = numbers(5, 4)
    ours, theirs = (getattr(m, name)(**options) for m in (regularizers, keras.regularizers))
    value, gradient = jax.jit(jax.value_and_grad(theirs))(w)
    close(ours(w), value)
    close(ours.grad(w), gradient)


@cases(CONSTRAINTS)
def test_constraint(name, options):
    w = numbers(5, 4)
    ours, theirs = (getattr(m, name)(**options) for m in (constraints, keras.constraints))
    close(ours(w), theirs(w))


TABLES = {
    "initializers": (initializers, keras.initializers, DETERMINISTIC + RANDOM),
    "regularizers": (regularizers, keras.regularizers, REGULARIZERS),
    "constraints": (constraints, keras.constraints, CONSTRAINTS),
}


@pytest.mark.parametrize("table", TABLES)
def test_config_is_read_by_keras(table):
    ours, theirs, entries = TABLES[table]
    for name, options, *_ in entries:
        config = getattr(ours, name)(**options).get_config()
        read = getattr(theirs, name).from_config(as_keras(config))
        found = disagreements(config, read.get_config())
        assert not found or name == "Identity" and set(found) == {"gain"}, name  # Keras forgets it


@pytest.mark.parametrize("table", TABLES)
def test_names(table):
    """Names in strings: of the classes, in snake case, and the functions of Keras 2."""
    ours, theirs, _ = TABLES[table]
    found = 0
    for name in vars(theirs):
        try:
            value = theirs.get(name)
        except (ValueError, KeyError):  # Constant needs its value
            continue
        if value is None or name not in ours.table.names or not hasattr(value, "get_config"):
            continue
        found += 1
        assert type(ours.get(name)).__name__ == type(value).__name__, name
    assert found >= 4


@pytest.mark.parametrize("table", TABLES)
def test_all_are_compared(table):
    ours, theirs, entries = TABLES[table]
    shared = {
        value.__name__
        for name, value in vars(ours).items()
        if inspect.isclass(value) and hasattr(theirs, name) and hasattr(value, "table")
    }
    base = {"Initializer", "Regularizer", "Constraint", "Orthogonal"}
    assert shared - base == {entry[0] for entry in entries}
