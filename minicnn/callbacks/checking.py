"""CheckTraining: during `fit`, what `check_training` asks before it."""

import numpy as np

from minicnn import randomness
from minicnn.callbacks.base import Callback
from minicnn.checks import arrays, networks
from minicnn.checks.findings import Finding, Report
from minicnn.data.batches import (
    ArrayBatches,
    IndexedBatches,
    IteratedBatches,
    sample_count,
    unpack,
)
from minicnn.errors import warn
from minicnn.metrics.classification import percent, wilson_interval


class CheckTraining(Callback):
    """Warn, once for each finding, of what makes a training worthless; `report` has all of them.

    Before the first step: scale and values of the input, balance of the classes, a sorted
    validation_split, duplicates, too little validation data. Then the first loss, dead units, and
    from epoch `patience` on a validation accuracy that is not above always saying the commonest
    class, or lies more than `gap` below that of training. Of sources of batches `samples` inputs
    are looked at, of a generator that runs once its first batch. class_names: for the messages.
    check_training, which trains copies, sees more.
    """

    def __init__(self, patience=3, gap=0.2, samples=1024, class_names=None):
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"CheckTraining: patience is an integer >= 1, not {patience!r}")
        if not 0 < gap <= 1:
            raise ValueError(f"CheckTraining: gap lies in (0, 1], not {gap!r}")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
            raise ValueError(f"CheckTraining: samples is an integer >= 2, not {samples!r}")
        self.patience, self.gap, self.samples = patience, gap, samples
        self.class_names = class_names
        self.report = Report([])
        self._data = None

    def set_data(self, batches, validation, split):
        self._data = batches, validation, split

    def _add(self, finding):
        """Keep a finding, the first of its name; warn where it is bad."""
        if finding.name in self.report:
            return
        self.report.rows.append(finding)
        if finding.verdict in ("warn", "fail"):
            warn(
                f"CheckTraining: {finding.name}: {finding.measured}; expected: {finding.expected}; "
                f"{finding.advice}"
            )

    # -- before -----------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        self.report = Report([], "Training check")
        self._classes = self._held_classes = self._x = None
        self._epochs = 0
        self._untrained = self.model.optimizer.iterations == 0
        if self._data is None:
            return
        batches, validation, split = self._data
        self._data = None  # not kept: a callback may outlive the arrays
        with randomness.untouched(0):  # looking at data does not change how training goes on
            x, y = self._some(batches)
            held_x, held_y = (None, None) if validation is None else self._some(validation)
        if isinstance(x, dict | list) or isinstance(y, dict | list) or y is None:
            return
        heads = self.model.heads
        self._classes = networks.classes_of(heads, y)
        self._held_classes = networks.classes_of(heads, held_y)
        self._y = y
        self._x = x[:: max(1, len(x) // 128)][:128]
        self._add(arrays.check_values(x, held_x))
        self._add(networks.check_input_scale(self.model, self._x))
        self._add(arrays.check_same_scale(x, held_x))
        self._add(arrays.check_duplicates(x, held_x))
        if self._classes is None:
            return
        k = max(2, heads[0].shape[-1], int(self._classes.max()) + 1)
        self._add(arrays.check_balance(self._classes, k, self.class_names))
        if split and self._held_classes is not None:
            self._add(arrays.check_tail(self._classes, self._held_classes))
        self._add(arrays.check_size(self._held_classes, self.class_names))

    def _some(self, batches):
        """Inputs and targets: whole arrays, of other sources the first batches."""
        if isinstance(batches, ArrayBatches):
            return batches.x, batches.y
        if isinstance(batches, IteratedBatches) and batches.once:
            return batches.first()[:2]
        if isinstance(batches, IndexedBatches):  # in order: the order of training is not touched
            source = batches.source
            batches = (unpack(source[index]) for index in range(len(source)))
        parts, count = [], 0
        for x, y, _ in batches:
            if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
                return x, y
            parts.append((x, y))
            count += sample_count(x)
            if count >= self.samples:
                break
        return tuple(np.concatenate(one) for one in zip(*parts, strict=True))

    # -- while ------------------------------------------------------------------------------------

    def on_train_batch_end(self, batch, logs=None):
        if not self._untrained or self._x is None:
            return
        self._untrained = False
        if len(self.model.heads) == 1 and self.model.heads[0].loss is not None:
            penalty = float(sum(self.model.losses))
            first = float((logs or {}).get("loss", 0.0)) - penalty
            self._add(
                networks.check_first_loss(
                    first, penalty, self.model.heads[0], self._y, self._classes
                )
            )

    def on_epoch_end(self, epoch, logs=None):
        self._epochs += 1
        if self._x is not None and "dead units" not in self.report:
            layers = networks.dead_units(self.model, self._x)
            shares = [
                (dead / units, layer, dead, units, f"after epoch {epoch + 1}")
                for layer, dead, units in layers
            ]
            finding = networks.check_dead(max(shares, key=lambda one: one[0], default=None))
            if finding.verdict != "pass":
                self._add(finding)
        if self._epochs >= self.patience and self._held_classes is not None:
            self._compare(logs or {}, epoch)

    def _compare(self, logs, epoch):
        names = [name for name in logs if "acc" in name and "top" not in name]
        names = [name for name in names if f"val_{name}" in logs]
        if not names:
            return
        known, held = float(logs[names[0]]), float(logs[f"val_{names[0]}"])
        count = len(self._held_classes)
        finding = arrays.check_above_guess(
            held * count,
            self._held_classes,
            "validation accuracy",
            f"after epoch {epoch + 1}",
            self.class_names,
        )
        if finding.verdict == "fail":
            advice = "it has learnt nothing that holds for other data: minicnn.check_training"
            self._add(Finding(finding.name, "warn", finding.measured, finding.expected, advice))
        if known - held > self.gap and known > wilson_interval(held * count, count)[1]:
            self._add(
                Finding(
                    "overfitting",
                    "warn",
                    f"accuracy {percent(known)} in training, {percent(held)} in "
                    f"validation after epoch {epoch + 1}",
                    f"within {percent(self.gap)}",
                    "more data or augmentation, dropout, weight decay, EarlyStopping",
                )
            )
