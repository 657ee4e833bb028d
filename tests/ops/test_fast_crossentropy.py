"""The crossentropy of a softmax: the compiled op equals the reference, and both the formulae."""

import warnings

import numpy as np
import pytest
from scipy import special

from minicnn import config
from minicnn.ops.fast import crossentropy as fast
from minicnn.ops.reference import crossentropy as reference

OPS = {"fast": fast.softmax_crossentropy, "reference": reference.softmax_crossentropy}
each_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)
# (rows, classes): around a tile of rows, around the width from which a row is cut into parts,
# parts that do and do not fill a row, more than one block of either kind.
SHAPES = [(1, 1), (0, 4), (5, 2), (71, 3), (145, 10), (1700, 10), (73, 127), (3, 128), (130, 131)]
SHAPES += [(20, 1000)]


def problem(shape, dtype=np.float64, kind="labels", seed=0):
    """Logits, targets and factors; soft targets have zeros and sums that are not 1."""
    random = np.random.default_rng(seed)
    x = (3 * random.standard_normal(shape)).astype(dtype)
    factors = random.uniform(0.2, 2, shape[0])
    if kind == "labels":
        return x, random.integers(0, shape[1], shape[0]), factors
    t = random.uniform(0, 1, shape) * (random.random(shape) < 0.7)
    return x, t.astype(dtype), factors


def one_hot(targets, classes):
    return np.eye(classes)[targets] if targets.ndim == 1 else targets.astype(np.float64)


def formulae(x, t, factors, smoothing):
    """From SciPy's functions."""
    t = t * (1 - smoothing) + smoothing / x.shape[1]
    log_q = special.log_softmax(x.astype(np.float64), axis=1)
    gradient = special.softmax(x.astype(np.float64), axis=1) * t.sum(1, keepdims=True) - t
    return -(t * log_q).sum(1), factors[:, None] * gradient


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_sets_and_scipy_agree(agree, shape, dtype, kind, smoothing):
    x, targets, factors = problem(shape, dtype, kind)
    near = 1e-7 if dtype == np.float32 else 2e-15

    def gradient_first(op):
        def run(x, targets, factors, out=None):
            values, gradient = op(x, targets, factors, smoothing, out)
            return gradient, values

        return run

    agree(*map(gradient_first, OPS.values()), x, targets, factors, tolerance=near)
    expected, slope = formulae(x, one_hot(targets, shape[1]), factors, smoothing)
    for op in OPS.values():
        values, gradient = op(x, targets, factors, smoothing)
        assert values.dtype == np.float64 and gradient.dtype == dtype
        np.testing.assert_allclose(values, expected, rtol=1e-13, atol=1e-14)
        scale = 1 + np.abs(slope).max(initial=0)
        np.testing.assert_allclose(gradient, slope, rtol=0, atol=near * scale)
        only, nothing = op(x, targets, None, smoothing)
        assert nothing is None
        np.testing.assert_array_equal(only, values, strict=True)


@each_op
@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 140)])
def test_gradient_by_central_differences(op, shape, kind):
    x, targets, factors = problem(shape, kind=kind, seed=3)
    _, gradient = op(x, targets, factors, 0.1)
    for column in range(shape[1]):
        step = np.zeros(shape)
        step[:, column] = 1e-5
        above, below = (op(x + s, targets, None, 0.1)[0] for s in (step, -step))
        slope = factors * (above - below) / 2e-5
        np.testing.assert_allclose(gradient[:, column], slope, rtol=0, atol=2e-8)
    assert np.abs(gradient).max() > 0.1


@pytest.mark.parametrize("shape", [(5000, 10), (60, 1000)])
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_bits_do_not_depend_on_threads(shape, kind):
    x, targets, factors = problem(shape, np.float32, kind)
    with config.using(threads=1):
        alone = fast.softmax_crossentropy(x, targets, factors)
    together = fast.softmax_crossentropy(x, targets, factors)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


@each_op
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [3, 150])
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_extreme_logits(op, dtype, classes, kind):
    """Rows: right by far, wrong by far, an impossible other class, an impossible right class, NaN,
    infinity, nothing but minus infinity, and one row like others."""
    x = np.zeros((8, classes), dtype)
    x[0], x[0, 1] = -1e4, 1e4
    x[1], x[1, 1] = 1e4, -1e4
    x[2, 2] = x[3, 1] = -np.inf
    x[4, 0], x[5, 0], x[6] = np.nan, np.inf, -np.inf
    targets = np.ones(8, np.int64)
    if kind == "soft":
        targets = np.eye(classes, dtype=dtype)[targets]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, gradient = op(x, targets, np.ones(8))
        only, _ = op(x, targets, None)
    logs = np.log([classes - 1, classes - 1, classes])
    expected = [0, 2e4 + logs[0], logs[1], np.inf, np.nan, np.nan, np.nan, logs[2]]
    np.testing.assert_allclose(values, expected, rtol=1e-14)
    np.testing.assert_array_equal(only, values)
    assert values[0] == 0 and not gradient[0].any()
    others = np.full(classes, 1 / (classes - 1))
    others[1] = -1
    near = 1e-7 if dtype == np.float32 else 1e-15
    np.testing.assert_allclose(gradient[1], others, rtol=near)
    np.testing.assert_allclose(gradient[3], others, rtol=near)
    assert gradient[2, 2] == 0 and gradient[2, 1] == pytest.approx(1 / (classes - 1) - 1)
    assert np.isnan(gradient[4:7]).all() and np.isfinite(gradient[[0, 1, 2, 3, 7]]).all()


@each_op
@pytest.mark.parametrize("classes", [3, 150])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_labels_of_no_class_count_nothing(op, classes, smoothing):
    x, labels, factors = problem((6, classes))
    labels[[1, 3]] = -1, classes
    x[1, 0] = np.nan
    values, gradient = op(x, labels, factors, smoothing)
    assert not values[[1, 3]].any() and not gradient[[1, 3]].any()
    kept = [0, 2, 4, 5]
    expected, slope = op(x[kept], labels[kept], factors[kept], smoothing)
    np.testing.assert_array_equal(values[kept], expected)
    np.testing.assert_array_equal(gradient[kept], slope)
    np.testing.assert_array_equal(op(x, labels, None, smoothing)[0], values)


def test_other_types_of_targets():
    x, labels, factors = problem((9, 4), np.float32)
    expected = fast.softmax_crossentropy(x, labels, factors)
    for dtype in (np.uint8, np.int32, np.float32):
        given = fast.softmax_crossentropy(x, labels.astype(dtype), factors)
        np.testing.assert_array_equal(given[1], expected[1])
    rows = np.eye(4, dtype=bool)[labels]
    for t in (rows, rows.astype(np.uint8), rows.astype(np.float64)):
        np.testing.assert_allclose(fast.softmax_crossentropy(x, t, factors)[1], expected[1], 1e-6)


def test_arguments_that_do_not_fit():
    x, labels, factors = problem((9, 4), np.float32)
    with pytest.raises(ValueError, match=r"targets has shape \(8,\), expected \(9,\)"):
        fast.softmax_crossentropy(x, labels[1:], factors)
    with pytest.raises(ValueError, match=r"factors has shape \(8,\), expected \(9,\)"):
        fast.softmax_crossentropy(x, labels, factors[1:])
    with pytest.raises(ValueError, match="at least one class"):
        fast.softmax_crossentropy(x[:, :0], labels, factors)
    with pytest.raises(TypeError, match="pass float32 or float64"):
        fast.softmax_crossentropy(x.astype(np.float16), labels, factors)
