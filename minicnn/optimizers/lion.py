"""Lion: only the sign of the momentum counts."""

from minicnn import ops
from minicnn.optimizers.base import Optimizer, table


@table.register()
class Lion(Optimizer):
    """w -= rate sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g (Chen et al. 2023).

    Every weight moves by the full rate: use a tenth of Adam's.
    """

    def __init__(self, learning_rate=0.001, beta_1: float = 0.9, beta_2: float = 0.99, **base):
        super().__init__(learning_rate, **base)
        self.beta_1 = self.number("beta_1", beta_1, positive=True, most=1)
        self.beta_2 = self.number("beta_2", beta_2, most=1)

    def slot_groups(self):
        return [("momentum",)]

    def update(self, value, g, slots, rate):
        ops.lion_update(value, g, slots["momentum"], rate, self.beta_1, self.beta_2)
