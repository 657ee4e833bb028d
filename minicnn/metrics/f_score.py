"""F scores: the harmonic mean of precision and recall."""

import numpy as np

from minicnn.losses.base import EPSILON, spread
from minicnn.losses.targets import align
from minicnn.metrics.base import Metric, table


@table.register("fbeta_score")
class FBetaScore(Metric):
    """(1 + beta^2) P R / (beta^2 P + R), P = TP / (TP + FP), R = TP / (TP + FN), for each class.

    threshold None: the largest prediction of each row is the positive one. average: None (one value
    per class), "micro" (counts of all classes together), "macro" (mean) or "weighted" (mean
    weighted by how often a class is true).
    """

    def __init__(
        self,
        average: str | None = None,
        beta: float = 1.0,
        threshold: float | None = None,
        name: str | None = "fbeta_score",
        dtype: str | None = None,
    ):
        if average not in (None, "micro", "macro", "weighted"):
            raise ValueError(f"average is None, 'micro', 'macro' or 'weighted', not {average!r}")
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not beta > 0:
            raise ValueError(f"beta is a positive number, not {beta!r}")
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"threshold is None or lies in (0, 1], not {threshold!r}")
        self.average, self.beta, self.threshold = average, beta, threshold
        super().__init__(dtype, name)

    def reset_state(self):
        self.true_positives = self.false_positives = self.false_negatives = 0.0

    def update_state(self, y_true, y_pred, sample_weight=None):
        p = np.asarray(y_pred, np.float64)
        if p.ndim != 2:
            raise ValueError(f"{type(self).__name__} needs (samples, classes), not {p.shape}")
        t = align(np.asarray(y_true, np.float64), p.shape, type(self).__name__)
        w = spread(sample_weight, p.shape)
        if self.threshold is None:
            positive = (p >= np.max(p, axis=-1, keepdims=True)) & (np.abs(p) > 1e-9)
        else:
            positive = p > self.threshold
        positive = np.where(np.isnan(p), np.nan, positive)
        axis = None if self.average == "micro" else 0
        self.true_positives = self.true_positives + np.sum(w * positive * t, axis)
        self.false_positives = self.false_positives + np.sum(w * positive * (1 - t), axis)
        self.false_negatives = self.false_negatives + np.sum(w * (1 - positive) * t, axis)

    def result(self):
        tp, square = self.true_positives, self.beta**2
        precision = tp / (tp + self.false_positives + EPSILON)
        recall = tp / (tp + self.false_negatives + EPSILON)
        score = (1 + square) * precision * recall / (square * precision + recall + EPSILON)
        if self.average == "weighted":
            true = tp + self.false_negatives
            score = np.sum(score * true / (np.sum(true) + EPSILON))
        elif self.average is not None:
            score = np.mean(score)
        return float(score) if np.ndim(score) == 0 else score


@table.register()
class F1Score(FBetaScore):
    """2 P R / (P + R), see FBetaScore."""

    def __init__(
        self,
        average: str | None = None,
        threshold: float | None = None,
        name: str | None = "f1_score",
        dtype: str | None = None,
    ):
        super().__init__(average, 1.0, threshold, name, dtype)
