"""Callbacks that steer training: when it ends, the learning rate, averaged weights."""

import inspect
import math
import warnings

import numpy as np

from minicnn.callbacks.base import Callback
from minicnn.callbacks.monitor import MonitorCallback
from minicnn.configurable import closest


def _whole(owner, name, value):
    """A count given by the user, checked."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{owner}: {name} is an integer >= 0, not {value!r}")
    return int(value)


class EarlyStopping(MonitorCallback):
    """Stop when `monitor` has not improved for `patience` epochs. As in Keras.

    restore_best_weights: at the end, also when the epochs just ran out, all weights (moving
    statistics too) are those of the best epoch. baseline: only values better than it restart the
    count. Nothing is counted before epoch `start_from_epoch`.
    """

    def __init__(
        self,
        monitor="val_loss",
        min_delta=0,
        patience=0,
        verbose=0,
        mode="auto",
        baseline=None,
        restore_best_weights=False,
        start_from_epoch=0,
    ):
        super().__init__(monitor, mode, min_delta=min_delta)
        self.patience = _whole("EarlyStopping", "patience", patience)
        self.start_from_epoch = _whole("EarlyStopping", "start_from_epoch", start_from_epoch)
        self.verbose, self.baseline = verbose, baseline
        self.restore_best_weights = restore_best_weights
        self._restart()

    def _restart(self):
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best = self.best_weights = None

    def on_train_begin(self, logs=None):
        self._restart()

    def on_epoch_end(self, epoch, logs=None):
        value = self.current_value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self.is_better(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self.is_better(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self.stopped_epoch and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose:
                print(f"Restoring model weights from the end of epoch {self.best_epoch + 1}")
            self.model.set_weights(self.best_weights)


class ReduceLROnPlateau(MonitorCallback):
    """Multiply the learning rate by `factor` after `patience` epochs without improvement.

    Then wait `cooldown` epochs; never below min_lr. Adds "learning_rate" to the logs. As in Keras.
    """

    def __init__(
        self,
        monitor="val_loss",
        factor=0.1,
        patience=10,
        verbose=0,
        mode="auto",
        min_delta=1e-4,
        cooldown=0,
        min_lr=0.0,
        **kwargs,
    ):
        if "epsilon" in kwargs:
            min_delta = kwargs.pop("epsilon")
            warnings.warn("ReduceLROnPlateau: epsilon is now called min_delta", stacklevel=2)
        for name in kwargs:
            known = inspect.signature(ReduceLROnPlateau).parameters
            raise TypeError(f"ReduceLROnPlateau takes no argument {name!r}.{closest(name, known)}")
        super().__init__(monitor, mode, min_delta=min_delta)
        if not 0 <= factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor lies in [0, 1), not {factor!r}")
        self.patience = _whole("ReduceLROnPlateau", "patience", patience)
        self.cooldown = _whole("ReduceLROnPlateau", "cooldown", cooldown)
        self.factor, self.min_lr, self.verbose = factor, min_lr, verbose
        self._restart()

    def _restart(self):
        self.best, self.wait, self.cooldown_counter = None, 0, 0

    def on_train_begin(self, logs=None):
        optimizer = self.model.optimizer
        optimizer.learning_rate = float(optimizer.learning_rate)  # a schedule refuses now, not late
        self._restart()

    def in_cooldown(self):
        return self.cooldown_counter > 0

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        value = self.current_value(logs)
        if value is None:
            return
        if self.in_cooldown():
            self.cooldown_counter -= 1
            self.wait = 0
        if self.is_better(value, self.best):
            self.best, self.wait = value, 0
        elif not self.in_cooldown():
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch):
        old = float(self.model.optimizer.learning_rate)
        if old <= np.float32(self.min_lr):  # the rate is a float32 in files: compare as such
            return
        new = max(old * self.factor, self.min_lr)
        self.model.optimizer.learning_rate = new
        self.cooldown_counter, self.wait = self.cooldown, 0
        if self.verbose:
            print(f"Epoch {epoch + 1}: ReduceLROnPlateau reducing learning rate to {new:.6g}")


class LearningRateScheduler(Callback):
    """Set the learning rate at every epoch's begin to schedule(epoch, rate) or schedule(epoch).

    Adds "learning_rate" to the logs. As in Keras.
    """

    def __init__(self, schedule, verbose=0):
        if not callable(schedule):
            raise TypeError(
                f"LearningRateScheduler: schedule is a function of (epoch, rate), not {schedule!r}"
            )
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        if _positional_arguments(self.schedule) >= 2:
            rate = self.schedule(epoch, float(optimizer.learning_rate))
        else:
            rate = self.schedule(epoch)
        number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
        if not number or not math.isfinite(rate) or rate < 0:
            raise ValueError(
                f"LearningRateScheduler: schedule({epoch}) gave {rate!r}; a learning rate is a "
                "number >= 0"
            )
        optimizer.learning_rate = float(rate)
        if self.verbose:
            print(f"Epoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate:.6g}")

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


def _positional_arguments(function):
    """How many positional arguments a function takes; 2 where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


class TerminateOnNaN(Callback):
    """Stop at the first loss that is NaN or infinite, or raise RuntimeError if raise_error."""

    def __init__(self, raise_error: bool = False):
        self.raise_error = raise_error

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"the loss is {loss} at batch {batch}: training was ended")
        print(f"Batch {batch}: the loss is {loss}, terminating training")
        self.model.stop_training = True


class SwapEMAWeights(Callback):
    """Evaluate, validate and predict with the averages of an optimizer that has use_ema=True.

    The weights of training come back afterwards. swap_on_epoch: the averages are in place at every
    epoch's end, too, for callbacks that come later, such as ModelCheckpoint. As in Keras.
    """

    def __init__(self, swap_on_epoch=False):
        self.swap_on_epoch = swap_on_epoch
        self._kept = None  # the weights of training while the averages are in place

    def _put_averages(self):
        optimizer = self.model.optimizer
        if not getattr(optimizer, "use_ema", False):
            raise ValueError("SwapEMAWeights needs an optimizer with use_ema=True")
        if self._kept is not None or not optimizer.iterations:
            return
        trained = [parameter for parameter in optimizer.parameters if parameter.trainable]
        self._kept = [(parameter, parameter.numpy()) for parameter in trained]
        for parameter in trained:
            averages = optimizer.slots[parameter.owner]["average"]
            place = parameter.owner.places[parameter]
            parameter.assign(averages[place].reshape(parameter.shape))

    def _put_back(self):
        for parameter, value in self._kept or ():
            parameter.assign(value)
        self._kept = None

    def on_train_begin(self, logs=None):
        self._kept = None

    def on_epoch_begin(self, epoch, logs=None):
        self._put_back()

    def on_epoch_end(self, epoch, logs=None):
        if self.swap_on_epoch:
            self._put_averages()

    def on_train_end(self, logs=None):
        self._kept = None  # the optimizer itself ends training with the averages in place

    def on_test_begin(self, logs=None):
        self._put_averages()

    def on_test_end(self, logs=None):
        self._put_back()

    def on_predict_begin(self, logs=None):
        self._put_averages()

    def on_predict_end(self, logs=None):
        self._put_back()
