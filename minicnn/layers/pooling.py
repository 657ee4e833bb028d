"""Pooling: a window slides over the image and keeps its maximum or its mean, per channel."""

from minicnn import ops
from minicnn.activations import GradientOfSum
from minicnn.layers import arguments
from minicnn.layers.base import Layer, computes_as, table
from minicnn.ops import shapes


class _WindowPooling(Layer):
    """Base: pool_size, strides (default: pool_size), padding."""

    rank = 4

    def __init__(
        self,
        pool_size: int | tuple[int, int] = (2, 2),
        strides: int | tuple[int, int] | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **base,
    ):
        super().__init__(name=name, **base)
        self.pool_size = arguments.int_pair(self, "pool_size", pool_size)
        self.strides = self.pool_size
        if strides is not None:
            self.strides = arguments.int_pair(self, "strides", strides)
        self.padding = arguments.window_padding(self, padding)
        self.data_format = arguments.data_format(self, data_format)

    def compute_output_shape(self, input_shape):
        size = shapes.window_output_size(
            input_shape[1:3], self.pool_size, self.strides, self.padding
        )
        if any(s is not None and s < 1 for s in size):
            self.fail(
                f"has a window of {self.pool_size}, larger than its input of "
                f"{tuple(input_shape[1:3])} pixels: use padding='same' or less pooling before it"
            )
        return (input_shape[0], *size, input_shape[3])

    @property
    def _geometry(self):
        return self.pool_size, self.strides, self.padding


@table.register("MaxPool2D", "MaxPool")
class MaxPooling2D(_WindowPooling):
    """Largest value of each window; its gradient goes to the first position that holds it."""

    derives_below = repeats = True

    @property
    def pair_maxima(self):
        pairs = self.pool_size == self.strides == (2, 2)
        return self.padding if pairs and computes_as(self, MaxPooling2D) else None

    def forward(self, x, context):
        y, index = ops.max_pool2d(x, *self._geometry)
        return y, (index, x.shape, context.below, y if context.below else None)

    def backward(self, dy, saved, needs_dx):
        index, input_shape, below, y = saved
        if not needs_dx:
            return None
        if not below:
            return ops.max_pool2d_grad(dy, index, input_shape, *self._geometry)
        gradients = ops.max_pool2d_activation_grad(
            dy, index, y, below, input_shape, *self._geometry
        )
        return GradientOfSum(*gradients)


@table.register("AvgPool2D", "AvgPool")
class AveragePooling2D(_WindowPooling):
    """Mean of each window; cells of the padding are not counted."""

    repeats = True

    def forward(self, x, context):
        return ops.average_pool2d(x, *self._geometry), x.shape

    def backward(self, dy, saved, needs_dx):
        if needs_dx:
            return ops.average_pool2d_grad(dy, saved, *self._geometry)


class _GlobalPooling(Layer):
    """(n, h, w, c) -> (n, c), or (n, 1, 1, c) with keepdims."""

    rank = 4

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **base):
        super().__init__(**base)
        self.data_format = arguments.data_format(self, data_format)
        self.keepdims = bool(keepdims)

    def compute_output_shape(self, input_shape):
        n, _, _, c = input_shape
        return (n, 1, 1, c) if self.keepdims else (n, c)

    def _shaped(self, y):
        return y[:, None, None, :] if self.keepdims else y


@table.register("GlobalAvgPool2D")
class GlobalAveragePooling2D(_GlobalPooling):
    """Mean over all pixels (Lin et al. 2013, section 3.2)."""

    repeats = True

    def forward(self, x, context):
        return self._shaped(ops.global_average_pool2d(x)), x.shape

    def backward(self, dy, saved, needs_dx):
        if needs_dx:
            return ops.global_average_pool2d_grad(dy.reshape(saved[0], saved[3]), saved)


@table.register("GlobalMaxPool2D")
class GlobalMaxPooling2D(_GlobalPooling):
    """Maximum over all pixels; its gradient goes to the first pixel that holds it."""

    repeats = True

    def forward(self, x, context):
        y, index = ops.global_max_pool2d(x)
        return self._shaped(y), (index, x.shape)

    def backward(self, dy, saved, needs_dx):
        index, shape = saved
        if needs_dx:
            return ops.global_max_pool2d_grad(dy.reshape(shape[0], shape[3]), index, shape)


MaxPool2D = MaxPool = MaxPooling2D
AvgPool2D = AvgPool = AveragePooling2D
GlobalAvgPool2D = GlobalAveragePooling2D
GlobalMaxPool2D = GlobalMaxPooling2D
