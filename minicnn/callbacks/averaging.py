"""Weights averaged along the way."""

from minicnn import ops
from minicnn.callbacks.base import Callback


class Lookahead(Callback):
    """Every `every` steps the weights go back to a slow average of themselves, and start from it.

        slow = d slow + (1 - d) weights,  weights = slow        d = momentum (step / steps)^power

    at the end of training weights = slow. d grows from 0, so that the noise of the early steps is
    forgotten. Moving statistics are averaged, too. Zhang et al. 2019, arXiv:1907.08610; the growing
    d is that of Jordan 2024, arXiv:2404.00498. steps: of the whole training; None: as `fit` says.
    """

    def __init__(self, every: int = 5, momentum: float = 0.95**5, power: float = 3.0, steps=None):
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"Lookahead takes a positive integer as every, not {every!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"Lookahead takes a momentum in [0, 1), not {momentum!r}")
        if not power >= 0:
            raise ValueError(f"Lookahead takes a power >= 0, not {power!r}")
        self.every, self.momentum, self.power, self.steps = every, momentum, power, steps

    def on_train_begin(self, logs=None):
        self._total = self.steps
        if self._total is None:
            if not self.params.get("steps"):
                raise ValueError("Lookahead needs steps= where the data do not tell their length")
            self._total = self.params["epochs"] * self.params["steps"]
        self._step, self._slow = 0, None

    def on_train_batch_end(self, batch, logs=None):
        if self._slow is None:  # after the first step, when the model is surely built
            self._slow = [weight.numpy() for weight in self.model.weights]
        self._step += 1
        if self._step % self.every == 0:
            share = min(1.0, self._step / self._total)
            self._move(self.momentum * share**self.power)

    def on_train_end(self, logs=None):
        if self._slow is not None:
            self._move(1.0)

    def _move(self, d):
        for slow, weight in zip(self._slow, self.model.weights, strict=True):
            value = weight.value.reshape(-1)
            ops.average_update(slow.reshape(-1), value, d)
            value[...] = slow.reshape(-1)
