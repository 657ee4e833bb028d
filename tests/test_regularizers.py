import numpy as np
import pytest

from minicnn import regularizers

CASES = [
    regularizers.L1(0.3),
    regularizers.L2(0.2),
    regularizers.L1L2(l1=0.1, l2=0.4),
    regularizers.OrthogonalRegularizer(0.7),
    regularizers.OrthogonalRegularizer(0.7, mode="columns"),
]


@pytest.mark.parametrize("regularizer", CASES, ids=repr)
@pytest.mark.parametrize("shape", [(4, 5), (7, 3), (1, 2)])
def test_gradient_agrees_with_central_differences(regularizer, shape, epsilon=1e-6):
    w = np.random.default_rng(3).normal(size=shape)
    gradient = regularizer.grad(w)
    numeric = np.empty(shape)
    for at in np.ndindex(shape):
        moved = [w.copy(), w.copy()]
        moved[0][at] += epsilon
        moved[1][at] -= epsilon
        numeric[at] = (regularizer.value(moved[0]) - regularizer.value(moved[1])) / (2 * epsilon)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


def test_values():
    w = np.array([[1.0, -2.0], [0.5, 0.0]])
    assert regularizers.l1(0.1)(w) == pytest.approx(0.35)
    assert regularizers.l2(0.1)(w) == pytest.approx(0.525)
    assert regularizers.l1_l2(0.1, 0.1)(w) == pytest.approx(0.875)
    # one pair of rows: |cos| = |1 * 0.5| / (sqrt(5) * 0.5) = 1 / sqrt(5)
    assert regularizers.orthogonal_regularizer(0.3)(w) == pytest.approx(0.3 / np.sqrt(5))


@pytest.mark.parametrize("regularizer", CASES, ids=repr)
def test_float32_and_nan(regularizer):
    w = np.random.default_rng(1).normal(size=(6, 4))
    single = w.astype(np.float32)
    assert regularizer.grad(single).dtype == np.float32
    assert regularizer(single) == pytest.approx(regularizer(single.astype(np.float64)), rel=1e-12)
    np.testing.assert_allclose(regularizer.grad(single), regularizer.grad(w), rtol=1e-5, atol=1e-6)
    w[2, 1] = np.nan
    assert np.isnan(regularizer(w)) and np.isnan(regularizer.grad(w)[2, 1])


def test_sums_are_float64():
    w = np.full(3_000_000, 0.1, np.float32)
    exact = 0.01 * 3_000_000 * float(np.float32(0.1)) ** 2
    assert regularizers.L2(0.01)(w) == pytest.approx(exact, rel=1e-12)


def test_rows_of_zeros_have_a_finite_gradient():
    w = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0]])
    regularizer = regularizers.OrthogonalRegularizer()
    assert np.isfinite(regularizer(w)) and np.isfinite(regularizer.grad(w)).all()


@pytest.mark.parametrize("regularizer", CASES, ids=repr)
def test_config_round_trip(regularizer):
    again = regularizers.deserialize(regularizers.serialize(regularizer))
    assert type(again) is type(regularizer) and again.get_config() == regularizer.get_config()


def test_names():
    assert regularizers.get("l2").l2 == regularizers.L2().l2 == 0.01
    assert type(regularizers.get("l1_l2")) is regularizers.L1L2
    assert regularizers.get(None) is None
    assert set(regularizers.table.classes) == {type(case).__name__ for case in CASES}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: regularizers.L2(-1), "l2 is a finite number >= 0, not -1"),
        (lambda: regularizers.L1(float("nan")), "l1 is a finite"),
        (lambda: regularizers.L1L2("a"), "l1 is a number"),
        (lambda: regularizers.OrthogonalRegularizer(mode="row"), "'rows' or 'columns'"),
        (lambda: regularizers.OrthogonalRegularizer()(np.ones((2, 2, 2))), r"shape \(2, 2, 2\)"),
        (lambda: regularizers.get("l3"), "Unknown regularizer 'l3'"),
        (lambda: regularizers.get(lambda w: 0), "no regularizer"),
    ],
)
def test_errors(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
