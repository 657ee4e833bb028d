"""Activation functions, with their derivatives: by name, as objects for layers, as functions.

An activation has the two methods of a layer: `forward(x, context) -> y, saved` and
`backward(dy, saved, needs_dx) -> dx`, so a layer such as LeakyReLU(0.1) is one too. Where the
derivative follows from the output y, only y is kept.
"""

import functools
import inspect
from typing import NamedTuple

import numpy as np

from minicnn import configurable, ops
from minicnn.ops.shapes import DERIVATIVE_FROM_OUTPUT, FUSIBLE


class GradientOfSum(NamedTuple):
    """The gradient of z where y = activation(z + bias) was the input, and its channel sums.

    A layer whose backward reads and writes all of dy anyway multiplies by the derivative in the
    same pass, instead of leaving two more passes over memory to the layer below.
    """

    gradient: np.ndarray
    sums: np.ndarray


class ActivationFunction:
    """y = f(x) element by element; `spec` is what the op takes: (name, *numbers)."""

    def __init__(self, name, *numbers, default=True):
        self.name, self.spec, self.default = name, (name, *numbers), default
        self.fused = self.spec if name in FUSIBLE else None  # may run in a convolution's epilogue

    def forward(self, x, context=None):
        y = ops.activate(x, self.spec)
        return y, (y if self.name in DERIVATIVE_FROM_OUTPUT else x)

    def backward(self, dy, saved, needs_dx=True):
        return ops.activate_grad(dy, saved, self.spec)

    def backward_with_bias(self, dy, saved):
        """The gradient below, and its sum over all axes but the last: that of a bias added to x."""
        return ops.activate_bias_grad(dy, saved, self.spec)

    def __call__(self, x):
        return np.array(self.forward(_floating(x))[0])

    def serialize(self):
        return self.name

    def __eq__(self, other):
        return isinstance(other, ActivationFunction) and self.spec == other.spec

    def __hash__(self):
        return hash(self.spec)

    def __repr__(self):
        return f"<activation {self.name}>"


class _Linear(ActivationFunction):
    """y = x."""

    def forward(self, x, context=None):
        return x, None

    def backward(self, dy, saved, needs_dx=True):
        return dy

    def backward_with_bias(self, dy, saved):
        return dy, ops.bias_grad(dy)


class _Softmax(ActivationFunction):
    """y_i = exp(x_i) / sum_j exp(x_j) along one axis; dx = y (dy - sum_j dy_j y_j)."""

    value, gradient = "softmax", "softmax_grad"

    def forward(self, x, context=None):
        axis = self.spec[1]
        y = getattr(ops, self.value)(np.moveaxis(x, axis, -1))
        return np.moveaxis(y, -1, axis), y

    def backward(self, dy, saved, needs_dx=True):
        axis = self.spec[1]
        return np.moveaxis(getattr(ops, self.gradient)(np.moveaxis(dy, axis, -1), saved), -1, axis)

    def backward_with_bias(self, dy, saved):
        dx = self.backward(dy, saved)
        return dx, ops.bias_grad(dx)


class _LogSoftmax(_Softmax):
    """y_i = x_i - log sum_j exp(x_j); dx = dy - softmax(x) sum_j dy_j."""

    value, gradient = "log_softmax", "log_softmax_grad"


def _floating(x):
    x = np.asarray(x)
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def _not_negative(name, value):
    """The derivative is read off y's sign, which a negative slope would turn round."""
    if not value >= 0:
        raise ValueError(f"an activation takes a number >= 0 as {name}, not {value!r}")


_DEFAULTS = {}  # public name -> activation with default arguments
_BY_FUNCTION = {}  # public function -> the same


def _public(*aliases):
    """Register the function's default object under its name, and let the function apply it."""

    def decorate(make):
        default = make()
        default.default, default.name = True, make.__name__

        @functools.wraps(make)
        def function(x, *args, **kwargs):
            return make(*args, **kwargs)(x)

        own = inspect.signature(make)
        x = inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        function.__signature__ = own.replace(parameters=[x, *own.parameters.values()])
        function.make = make  # layers want the object, not its value
        for name in (make.__name__, *aliases):
            _DEFAULTS[name] = default
        _BY_FUNCTION[function] = default
        return function

    return decorate


@_public()
def linear():
    """x."""
    return _Linear("linear")


@_public()
def relu(negative_slope=0.0, max_value=None, threshold=0.0):
    """max(x, 0), or Keras's general form with a slope, a ceiling and a threshold."""
    _not_negative("negative_slope", negative_slope)
    if max_value is None and threshold == 0:
        if negative_slope == 0:
            return ActivationFunction("relu")
        return ActivationFunction("leaky_relu", float(negative_slope))
    ceiling = np.inf if max_value is None else float(max_value)
    return ActivationFunction("relu_bounded", float(negative_slope), ceiling, float(threshold))


@_public()
def relu6():
    """min(max(x, 0), 6)."""
    return ActivationFunction("relu_bounded", 0.0, 6.0, 0.0)


@_public()
def leaky_relu(negative_slope=0.2):
    """x where positive, else negative_slope * x."""
    _not_negative("negative_slope", negative_slope)
    return ActivationFunction("leaky_relu", float(negative_slope))


@_public()
def elu(alpha=1.0):
    """x where positive, else alpha (exp(x) - 1) (Clevert et al. 2015)."""
    _not_negative("alpha", alpha)
    return ActivationFunction("elu", float(alpha))


@_public()
def selu():
    """Scaled ELU with the fixed constants of Klambauer et al. 2017."""
    return ActivationFunction("selu")


@_public()
def celu(alpha=1.0):
    """max(x, 0) + min(0, alpha (exp(x / alpha) - 1))."""
    return ActivationFunction("celu", float(alpha))


@_public()
def sigmoid():
    """1 / (1 + exp(-x))."""
    return ActivationFunction("sigmoid")


@_public()
def tanh():
    """Hyperbolic tangent."""
    return ActivationFunction("tanh")


@_public()
def softplus():
    """log(1 + exp(x))."""
    return ActivationFunction("softplus")


@_public()
def softsign():
    """x / (1 + |x|)."""
    return ActivationFunction("softsign")


@_public()
def exponential():
    """exp(x)."""
    return ActivationFunction("exponential")


@_public("swish")
def silu():
    """x sigmoid(x)."""
    return ActivationFunction("silu")


@_public()
def gelu(approximate=False):
    """x Phi(x), Phi the normal distribution function; `approximate` by tanh (Hendrycks 2016)."""
    return ActivationFunction("gelu_tanh" if approximate else "gelu")


@_public()
def hard_sigmoid():
    """min(max(x / 6 + 1/2, 0), 1)."""
    return ActivationFunction("hard_sigmoid")


@_public("hard_swish")
def hard_silu():
    """x hard_sigmoid(x)."""
    return ActivationFunction("hard_silu")


@_public()
def hard_tanh():
    """min(max(x, -1), 1)."""
    return ActivationFunction("hard_tanh")


@_public()
def log_sigmoid():
    """log(1 / (1 + exp(-x)))."""
    return ActivationFunction("log_sigmoid")


@_public()
def mish():
    """x tanh(softplus(x)) (Misra 2019)."""
    return ActivationFunction("mish")


@_public()
def softmax(axis=-1):
    """exp(x) / sum exp(x) along an axis."""
    return _Softmax("softmax", axis)


@_public()
def log_softmax(axis=-1):
    """x - log sum exp(x) along an axis."""
    return _LogSoftmax("log_softmax", axis)


swish, hard_swish = silu, hard_silu


def can_be_recorded(activation):
    """Whether it is one of this module, whose work can be recorded."""
    known = type(activation) in (ActivationFunction, _Linear, _Softmax, _LogSoftmax)
    return known and (not isinstance(activation, _Softmax) or activation.spec[1] == -1)


def get(identifier):
    """None, a name, a function of this module or an object with forward and backward."""
    if identifier is None:
        return _DEFAULTS["linear"]
    if isinstance(identifier, str):
        if identifier not in _DEFAULTS:
            hint = configurable.closest(identifier, _DEFAULTS)
            raise ValueError(
                f"Unknown activation {identifier!r}.{hint} Known: {', '.join(sorted(_DEFAULTS))}."
            )
        return _DEFAULTS[identifier]
    if isinstance(identifier, dict):  # a layer such as LeakyReLU(0.1) used as an activation
        return configurable.Table.all["layers"].build(identifier)
    if hasattr(identifier, "forward") and hasattr(identifier, "backward"):
        return identifier
    try:
        return _BY_FUNCTION[identifier]
    except (KeyError, TypeError):
        raise TypeError(
            f"activation {identifier!r} has no derivative: give a name such as 'relu', a function "
            "of minicnn.activations, or an object with forward(x, context) and "
            "backward(dy, saved, needs_dx)"
        ) from None


def serialize(activation):
    """The name of an activation."""
    return get(activation).serialize()


deserialize = get
