import math

import pytest

from minicnn import schedules
from minicnn.optimizers import schedules as under_optimizers

CASES = [
    (schedules.ExponentialDecay(0.1, 10, 0.5), {0: 0.1, 10: 0.05, 15: 0.1 * 0.5**1.5}),
    (schedules.ExponentialDecay(0.1, 10, 0.5, staircase=True), {9: 0.1, 10: 0.05, 19: 0.05}),
    (schedules.InverseTimeDecay(0.1, 10, 0.5), {0: 0.1, 10: 0.1 / 1.5, 5: 0.1 / 1.25}),
    (schedules.InverseTimeDecay(0.1, 10, 0.5, staircase=True), {9: 0.1, 19: 0.1 / 1.5}),
    (
        schedules.PiecewiseConstantDecay([5, 12], [1.0, 0.5, 0.1]),
        {0: 1.0, 5: 1.0, 6: 0.5, 12: 0.5, 13: 0.1, 999: 0.1},
    ),
    (schedules.PolynomialDecay(0.1, 10, 0.02), {0: 0.1, 5: 0.06, 10: 0.02, 50: 0.02}),
    (
        schedules.PolynomialDecay(0.1, 10, 0.0, power=2.0, cycle=True),
        {5: 0.025, 10: 0.0, 11: 0.1 * (9 / 20) ** 2, 20: 0.0},
    ),
    (schedules.CosineDecay(0.1, 10), {0: 0.1, 5: 0.05, 10: 0.0, 11: 0.0}),
    (schedules.CosineDecay(0.1, 10, alpha=0.2), {0: 0.1, 5: 0.06, 10: 0.02}),
    (
        schedules.CosineDecay(0.02, 10, warmup_target=0.1, warmup_steps=4),
        {0: 0.02, 2: 0.06, 4: 0.1, 9: 0.05, 14: 0.0, 99: 0.0},
    ),
    (
        schedules.CosineDecayRestarts(0.1, 4, m_mul=0.5),
        {0: 0.1, 2: 0.05, 4: 0.05, 8: 0.025, 12: 0.025, 20: 0.0125},
    ),
    (schedules.CosineDecayRestarts(0.1, 4, t_mul=1.0), {2: 0.05, 4: 0.1, 4_000_002: 0.05}),
    (
        schedules.PiecewiseLinear([10, 20, 40], [0.2, 1.0, 0.0]),
        {0: 0.2, 10: 0.2, 15: 0.6, 20: 1.0, 30: 0.5, 40: 0.0, 99: 0.0},
    ),
]


@pytest.mark.parametrize(("schedule", "values"), CASES, ids=lambda v: repr(v)[:60])
def test_values_and_round_trip(schedule, values):
    for step, rate in values.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-12, abs=1e-15)
        assert type(schedule(step)) is float
    again = schedules.deserialize(schedules.serialize(schedule))
    assert type(again) is type(schedule) and again.get_config() == schedule.get_config()


def test_every_class_has_a_case():
    assert set(schedules.table.classes) == {type(schedule).__name__ for schedule, _ in CASES}
    assert under_optimizers.CosineDecay is schedules.CosineDecay


def test_values_of_keras():
    """Numbers obtained from Keras 3.15, in float32."""
    restarts = schedules.CosineDecayRestarts(0.1, 4, t_mul=1.5, m_mul=0.8, alpha=0.05)
    assert restarts(7) == pytest.approx(0.043, rel=1e-6)
    assert schedules.CosineDecay(0.1, 10, alpha=0.1)(3) == pytest.approx(0.0814503, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.CosineDecay(0.1, 0), "decay_steps is a positive number, not 0"),
        (lambda: schedules.CosineDecay(math.nan, 5), "initial_learning_rate is a finite"),
        (lambda: schedules.ExponentialDecay(-0.1, 5, 0.5), "initial_learning_rate"),
        (lambda: schedules.CosineDecayRestarts(0.1, 5, t_mul=0.5), "t_mul is 1 or more"),
        (lambda: schedules.PiecewiseConstantDecay([1], [1.0]), "give 2 values"),
        (lambda: schedules.PiecewiseConstantDecay([3, 1], [1, 2, 3]), "ascend"),
        (lambda: schedules.CosineDecay.from_config({"steps": 3}), "takes no argument 'steps'"),
        (lambda: schedules.deserialize({"class_name": "CosDecay", "config": {}}), "Did you mean"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_piecewise_linear_refuses():
    for steps, rates in (([1, 2], [1.0]), ([], []), ([2, 1], [1.0, 2.0]), ([1, 2], [1.0, -1.0])):
        with pytest.raises(ValueError):
            schedules.PiecewiseLinear(steps, rates)
