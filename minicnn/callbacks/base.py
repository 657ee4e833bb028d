"""Callback: the hooks, all empty. History, LambdaCallback: the two simplest callbacks."""

from minicnn.configurable import closest


class Callback:
    """Override the hooks you need; `self.model` and `self.params` are set before the first call.

    params has "epochs", "steps" (None where unknown) and "verbose". `epoch` and `batch` count from
    0. `logs` holds the loss and the metrics by name; on_epoch_end has those of validation as
    val_*, too, and what one callback adds there the later ones and the history see.
    `self.model.stop_training = True` ends training after the batch. As in Keras.
    """

    model = None  # class attributes: a subclass may forget super().__init__()
    params = None

    def set_params(self, params):
        self.params = params

    def set_model(self, model):
        self.model = model

    def set_data(self, batches, validation, split):
        """Before `fit` begins: sources of (x, y, weight); whether validation_split parted them."""

    def on_train_begin(self, logs=None):
        """Before the first epoch of `fit`."""

    def on_train_end(self, logs=None):
        """After the last epoch of `fit`."""

    def on_epoch_begin(self, epoch, logs=None):
        """Before the first batch of an epoch."""

    def on_epoch_end(self, epoch, logs=None):
        """After validation, at the end of an epoch."""

    def on_train_batch_begin(self, batch, logs=None):
        """Before a training step."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        """After a training step; logs are averages since the start of the epoch."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch, logs=None):
        """Older name of on_train_batch_begin."""

    def on_batch_end(self, batch, logs=None):
        """Older name of on_train_batch_end."""

    def on_test_begin(self, logs=None):
        """Before `evaluate`, and before validation in `fit`."""

    def on_test_end(self, logs=None):
        """After `evaluate`, and after validation in `fit`."""

    def on_test_batch_begin(self, batch, logs=None):
        """Before a batch of `evaluate` or of validation."""

    def on_test_batch_end(self, batch, logs=None):
        """After a batch of `evaluate` or of validation."""

    def on_predict_begin(self, logs=None):
        """Before `predict`."""

    def on_predict_end(self, logs=None):
        """After `predict`."""

    def on_predict_batch_begin(self, batch, logs=None):
        """Before a batch of `predict`."""

    def on_predict_batch_end(self, batch, logs=None):
        """After a batch of `predict`; logs["outputs"] are its outputs."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class History(Callback):
    """history[name] is the list of values, one per epoch; `epoch` the list of epoch numbers.

    `fit` adds one to every run and returns it.
    """

    def __init__(self):
        self.history, self.epoch = {}, []

    def on_train_begin(self, logs=None):
        self.epoch = []

    def on_epoch_end(self, epoch, logs=None):
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        self.model.history = self


class LambdaCallback(Callback):
    """A callback made of functions: LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs)).

    Any hook's name is a keyword; the functions get the hook's arguments in its order.
    """

    def __init__(
        self,
        on_epoch_begin=None,
        on_epoch_end=None,
        on_train_begin=None,
        on_train_end=None,
        on_train_batch_begin=None,
        on_train_batch_end=None,
        **kwargs,
    ):
        hooks = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **kwargs,
        }
        for name, function in hooks.items():
            if name not in HOOKS:
                raise TypeError(f"LambdaCallback knows no hook {name!r}.{closest(name, HOOKS)}")
            if function is None:
                continue
            if not callable(function):
                raise TypeError(f"LambdaCallback: {name} is a function, not {function!r}")
            setattr(self, name, function)
