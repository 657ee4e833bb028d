"""Stochastic gradient descent."""

from minicnn import ops
from minicnn.optimizers.base import Optimizer, table


@table.register()
class SGD(Optimizer):
    """w -= rate g; with momentum b: v = b v - rate g, w += v (Polyak 1964).

    nesterov: w += b v - rate g, the gradient where momentum leads (Sutskever et al. 2013).
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **base,
    ):
        super().__init__(learning_rate, **base)
        self.momentum = self.number("momentum", momentum, most=1)
        self.nesterov = bool(nesterov)

    def slot_groups(self):
        return [("momentum",)] if self.momentum else []

    def update(self, value, g, slots, rate):
        if self.momentum:
            v = slots["momentum"]
            ops.momentum_update(value, g, v, rate, self.momentum, self.nesterov)
        else:
            ops.sgd_update(value, g, rate)
