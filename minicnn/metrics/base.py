"""Metric: a number about predictions that is collected batch by batch. Sums are kept in float64.

A prediction that is NaN makes the result NaN: an accuracy computed from it would look like one.
"""

import numpy as np

from minicnn import configurable, losses
from minicnn.configurable import Configurable, Table, snake_case
from minicnn.losses.base import spread

table = Table("metrics", "metric")


class Metric(Configurable):
    """Base: a subclass defines reset_state(), update_state(y_true, y_pred, sample_weight=None) and
    result() -> float or array. reset_state makes the attributes that hold the state.
    """

    table = table

    def __init__(self, dtype: str | None = None, name: str | None = None):
        self.name, self.dtype = name or snake_case(type(self).__name__), dtype
        self.reset_state()

    def __call__(self, *args, **kwargs):
        """update_state, then result."""
        self.update_state(*args, **kwargs)
        return self.result()

    def reset_state(self):
        """Forget all batches."""
        raise TypeError(f"{type(self).__name__} defines no reset_state()")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Take in a batch."""
        raise TypeError(f"{type(self).__name__} defines no update_state(y_true, y_pred, ...)")

    def result(self):
        """The metric of all batches since `reset_state`."""
        raise TypeError(f"{type(self).__name__} defines no result()")


@table.register()
class Sum(Metric):
    """Weighted sum of all values."""

    def __init__(self, name: str | None = "sum", dtype: str | None = None):
        super().__init__(dtype, name)

    def reset_state(self):
        self.total = 0.0

    def update_state(self, values, sample_weight=None):
        values = np.asarray(values, np.float64)
        self.total += float(np.sum(values * spread(sample_weight, values.shape)))

    def result(self):
        return self.total


@table.register()
class Mean(Metric):
    """Weighted mean of all values: sum w v / sum w; 0 before the first."""

    def __init__(self, name: str | None = "mean", dtype: str | None = None):
        super().__init__(dtype, name)

    def reset_state(self):
        self.total = self.count = 0.0

    def update_state(self, values, sample_weight=None):
        """values: a number, or an array with the samples first; weights: one per sample or finer.

        Each sample counts once, however many values it has.
        """
        values = np.asarray(values, np.float64)
        weights = spread(sample_weight, values.shape)
        products = values * weights
        if values.ndim > 1:
            inner = tuple(range(1, values.ndim))
            products, weights = np.mean(products, axis=inner), np.mean(weights, axis=inner)
        self.total += float(np.sum(products))
        self.count += float(np.sum(weights))

    def result(self):
        return self.total / self.count if self.count else 0.0


@table.register()
class MeanMetricWrapper(Mean):
    """Mean of fn(y_true, y_pred, **kwargs), a function that returns one value per sample."""

    def __init__(self, fn, name: str | None = None, dtype: str | None = None, **kwargs):
        super().__init__(name, dtype)
        self.fn, self.kwargs = fn, kwargs
        vars(self).update(kwargs)  # options of the function are attributes, as of other metrics

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
        super().update_state(self.fn(y_true, y_pred, **self.kwargs), sample_weight)

    def get_config(self):
        config = super().get_config()
        if type(self) is MeanMetricWrapper:
            if not isinstance(config["fn"], str):
                raise ValueError(
                    f"metric {self.name!r} wraps a function that files cannot name: subclass "
                    "minicnn.metrics.Metric"
                )
            config.update(self.kwargs)
        return config

    @classmethod
    def from_config(cls, config):
        if cls is not MeanMetricWrapper:
            return super().from_config(config)
        named = {function.__name__: function for function in functions}
        if config.get("fn") not in named:
            raise ValueError(f"{config.get('fn')!r} is no function of minicnn.metrics")
        return cls(**{**config, "fn": named[config["fn"]]})


functions = list(losses.base.functions)  # functions (y_true, y_pred) that files may name


def public_function(function):
    """Decorator: a metric function of this room, which files may name."""
    function.serialize = lambda: function.__name__
    functions.append(function)
    return function


def get(identifier):
    """None, a name, a config, a class, an object, a function or a Loss -> None or a Metric."""
    if isinstance(identifier, Metric):
        return identifier
    if isinstance(identifier, losses.Loss):
        return MeanMetricWrapper(identifier.values, identifier.name)
    if isinstance(identifier, type) and issubclass(identifier, Metric):
        return identifier()
    if callable(identifier) and not isinstance(identifier, type):
        return MeanMetricWrapper(identifier, getattr(identifier, "__name__", None))
    return table.get(identifier)


serialize, deserialize = configurable.serialize, table.build
