"""What a classifier's answers are worth, as plain functions of class numbers."""

import math
from dataclasses import dataclass, field

import numpy as np

Z95 = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


def wilson_interval(right, count, z=Z95):
    """The interval that holds the true accuracy when `right` of `count` were right.

    Wilson 1927: centre (p + z^2 / 2n) / (1 + z^2 / n); (0, 1) of no samples.
    """
    if count == 0:
        return 0.0, 1.0
    p, square = right / count, z * z / count
    centre = p + square / 2
    half = z * math.sqrt(p * (1 - p) / count + square / (4 * count))
    low, high = (centre - half) / (1 + square), (centre + half) / (1 + square)
    return (max(0.0, low) if right else 0.0), (min(1.0, high) if right < count else 1.0)


def majority(classes):
    """(class, share) of the commonest class: what a model that learnt nothing would say."""
    values, counts = np.unique(classes, return_counts=True)
    return int(values[counts.argmax()]), float(counts.max() / len(classes))


def percent(share):
    """0.967 -> "96.7 %"; "-" for what is undefined."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


@dataclass
class ClassificationReport:
    """confusion[i, j]: how many of class i were called j. Per class: precision, recall, F1, count.

    A class that is never said has no precision, one without samples no recall: NaN.
    """

    class_names: list
    confusion: np.ndarray
    precision: np.ndarray = field(init=False)
    recall: np.ndarray = field(init=False)
    f1: np.ndarray = field(init=False)

    def __post_init__(self):
        right, said = np.diag(self.confusion), self.confusion.sum(axis=0)
        with np.errstate(invalid="ignore"):
            self.precision, self.recall = right / said, right / self.support
            self.f1 = 2 * right / (said + self.support)

    @property
    def support(self):
        return self.confusion.sum(axis=1)

    @property
    def count(self):
        return int(self.confusion.sum())

    @property
    def right(self):
        return int(np.trace(self.confusion))

    @property
    def accuracy(self):
        return self.right / self.count

    @property
    def interval(self):
        """95 % confidence interval of the accuracy (Wilson)."""
        return wilson_interval(self.right, self.count)

    @property
    def majority(self):
        """(name, share) of the commonest class."""
        best = int(self.support.argmax())
        return self.class_names[best], float(self.support[best] / self.count)

    @property
    def verdict(self):
        """Whether the accuracy is above always saying the commonest class, in a sentence."""
        low, _ = self.interval
        name, share = self.majority
        guess = f"always saying {name} ({percent(share)})"
        said = np.flatnonzero(self.confusion.sum(axis=0))
        if len(said) == 1 and len(self.class_names) > 1:
            return f"It says {self.class_names[said[0]]} to everything: it has learnt nothing."
        if low > share:
            return f"That is better than {guess}."
        if self.accuracy > share:
            return f"That cannot be told from {guess}: too few pictures, or too small a gain."
        return f"That is no better than {guess}: the model is of no use."

    @property
    def headline(self):
        low, high = self.interval
        return (
            f"accuracy {percent(self.accuracy)} of {self.count} "
            f"(95 % confidence: {percent(low)} to {percent(high)})"
        )

    def as_dict(self):
        """Plain values, for JSON; None where a figure is undefined."""

        def plain(values):
            return [None if math.isnan(value) else float(value) for value in values]

        name, share = self.majority
        return {
            "accuracy": self.accuracy,
            "accuracy_interval_95": list(self.interval),
            "majority_class": name,
            "majority_guess": share,
            "count": self.count,
            "classes": {
                one: {"precision": p, "recall": r, "f1": f, "count": int(n)}
                for one, p, r, f, n in zip(
                    self.class_names,
                    plain(self.precision),
                    plain(self.recall),
                    plain(self.f1),
                    self.support,
                    strict=True,
                )
            },
            "confusion": self.confusion.tolist(),
        }

    def __str__(self):
        from rich.console import Console  # here, not above: it takes 50 ms to import

        console = Console(force_terminal=False, highlight=False, width=100)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))

    def __rich__(self):
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("class", overflow="fold")
        for title in ("precision", "recall", "F1", "pictures"):
            table.add_column(title, justify="right", no_wrap=True)
        numbers = (self.precision, self.recall, self.f1)
        for i, name in enumerate(self.class_names):
            figures = [percent(float(one[i])) for one in numbers]
            table.add_row(Text(str(name)), *figures, str(self.support[i]))
        parts = [Text(self.headline, "bold"), Text(self.verdict), table]
        if 1 < len(self.class_names) <= 12:
            parts.append(self._confusion_table())
        return Group(*parts)

    def _confusion_table(self):
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        wide = max(len(str(name)) for name in self.class_names) * len(self.class_names) > 50
        table.add_column("is, said" if wide else "is", overflow="fold")
        for i, name in enumerate(self.class_names):
            column = f"{i + 1}" if wide else f"said {name}"
            table.add_column(Text(column), justify="right", no_wrap=True)
        for i, name in enumerate(self.class_names):
            cells = [
                Text(str(n), "bold" if i == j else "red" if n else "dim")
                for j, n in enumerate(self.confusion[i])
            ]
            table.add_row(Text(f"{i + 1} {name}" if wide else str(name)), *cells)
        return table


def classification_report(y_true, y_pred, class_names=None):
    """A ClassificationReport; print it for a table, or take its figures.

    y_true: class numbers (n,) or one-hot rows. y_pred: class numbers, or a model's predictions:
    rows of k numbers, or one probability each (n, 1).
    """
    true, said = _numbers(y_true), _numbers(y_pred)
    if len(true) != len(said):
        raise ValueError(f"{len(true)} true classes and {len(said)} predictions")
    if not len(true):
        raise ValueError("classification_report got no samples")
    k = int(max(true.max(), said.max())) + 1
    if np.ndim(y_pred) == 2:
        k = max(k, np.shape(y_pred)[1])
    if class_names is not None and len(class_names) < k:
        raise ValueError(f"{len(class_names)} class names for class numbers up to {k - 1}")
    k = len(class_names) if class_names is not None else max(k, 2)
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (true, said), 1)
    return ClassificationReport(
        [str(i) for i in range(k)] if class_names is None else list(class_names), confusion
    )


def _numbers(y):
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(axis=1)
    flat = y.reshape(-1)
    if flat.dtype.kind == "f" and not np.array_equal(flat, np.round(flat)):
        return (flat > 0.5).astype(np.int64)
    return flat.astype(np.int64)
