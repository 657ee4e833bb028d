"""RMSprop: each weight's step is divided by the recent size of its gradient."""

from minicnn import ops
from minicnn.optimizers.base import Optimizer, table


@table.register()
class RMSprop(Optimizer):
    """s = rho s + (1 - rho) g^2; w -= rate g / sqrt(s + epsilon) (Tieleman and Hinton 2012).

    centered: the variance of the gradient instead of its square (Graves 2013, eq. 40).
    momentum b: m = b m + step; w -= m.
    """

    def __init__(
        self,
        learning_rate=0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **base,
    ):
        super().__init__(learning_rate, **base)
        self.rho = self.number("rho", rho, most=1)
        self.momentum = self.number("momentum", momentum, most=1)
        self.epsilon = self.number("epsilon", epsilon)
        self.centered = bool(centered)

    def slot_groups(self):
        groups = [("velocity",)]
        groups += [("momentum",)] if self.momentum else []
        return groups + ([("average_gradient",)] if self.centered else [])

    def update(self, value, g, slots, rate):
        ops.rmsprop_update(
            value,
            g,
            slots["velocity"],
            slots.get("momentum"),
            slots.get("average_gradient"),
            rate,
            self.rho,
            self.momentum,
            self.epsilon,
        )
