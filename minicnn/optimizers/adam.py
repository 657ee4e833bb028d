"""Adam and its relatives: a running mean m of the gradient, divided by its running size.

m and v start from 0 and are too small at first; dividing by 1 - beta^t corrects that (t = 1, 2, ...
counts the updates).
"""

import math

from minicnn import ops
from minicnn.optimizers.base import Optimizer, table


class _TwoMoments(Optimizer):
    """Base: the arguments of all of them."""

    def __init__(
        self,
        learning_rate=0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **base,
    ):
        super().__init__(learning_rate, **base)
        self.beta_1, self.beta_2 = self.number("beta_1", beta_1), self.number("beta_2", beta_2)
        if max(self.beta_1, self.beta_2) >= 1:
            self.fail(f"takes beta_1 and beta_2 in [0, 1), not {beta_1!r} and {beta_2!r}")
        self.epsilon = self.number("epsilon", epsilon)

    def slot_groups(self):
        return [("momentum", "velocity")]

    def prepare(self, count):
        self.t = count + 1


@table.register()
class Adam(_TwoMoments):
    """m += (1 - b1)(g - m); v += (1 - b2)(g^2 - v);
    w -= rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon) (Kingma and Ba 2015, section 2).

    amsgrad: the largest v so far instead of v (Reddi et al. 2018).
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **base,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **base)
        self.amsgrad = bool(amsgrad)

    def slot_groups(self):
        return super().slot_groups() + ([("velocity_hat",)] if self.amsgrad else [])

    def update(self, value, g, slots, rate):
        rate *= math.sqrt(1 - self.beta_2**self.t) / (1 - self.beta_1**self.t)
        ops.adam_update(
            value,
            g,
            slots["momentum"],
            slots["velocity"],
            slots.get("velocity_hat"),
            rate,
            self.beta_1,
            self.beta_2,
            self.epsilon,
        )


@table.register("adam_w")
class AdamW(Adam):
    """Adam, and before it w -= rate weight_decay w (Loshchilov and Hutter 2019)."""

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **base,
    ):
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **base
        )
        if weight_decay is None:
            self.fail("takes a number as weight_decay; without one it is Adam")


@table.register()
class Adamax(_TwoMoments):
    """m as in Adam; u = max(b2 u, |g|); w -= rate / (1 - b1^t) m / (u + epsilon) (Kingma and Ba
    2015, section 7.1).
    """

    def slot_groups(self):
        return [("momentum", "norm")]

    def update(self, value, g, slots, rate):
        rate /= 1 - self.beta_1**self.t
        m, u = slots["momentum"], slots["norm"]
        ops.adamax_update(value, g, m, u, rate, self.beta_1, self.beta_2, self.epsilon)


@table.register()
class Nadam(_TwoMoments):
    """Adam with Nesterov's momentum (Dozat 2015). With u_t = b1 (1 - 0.96^t / 2) and U the product
    of u_1 .. u_t, and m, v as in Adam:

    w -= rate (u_{t+1} m / (1 - U u_{t+1}) + (1 - u_t) g / (1 - U)) / (sqrt(v / (1 - b2^t)) + eps)
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **base,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **base)
        self.u_product = 1.0

    def extra_state(self):
        return ["u_product"]

    def prepare(self, count):
        super().prepare(count)
        self.u_product *= self._u(self.t)

    def _u(self, t):
        return self.beta_1 * (1 - 0.5 * 0.96**t)

    def update(self, value, g, slots, rate):
        after = self._u(self.t + 1)
        ops.nadam_update(
            value,
            g,
            slots["momentum"],
            slots["velocity"],
            rate,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            after / (1 - self.u_product * after),
            (1 - self._u(self.t)) / (1 - self.u_product),
            1 / (1 - self.beta_2**self.t),
        )
