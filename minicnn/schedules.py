"""Learning rates that change with the step: schedule(step) -> float. Names and formulas: Keras's.

r is the initial learning rate, s the step, T = decay_steps.
"""

import math

import numpy as np

from minicnn import configurable
from minicnn.configurable import Configurable, Table

table = Table("optimizers.schedules", "learning rate schedule")


class LearningRateSchedule(Configurable):
    """Base: a subclass defines __call__(step) -> float."""

    table = table

    def __call__(self, step):
        raise TypeError(f"{type(self).__name__} defines no __call__(step) -> learning rate")


@table.register()
class ExponentialDecay(LearningRateSchedule):
    """r decay_rate^(s / T); staircase: the exponent rounded down."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ):
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = _positive("decay_steps", decay_steps)
        self.decay_rate, self.staircase, self.name = decay_rate, staircase, name

    def __call__(self, step):
        share = step / self.decay_steps
        return self.decayed(math.floor(share) if self.staircase else share)

    def decayed(self, share):
        return float(self.initial_learning_rate * self.decay_rate**share)


@table.register()
class InverseTimeDecay(ExponentialDecay):
    """r / (1 + decay_rate s / T); staircase: s / T rounded down."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ):
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    def decayed(self, share):
        return float(self.initial_learning_rate / (1 + self.decay_rate * share))


@table.register()
class PiecewiseConstantDecay(LearningRateSchedule):
    """values[0] up to and including step boundaries[0], then values[1] up to boundaries[1], ..."""

    def __init__(self, boundaries: list, values: list, name: str = "PiecewiseConstant"):
        boundaries, values = list(boundaries), list(values)
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"PiecewiseConstantDecay has {len(boundaries)} boundaries and {len(values)} "
                f"values; give {len(boundaries) + 1} values"
            )
        if boundaries != sorted(boundaries):
            raise ValueError(f"boundaries must ascend: {boundaries}")
        self.boundaries, self.name = boundaries, name
        self.values = [_rate("each of values", value) for value in values]

    def __call__(self, step):
        return float(self.values[int(np.searchsorted(self.boundaries, step, side="left"))])


@table.register()
class PiecewiseLinear(LearningRateSchedule):
    """rates[i] at step steps[i], straight lines between, constant before and after. Ours.

    PiecewiseLinear([0, 100, 480], [0.2, 1.0, 0.07]) warms up and then falls (a triangle).
    """

    def __init__(self, steps: list, rates: list, name: str = "PiecewiseLinear"):
        self.steps, self.rates, self.name = list(steps), list(rates), name
        if len(self.steps) != len(self.rates) or not self.steps:
            raise ValueError(
                f"PiecewiseLinear has {len(self.steps)} steps and {len(self.rates)} rates; give as "
                "many of the one as of the other"
            )
        if sorted(set(self.steps)) != self.steps:
            raise ValueError(f"steps must ascend: {self.steps}")
        for rate in self.rates:
            _rate("a rate", rate)

    def __call__(self, step):
        return float(np.interp(step, self.steps, self.rates))


@table.register()
class PolynomialDecay(LearningRateSchedule):
    """(r - end)(1 - s / T)^power + end, and end from step T on.

    cycle: begin again at T, 2 T, ..., with T replaced by the next multiple of it.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ):
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = _positive("decay_steps", decay_steps)
        self.end_learning_rate = _rate("end_learning_rate", end_learning_rate)
        self.power, self.cycle, self.name = power, cycle, name

    def __call__(self, step):
        length = self.decay_steps
        if self.cycle:
            length *= max(1, math.ceil(step / length))
        share = min(step, length) / length
        span = self.initial_learning_rate - self.end_learning_rate
        return float(span * (1 - share) ** self.power + self.end_learning_rate)


@table.register()
class CosineDecay(LearningRateSchedule):
    """r ((1 - alpha) (1 + cos(pi s / T)) / 2 + alpha), s at most T (Loshchilov and Hutter 2017).

    With warmup_target the rate first rises linearly from r to it over warmup_steps, and decays
    from there over T further steps.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ):
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = _positive("decay_steps", decay_steps)
        self.alpha, self.name, self.warmup_steps = alpha, name, warmup_steps
        if warmup_target is not None:
            warmup_target = _rate("warmup_target", warmup_target)
        self.warmup_target = warmup_target

    def __call__(self, step):
        start = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return float(start + (self.warmup_target - start) * step / self.warmup_steps)
            start, step = self.warmup_target, step - self.warmup_steps
        return float(start * _cosine(min(step / self.decay_steps, 1.0), self.alpha))


@table.register()
class CosineDecayRestarts(LearningRateSchedule):
    """Cosine decay that restarts: period i has T t_mul^i steps and begins at r m_mul^i.

    alpha is the smallest share of r (SGDR, Loshchilov and Hutter 2017).
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "SGDRDecay",
    ):
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.first_decay_steps = _positive("first_decay_steps", first_decay_steps)
        if not _positive("t_mul", t_mul) >= 1:
            raise ValueError(f"t_mul is 1 or more (shrinking periods come to an end), not {t_mul}")
        self.t_mul, self.m_mul = t_mul, m_mul
        self.alpha, self.name = alpha, name

    def __call__(self, step):
        period, length = 0, self.first_decay_steps
        while step >= length:  # at most some thousand turns, and only where t_mul is near 1
            if self.t_mul == 1:
                period, step = divmod(step, length)
                break
            step, length, period = step - length, length * self.t_mul, period + 1
        amplitude = self.m_mul**period
        return float(self.initial_learning_rate * _cosine(step / length, self.alpha, amplitude))


def _cosine(share, alpha, amplitude=1.0):
    """Falls from 1 to alpha while `share` goes from 0 to 1."""
    return (1 - alpha) * amplitude * (1 + math.cos(math.pi * share)) / 2 + alpha


def _number(value):
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _rate(name, value):
    if not _number(value) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is a finite number >= 0, not {value!r}")
    return value


def _positive(name, value):
    if not _number(value) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is a positive number, not {value!r}")
    return value


def get(identifier):
    """None, a config, or an object -> None or a schedule."""
    return identifier if isinstance(identifier, LearningRateSchedule) else table.get(identifier)


serialize, deserialize = configurable.serialize, table.build
