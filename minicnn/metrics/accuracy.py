"""Accuracies: the share of samples whose prediction is right, for each way of writing labels."""

import numpy as np

from minicnn.losses.targets import align
from minicnn.metrics.base import MeanMetricWrapper, public_function, table


@public_function
def accuracy(y_true, y_pred):
    """1 where y_pred equals y_true, element by element."""
    y_pred = np.asarray(y_pred)
    return _unless_nan(align(np.asarray(y_true), y_pred.shape, "accuracy") == y_pred, y_pred)


@public_function
def binary_accuracy(y_true, y_pred, threshold=0.5):
    """1 where (y_pred > threshold) equals y_true, element by element."""
    y_pred = np.asarray(y_pred)
    y_true = align(np.asarray(y_true), y_pred.shape, "binary_accuracy")
    return _unless_nan((y_pred > threshold) == y_true, y_pred)


@public_function
def categorical_accuracy(y_true, y_pred):
    """1 where y_pred is largest at the class that the one-hot y_true names."""
    y_pred = np.asarray(y_pred)
    y_true = align(np.asarray(y_true), y_pred.shape, "categorical_accuracy")
    return sparse_categorical_accuracy(np.argmax(y_true, axis=-1), y_pred)


@public_function
def sparse_categorical_accuracy(y_true, y_pred):
    """1 where y_pred is largest at the class y_true."""
    y_pred = np.asarray(y_pred)
    y_true = align(np.asarray(y_true), y_pred.shape[:-1], "sparse_categorical_accuracy")
    return _unless_nan(np.argmax(y_pred, axis=-1) == y_true, y_pred.max(axis=-1))


@public_function
def top_k_categorical_accuracy(y_true, y_pred, k=5):
    """1 where the class of the one-hot y_true is among the k largest of y_pred."""
    y_pred = np.asarray(y_pred)
    y_true = align(np.asarray(y_true), y_pred.shape, "top_k_categorical_accuracy")
    return sparse_top_k_categorical_accuracy(np.argmax(y_true, axis=-1), y_pred, k)


@public_function
def sparse_top_k_categorical_accuracy(y_true, y_pred, k=5, from_sorted_ids=False):
    """1 where fewer than k classes are predicted higher than y_true (ties are in its favour).

    from_sorted_ids: y_pred holds class numbers, the best first, instead of scores.
    """
    y_pred = np.asarray(y_pred)
    name = "sparse_top_k_categorical_accuracy"
    y_true = align(np.asarray(y_true), y_pred.shape[:-1], name)[..., None]
    if from_sorted_ids:
        return np.any(y_pred[..., :k] == y_true, axis=-1).astype(np.float64)
    own = np.take_along_axis(y_pred, y_true.astype(np.int64), axis=-1)
    return _unless_nan(np.sum(y_pred > own, axis=-1) < k, y_pred.max(axis=-1))


def _unless_nan(right, y_pred):
    return np.where(np.isnan(y_pred), np.nan, right)


@table.register()
class Accuracy(MeanMetricWrapper):
    """Share of values that are equal."""

    def __init__(self, name: str | None = "accuracy", dtype: str | None = None):
        super().__init__(accuracy, name, dtype)


@table.register()
class BinaryAccuracy(MeanMetricWrapper):
    """Share of probabilities on the right side of the threshold."""

    def __init__(
        self,
        name: str | None = "binary_accuracy",
        dtype: str | None = None,
        threshold: float = 0.5,
    ):
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(f"threshold lies between 0 and 1, not at {threshold!r}")
        super().__init__(binary_accuracy, name, dtype, threshold=threshold)


@table.register()
class CategoricalAccuracy(MeanMetricWrapper):
    """Share of samples with the right class, labels one-hot."""

    def __init__(self, name: str | None = "categorical_accuracy", dtype: str | None = None):
        super().__init__(categorical_accuracy, name, dtype)


@table.register()
class SparseCategoricalAccuracy(MeanMetricWrapper):
    """Share of samples with the right class, labels integers."""

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: str | None = None):
        super().__init__(sparse_categorical_accuracy, name, dtype)


@table.register()
class TopKCategoricalAccuracy(MeanMetricWrapper):
    """Share of samples whose class is among the k best, labels one-hot."""

    def __init__(
        self,
        k: int = 5,
        name: str | None = "top_k_categorical_accuracy",
        dtype: str | None = None,
    ):
        super().__init__(top_k_categorical_accuracy, name, dtype, k=k)


@table.register()
class SparseTopKCategoricalAccuracy(MeanMetricWrapper):
    """Share of samples whose class is among the k best, labels integers."""

    def __init__(
        self,
        k: int = 5,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: str | None = None,
        from_sorted_ids: bool = False,
    ):
        function = sparse_top_k_categorical_accuracy
        super().__init__(function, name, dtype, k=k, from_sorted_ids=from_sorted_ids)
