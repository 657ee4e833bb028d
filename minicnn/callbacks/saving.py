"""Callbacks that write files: the model, and a table of the epochs."""

import csv
import os
import string

import numpy as np

from minicnn.callbacks.base import Callback
from minicnn.callbacks.monitor import MonitorCallback
from minicnn.configurable import closest


class ModelCheckpoint(MonitorCallback):
    """Save the model (or its weights) every epoch, or every `save_freq` batches. As in Keras.

    filepath may name the epoch, the batch (where save_freq is a number) and anything in the logs:
    "{epoch:02d}-{val_loss:.2f}.keras". save_best_only: only when `monitor` improved, first on
    initial_value_threshold if that is given.
    """

    def __init__(
        self,
        filepath,
        monitor="val_loss",
        verbose=0,
        save_best_only=False,
        save_weights_only=False,
        mode="auto",
        save_freq="epoch",
        initial_value_threshold=None,
    ):
        super().__init__(monitor, mode, baseline=initial_value_threshold)
        self.filepath = os.fspath(filepath)
        self.verbose, self.save_freq = verbose, save_freq
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        whole = isinstance(save_freq, int | np.integer) and not isinstance(save_freq, bool)
        if save_freq != "epoch" and not (whole and save_freq > 0):
            raise ValueError(
                f"ModelCheckpoint: save_freq is 'epoch' or a number of batches, not {save_freq!r}"
            )
        ending = ".weights.h5" if save_weights_only else ".keras"
        if not self.filepath.endswith(ending):
            raise ValueError(  # said now, not when the first epoch is over
                f"ModelCheckpoint: with save_weights_only={save_weights_only} filepath ends in "
                f"{ending!r}, not {self.filepath!r}"
            )
        self._check_template()
        self._epoch, self._unsaved = 0, 0

    def _check_template(self):
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(self.filepath)]
        except ValueError as error:
            raise ValueError(f"ModelCheckpoint: filepath {self.filepath!r}: {error}") from None
        if "batch" in fields and self.save_freq == "epoch":
            raise ValueError(
                f"ModelCheckpoint: filepath {self.filepath!r} names the batch, but it saves at "
                "epochs; give save_freq=number of batches"
            )

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.save_freq == "epoch":
            return
        self._unsaved += 1
        if self._unsaved >= self.save_freq:
            self._unsaved = 0
            self._save_if_due(self._epoch, logs or {}, {"batch": batch + 1})

    def on_epoch_end(self, epoch, logs=None):
        if self.save_freq == "epoch":
            self._save_if_due(epoch, logs or {}, {})

    def _save_if_due(self, epoch, logs, numbers):
        reason = "" if not self.save_best_only else self._improvement(logs, epoch)
        if reason is None:
            return
        path = self._path({"epoch": epoch + 1, **numbers, **logs})
        if self.verbose:
            print(f"Epoch {epoch + 1}: {reason}saving model to {path}")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path, overwrite=True)
        else:
            self.model.save(path, overwrite=True)

    def _improvement(self, logs, epoch):
        """The words for an improvement, None if there was none, "" if nobody can tell."""
        value = self.current_value(logs, stacklevel=7)
        if value is None:
            return ""  # as in Keras: better too many files than none
        before = "none" if self.best is None else f"{self.best:.5f}"
        if self.is_better(value, self.best):
            self.best = value
            return f"{self.monitor} improved from {before} to {value:.5f}, "
        if self.verbose:
            print(f"Epoch {epoch + 1}: {self.monitor} did not improve from {before}")
        return None

    def _path(self, fields):
        try:
            return self.filepath.format(**fields)
        except KeyError as error:
            name = error.args[0]
            raise KeyError(
                f"ModelCheckpoint: filepath {self.filepath!r} names {name!r}."
                f"{closest(name, fields)} There are: {', '.join(sorted(fields))}."
            ) from None
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"ModelCheckpoint: filepath {self.filepath!r}: {error}") from None


class CSVLogger(Callback):
    """A line per epoch in a CSV file: epoch, then the logs by name. As in Keras.

    append: go on in an existing file, in the order of its header. Epochs without validation have
    NA in the val_ columns.
    """

    def __init__(self, filename, separator=",", append=False):
        self.filename, self.append = os.fspath(filename), append
        if not (isinstance(separator, str) and len(separator) == 1):
            raise ValueError(f"CSVLogger: separator is one character, not {separator!r}")
        self.sep, self.keys = separator, None

    def on_train_begin(self, logs=None):
        os.makedirs(os.path.dirname(self.filename) or ".", exist_ok=True)
        self.keys = None
        if self.append and os.path.exists(self.filename):
            with open(self.filename, newline="", encoding="utf-8") as file:
                header = next(csv.reader(file, delimiter=self.sep), None)
            self.keys = header[1:] if header else None
        else:
            open(self.filename, "w", encoding="utf-8").close()

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        rows = [[epoch]]
        if self.keys is None:
            self.keys = sorted(logs)
            if not any(name.startswith("val_") for name in self.keys):
                self.keys += [f"val_{name}" for name in self.keys if name != "learning_rate"]
            rows.insert(0, ["epoch", *self.keys])
        rows[-1] += [_cell(logs.get(name, "NA")) for name in self.keys]
        # opened anew for every line: an interrupted run leaves a complete file and nothing open
        with open(self.filename, "a", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=self.sep).writerows(rows)


def _cell(value):
    if isinstance(value, str) or np.ndim(value) == 0:
        return value
    return f"[{', '.join(map(str, np.asarray(value).tolist()))}]"
