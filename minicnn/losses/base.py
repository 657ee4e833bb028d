"""Loss: what all losses share. Each loss itself is a `per_sample`, a formula beside its gradient.

    L = sum_s f_s l_s          l_s = loss of sample s, from per_sample(y_true, y_pred)
    dL/dy_pred = f_s dl_s/dy_pred

The factors f hold reduction, sample weights and mask: 1 / n for a mean over n samples.
All of it is computed in float64; the gradient is rounded to y_pred's type at the end.
"""

import copy
import functools
import inspect
import math

import numpy as np

from minicnn import configurable
from minicnn.configurable import Configurable, Table, constructor_arguments, snake_case
from minicnn.losses import targets

table = Table("losses", "loss")

EPSILON = 1e-7  # as in Keras: probabilities are kept this far from 0 and 1

REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None)


class Loss(Configurable):
    """Base: a subclass defines per_sample(y_true, y_pred) -> (values, gradient).

    values has y_pred's shape without the class axis (the last), gradient has y_pred's shape: the
    derivative of each sample's own value. Arrays come in float64, with the class axis last.
    """

    table = table
    axis = -1
    expects = None  # the last activation that the loss is made for
    fuses = None  # last activation ("softmax", "sigmoid") that on_logits() takes over
    kind = staticmethod(targets.numbers)  # what y may be, see there

    def __init__(self, name=None, reduction="sum_over_batch_size", dtype=None):
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"{type(self).__name__}: reduction is one of {REDUCTIONS}, not {reduction!r}"
            )
        self.name = name or snake_case(type(self).__name__)
        self.reduction, self.dtype = reduction, dtype

    def per_sample(self, y_true, y_pred):
        raise TypeError(
            f"{type(self).__name__} defines no per_sample(y_true, y_pred) -> (value of each "
            "sample, gradient with respect to y_pred); training needs the gradient by hand"
        )

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The reduced loss as a float (an array where reduction is None)."""
        y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
        self.check(y_true, y_pred.shape)
        values, factors, _ = self._terms(y_true, y_pred, sample_weight, differentiate=False)
        terms = values * factors
        return terms if self.reduction in (None, "none") else float(np.sum(terms))

    def value_and_grad(self, y_true, y_pred, sample_weight=None):
        """The reduced loss as a float, and its gradient with respect to y_pred."""
        if self.reduction in (None, "none"):
            raise ValueError(
                f"{type(self).__name__}: reduction=None gives a value per sample, training needs "
                "one number; use reduction='sum_over_batch_size'"
            )
        y_pred = np.asarray(y_pred)
        values, factors, gradient = self._terms(np.asarray(y_true), y_pred, sample_weight)
        if self.axis != -1:
            gradient = np.moveaxis(gradient, -1, self.axis)
        gradient = gradient.astype(_floating(y_pred.dtype), order="C", copy=False)
        return float(np.sum(values * factors)), gradient

    def values(self, y_true, y_pred):
        """The loss of each sample."""
        y_true, y_pred = self._aligned(np.asarray(y_true), np.asarray(y_pred))
        return self._differentiated(y_true, y_pred)[0]

    def check(self, y_true, y_pred_shape, name=None):
        """ValueError unless y_true can be compared with an output of this shape.

        `name`: the output layer, for the message. Entries of the shape may be None.
        """
        y_true, shape = np.asarray(y_true), list(y_pred_shape)
        if self.axis != -1:
            shape.append(shape.pop(self.axis))
            if y_true.ndim == len(shape):
                y_true = np.moveaxis(y_true, self.axis, -1)
        targets.check(type(self), y_true, shape, name, self._ignored())

    def check_activation(self, activation, shape, name):
        """Warn where an output's last activation (its name) and this loss do not go together."""
        targets.check_activation(self, activation, shape, name)

    def valid(self, y_true):
        """Which samples count: None for all, or an array of bool."""
        return None

    def on_logits(self):
        """The equal loss that takes what its `fuses` activation would have got."""
        twin = copy.copy(self)
        twin.from_logits, twin.on_probabilities = True, self
        return twin

    def _ignored(self):
        return None

    def _aligned(self, y_true, y_pred):
        """Both with the class axis last, y_true in exactly the shape that y_pred asks for."""
        if self.axis != -1:
            if y_true.ndim == y_pred.ndim:
                y_true = np.moveaxis(y_true, self.axis, -1)
            y_pred = np.moveaxis(y_pred, self.axis, -1)
        shape = y_pred.shape[:-1] if type(self).kind is targets.labels else y_pred.shape
        return targets.align(y_true, shape, type(self).__name__), y_pred

    # A NaN or infinity among the predictions travels on into value and gradient: no warning here.
    @np.errstate(invalid="ignore", over="ignore", divide="ignore")
    def _differentiated(self, y_true, y_pred):
        return self.per_sample(y_true.astype(np.float64), np.asarray(y_pred, np.float64))

    def _terms(self, y_true, y_pred, sample_weight, differentiate=True):
        """(values, their factors f, gradient of sum f values: None unless `differentiate`)."""
        y_true, y_pred = self._aligned(y_true, y_pred)
        values, gradient = self._differentiated(y_true, y_pred)
        factors = self._factors(np.shape(values), sample_weight, self.valid(y_true))
        return values, factors, gradient * factors[..., None] if differentiate else None

    def _factors(self, shape, sample_weight, valid):
        """f: what each value is multiplied by before all are added up."""
        is_mean = self.reduction in ("sum_over_batch_size", "mean")
        if is_mean and sample_weight is None and valid is None:
            size = math.prod(shape)
            return np.full(shape, 1 / size if size else 0.0)
        weights = spread(sample_weight, shape)
        if valid is not None:
            weights = weights * valid
        if self.reduction == "mean_with_sample_weight":
            divisor = np.sum(weights)
        elif is_mean:
            divisor = weights.size if valid is None else np.count_nonzero(valid)
        else:
            divisor = 1
        return weights / divisor if divisor else np.zeros(shape)


class MeanLoss(Loss):
    """Base of losses that are a mean over the last axis of l(t, p) for each element.

    A subclass defines element(t, p) -> (l, dl/dp).
    """

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__(name, reduction, dtype)

    def per_sample(self, y_true, y_pred):
        value, derivative = self.element(y_true, y_pred)
        return np.mean(value, axis=-1), derivative / max(y_pred.shape[-1], 1)


def spread(sample_weight, shape):
    """Weights per sample, per step, ... -> an array of this shape (ones for None)."""
    if sample_weight is None:
        return np.ones(shape)
    weights = np.asarray(sample_weight, np.float64)
    if weights.ndim == len(shape) + 1 and weights.shape[-1] == 1:
        weights = weights[..., 0]
    leading = weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim))
    if weights.ndim > len(shape) or any(
        given not in (1, size) for given, size in zip(leading.shape, shape, strict=True)
    ):
        raise ValueError(
            f"sample_weight has shape {weights.shape}, the loss has values of shape {shape}: give "
            f"one weight per sample, shape {shape[:1]}"
        )
    return np.broadcast_to(leading, shape)


def clip_probability(p):
    """p kept within [EPSILON, 1 - EPSILON], and where that changed it (there the slope is 0)."""
    return np.clip(p, EPSILON, 1 - EPSILON), (p < EPSILON) | (p > 1 - EPSILON)


def weighted(t, x):
    """t x, and 0 where t is 0 even if x is infinite."""
    return np.multiply(t, x, where=t != 0, out=np.zeros(np.broadcast_shapes(t.shape, x.shape)))


def _floating(dtype):
    return dtype if dtype in (np.float32, np.float64) else np.dtype(np.float32)


# -- functions and identifiers ---------------------------------------------------------------------

functions = {}  # function of this room -> its class


def function_of(cls):
    """The function (y_true, y_pred, options of cls) -> loss of each sample."""
    options = [n for n in constructor_arguments(cls) if n not in ("reduction", "name", "dtype")]
    name = snake_case(cls.__name__)

    def function(y_true, y_pred, *args, **kwargs):
        loss = cls(**dict(zip(options, args, strict=False)), **kwargs)
        loss.check(y_true, np.shape(y_pred))
        return loss.values(y_true, y_pred)

    kinds = inspect.Parameter
    parameters = [kinds(n, kinds.POSITIONAL_OR_KEYWORD) for n in ("y_true", "y_pred")]
    parameters += [inspect.signature(cls).parameters[n] for n in options]
    function.__signature__ = inspect.Signature(parameters)
    function.__name__ = function.__qualname__ = name
    function.__module__ = "minicnn.losses"
    function.__doc__ = f"{cls.__doc__.splitlines()[0]} One value per sample, see {cls.__name__}."
    function.serialize = functools.partial(str, name)  # what files say for it
    functions[function] = cls
    return function


class GivenLoss(Loss):
    """An object of the user's that has value_and_grad(y_true, y_pred, sample_weight)."""

    def __init__(self, given):
        super().__init__(getattr(given, "name", None))
        self.given = given

    def value_and_grad(self, y_true, y_pred, sample_weight=None):
        value, gradient = self.given.value_and_grad(y_true, y_pred, sample_weight)
        if np.shape(gradient) != np.shape(y_pred):
            raise ValueError(
                f"{type(self.given).__name__}.value_and_grad gave a gradient of shape "
                f"{np.shape(gradient)} for an output of shape {np.shape(y_pred)}"
            )
        return float(value), np.asarray(gradient, np.asarray(y_pred).dtype)

    def __call__(self, y_true, y_pred, sample_weight=None):
        return self.value_and_grad(y_true, y_pred, sample_weight)[0]

    def check(self, y_true, y_pred_shape, name=None):
        """The given object's own affair."""

    def get_config(self):
        raise ValueError(
            f"a {type(self.given).__name__} object cannot be saved: subclass minicnn.losses.Loss"
        )


def get(identifier):
    """None, a name, a config, a class, an object, or a function of this room -> None or a Loss."""
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Loss):
        return identifier()
    if callable(identifier) and identifier in functions:
        return functions[identifier]()
    if hasattr(identifier, "value_and_grad") and not isinstance(identifier, type):
        return GivenLoss(identifier)
    if callable(identifier) and not isinstance(identifier, type):
        raise TypeError(
            f"a function as loss ({getattr(identifier, '__name__', identifier)}) has no gradient: "
            "give a subclass of minicnn.losses.Loss with per_sample(y_true, y_pred) -> (values, "
            "gradient), or an object with value_and_grad(y_true, y_pred, sample_weight)"
        )
    return table.get(identifier)


serialize, deserialize = configurable.serialize, table.build
