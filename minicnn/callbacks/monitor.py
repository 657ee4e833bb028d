"""What the callbacks that watch a value share: where it is, and when it is better."""

import math
import warnings

import numpy as np

from minicnn.callbacks.base import Callback
from minicnn.configurable import closest, snake_case

# Words in the names of metrics that shrink as the model gets better, and of those that grow.
_LESS = ("loss", "error", "crossentropy", "hinge", "divergence", "poisson", "cosh", "perplexity")
_LESS += ("mse", "mae", "mape", "msle")
_MORE = ("acc", "precision", "recall", "sensitivity", "specificity", "auc", "top_k", "f1", "beta")
_MORE += ("iou", "io_u", "dice", "r2", "similarity", "correlation")


class MonitorCallback(Callback):
    """Watches logs[monitor]. `best` is the best value so far, None before the first.

    Better: lower by more than min_delta (mode "min") or higher (mode "max"); "auto" goes
    by the name of the metric, then by its class. NaN is never better.
    """

    def __init__(self, monitor="val_loss", mode="auto", baseline=None, min_delta=0):
        if not isinstance(monitor, str):
            raise TypeError(f"{self._name}: monitor is the name of a metric, not {monitor!r}")
        if mode not in ("auto", "min", "max"):
            warnings.warn(
                f"{self._name}: mode is 'auto', 'min' or 'max', not {mode!r}; 'auto' is taken",
                stacklevel=3,
            )
            mode = "auto"
        self.monitor, self.mode, self.best = monitor, mode, baseline
        self.min_delta = abs(min_delta)
        self._sign = {"min": -1, "max": 1, "auto": None}[mode]
        self._settled = False  # the value was seen once, or its absence was said

    @property
    def _name(self):
        return type(self).__name__

    def current_value(self, logs, stacklevel=5):
        """logs[monitor] as a float; None, with one warning per callback, if it is not there.

        The warning names the line that called `fit`, `stacklevel` calls above.
        """
        value = (logs or {}).get(self.monitor)
        if value is not None and np.size(value) == 1:
            self._settled = True
            return float(np.reshape(value, ()))
        if not self._settled:
            self._settled = True
            warnings.warn(self._missing(logs or {}, value), stacklevel=stacklevel)
        return None

    def _missing(self, logs, value):
        if value is not None:
            return (
                f"{self._name}: {self.monitor!r} is an array of shape {np.shape(value)}, not a "
                "number; the callback does nothing"
            )
        names = sorted(logs)
        hint = _hint(self.monitor, names)
        return f"{self._name}: there is no {self.monitor!r}.{hint} There are: {', '.join(names)}."

    def is_better(self, value, than):
        """Whether `value` improves on `than` (None: nothing to beat yet)."""
        if self._sign is None:
            self._sign = self._direction()
        if math.isnan(value):
            return False
        if than is None or math.isnan(than):
            return True
        return (value - than) * self._sign > self.min_delta

    def _direction(self):
        """+1 where more is better, -1 where less is better."""
        names = [self.monitor.removeprefix("val_").lower()]
        for metric in getattr(self.model, "metrics", None) or ():
            if names[0] == metric.name or names[0].endswith(f"_{metric.name}"):
                names.append(snake_case(type(metric).__name__))  # AUC(name="score") is an AUC
        for name in names:
            for words, sign in ((_LESS, -1), (_MORE, 1)):
                if any(word in name for word in words):
                    return sign
        raise ValueError(
            f"{self._name}: whether more or less of {self.monitor!r} is better does not follow "
            "from its name; give mode='max' or mode='min'"
        )


def _hint(name, names):
    """What the user probably meant by a name that is not in the logs."""
    prefix, plain = ("val_", name[4:]) if name.startswith("val_") else ("", name)
    if prefix and not any(one.startswith("val_") for one in names):
        return " val_ values need validation: give fit validation_data or validation_split."
    for short, long in (("acc", "accuracy"), ("accuracy", "acc"), ("lr", "learning_rate")):
        if plain == short and prefix + long in names:
            return f" Did you mean {prefix + long!r}?"
    return closest(name, names)
