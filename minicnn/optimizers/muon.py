"""Muon: the momentum of a matrix, made orthogonal, is its step."""

import math
import re

import numpy as np

from minicnn import ops
from minicnn.optimizers.base import Optimizer, table


@table.register()
class Muon(Optimizer):
    """For matrices: m = b m + g; w -= rate rms_rate sqrt(max(shape)) O(g + b m), with O from
    `orthogonalize` (Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"; the
    factor: Liu et al. 2025). nesterov=False: O(m). rms_rate=None: no factor.

    As in Keras, all that has not two axes (kernels of convolutions, biases) is trained by AdamW at
    the rate adam_lr_ratio rate, and so are parameters in whose name, such as dense_1/kernel, one of
    the regular expressions `exclude_layers` is found: the last dense layer should be one of them.
    exclude_embeddings: nor those with "embedding" in their name.
    """

    def __init__(
        self,
        learning_rate=0.001,
        adam_beta_1: float = 0.9,
        adam_beta_2: float = 0.999,
        adam_weight_decay: float | None = 0.004,
        epsilon: float = 1e-7,
        weight_decay: float | None = 0.004,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        exclude_layers=None,
        exclude_embeddings: bool = True,
        muon_a: float = 3.4445,
        muon_b: float = -4.7750,
        muon_c: float = 2.0315,
        adam_lr_ratio: float = 1.0,
        momentum: float = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        rms_rate: float | None = 0.2,
        **unknown,
    ):
        super().__init__(
            learning_rate,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            **unknown,
        )
        self.adam_beta_1 = self.number("adam_beta_1", adam_beta_1)
        self.adam_beta_2 = self.number("adam_beta_2", adam_beta_2)
        if max(self.adam_beta_1, self.adam_beta_2) >= 1:
            self.fail(
                f"takes adam_beta_1 and adam_beta_2 in [0, 1), not {adam_beta_1!r} and "
                f"{adam_beta_2!r}"
            )
        self.adam_weight_decay = self.number("adam_weight_decay", adam_weight_decay, optional=True)
        self.epsilon = self.number("epsilon", epsilon)
        self.exclude_layers = self._patterns(exclude_layers)
        self.exclude_embeddings = bool(exclude_embeddings)
        self.muon_a = self.number("muon_a", muon_a, signed=True)
        self.muon_b = self.number("muon_b", muon_b, signed=True)
        self.muon_c = self.number("muon_c", muon_c, signed=True)
        self.adam_lr_ratio = self.number("adam_lr_ratio", adam_lr_ratio)
        self.momentum = self.number("momentum", momentum, most=1)
        if ns_steps is None:
            self.fail("takes an integer >= 0 as ns_steps, not None")
        self.ns_steps = self._count_argument("ns_steps", ns_steps, 0)
        self.nesterov = bool(nesterov)
        self.rms_rate = self.number("rms_rate", rms_rate, optional=True)

    def slot_groups(self):
        return [("momentum", "velocity")]

    def has_slot(self, name, parameter):
        return name != "velocity" or not self.is_matrix(parameter)

    def is_matrix(self, parameter):
        if len(parameter.shape) != 2:
            return False
        if self.exclude_embeddings and "embedding" in parameter.name.lower():
            return False
        return not any(re.search(pattern, parameter.name) for pattern in self.exclude_layers)

    def decay_rate(self, is_matrix):
        return self.weight_decay if is_matrix else self.adam_weight_decay

    def prepare(self, count):
        self.t = count + 1

    def update(self, value, g, slots, rate):
        rate *= self.adam_lr_ratio
        rate *= math.sqrt(1 - self.adam_beta_2**self.t) / (1 - self.adam_beta_1**self.t)
        beta_1, beta_2 = self.adam_beta_1, self.adam_beta_2
        m, v = slots["momentum"], slots["velocity"]
        ops.adam_update(value, g, m, v, None, rate, beta_1, beta_2, self.epsilon)

    def update_matrix(self, value, g, slots, rate):
        m = slots["momentum"]
        m *= self.momentum
        m += g
        direction = g + self.momentum * m if self.nesterov else m
        step = orthogonalize(direction, self.ns_steps, self.muon_a, self.muon_b, self.muon_c)
        if self.rms_rate is not None:
            rate *= math.sqrt(max(value.shape)) * self.rms_rate
        ops.sgd_update(value.reshape(-1), step.reshape(-1), rate)

    def _patterns(self, given):
        if given is None:
            return []
        if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
            self.fail(f"takes a list of strings as exclude_layers, not {given!r}")
        for one in given:
            try:
                re.compile(one)
            except re.error as error:
                self.fail(f"takes regular expressions as exclude_layers, not {one!r}: {error}")
        return list(given)


def orthogonalize(x, steps=5, a=3.4445, b=-4.7750, c=2.0315):
    """Nearly U V^T, where x = U S V^T is the singular value decomposition of x (m, n).

    x / |x|, then `steps` times x = (a + b G + c G^2) x with G = x x^T, or, where m > n,
    x = x (a + b G + c G^2) with G = x^T x (Newton and Schulz's iteration with the coefficients of
    Jordan 2024): every singular value s becomes a s + b s^3 + c s^5, and ends at 0.7 to 1.2
    unless it was below 0.0015 |x|.
    """
    x = x / (math.sqrt(ops.sum_of_squares(x.reshape(-1))) + 1e-7)  # |x| may be 0; as in Keras
    is_tall = x.shape[0] > x.shape[1]
    # Products of the dense layer: unlike BLAS's, their bits do not depend on the number of threads.
    for _ in range(steps):
        gram = ops.dense_kernel_grad(x, x) if is_tall else ops.dense_input_grad(x, x)
        factor = ops.dense(gram, gram)
        factor *= c
        gram *= b
        factor += gram
        factor[np.diag_indices(len(factor))] += a
        x = ops.dense(x, factor) if is_tall else ops.dense(factor, x)
    return x
