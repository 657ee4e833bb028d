"""Metrics that average a loss over samples, the root of one, and R2."""

import warnings

import numpy as np

from minicnn import losses
from minicnn.losses.base import spread
from minicnn.losses.targets import align
from minicnn.metrics.base import Mean, MeanMetricWrapper, Metric, table


class _MeanLoss(MeanMetricWrapper):
    """Mean of the loss whose function is `function`, without options."""

    def __init__(self, name: str | None = None, dtype: str | None = None):
        super().__init__(type(self).function, name, dtype)


@table.register("mse", "MSE")
class MeanSquaredError(_MeanLoss):
    """Mean of (p - t)^2."""

    function = staticmethod(losses.mean_squared_error)


@table.register("mae", "MAE")
class MeanAbsoluteError(_MeanLoss):
    """Mean of |p - t|."""

    function = staticmethod(losses.mean_absolute_error)


@table.register("mape", "MAPE")
class MeanAbsolutePercentageError(_MeanLoss):
    """Mean of 100 |p - t| / |t|."""

    function = staticmethod(losses.mean_absolute_percentage_error)


@table.register("msle", "MSLE")
class MeanSquaredLogarithmicError(_MeanLoss):
    """Mean of (log(1 + p) - log(1 + t))^2."""

    function = staticmethod(losses.mean_squared_logarithmic_error)


@table.register()
class Hinge(_MeanLoss):
    """Mean of max(1 - t p, 0)."""

    function = staticmethod(losses.hinge)


@table.register()
class SquaredHinge(_MeanLoss):
    """Mean of max(1 - t p, 0)^2."""

    function = staticmethod(losses.squared_hinge)


@table.register()
class CategoricalHinge(_MeanLoss):
    """Mean of max(1 + strongest wrong class - right class, 0)."""

    function = staticmethod(losses.categorical_hinge)


@table.register("kld", "KLD")
class KLDivergence(_MeanLoss):
    """Mean of sum_i t_i log(t_i / p_i)."""

    function = staticmethod(losses.kl_divergence)


@table.register()
class Poisson(_MeanLoss):
    """Mean of p - t log p."""

    function = staticmethod(losses.poisson)


@table.register("logcosh")
class LogCoshError(MeanMetricWrapper):
    """Mean of log cosh(p - t)."""

    def __init__(self, name: str | None = "logcosh", dtype: str | None = None):
        super().__init__(losses.log_cosh, name, dtype)


@table.register()
class CosineSimilarity(MeanMetricWrapper):
    """Mean cosine of the angle between t and p (the loss has the opposite sign)."""

    def __init__(
        self,
        name: str | None = "cosine_similarity",
        dtype: str | None = None,
        axis: int = -1,
    ):
        super().__init__(losses.cosine_similarity, name, dtype, axis=axis)

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = -losses.cosine_similarity(y_true, y_pred, axis=self.axis)
        Mean.update_state(self, values, sample_weight)


@table.register("bce", "BCE")
class BinaryCrossentropy(MeanMetricWrapper):
    """Mean of -t log q - (1 - t) log(1 - q)."""

    def __init__(
        self,
        name: str | None = "binary_crossentropy",
        dtype: str | None = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
    ):
        options = {"from_logits": from_logits, "label_smoothing": label_smoothing}
        super().__init__(losses.binary_crossentropy, name, dtype, **options)


@table.register()
class CategoricalCrossentropy(MeanMetricWrapper):
    """Mean of -sum_i t_i log q_i, labels one-hot."""

    def __init__(
        self,
        name: str | None = "categorical_crossentropy",
        dtype: str | None = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
        axis: int = -1,
    ):
        options = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        super().__init__(losses.categorical_crossentropy, name, dtype, **options)


@table.register()
class SparseCategoricalCrossentropy(MeanMetricWrapper):
    """Mean of -log q_c over the samples whose label c is not `ignore_class`."""

    def __init__(
        self,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: str | None = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ):
        options = {"from_logits": from_logits, "ignore_class": ignore_class, "axis": axis}
        super().__init__(losses.sparse_categorical_crossentropy, name, dtype, **options)

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = self.fn(y_true, y_pred, **self.kwargs)
        weights = sample_weight
        if self.ignore_class is not None:
            valid = np.asarray(y_true).reshape(values.shape) != self.ignore_class
            weights = spread(sample_weight, values.shape) * valid
        Mean.update_state(self, values, weights)


@table.register()
class RootMeanSquaredError(Mean):
    """Square root of the mean of (p - t)^2."""

    def __init__(self, name: str | None = "root_mean_squared_error", dtype: str | None = None):
        super().__init__(name, dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(losses.mean_squared_error(y_true, y_pred), sample_weight)

    def result(self):
        return float(np.sqrt(super().result()))


@table.register()
class R2Score(Metric):
    """1 - sum (t - p)^2 / sum (t - mean t)^2 for each output, averaged over outputs.

    class_aggregation: "uniform_average", "variance_weighted_average", or None for one per output.
    num_regressors p > 0: adjusted, 1 - (1 - R2)(n - 1) / (n - p - 1).
    """

    def __init__(
        self,
        class_aggregation: str | None = "uniform_average",
        num_regressors: int = 0,
        name: str | None = "r2_score",
        dtype: str | None = None,
    ):
        super().__init__(dtype, name)
        if class_aggregation not in (None, "uniform_average", "variance_weighted_average"):
            raise ValueError(
                "class_aggregation is None, 'uniform_average' or 'variance_weighted_average', not "
                f"{class_aggregation!r}"
            )
        if num_regressors < 0:
            raise ValueError(f"num_regressors is 0 or more, not {num_regressors!r}")
        self.class_aggregation, self.num_regressors = class_aggregation, num_regressors

    def reset_state(self):
        self.samples = 0
        self.count = self.sum = self.squared_sum = self.residual = 0.0

    def update_state(self, y_true, y_pred, sample_weight=None):
        p = np.asarray(y_pred, np.float64)
        if p.ndim != 2:
            raise ValueError(f"R2Score needs predictions (samples, outputs), not {p.shape}")
        t = align(np.asarray(y_true, np.float64), p.shape, "R2Score")
        w = spread(sample_weight, p.shape)
        self.samples += t.size  # as in Keras, which counts values here
        self.count = self.count + np.sum(w, axis=0)
        self.sum = self.sum + np.sum(w * t, axis=0)
        self.squared_sum = self.squared_sum + np.sum(w * t * t, axis=0)
        self.residual = self.residual + np.sum(w * np.square(t - p), axis=0)

    @np.errstate(divide="ignore", invalid="ignore")
    def result(self):
        variation = np.asarray(self.squared_sum - self.sum * np.divide(self.sum, self.count))
        score = 1 - np.asarray(self.residual) / variation
        score = np.where(np.isinf(score), 0.0, score)
        if self.class_aggregation == "uniform_average":
            score = np.mean(score)
        elif self.class_aggregation == "variance_weighted_average":
            score = np.sum(variation * score) / np.sum(variation)
        score = self._adjusted(score)
        return float(score) if np.ndim(score) == 0 else score

    def _adjusted(self, score):
        n, p = self.samples, self.num_regressors
        if p and p >= n - 1:
            warnings.warn(
                f"R2Score: {p} regressors for {n} values cannot be adjusted for: plain R2",
                UserWarning,
                stacklevel=3,
            )
        elif p:
            return 1 - (1 - score) * (n - 1) / (n - p - 1)
        return score
