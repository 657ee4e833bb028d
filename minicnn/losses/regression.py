"""Losses of numbers: each element's l(t, p) with dl/dp; t what was wanted, p what was predicted."""

import numpy as np

from minicnn.losses.base import EPSILON, Loss, MeanLoss, function_of, table


@table.register("mse", "MSE")
class MeanSquaredError(MeanLoss):
    """Mean of (p - t)^2."""

    def element(self, t, p):
        return np.square(p - t), 2 * (p - t)


@table.register("mae", "MAE")
class MeanAbsoluteError(MeanLoss):
    """Mean of |p - t|."""

    def element(self, t, p):
        return np.abs(p - t), np.sign(p - t)


@table.register("mape", "MAPE")
class MeanAbsolutePercentageError(MeanLoss):
    """Mean of 100 |p - t| / max(|t|, 1e-7)."""

    def element(self, t, p):
        scale = 100 / np.maximum(np.abs(t), EPSILON)
        return scale * np.abs(p - t), scale * np.sign(p - t)


@table.register("msle", "MSLE")
class MeanSquaredLogarithmicError(MeanLoss):
    """Mean of (log(1 + p) - log(1 + t))^2; p and t below 1e-7 count as 1e-7."""

    def element(self, t, p):
        difference = np.log1p(np.maximum(p, EPSILON)) - np.log1p(np.maximum(t, EPSILON))
        return np.square(difference), np.where(p < EPSILON, 0, 2 * difference / (1 + p))


@table.register("huber_loss")
class Huber(MeanLoss):
    """Mean of e^2 / 2 for |e| <= delta, else delta |e| - delta^2 / 2; e = p - t (Huber 1964)."""

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "huber_loss",
        dtype: str | None = None,
    ):
        super().__init__(reduction, name, dtype)
        self.delta = delta

    def element(self, t, p):
        error = p - t
        inside = np.abs(error) <= self.delta
        beyond = self.delta * np.abs(error) - self.delta**2 / 2
        value = np.where(inside, np.square(error) / 2, beyond)
        return value, np.clip(error, -self.delta, self.delta)


@table.register("logcosh")
class LogCosh(MeanLoss):
    """Mean of log cosh e = |e| + log(1 + exp(-2 |e|)) - log 2; e = p - t, derivative tanh e."""

    def element(self, t, p):
        size = np.abs(p - t)
        return size + np.log1p(np.exp(-2 * size)) - np.log(2), np.tanh(p - t)


@table.register()
class CosineSimilarity(Loss):
    """-cos of the angle between t and p: -1 for the same direction.

    With u = p / |p| and v = t / |t| the gradient is -(v - (u . v) u) / |p|. Norms below 1e-7 count
    as 1e-7, so that a vector of zeros gives 0.
    """

    def __init__(
        self,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "cosine_similarity",
        dtype: str | None = None,
    ):
        super().__init__(name, reduction, dtype)
        self.axis = axis

    def per_sample(self, t, p):
        u, size = unit(p)
        v, _ = unit(t)
        cosine = np.sum(u * v, axis=-1)
        along = np.where(size <= EPSILON, 0, cosine[..., None] * u)  # a raised norm is constant
        return -cosine, -(v - along) / size


def unit(x):
    """x / |x| along the last axis, and |x| (at least EPSILON) with that axis kept."""
    size = np.maximum(np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), EPSILON)
    return x / size, size


mean_squared_error = mse = MSE = function_of(MeanSquaredError)
mean_absolute_error = mae = MAE = function_of(MeanAbsoluteError)
mean_absolute_percentage_error = mape = MAPE = function_of(MeanAbsolutePercentageError)
mean_squared_logarithmic_error = msle = MSLE = function_of(MeanSquaredLogarithmicError)
huber = function_of(Huber)
log_cosh = logcosh = function_of(LogCosh)
cosine_similarity = function_of(CosineSimilarity)
