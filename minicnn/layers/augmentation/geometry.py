"""Pictures flipped, cropped, and moved by affine maps, each by its own draw."""

import numpy as np

from minicnn import ops
from minicnn.layers import arguments
from minicnn.layers.augmentation.base import RandomLayer, between, factor_range, to_both_sides
from minicnn.layers.base import table
from minicnn.layers.preprocessing import resize_window, resize_window_grad
from minicnn.randomness import uniforms


@table.register()
class RandomFlip(RandomLayer):
    """Mirror pictures, half of them per direction.

    mode: "horizontal" (left and right change places), "vertical", "horizontal_and_vertical". In the
    last, the two directions are drawn apart (Keras 3 turns by 180 degrees or not at all).
    """

    def __init__(
        self,
        mode: str = "horizontal_and_vertical",
        seed: int | None = None,
        data_format: str | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        if mode not in ("horizontal", "vertical", "horizontal_and_vertical"):
            self.fail(f"flips 'horizontal', 'vertical' or 'horizontal_and_vertical', not {mode!r}")
        self.mode = mode

    def draw(self, shape, key, first_sample):
        """flips (n, 2): vertically, horizontally."""
        return {"flips": uniforms(key, first_sample, shape[0], 2) <= 0.5}

    def _places(self, shape, transformation):
        n, h, w, _ = shape
        flips = np.asarray(transformation["flips"]).reshape(n, -1)  # one column: both directions
        flips = flips & np.array(["vertical" in self.mode, "horizontal" in self.mode])
        rows, columns = np.arange(h), np.arange(w)
        rows = np.where(flips[:, :1], rows[::-1], rows)
        return rows, np.where(flips[:, 1:], columns[::-1], columns)

    def transform(self, x, transformation):
        return ops.gather_pixels(x, *self._places(x.shape, transformation))

    def transform_grad(self, dy, x, transformation):
        return ops.gather_pixels(dy, *self._places(dy.shape, transformation))  # its own inverse


class _Affine(RandomLayer):
    """y[i, j] = x at M (i, j, 1), with a matrix M (2, 3) per picture."""

    # Keras's fill modes in the words of scipy.ndimage.
    FILL_MODES = {
        "reflect": "reflect",
        "wrap": "grid-wrap",
        "constant": "grid-constant",
        "nearest": "nearest",
    }

    def _set(self, fill_mode, fill_value, interpolation):
        if fill_mode not in self.FILL_MODES:
            self.fail(f"fills in mode {', '.join(map(repr, self.FILL_MODES))}, not {fill_mode!r}")
        if interpolation not in ("nearest", "bilinear"):
            self.fail(f"interpolates 'nearest' or 'bilinear', not {interpolation!r}")
        self.fill_mode, self.interpolation = fill_mode, interpolation
        self.fill_value = arguments.number(
            self, "fill_value", fill_value, "that is finite", np.isfinite
        )

    def _bounds(self, **factors):
        """[(smaller, larger)] of factors by name; one number stands for both sides."""
        items = factors.items()
        return [factor_range(self, name, value, -1, 1, to_both_sides) for name, value in items]

    def matrices(self, shape, transformation):
        """(n, 2, 3): from (row, column, 1) of the output to (row, column) of the input."""
        raise NotImplementedError(f"{type(self).__name__} defines no matrices")

    def transform(self, x, transformation):
        matrices = self.matrices(x.shape, transformation)
        mode = self.FILL_MODES[self.fill_mode]
        return ops.affine_transform(x, matrices, mode, self.fill_value, self.interpolation)

    def transform_grad(self, dy, x, transformation):
        matrices = self.matrices(dy.shape, transformation)
        mode = self.FILL_MODES[self.fill_mode]
        return ops.affine_transform_grad(dy, matrices, mode, self.interpolation)


def about_centre(shape, linear):
    """Matrices of linear maps (n, 2, 2) of (row, column) that leave the pictures' centre in place.

    r' = L (r - o) + o with o = ((h - 1) / 2, (w - 1) / 2).
    """
    centre = (np.array(shape[1:3]) - 1) / 2
    return np.concatenate([linear, (centre - linear @ centre)[:, :, None]], axis=2)


@table.register()
class RandomRotation(_Affine):
    """Turn about the centre by up to `factor` of a full turn, to both sides (or between two)."""

    def __init__(
        self,
        factor,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        (self.factor,) = self._bounds(factor=factor)
        self._set(fill_mode, fill_value, interpolation)

    def draw(self, shape, key, first_sample):
        """angle (n,) in degrees; positive: counter-clockwise."""
        turns = between(uniforms(key, first_sample, shape[0], 1)[:, 0], self.factor)
        return {"angle": 360 * turns}

    def matrices(self, shape, transformation):
        angle = np.deg2rad(np.asarray(transformation["angle"], np.float64))
        cos, sin = np.cos(angle), np.sin(angle)
        return about_centre(shape, np.array([[cos, sin], [-sin, cos]]).transpose(2, 0, 1))


@table.register()
class RandomTranslation(_Affine):
    """Shift by up to height_factor, width_factor of the picture; positive: down, right."""

    def __init__(
        self,
        height_factor,
        width_factor,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        self.height_factor, self.width_factor = height_factor, width_factor
        self._ranges = self._bounds(height_factor=height_factor, width_factor=width_factor)
        self._set(fill_mode, fill_value, interpolation)

    def draw(self, shape, key, first_sample):
        """translations (n, 2) in pixels: to the right, down."""
        u = uniforms(key, first_sample, shape[0], 2)
        down, right = (between(u[:, i], self._ranges[i]) * shape[1 + i] for i in (0, 1))
        return {"translations": np.stack([right, down], axis=1)}

    def matrices(self, shape, transformation):
        right_down = np.asarray(transformation["translations"], np.float64)
        matrices = np.zeros((shape[0], 2, 3))
        matrices[:, [0, 1], [0, 1]] = 1
        matrices[:, :, 2] = -right_down[:, ::-1]
        return matrices


@table.register()
class RandomZoom(_Affine):
    """Zoom about the centre by 1 + height_factor, 1 + width_factor; above 1: everything smaller.

    Without width_factor the picture keeps its proportions.
    """

    def __init__(
        self,
        height_factor,
        width_factor=None,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        self.height_factor, self.width_factor = height_factor, width_factor
        width = {} if width_factor is None else {"width_factor": width_factor}
        self._ranges = self._bounds(height_factor=height_factor, **width)
        if min(low for low, _ in self._ranges) <= -1:
            self.fail("zooms by factors above -1: at -1 all of the picture would be one pixel")
        self._set(fill_mode, fill_value, interpolation)

    def draw(self, shape, key, first_sample):
        """height_zoom, width_zoom (n, 1): size of what is seen over the picture's."""
        u = 1 + np.array(self._ranges)
        u = u[:, 0] + uniforms(key, first_sample, shape[0], 2)[:, : len(u)] * (u[:, 1] - u[:, 0])
        return {"height_zoom": u[:, :1], "width_zoom": u[:, -1:]}

    def matrices(self, shape, transformation):
        linear = np.zeros((shape[0], 2, 2))
        linear[:, 0, 0] = np.ravel(transformation["height_zoom"])
        linear[:, 1, 1] = np.ravel(transformation["width_zoom"])
        return about_centre(shape, linear)


@table.register()
class RandomShear(_Affine):
    """Shear along x and y by up to x_factor, y_factor, to both sides; the first pixel stays."""

    def __init__(
        self,
        x_factor=0.0,
        y_factor=0.0,
        interpolation: str = "bilinear",
        fill_mode: str = "reflect",
        fill_value: float = 0.0,
        data_format: str | None = None,
        seed: int | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        # The sign is drawn apart, so (-f, f), which Keras makes of f, and (0, f) are the same.
        self.x_factor, self.y_factor = (
            factor_range(self, name, self._positive(factor), 0, 1, lambda f: (0, f))
            for name, factor in (("x_factor", x_factor), ("y_factor", y_factor))
        )
        self._set(fill_mode, fill_value, interpolation)

    @staticmethod
    def _positive(factor):
        symmetric = isinstance(factor, tuple | list) and len(factor) == 2
        if symmetric and factor[0] == -factor[1]:
            return (0, factor[1])
        return factor

    def draw(self, shape, key, first_sample):
        """shear_factor (n, 2): column per row, row per column; one sign for both."""
        u = uniforms(key, first_sample, shape[0], 3)
        sign = np.where(u[:, 0] > 0.5, -1.0, 1.0)
        along = between(u[:, 1], self.x_factor), between(u[:, 2], self.y_factor)
        return {"shear_factor": np.stack(along, axis=1) * sign[:, None]}

    def matrices(self, shape, transformation):
        factors = np.asarray(transformation["shear_factor"], np.float64)
        matrices = np.zeros((shape[0], 2, 3))
        matrices[:, [0, 1], [0, 1]] = 1
        matrices[:, 0, 1], matrices[:, 1, 0] = factors[:, 1], factors[:, 0]
        return matrices


@table.register()
class RandomCrop(RandomLayer):
    """A window (height, width) out of every picture, drawn apart for each of them.

    Otherwise, and for pictures smaller than the window, as CenterCrop of such: the largest window
    of these proportions in the middle, resized. (Keras 3 draws one place for the whole batch.)
    """

    def __init__(
        self,
        height: int,
        width: int,
        seed: int | None = None,
        data_format: str | None = None,
        name: str | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, name=name, **base)
        self.height = arguments.positive_int(self, "height", height)
        self.width = arguments.positive_int(self, "width", width)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.height, self.width, input_shape[3])

    def draw(self, shape, key, first_sample):
        """starts (n, 2): first row and column; None where the picture is too small."""
        room = np.array([shape[1] - self.height, shape[2] - self.width])
        if min(room) < 0:
            return {"starts": None}
        u = uniforms(key, first_sample, shape[0], 2)
        return {"starts": (u * (room + 1)).astype(np.int64)}

    def _places(self, n, starts):
        starts = np.broadcast_to(np.asarray(starts), (n, 2))
        rows, columns = np.arange(self.height), np.arange(self.width)
        return starts[:, :1] + rows, starts[:, 1:] + columns

    def transform(self, x, transformation):
        if transformation["starts"] is None:
            return resize_window(x, (self.height, self.width))
        return ops.gather_pixels(x, *self._places(len(x), transformation["starts"]))

    def transform_grad(self, dy, x, transformation):
        if transformation["starts"] is None:
            return resize_window_grad(dy, x)
        return ops.gather_pixels_grad(dy, *self._places(len(dy), transformation["starts"]), x)

    def forward(self, x, context):
        if context.training:
            return super().forward(x, context)
        whole = {"starts": None}
        return self.transform(x, whole), (x.shape, whole)

    def apply(self, x, transformation, training):
        return self.transform(x, transformation if training else {"starts": None})
