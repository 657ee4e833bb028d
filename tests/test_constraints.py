import numpy as np
import pytest

from minicnn import constraints

W = np.random.default_rng(2).normal(size=(3, 3, 4, 5)) * [0.1, 0.5, 1.0, 2.0, 4.0]
CASES = [
    constraints.MaxNorm(1.5, axis=[0, 1, 2]),
    constraints.UnitNorm(axis=[0, 1, 2]),
    constraints.MinMaxNorm(0.5, 2.0, rate=0.3, axis=[0, 1, 2]),
    constraints.NonNeg(),
]


def norms(w):
    return np.sqrt(np.sum(w * w, axis=(0, 1, 2)))


def test_norms_of_filters():
    before = norms(W)
    assert before.min() < 0.9 and before.max() > 10
    np.testing.assert_allclose(norms(CASES[0](W)), np.minimum(before, 1.5), rtol=1e-6)
    np.testing.assert_allclose(norms(CASES[1](W)), 1, rtol=1e-6)
    wanted = 0.3 * np.clip(before, 0.5, 2.0) + 0.7 * before
    np.testing.assert_allclose(norms(CASES[2](W)), wanted, rtol=1e-6)


def test_directions_stay():
    for constraint in CASES[:3]:
        ratio = constraint(W) / W
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0, 0, 0], W.shape), rtol=1e-12)


def test_non_negative():
    np.testing.assert_array_equal(constraints.NonNeg()([-1.0, 0.0, 2.0]), [0, 0, 2])


@pytest.mark.parametrize("constraint", CASES, ids=repr)
def test_pure_dtype_nan_zero(constraint):
    w = W.astype(np.float32)
    kept = w.copy()
    result = constraint(w)
    assert result.dtype == np.float32 and result is not w
    np.testing.assert_array_equal(w, kept)
    np.testing.assert_allclose(result, constraint(W), rtol=1e-5, atol=1e-7)
    w[0, 0, 0, 0] = np.nan
    assert np.isnan(constraint(w)[0, 0, 0, 0])
    assert np.isfinite(constraint(np.zeros((3, 3, 4, 5)))).all()


@pytest.mark.parametrize("constraint", CASES, ids=repr)
def test_config_round_trip(constraint):
    again = constraints.deserialize(constraints.serialize(constraint))
    assert type(again) is type(constraint) and again.get_config() == constraint.get_config()


def test_names():
    assert constraints.max_norm is constraints.maxnorm is constraints.MaxNorm
    for name in ("maxnorm", "max_norm", "MaxNorm"):
        assert constraints.get(name).max_value == 2
    assert type(constraints.get("non_neg")) is constraints.NonNeg
    assert set(constraints.table.classes) == {type(case).__name__ for case in CASES}
    with pytest.raises(ValueError, match="Did you mean 'unit_?norm'"):
        constraints.get("unitnrm")
