"""Pictures of one size, and numbers of one scale: the same in training and afterwards."""

import math

import numpy as np

from minicnn import initializers, ops
from minicnn.errors import warn
from minicnn.layers import arguments
from minicnn.layers.base import Layer, table
from minicnn.layers.pictures import PictureLayer
from minicnn.ops.geometry import RESIZE_METHODS


def largest_window(shape, size):
    """Borders ((top, bottom), (left, right)) around the largest central window of size's shape."""
    (h, w), (height, width) = shape[1:3], size
    window = max(min(h, int(w * height / width)), 1), max(min(w, int(h * width / height)), 1)
    borders = []
    for whole, part in zip((h, w), window, strict=True):
        before = (whole - part) // 2
        borders.append((before, whole - part - before))
    return tuple(borders)


def resize_window(x, size, interpolation="bilinear", antialias=False):
    """The largest central window of these proportions, resized."""
    window = ops.zero_pad2d_grad(x, largest_window(x.shape, size))
    return ops.resize(window, size, interpolation, antialias)


def resize_window_grad(dy, shape, interpolation="bilinear", antialias=False):
    """dx of this shape for `resize_window`."""
    borders = largest_window(shape, dy.shape[1:3])
    inner = [length - sum(border) for length, border in zip(shape[1:3], borders, strict=True)]
    return ops.zero_pad2d(ops.resize_grad(dy, inner, interpolation, antialias), borders)


@table.register()
class Resizing(PictureLayer):
    """Pictures of (height, width): stretched, or cut or padded to these proportions before.

    interpolation: "bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"; antialias widens the
    window where pictures shrink. As jax.image.resize, on which Keras's runs.
    """

    def __init__(
        self,
        height: int,
        width: int,
        interpolation: str = "bilinear",
        crop_to_aspect_ratio: bool = False,
        pad_to_aspect_ratio: bool = False,
        fill_mode: str = "constant",
        fill_value: float = 0.0,
        antialias: bool = False,
        data_format: str | None = None,
        **base,
    ):
        super().__init__(data_format=data_format, **base)
        self.height = arguments.positive_int(self, "height", height)
        self.width = arguments.positive_int(self, "width", width)
        if interpolation not in RESIZE_METHODS:
            self.fail(f"interpolates {', '.join(RESIZE_METHODS)}, not {interpolation!r}")
        if crop_to_aspect_ratio and pad_to_aspect_ratio:
            self.fail("cuts or pads: give crop_to_aspect_ratio or pad_to_aspect_ratio, not both")
        if fill_mode != "constant":
            self.fail(f"pads with fill_mode='constant', not {fill_mode!r}")
        self.interpolation, self.antialias = interpolation, bool(antialias)
        self.crop_to_aspect_ratio = bool(crop_to_aspect_ratio)
        self.pad_to_aspect_ratio = bool(pad_to_aspect_ratio)
        self.fill_mode = fill_mode
        self.fill_value = arguments.number(self, "fill_value", fill_value, "", math.isfinite)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.height, self.width, input_shape[3])

    def _border(self, shape):
        """((top, bottom), (left, right)) that gives a picture the proportions wanted, or nearly.

        The same number on both sides, and on one axis only, as in Keras.
        """
        (h, w), rows, columns = shape[1:3], 0, 0
        if self.pad_to_aspect_ratio:
            rows = (max(h, int(w * self.height / self.width)) - h) // 2
            if rows == 0:
                columns = (max(w, int(h * self.width / self.height)) - w) // 2
        return (rows, rows), (columns, columns)

    def forward(self, x, context):
        size, how = (self.height, self.width), (self.interpolation, self.antialias)
        if self.crop_to_aspect_ratio:
            return resize_window(x, size, *how), x.shape
        ((rows, _), (columns, _)) = border = self._border(x.shape)
        if rows or columns:
            (_, h, w, _), x = x.shape, ops.zero_pad2d(x, border)
            x[:, :rows] = x[:, rows + h :] = self.fill_value
            x[:, :, :columns] = x[:, :, columns + w :] = self.fill_value
            return ops.resize(x, size, *how), (len(x), h, w, x.shape[3])
        return ops.resize(x, size, *how), x.shape

    def backward(self, dy, saved, needs_dx):
        if not needs_dx:
            return None
        how = self.interpolation, self.antialias
        if self.crop_to_aspect_ratio:
            return resize_window_grad(dy, saved, *how)
        ((rows, _), (columns, _)) = border = self._border(saved)
        padded = ops.resize_grad(dy, (saved[1] + 2 * rows, saved[2] + 2 * columns), *how)
        return ops.zero_pad2d_grad(padded, border) if rows or columns else padded

    def apply(self, x, transformation, training):
        return self.forward(x, None)[0]


@table.register()
class CenterCrop(PictureLayer):
    """The middle (height, width) of every picture; of smaller ones the largest window, resized."""

    def __init__(self, height: int, width: int, data_format: str | None = None, **base):
        super().__init__(data_format=data_format, **base)
        self.height = arguments.positive_int(self, "height", height)
        self.width = arguments.positive_int(self, "width", width)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.height, self.width, input_shape[3])

    def _borders(self, shape):
        """What is cut off, ((top, bottom), (left, right)); None if the picture is too small."""
        room = shape[1] - self.height, shape[2] - self.width
        return None if min(room) < 0 else tuple((cut // 2, cut - cut // 2) for cut in room)

    def forward(self, x, context):
        borders = self._borders(x.shape)
        if borders is None:
            return resize_window(x, (self.height, self.width)), x.shape
        return ops.zero_pad2d_grad(x, borders), x.shape

    def backward(self, dy, saved, needs_dx):
        if needs_dx:
            borders = self._borders(saved)
            return resize_window_grad(dy, saved) if borders is None else ops.zero_pad2d(dy, borders)

    def apply(self, x, transformation, training):
        return self.forward(x, None)[0]


SMALLEST_DEVIATION = 1e-7  # divisor for what does not vary, as in Keras
CHUNK = 1024  # samples that adapt converts at once


@table.register()
class Normalization(Layer):
    """y = (x - mean) / standard deviation, per index of `axis` (None: one of each for all).

    Both are given, or measured by `adapt(data)`; invert=True turns the map round. They are kept in
    files and not trained. For pictures, axis=-1 means per channel.
    """

    def __init__(self, axis=-1, mean=None, variance=None, invert: bool = False, **base):
        super().__init__(**base)
        axes = () if axis is None else axis if isinstance(axis, tuple | list) else (axis,)
        self.axis = tuple(arguments.integer(self, "axis", one) for one in axes)
        if (mean is None) != (variance is None):
            self.fail("takes mean and variance together, or neither and adapt(data)")
        self.input_mean, self.input_variance = mean, variance
        if mean is not None:
            shapes = np.shape(mean), np.shape(variance)
            if shapes[0] != shapes[1] or len(shapes[0]) > len(self.axis):
                self.fail(
                    f"has {len(self.axis)} axes and mean and variance of shapes {shapes[0]}, "
                    f"{shapes[1]}: give numbers, or arrays of equal shape with such axes"
                )
            for name, value in (("mean", mean), ("variance", variance)):
                if not np.isfinite(np.asarray(value, np.float64)).all():
                    self.fail(f"takes finite numbers as {name}, not {value!r}")
            if np.min(variance) < 0:
                self.fail(f"takes a variance >= 0, not {variance!r}")
        self.invert = bool(invert)
        self._kept = self._built_shape = None
        self._warned = False

    def check_input_shape(self, shape):
        if any(not -len(shape) <= axis < len(shape) for axis in self.axis):
            self.fail(f"keeps axes {self.axis}, which an input {tuple(shape)} does not have")
        if self._built_shape is not None and [shape[a] for a in self.axis] != self._built_shape:
            self.fail(
                f"was built for {self._built_shape} numbers on axes {self.axis}, got shape "
                f"{tuple(shape)}; other inputs need a layer of their own"
            )

    def build(self, input_shape):
        kept = sorted({axis % len(input_shape) for axis in self.axis})
        sizes = arguments.known_axes(self, input_shape, kept)
        self._kept = tuple(kept)
        self._built_shape = [input_shape[axis] for axis in self.axis]
        self._spread = [n if a in kept else 1 for a, n in enumerate(input_shape)]
        if self.input_mean is None:
            self.adapt_mean = self.add_state("mean", sizes, initializers.Zeros())
            self.adapt_variance = self.add_state("variance", sizes, initializers.Ones())
            self.count = self.add_state("count", (), initializers.Zeros())  # Keras has it in files
        else:
            for name in ("mean", "variance"):
                value = np.asarray(getattr(self, f"input_{name}"))
                try:
                    np.broadcast_to(value, sizes)
                except ValueError:
                    self.fail(f"has a {name} of shape {value.shape} for axes of size {sizes}")

    def unbuild(self):
        super().unbuild()
        self._built_shape = None

    def _statistic(self, name):
        if not self.built:
            return getattr(self, f"input_{name}")
        value = getattr(self, f"input_{name}")
        value = getattr(self, f"adapt_{name}").value if value is None else value
        sizes = [self._spread[axis] for axis in self._kept]
        return np.broadcast_to(np.asarray(value, self.dtype), sizes).reshape(self._spread)

    @property
    def mean(self):
        """The mean in a shape that broadcasts against the input; None before it is known."""
        return self._statistic("mean")

    @property
    def variance(self):
        """The variance, likewise."""
        return self._statistic("variance")

    def get_config(self):
        given = {"mean": self.input_mean, "variance": self.input_variance}
        given = {k: v if v is None else np.asarray(v).tolist() for k, v in given.items()}
        return {**super().get_config(), **given}

    # -- measuring --------------------------------------------------------------------------------

    def adapt(self, data):
        """Measure mean and variance of an array, or of batches (x or (x, y)) that are iterated."""
        if self.input_mean is not None:
            self.fail("was given its mean and variance: leave them out to adapt it")
        total = None
        for batch in _batches(self, data):
            shape = (None, *batch.shape[1:])
            self.ensure_built(shape)
            total = _merged(total, _moments(batch, self._kept))
        if total is None or total[0] == 0:
            self.fail("cannot adapt to no data: the array or the batches are empty")
        _, mean, variance = total
        for name, value in (("mean", mean), ("variance", variance)):
            if not np.isfinite(value).all():
                self.fail(f"cannot adapt: the {name} is not finite; look for NaN in the data")
        self.adapt_mean.assign(mean)
        self.adapt_variance.assign(variance)

    # -- the map ----------------------------------------------------------------------------------

    def _deviation(self):
        return np.maximum(np.sqrt(self.variance), SMALLEST_DEVIATION)

    def forward(self, x, context):
        mean, deviation = self.mean, self._deviation()
        if context.training and not context.frozen_state and not self._warned:
            self._warned = True
            unknown = self.input_mean is None and not mean.any() and (deviation == 1).all()
            if unknown:
                warn(
                    f"Normalization '{self.name}' has mean 0 and variance 1 and changes nothing: "
                    "call its adapt(data) before training"
                )
        if self.invert:
            return mean + x * deviation, None
        if self._kept == (x.ndim - 1,):
            mean, deviation = mean.reshape(-1), deviation.reshape(-1)
            return ops.batch_norm_inference(x, None, None, mean, deviation**2, 0.0), None
        return (x - mean) / deviation, None

    def backward(self, dy, saved, needs_dx):
        if needs_dx:
            return dy * self._deviation() if self.invert else dy / self._deviation()


def _batches(layer, data):
    """Arrays with samples along axis 0, of an array or of anything that yields batches."""
    if isinstance(data, np.ndarray):
        if data.ndim == 0:
            layer.fail("adapts to arrays of samples, not to one number")
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]
        return
    # A Sequence may go on for ever when it is iterated: its length says when a pass is over.
    counted = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if not counted and not hasattr(data, "__iter__"):
        layer.fail(f"adapts to an array or to batches, not to {type(data).__name__}")
    for batch in (data[i] for i in range(len(data))) if counted else data:
        batch = batch[0] if isinstance(batch, tuple) else batch
        if not hasattr(batch, "shape") or len(batch.shape) == 0:
            layer.fail(
                f"adapts to batches that are arrays, and got {type(batch).__name__}: give "
                "np.array(data)"
            )
        yield np.asarray(batch)


def _moments(batch, kept):
    """(how many numbers, their mean, their variance) per index of the kept axes, in float64."""
    axes = tuple(axis for axis in range(batch.ndim) if axis not in kept)
    count = math.prod(batch.shape[axis] for axis in axes)
    if count == 0:
        return None
    batch = np.asarray(batch, np.float64)
    return count, batch.mean(axis=axes), batch.var(axis=axes)


def _merged(a, b):
    """Moments of two sets together (Chan, Golub, LeVeque 1979)."""
    if a is None or b is None:
        return b if a is None else a
    count = a[0] + b[0]
    share, apart = b[0] / count, b[1] - a[1]
    mean = a[1] + share * apart
    return count, mean, (1 - share) * a[2] + share * b[2] + share * (1 - share) * apart**2
