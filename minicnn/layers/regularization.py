"""Dropout: in training, silence a random part of the activations and scale up the rest.

No mask is stored: the random numbers are a function of (seed, step, node, sample, element), so
backward draws the same ones again.
"""

from minicnn import ops, randomness
from minicnn.layers import arguments
from minicnn.layers.base import Layer, table


class _Dropout(Layer):
    """y = x * keep / (1 - rate) in training, y = x otherwise."""

    repeats = True

    def _set(self, rate, seed):
        self.rate = arguments.fraction(self, "rate", rate)
        self.seed = arguments.optional_seed(self, seed)
        self._stream = randomness.next_seed() if self.seed is None else self.seed

    def _noise_shape(self, shape):
        return None

    def forward(self, x, context):
        if not context.training or self.rate == 0:
            return x, None
        draw = (
            self.rate,
            context.key_to_note(self._stream),
            context.first_sample,
            self._noise_shape(x.shape),
        )
        return ops.dropout(x, *draw), draw

    def backward(self, dy, saved, needs_dx):
        if not needs_dx or saved is None:
            return dy
        return ops.dropout_grad(dy, *saved)


@table.register()
class Dropout(_Dropout):
    """Drop single elements with probability `rate` (Srivastava et al. 2014).

    noise_shape: axes of size 1 share their draw, e.g. (None, 1, 1, None) drops whole channels.
    """

    def __init__(self, rate: float, noise_shape=None, seed: int | None = None, **base):
        super().__init__(**base)
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        self._set(rate, seed)

    def _noise_shape(self, shape):
        if self.noise_shape is None:
            return None
        wanted = tuple(
            size if own is None else own for own, size in zip(self.noise_shape, shape, strict=False)
        )
        fits = all(own in (1, size) for own, size in zip(wanted, shape, strict=False))
        if len(self.noise_shape) != len(shape) or not fits:
            self.fail(
                f"has noise_shape {self.noise_shape}, which does not broadcast to {tuple(shape)}: "
                "give None, 1 or the size for every axis"
            )
        return wanted


@table.register()
class SpatialDropout2D(_Dropout):
    """Drop whole feature maps of (n, h, w, c) with probability `rate` (Tompson et al. 2014)."""

    rank = 4

    def __init__(
        self,
        rate: float,
        data_format: str | None = None,
        seed: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
        **base,
    ):
        super().__init__(name=name, dtype=dtype, **base)
        self.data_format = arguments.data_format(self, data_format)
        self._set(rate, seed)

    def _noise_shape(self, shape):
        return (shape[0], 1, 1, shape[3])
