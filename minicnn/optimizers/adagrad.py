"""Adagrad and Adadelta: step sizes from the gradients of all steps so far."""

from minicnn import ops
from minicnn.optimizers.base import Optimizer, table


@table.register()
class Adagrad(Optimizer):
    """s += g^2; w -= rate g / sqrt(s + epsilon) (Duchi, Hazan, Singer 2011)."""

    def __init__(
        self,
        learning_rate=0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **base,
    ):
        super().__init__(learning_rate, **base)
        initial = self.number("initial_accumulator_value", initial_accumulator_value)
        self.initial_accumulator_value = initial
        self.epsilon = self.number("epsilon", epsilon)

    def slot_groups(self):
        return [("accumulator",)]

    def initial_slot_value(self, name):
        return self.initial_accumulator_value if name == "accumulator" else 0.0

    def update(self, value, g, slots, rate):
        ops.adagrad_update(value, g, slots["accumulator"], rate, self.epsilon)


@table.register()
class Adadelta(Optimizer):
    """s = rho s + (1 - rho) g^2; step = sqrt(d + epsilon) / sqrt(s + epsilon) g;
    w -= rate step; d = rho d + (1 - rho) step^2 (Zeiler 2012, which has rate 1).
    """

    def __init__(self, learning_rate=0.001, rho: float = 0.95, epsilon: float = 1e-7, **base):
        super().__init__(learning_rate, **base)
        self.rho = self.number("rho", rho, most=1)
        self.epsilon = self.number("epsilon", epsilon)

    def slot_groups(self):
        return [("accumulated_grad", "accumulated_delta_var")]

    def update(self, value, g, slots, rate):
        s, d = slots["accumulated_grad"], slots["accumulated_delta_var"]
        ops.adadelta_update(value, g, s, d, rate, self.rho, self.epsilon)
