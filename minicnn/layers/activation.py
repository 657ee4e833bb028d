"""Activations as layers."""

import warnings

from minicnn import activations
from minicnn.layers import arguments
from minicnn.layers.base import Layer, computes_as, table


class _ActivationLayer(Layer):
    """A layer that only applies `self.function`."""

    @property
    def repeats(self):
        return activations.can_be_recorded(self.function)

    @property
    def final_activation(self):
        return self.function

    @property
    def whole_activation(self):
        return self.function if computes_as(self, _ActivationLayer) else None

    def forward(self, x, context):
        if context.logits:
            return x, None
        y, after = self.function.forward(x, context)
        return y, (self.function, after)

    def backward(self, dy, saved, needs_dx):
        if not needs_dx or saved is None:
            return dy
        function, after = saved
        return function.backward(dy, after, True)


@table.register()
class Activation(_ActivationLayer):
    """Any activation by name, e.g. Activation("relu")."""

    def __init__(self, activation, **base):
        super().__init__(**base)
        self.activation = self.function = activations.get(activation)


@table.register()
class ReLU(_ActivationLayer):
    """max(x, 0); with Keras's slope below `threshold` and ceiling `max_value`."""

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **base,
    ):
        super().__init__(**base)
        self.max_value = max_value
        if max_value is not None:
            self.max_value = arguments.not_negative(self, "max_value", max_value)
        self.negative_slope = arguments.not_negative(self, "negative_slope", negative_slope)
        self.threshold = arguments.not_negative(self, "threshold", threshold)
        self.function = activations.relu.make(self.negative_slope, self.max_value, self.threshold)


@table.register()
class LeakyReLU(_ActivationLayer):
    """x where positive, else negative_slope * x (Maas et al. 2013). `alpha`: its older name."""

    def __init__(self, negative_slope: float = 0.3, **base):
        if "alpha" in base:
            negative_slope = base.pop("alpha")
            warnings.warn("LeakyReLU: alpha is now called negative_slope", stacklevel=2)
        super().__init__(**base)
        self.negative_slope = arguments.not_negative(self, "negative_slope", negative_slope)
        self.function = activations.leaky_relu.make(self.negative_slope)


@table.register()
class Softmax(_ActivationLayer):
    """exp(x) / sum exp(x) along `axis`."""

    def __init__(self, axis: int = -1, **base):
        super().__init__(**base)
        self.axis = arguments.integer(self, "axis", axis)
        self.function = activations.softmax.make(self.axis)

    def check_input_shape(self, shape):
        if not -len(shape) <= self.axis < len(shape):
            self.fail(f"works along axis {self.axis}, which an input {tuple(shape)} does not have")
