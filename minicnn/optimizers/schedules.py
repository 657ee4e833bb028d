"""The schedules, where Keras has them."""

from minicnn.schedules import (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateSchedule,
    PiecewiseConstantDecay,
    PiecewiseLinear,
    PolynomialDecay,
    deserialize,
    get,
    serialize,
    table,
)

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PiecewiseLinear",
    "PolynomialDecay",
    "deserialize",
    "get",
    "serialize",
    "table",
]
