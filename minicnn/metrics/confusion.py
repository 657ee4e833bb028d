"""Metrics made of counts: predictions above a threshold (positive) that are true or false.

    precision = TP / (TP + FP)    recall = TP / (TP + FN)    false positive rate = FP / (FP + TN)

All thresholds are counted in one pass: a prediction is above as many thresholds as lie below it,
so a histogram of that number, summed up from either end, gives the counts at each threshold.
"""

import numpy as np

from minicnn.configurable import closest
from minicnn.losses.base import EPSILON, spread
from minicnn.losses.targets import align
from minicnn.metrics.base import Metric, table

NOT_IN_TOP_K = -1e10  # stands for predictions that are not among the k best


class _Counts(Metric):
    """Base: true and false positives and negatives at each threshold, arrays (thresholds, labels).

    A subclass sets `_levels` (the thresholds, ascending) and defines result().
    """

    top_k = class_id = None
    multi_label, label_weights = False, None

    def __init__(self, name, dtype):
        super().__init__(dtype, name)

    def reset_state(self):
        self.true_positives = self.false_positives = np.zeros((len(self._levels), 1))
        self.true_negatives = self.false_negatives = np.zeros((len(self._levels), 1))

    def update_state(self, y_true, y_pred, sample_weight=None):
        p = np.asarray(y_pred)
        p = p if p.dtype in (np.float32, np.float64) else p.astype(np.float64)
        t = align(np.asarray(y_true), p.shape, type(self).__name__).astype(bool)
        weights = spread(sample_weight, p.shape)
        if self.label_weights is not None and not self.multi_label:
            weights = weights * np.asarray(self.label_weights)
        if self.top_k is not None:
            p = _only_top_k(p, self.top_k)
        if self.class_id is not None:
            if p.ndim < 2:
                raise ValueError(f"class_id needs predictions (samples, classes), not {p.shape}")
            p, t, weights = (array[..., self.class_id] for array in (p, t, weights))
        self._count(t, p, weights)

    def _count(self, t, p, weights):
        columns = p.shape[-1] if self.multi_label else 1
        t, p, weights = (array.reshape(-1, columns) for array in (t, p, weights))
        levels = self._levels.astype(p.dtype)  # 0.3 in float32 is not above the threshold 0.3
        above = np.searchsorted(levels, p, side="left")
        positive = self._histogram(above, weights * t)
        negative = self._histogram(above, weights * ~t)
        unknown = np.nan if np.isnan(p).any() else 0.0
        self.true_positives = self.true_positives + _from_top(positive) + unknown
        self.false_positives = self.false_positives + _from_top(negative) + unknown
        self.false_negatives = self.false_negatives + np.cumsum(positive, axis=0)[:-1] + unknown
        self.true_negatives = self.true_negatives + np.cumsum(negative, axis=0)[:-1] + unknown

    def _histogram(self, above, weights):
        """Sum of weights by the number of thresholds below, for each column."""
        size, columns = len(self._levels) + 1, above.shape[1]
        cells = above + size * np.arange(columns)
        sums = np.bincount(cells.ravel(), weights.ravel(), minlength=size * columns)
        return sums.reshape(columns, size).T


def _from_top(histogram):
    return np.cumsum(histogram[::-1], axis=0)[::-1][1:]


def _only_top_k(p, k):
    best = np.argsort(-p, axis=-1, kind="stable")[..., :k]
    kept = np.full_like(p, NOT_IN_TOP_K)
    np.put_along_axis(kept, best, np.take_along_axis(p, best, axis=-1), axis=-1)
    return kept


def _share(part, rest):
    """part / (part + rest), 0 where both are 0."""
    whole = part + rest
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole != 0)


class _AtThresholds(_Counts):
    """Base of metrics with one value per threshold: a float for one, an array for a list."""

    def __init__(self, thresholds, name, dtype, default=0.5):
        self.thresholds = thresholds
        given = thresholds if isinstance(thresholds, list | tuple | np.ndarray) else [thresholds]
        if thresholds is None:
            given = [default]
        elif any(t is None or not 0 <= t <= 1 for t in given):
            raise ValueError(f"thresholds lie in [0, 1], not {thresholds!r}")
        self._order = np.argsort(given, kind="stable")
        self._levels = np.asarray(given, np.float64)[self._order]
        super().__init__(name, dtype)

    def result(self):
        """In the order in which the thresholds were given."""
        ascending = self.of_counts()[:, 0]
        values = np.empty_like(ascending)
        values[self._order] = ascending
        return float(values[0]) if len(values) == 1 else values


class _OneCount(_AtThresholds):
    def __init__(
        self,
        thresholds: float | list | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__(thresholds, name, dtype)


@table.register()
class TruePositives(_OneCount):
    """Number (or weight) of predictions above the threshold that are true."""

    def of_counts(self):
        return self.true_positives


@table.register()
class FalsePositives(_OneCount):
    """Number (or weight) of predictions above the threshold that are false."""

    def of_counts(self):
        return self.false_positives


@table.register()
class TrueNegatives(_OneCount):
    """Number (or weight) of predictions not above the threshold that are false."""

    def of_counts(self):
        return self.true_negatives


@table.register()
class FalseNegatives(_OneCount):
    """Number (or weight) of predictions not above the threshold that are true."""

    def of_counts(self):
        return self.false_negatives


class _Ratio(_AtThresholds):
    def __init__(
        self,
        thresholds: float | list | None = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ):
        self.top_k, self.class_id = top_k, class_id
        super().__init__(thresholds, name, dtype, 0.5 if top_k is None else NOT_IN_TOP_K)


@table.register()
class Precision(_Ratio):
    """TP / (TP + FP): how many of the positive predictions are true."""

    def of_counts(self):
        return _share(self.true_positives, self.false_positives)


@table.register()
class Recall(_Ratio):
    """TP / (TP + FN): how many of the true ones are predicted positive."""

    def of_counts(self):
        return _share(self.true_positives, self.false_negatives)


@table.register("auc", "AUC")
class AUC(_Counts):
    """Area under the curve of recall over false positive rate (ROC) or precision over recall (PR).

    PRGAIN: precision gain over recall gain (Flach and Kull 2015). Between thresholds the curve is
    interpolated, for PR as precision follows from counts (Davis and Goadrich 2006), or taken from
    below ("minoring") or above ("majoring"). multi_label: mean over labels, weighted.
    """

    def __init__(
        self,
        num_thresholds: int = 200,
        curve: str = "ROC",
        summation_method: str = "interpolation",
        name: str | None = None,
        dtype: str | None = None,
        thresholds: list | None = None,
        multi_label: bool = False,
        num_labels: int | None = None,
        label_weights: list | None = None,
        from_logits: bool = False,
    ):
        self.curve = _choice("curve", str(curve).upper(), ("ROC", "PR", "PRGAIN"))
        self.summation_method = _choice(
            "summation_method",
            str(summation_method).lower(),
            ("interpolation", "majoring", "minoring"),
        )
        if thresholds is not None:
            if any(not 0 <= t <= 1 for t in thresholds):
                raise ValueError(f"thresholds lie in [0, 1], not {thresholds!r}")
            num_thresholds, inner = len(thresholds) + 2, sorted(thresholds)
        else:
            if isinstance(num_thresholds, bool) or not num_thresholds > 1:
                raise ValueError(f"num_thresholds is an integer above 1, not {num_thresholds!r}")
            inner = [(i + 1) / (num_thresholds - 1) for i in range(num_thresholds - 2)]
        if num_labels and not multi_label:
            raise ValueError("num_labels is for multi_label=True")
        self.num_thresholds, self.thresholds = num_thresholds, thresholds
        # The outermost thresholds lie outside [0, 1]: everything is above the one, nothing above
        # the other, so that the curve begins and ends in its corners.
        self._levels = np.array([-EPSILON, *inner, 1 + EPSILON])
        self.multi_label, self.num_labels = multi_label, num_labels
        self.label_weights, self.from_logits = label_weights, from_logits
        super().__init__(name, dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        p = np.asarray(y_pred)
        if self.multi_label and (p.ndim != 2 or self.num_labels not in (None, p.shape[1])):
            raise ValueError(
                f"AUC(multi_label=True) needs predictions (samples, {self.num_labels or 'labels'}),"
                f" not {p.shape}"
            )
        if self.from_logits:
            p = 0.5 + 0.5 * np.tanh(0.5 * p)  # the sigmoid, without overflow
        super().update_state(y_true, np.clip(p, 0, 1), sample_weight)

    def result(self):
        """The area: a sum of strips between neighbouring thresholds."""
        if self.curve == "PR" and self.summation_method == "interpolation":
            strips = self._precision_strips()
        else:
            x, y = getattr(self, f"_{self.curve.lower()}")()
            pairs = np.stack([y[:-1], y[1:]])
            height = {"interpolation": np.mean, "majoring": np.max, "minoring": np.min}
            strips = (x[:-1] - x[1:]) * height[self.summation_method](pairs, axis=0)
        areas = np.sum(strips, axis=0)
        if self.multi_label and self.label_weights is not None:
            total = np.sum(self.label_weights)
            return float(np.sum(areas * self.label_weights) / total) if total else 0.0
        return float(np.mean(areas))

    def _roc(self):
        return (
            _share(self.false_positives, self.true_negatives),
            _share(self.true_positives, self.false_negatives),
        )

    def _pr(self):
        return (
            _share(self.true_positives, self.false_negatives),
            _share(self.true_positives, self.false_positives),
        )

    def _prgain(self):
        tp, fp, fn = self.true_positives, self.false_positives, self.false_negatives
        negatives = self.true_negatives + fp
        odds = np.divide(tp + fn, negatives, out=np.zeros_like(tp), where=negatives != 0)
        missed = np.divide(fn, tp, out=np.zeros_like(tp), where=tp != 0)
        wrong = np.divide(fp, tp, out=np.zeros_like(tp), where=tp != 0)
        recall_gain = np.maximum(np.where(tp == 0, 0, 1 - odds * missed), 0)
        return recall_gain, np.where(tp == 0, 1, 1 - odds * wrong)

    def _precision_strips(self):
        """Areas under precision over recall when TP is linear in P = TP + FP between thresholds.

        With TP = a + s P the strip is s (dTP + a log(P_low / P_high)) / (TP + FN).
        """
        tp, p = self.true_positives, self.true_positives + self.false_positives
        dtp, dp = tp[:-1] - tp[1:], p[:-1] - p[1:]
        slope = np.divide(dtp, dp, out=np.zeros_like(dp), where=dp != 0)
        intercept = tp[1:] - slope * p[1:]
        both = (p[:-1] > 0) & (p[1:] > 0)
        log_ratio = np.log(np.where(both, p[:-1], 1) / np.where(both, p[1:], 1))
        positives = (tp + self.false_negatives)[1:]
        area = slope * (dtp + intercept * log_ratio)
        return np.divide(area, positives, out=np.zeros_like(area), where=positives != 0)


@table.register()
class ConfusionMatrix(Metric):
    """Counts by (true class, predicted class): an int array (num_classes, num_classes).

    y_true: class numbers or one-hot rows; y_pred: scores (n, classes), one sigmoid unit (n, 1) for
    two classes, or class numbers (n,). With sample weights the result is their float sums.
    """

    def __init__(self, num_classes: int, name: str | None = None, dtype: str | None = None):
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(f"num_classes is an integer above 1, not {num_classes!r}")
        self.num_classes = num_classes
        super().__init__(dtype, name)

    def reset_state(self):
        self.counts = np.zeros((self.num_classes, self.num_classes))
        self.is_weighted = False

    def update_state(self, y_true, y_pred, sample_weight=None):
        predicted = self._classes(np.asarray(y_pred), "y_pred")
        true = self._classes(np.asarray(y_true), "y_true")
        if true.size != predicted.size:
            raise ValueError(f"ConfusionMatrix: {true.size} labels, {predicted.size} predictions")
        weights = spread(sample_weight, predicted.shape).reshape(-1)
        self.is_weighted |= sample_weight is not None
        cells = true.reshape(-1) * self.num_classes + predicted.reshape(-1)
        sums = np.bincount(cells, weights, minlength=self.num_classes**2)
        self.counts += sums.reshape(self.counts.shape)

    def result(self):
        return self.counts.copy() if self.is_weighted else self.counts.astype(np.int64)

    def _classes(self, y, what):
        """Class numbers, from whatever form they have."""
        if y.dtype.kind == "f" and np.isnan(y).any():
            raise ValueError(f"ConfusionMatrix: {what} holds NaN, which is no class")
        if y.ndim > 1 and y.shape[-1] == self.num_classes:
            return np.argmax(y, axis=-1)
        if y.ndim > 1 and y.shape[-1] == 1:
            y = y[..., 0]
            if what == "y_pred" and self.num_classes == 2:
                return (y > 0.5).astype(np.int64)
        if y.size and not (y.min() >= 0 and y.max() < self.num_classes):
            raise ValueError(
                f"ConfusionMatrix: {what} of shape {y.shape} holds {y.min()}..{y.max()}, classes "
                f"are 0..{self.num_classes - 1}; raise num_classes, or give (n, classes)"
            )
        return y.astype(np.int64)


def _choice(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name} is one of {allowed}, not {value!r}.{closest(value, allowed)}")
    return allowed[allowed.index(value)]  # the literal, which repr recognises as the default
