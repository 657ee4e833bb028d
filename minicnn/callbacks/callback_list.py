"""CallbackList: many callbacks called as one, and only where they have something to do."""

from minicnn.callbacks.base import HOOKS, Callback, History
from minicnn.callbacks.display import ProgbarLogger


class CallbackList(Callback):
    """The callbacks of one `fit`, `evaluate` or `predict`, in the order in which they are called.

    Hooks that no callback overrides cost nothing. As a context manager it ends the progress
    display also when an error or Ctrl-C leaves the block.
    """

    def __init__(self, callbacks=None, add_history=False, add_progbar=False, model=None, **params):
        self.callbacks = _flat(callbacks)
        self._history = self._first(History)
        self._progbar = self._first(ProgbarLogger)
        if self._history is None and add_history:
            self._history = History()
            self.callbacks.append(self._history)
        if self._progbar is None and add_progbar:
            self._progbar = ProgbarLogger()
            self.callbacks.append(self._progbar)
        self._calls = {hook: _overridden(self.callbacks, hook) for hook in HOOKS}
        self.set_model(model)
        self.set_params(params)

    def _first(self, kind):
        return next((one for one in self.callbacks if isinstance(one, kind)), None)

    def set_model(self, model):
        if model is None:
            return
        self.model = model
        if self._history is not None:
            model.history = self._history
        for callback in self.callbacks:
            callback.set_model(model)

    def set_params(self, params):
        self.params = params
        if params:
            for callback in self.callbacks:
                callback.set_params(params)

    def set_data(self, batches, validation, split):
        for callback in self.callbacks:
            if hasattr(callback, "set_data"):  # callbacks need not be of our class
                callback.set_data(batches, validation, split)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._progbar is not None:
            self._progbar.close()


def _forward(hook, numbered):
    """The method that passes a hook on: hook(number, logs), or hook(logs)."""

    def numbered_hook(self, number, logs=None):
        logs = {} if logs is None else logs
        for call in self._calls[hook]:
            call(number, logs)

    def plain_hook(self, logs=None):
        logs = {} if logs is None else logs
        for call in self._calls[hook]:
            call(logs)

    made = numbered_hook if numbered else plain_hook
    made.__name__, made.__doc__ = hook, getattr(Callback, hook).__doc__
    return made


for _hook in HOOKS:
    setattr(CallbackList, _hook, _forward(_hook, "batch" in _hook or "epoch" in _hook))


def _flat(callbacks):
    """A callback, None, or nested lists of callbacks as one list."""
    if callbacks is None:
        return []
    if isinstance(callbacks, CallbackList):
        return list(callbacks.callbacks)
    if isinstance(callbacks, list | tuple):
        return [one for part in callbacks for one in _flat(part)]
    if isinstance(callbacks, type):
        raise TypeError(f"callbacks are objects: write {callbacks.__name__}(...) with brackets")
    if not (hasattr(callbacks, "set_model") and hasattr(callbacks, "set_params")):
        raise TypeError(
            f"callbacks are objects of minicnn.callbacks.Callback, not {callbacks!r}; "
            "LambdaCallback makes one of functions"
        )
    return [callbacks]


def _overridden(callbacks, hook):
    """The bound methods for a hook, of the callbacks that do something there."""
    names = [hook]
    if hook.startswith("on_train_batch_"):
        names.append(hook.replace("train_", ""))  # the older name
    calls = []
    for callback in callbacks:
        for name in names:
            method = getattr(callback, name, None)
            if method is not None and getattr(method, "__func__", method) is not getattr(
                Callback, name
            ):
                calls.append(method)
                break
    return calls
