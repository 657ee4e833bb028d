"""Constraints move a weight back to what is allowed after each update: constraint(w) -> array.

`axis` holds the axes over which a norm is taken: 0 for a Dense kernel (one norm per unit),
[0, 1, 2] for an HWIO kernel (one norm per filter).
"""

import numpy as np

from minicnn import configurable
from minicnn.configurable import Configurable, Table

table = Table("constraints", "constraint")

EPSILON = 1e-7  # as in Keras: keeps the division by a norm of 0 finite


class Constraint(Configurable):
    """Base: a subclass defines __call__(w)."""

    table = table

    def __call__(self, w):
        raise TypeError(f"{type(self).__name__} defines no __call__(w) -> array")


class _NormConstraint(Constraint):
    """w scaled so that its norm over `axis` becomes desired(norm)."""

    def __call__(self, w):
        w = np.asarray(w)
        axis = tuple(self.axis) if isinstance(self.axis, list) else self.axis
        squares = np.square(w, dtype=np.float64)
        norm = np.sqrt(np.sum(squares, axis=axis, keepdims=True))
        return (w * (self.desired(norm) / (EPSILON + norm))).astype(w.dtype)


@table.register("maxnorm", "max_norm")
class MaxNorm(_NormConstraint):
    """Norms are at most max_value (Srivastava et al. 2014)."""

    def __init__(self, max_value: float = 2, axis: int | list = 0):
        self.max_value, self.axis = max_value, axis

    def desired(self, norm):
        return np.clip(norm, 0, self.max_value)


@table.register("unitnorm", "unit_norm")
class UnitNorm(_NormConstraint):
    """Norms are 1."""

    def __init__(self, axis: int | list = 0):
        self.axis = axis

    def desired(self, norm):
        return 1.0


@table.register("minmaxnorm", "min_max_norm")
class MinMaxNorm(_NormConstraint):
    """Norms go the share `rate` of the way into [min_value, max_value] at each update."""

    def __init__(
        self,
        min_value: float = 0.0,
        max_value: float = 1.0,
        rate: float = 1.0,
        axis: int | list = 0,
    ):
        self.min_value, self.max_value, self.rate, self.axis = min_value, max_value, rate, axis

    def desired(self, norm):
        inside = np.clip(norm, self.min_value, self.max_value)
        return self.rate * inside + (1 - self.rate) * norm


@table.register("nonneg", "non_neg")
class NonNeg(Constraint):
    """No value is below 0."""

    def __call__(self, w):
        return np.maximum(w, 0)


max_norm = maxnorm = MaxNorm
unit_norm = unitnorm = UnitNorm
min_max_norm = MinMaxNorm
non_neg = nonneg = NonNeg


def get(identifier):
    """None, a name, a config, a class or an object -> None or a constraint."""
    return identifier if isinstance(identifier, Constraint) else table.get(identifier)


serialize, deserialize = configurable.serialize, table.build
