"""Losses of margins: none once the right side is ahead by 1. Labels are -1 and 1, or 0 and 1."""

import numpy as np

from minicnn.losses.base import Loss, MeanLoss, function_of, table


@table.register()
class Hinge(MeanLoss):
    """Mean of max(1 - t p, 0)."""

    def element(self, t, p):
        t = signs(t)
        margin = np.maximum(1 - t * p, 0)
        return margin, -t * np.sign(margin)


@table.register()
class SquaredHinge(MeanLoss):
    """Mean of max(1 - t p, 0)^2."""

    def element(self, t, p):
        t = signs(t)
        margin = np.maximum(1 - t * p, 0)
        return np.square(margin), -2 * t * margin


@table.register()
class CategoricalHinge(Loss):
    """max(1 + max_i (1 - t_i) p_i - sum_i t_i p_i, 0) for one-hot t."""

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_hinge",
        dtype: str | None = None,
    ):
        super().__init__(name, reduction, dtype)

    def per_sample(self, t, p):
        others = (1 - t) * p
        strongest = np.arange(p.shape[-1]) == np.argmax(others, axis=-1)[..., None]
        margin = np.maximum(1 + np.max(others, axis=-1) - np.sum(t * p, axis=-1), 0)
        return margin, np.sign(margin)[..., None] * ((1 - t) * strongest - t)


def signs(t):
    """Labels 0 and 1 as -1 and 1, if there are no others; else t."""
    return 2 * t - 1 if np.all((t == 0) | (t == 1)) else t


hinge = function_of(Hinge)
squared_hinge = function_of(SquaredHinge)
categorical_hinge = function_of(CategoricalHinge)
