"""Layers that move numbers about, or rescale them, without weights."""

import numpy as np

from minicnn import ops
from minicnn.layers import arguments
from minicnn.layers.base import Layer, table


def _product(shape):
    return None if None in shape else int(np.prod(shape))


@table.register()
class Flatten(Layer):
    """(n, ...) -> (n, product): rows of features for a Dense layer."""

    repeats = True

    def __init__(self, data_format: str | None = None, **base):
        super().__init__(**base)
        self.data_format = arguments.data_format(self, data_format)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], _product(input_shape[1:]))

    def forward(self, x, context):
        return x.reshape(len(x), -1 if x.size else _product(x.shape[1:])), x.shape

    def backward(self, dy, saved, needs_dx):
        return dy.reshape(saved)


@table.register()
class Reshape(Layer):
    """(n, ...) -> (n, *target_shape); one entry may be -1 and follows from the rest."""

    repeats = True

    def __init__(self, target_shape: tuple, **base):
        super().__init__(**base)
        sizes = target_shape if isinstance(target_shape, list | tuple) else [target_shape]
        sizes = [arguments.integer(self, "each size of target_shape", size) for size in sizes]
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            self.fail(f"takes positive sizes and at most one -1, not {target_shape!r}")
        self.target_shape = tuple(sizes)

    def compute_output_shape(self, input_shape):
        total = _product(input_shape[1:])
        if total is None:
            target = (None if size == -1 else size for size in self.target_shape)
            return (input_shape[0], *target)
        known = int(np.prod([size for size in self.target_shape if size != -1]))
        if total % known or (-1 not in self.target_shape and total != known):
            self.fail(
                f"cannot make {self.target_shape} out of {tuple(input_shape[1:])}: "
                f"{total} numbers against {known}"
            )
        target = (total // known if size == -1 else size for size in self.target_shape)
        return (input_shape[0], *target)

    def forward(self, x, context):
        return x.reshape(len(x), *self.compute_output_shape(x.shape)[1:]), x.shape

    def backward(self, dy, saved, needs_dx):
        return dy.reshape(saved)


@table.register()
class ZeroPadding2D(Layer):
    """A border of zeros; padding: n, (rows, columns), or ((top, bottom), (left, right))."""

    rank, repeats = 4, True

    def __init__(self, padding=(1, 1), data_format: str | None = None, **base):
        super().__init__(**base)
        self.data_format = arguments.data_format(self, data_format)
        pads = (padding, padding) if isinstance(padding, int) else padding
        if not isinstance(pads, tuple | list) or len(pads) != 2:
            self.fail(
                f"takes n, (rows, columns) or ((top, bottom), (left, right)), not {padding!r}"
            )
        self.padding = tuple(arguments.int_pair(self, "padding", pad, smallest=0) for pad in pads)

    def compute_output_shape(self, input_shape):
        n, h, w, c = input_shape
        (top, bottom), (left, right) = self.padding
        return (
            n,
            None if h is None else h + top + bottom,
            None if w is None else w + left + right,
            c,
        )

    def forward(self, x, context):
        return ops.zero_pad2d(x, self.padding), None

    def backward(self, dy, saved, needs_dx):
        if needs_dx:
            return ops.zero_pad2d_grad(dy, self.padding)


@table.register()
class UpSampling2D(Layer):
    """Repeat ("nearest") or interpolate ("bilinear") pixels `size` times per axis."""

    rank, repeats = 4, True

    def __init__(
        self,
        size: int | tuple[int, int] = (2, 2),
        data_format: str | None = None,
        interpolation: str = "nearest",
        **base,
    ):
        super().__init__(**base)
        self.size = arguments.int_pair(self, "size", size)
        self.data_format = arguments.data_format(self, data_format)
        if interpolation not in ("nearest", "bilinear"):
            self.fail(f"interpolates 'nearest' or 'bilinear', not {interpolation!r}")
        self.interpolation = interpolation

    def compute_output_shape(self, input_shape):
        n, h, w, c = input_shape
        rows, columns = self.size
        return (n, None if h is None else h * rows, None if w is None else w * columns, c)

    def forward(self, x, context):
        return ops.upsample2d(x, self.size, self.interpolation), None

    def backward(self, dy, saved, needs_dx):
        if needs_dx:
            return ops.upsample2d_grad(dy, self.size, self.interpolation)


@table.register()
class Rescaling(Layer):
    """x * scale + offset: pixels 0..255 to 0..1 with Rescaling(1 / 255). Reads uint8 directly."""

    accepts_integers = repeats = True

    def __init__(self, scale, offset=0.0, **base):
        super().__init__(**base)
        self.scale, self.offset = scale, offset
        for name, value in (("scale", scale), ("offset", offset)):
            array = np.asarray(value)
            if array.dtype.kind not in "fiu" or array.ndim > 1:
                self.fail(f"takes a number or a list with one per channel as {name}, not {value!r}")

    def check_input_shape(self, shape):
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if shape[-1] is not None and np.size(value) not in (1, shape[-1]):
                self.fail(
                    f"has {np.size(value)} numbers as {name} for an input {tuple(shape)}: give one "
                    "number, or one per channel (the last axis)"
                )

    def forward(self, x, context):
        return ops.scale_shift(x, self.scale, self.offset, self.dtype), None

    def backward(self, dy, saved, needs_dx):
        if needs_dx:
            return ops.scale_shift(dy, self.scale, 0.0, dy.dtype)
