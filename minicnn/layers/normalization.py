"""Batch normalisation: y = gamma (x - mean) / sqrt(variance + epsilon) + beta, per channel."""

import functools
from typing import NamedTuple

import numpy as np

from minicnn import constraints, initializers, ops, regularizers
from minicnn.activations import GradientOfSum
from minicnn.layers import arguments
from minicnn.layers.base import Layer, computes_as, rectifier_of, table
from minicnn.ops import recording


class Normalized(NamedTuple):
    """What is to be normalized, and how, as `ops.add_normalized` takes it: a layer that reads it
    anyway spares a pass in which the result is written, and another in which it is read."""

    x: np.ndarray
    gamma: np.ndarray | None
    beta: np.ndarray | None
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


class GradientOfNormalized(NamedTuple):
    """The gradient of the result, and sums of it that spare the layer below a pass."""

    gradient: np.ndarray
    sums: np.ndarray


@functools.lru_cache(maxsize=256)
def _scale_and_offset(epsilon, dtype, *weights):
    """From the bytes of mean, variance, gamma and beta, the last two or None; and whether every
    scale is positive. Asked for with every batch, while the weights stay the same."""
    mean, variance, gamma, beta = (
        None if one is None else np.frombuffer(one, dtype).astype(np.float64) for one in weights
    )
    scale = (1 if gamma is None else gamma) / np.sqrt(variance + epsilon)
    offset = (0 if beta is None else beta) - mean * scale
    scale.flags.writeable = offset.flags.writeable = False
    return scale, offset, bool(np.all(scale > 0))


@table.register("BatchNorm")
class BatchNormalization(Layer):
    """Normalise each channel by the batch in training, by moving statistics otherwise.

    moving = momentum * moving + (1 - momentum) * batch, with the biased variance, as in Keras.
    A frozen layer (trainable=False) always uses the moving statistics. Ioffe and Szegedy 2015.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        renorm: bool = False,
        renorm_clipping=None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **base,
    ):
        super().__init__(**base)
        if renorm or renorm_clipping is not None or synchronized:
            self.fail("has no renorm and no synchronized mode; leave these arguments out")
        if isinstance(axis, list | tuple):
            if len(axis) != 1:
                self.fail(f"normalises one axis, not {axis!r}")
            (axis,) = axis
        self.axis = arguments.integer(self, "axis", axis)
        self.momentum = arguments.number(
            self, "momentum", momentum, "in [0, 1]", lambda v: 0 <= v <= 1
        )
        self.epsilon = arguments.not_negative(self, "epsilon", epsilon)
        self.center, self.scale = bool(center), bool(scale)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.renorm, self.renorm_clipping = False, None
        self.renorm_momentum, self.synchronized = renorm_momentum, False

    def build(self, input_shape):
        (channels,) = arguments.known_axes(self, input_shape, [self.axis])
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                "gamma",
                (channels,),
                self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = self.add_weight(
                "beta",
                (channels,),
                self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )
        self.moving_mean = self.add_state("moving_mean", (channels,), self.moving_mean_initializer)
        self.moving_variance = self.add_state(
            "moving_variance", (channels,), self.moving_variance_initializer
        )

    def check_input_shape(self, shape):
        if not -len(shape) <= self.axis < len(shape) or len(shape) < 2:
            self.fail(f"normalises axis {self.axis}, which an input {tuple(shape)} does not have")
        if self.built and shape[self.axis] != self.moving_mean.shape[0]:
            self.fail(
                f"was built for {self.moving_mean.shape[0]} channels on axis {self.axis}, got shape"
                f" {tuple(shape)}; other inputs need a layer of their own"
            )

    def _channels_last(self, x):
        return x if self.axis in (-1, x.ndim - 1) else np.moveaxis(x, self.axis, -1)

    def _channels_back(self, y):
        return y if self.axis in (-1, y.ndim - 1) else np.moveaxis(y, -1, self.axis)

    derives_below = True

    @property
    def leaves_normalized(self):
        return self.axis == -1 and computes_as(self, BatchNormalization)

    @property
    def repeats(self):
        return self.axis == -1

    @property
    def scale_and_offset(self):
        if not computes_as(self, BatchNormalization) or self.axis != -1:
            return None
        weights = (self.moving_mean, self.moving_variance)
        weights += (self.gamma if self.scale else None, self.beta if self.center else None)
        recording.depends_on(*(one.value for one in weights if one is not None))
        numbers = (None if one is None else one.value.tobytes() for one in weights)
        return _scale_and_offset(self.epsilon, self.moving_mean.value.dtype, *numbers)

    def takes_over(self, following, context, x):
        """A rectifier, whose derivative follows from what is normalised; in training then the
        maxima of 2x2 windows, which are taken while two rows of the picture are at hand."""
        if not computes_as(self, BatchNormalization):
            return 0
        count = int(rectifier_of(following[0]) is not None)
        whole = x.ndim == 4 and self.axis in (-1, 3) and x.shape[1] % 2 == x.shape[2] % 2 == 0
        by_batch = context.training and self.trainable
        rectified = context.below is None or context.below[0] in ops.shapes.RECTIFIERS
        if whole and by_batch and rectified:
            count += any(layer.pair_maxima for layer in following[count : count + 1])
        return count

    def forward(self, x, context):
        x = self._channels_last(x)
        gamma = self.gamma.value if self.scale else None
        beta = self.beta.value if self.center else None
        activation = rectifier_of(context.taken[0]) if context.taken else None
        pools = bool(context.taken) and context.taken[-1].pair_maxima is not None
        by_batch, index = context.training and self.trainable, None
        if by_batch:
            given, moving = (x, gamma, beta, self.epsilon, activation), None
            if not context.frozen_state:
                moving = self.moving_mean.value, self.moving_variance.value, self.momentum
            if context.joins:
                mean, variance = ops.batch_norm_statistics(x, moving=moving)
                y = Normalized(x, gamma, beta, mean, variance, self.epsilon)
            elif pools:
                y, index, mean, variance = ops.batch_norm_max_pool(*given, moving=moving)
            else:
                y, mean, variance = ops.batch_norm_train(*given, moving=moving)
        else:
            mean, variance = self.moving_mean.value, self.moving_variance.value
            y = ops.batch_norm_inference(x, gamma, beta, mean, variance, self.epsilon, activation)
        below = context.below if by_batch and self.axis in (-1, x.ndim - 1) else None
        y = y if isinstance(y, Normalized) else self._channels_back(y)
        return y, (x, mean, variance, by_batch, below, activation, index)

    def backward(self, dy, saved, needs_dx):
        x, mean, variance, by_batch, below, activation, index = saved
        gamma = self.gamma.value if self.scale else None
        beta = self.beta.value if self.center else None
        norm = (x, gamma, mean, variance, self.epsilon)
        more = {}
        if isinstance(dy, GradientOfNormalized):
            dy, more["sums"] = dy
        if index is not None:
            dx, sums, dgamma, dbeta = ops.batch_norm_max_pool_grad(
                dy, index, *norm, beta, activation, below
            )
        elif below:
            dx, sums, dgamma, dbeta = ops.batch_norm_activation_grad(
                dy, *norm, below, beta, activation, **more
            )
        else:
            grad = ops.batch_norm_train_grad if by_batch else ops.batch_norm_inference_grad
            dx, dgamma, dbeta = grad(self._channels_last(dy), *norm, beta, activation, **more)
        if self.scale and self.gamma.trainable:
            self.gamma.accumulate(dgamma)
        if self.center and self.beta.trainable:
            self.beta.accumulate(dbeta)
        if needs_dx:
            return GradientOfSum(dx, sums) if below else self._channels_back(dx)


BatchNorm = BatchNormalization
