"""Penalties on weights that are added to the loss, each with its gradient beside it.

L1L2:        value = l1 sum |w| + l2 sum w^2          grad = l1 sign(w) + 2 l2 w
Orthogonal:  value = factor mean over pairs i < j of |u_i . u_j|,  u_i = w_i / |w_i|
"""

import math

import numpy as np

from minicnn import configurable
from minicnn.configurable import Configurable, Table

table = Table("regularizers", "regularizer")

EPSILON = 1e-7  # norms below it count as this, as in Keras: a row of zeros has no direction


class Regularizer(Configurable):
    """Base: a subclass defines value(w) -> float and grad(w) -> array like w."""

    table = table

    def __call__(self, w):
        return self.value(np.asarray(w))

    def value(self, w):
        raise TypeError(f"{type(self).__name__} defines no value(w) -> float")

    def grad(self, w):
        raise TypeError(f"{type(self).__name__} defines no grad(w) -> array")


@table.register("l1_l2")
class L1L2(Regularizer):
    """l1 sum |w| + l2 sum w^2."""

    def __init__(self, l1: float = 0.0, l2: float = 0.0):
        self.l1, self.l2 = _factor("l1", l1), _factor("l2", l2)

    def value(self, w):
        value = 0.0
        if self.l1:
            value += self.l1 * float(np.sum(np.abs(w), dtype=np.float64))
        if self.l2:
            value += self.l2 * float(np.sum(np.square(w, dtype=np.float64)))
        return value

    def grad(self, w):
        if not self.l1:
            return (2 * self.l2) * w
        return self.l1 * np.sign(w) + (2 * self.l2) * w


@table.register()
class L1(L1L2):
    """l1 sum |w|."""

    def __init__(self, l1: float = 0.01):
        super().__init__(l1=0.01 if l1 is None else l1)


@table.register()
class L2(L1L2):
    """l2 sum w^2."""

    def __init__(self, l2: float = 0.01):
        super().__init__(l2=0.01 if l2 is None else l2)


@table.register()
class OrthogonalRegularizer(Regularizer):
    """factor times the mean |cosine| between two rows (or columns) of a matrix.

    With S = sign(U U^T) off the diagonal and c = factor / pairs, the gradient with respect to the
    directions is du = c S U, and dw = (du - u (u . du)) / |w| takes it through the division.
    """

    def __init__(self, factor: float = 0.01, mode: str = "rows"):
        self.factor = _factor("factor", factor)
        if mode not in ("rows", "columns"):
            raise ValueError(f"mode is 'rows' or 'columns', not {mode!r}")
        self.mode = mode

    def value(self, w):
        u, _, _ = self._directions(w)
        cosines = np.abs(u @ u.T)
        return self._per_pair(u) / 2 * float(np.sum(cosines) - np.trace(cosines))

    def grad(self, w):
        u, norm, cut = self._directions(w)
        signs = np.sign(u @ u.T)
        np.fill_diagonal(signs, 0)
        du = self._per_pair(u) * (signs @ u)
        radial = np.where(cut, 0, u * np.sum(u * du, axis=1, keepdims=True))
        dw = (du - radial) / norm
        return (dw if self.mode == "rows" else dw.T).astype(w.dtype)

    def _directions(self, w):
        """Unit rows in float64, their norms, and which norms were raised to EPSILON."""
        if w.ndim != 2:
            raise ValueError(
                f"OrthogonalRegularizer is for matrices, not for a weight of shape {w.shape}"
            )
        rows = np.asarray(w if self.mode == "rows" else w.T, np.float64)
        norm = np.sqrt(np.sum(np.square(rows), axis=1, keepdims=True))
        return rows / np.maximum(norm, EPSILON), np.maximum(norm, EPSILON), norm < EPSILON

    def _per_pair(self, u):
        pairs = len(u) * (len(u) - 1) / 2
        return self.factor / pairs if pairs else 0.0


def _factor(name, value):
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} is a number >= 0, not {value!r}")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is a finite number >= 0, not {value!r}")
    return float(value)


l1, l2, l1_l2, orthogonal_regularizer = L1, L2, L1L2, OrthogonalRegularizer


def get(identifier):
    """None, a name, a config, a class or an object -> None or a regularizer."""
    return identifier if isinstance(identifier, Regularizer) else table.get(identifier)


serialize, deserialize = configurable.serialize, table.build
