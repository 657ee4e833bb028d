"""Conv2D: y[n, i, j, f] = activation(b[f] + sum_abc x[n, i s + a d, j s + b d, c] k[a, b, c, f])"""

import itertools

from minicnn import activations, constraints, initializers, ops, regularizers
from minicnn.activations import GradientOfSum
from minicnn.layers import arguments
from minicnn.layers.base import Layer, activation_for_above, computes_as, table
from minicnn.ops import recording, shapes


@table.register("Convolution2D")
class Conv2D(Layer):
    """2-D convolution of (n, h, w, c) images with a (kh, kw, c / groups, filters) kernel.

    strides s and dilation_rate d per axis; "same" pads with zeros so that ceil(size / s) positions
    remain (the odd pixel at the end). Arguments and defaults as in Keras.
    """

    rank = 4

    @property
    def repeats(self):
        return activations.can_be_recorded(self.activation)

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
        groups: int = 1,
        activation=None,
        use_bias: bool = True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **base,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **base)
        self.filters = arguments.positive_int(self, "filters", filters)
        self.kernel_size = arguments.int_pair(self, "kernel_size", kernel_size)
        self.strides = arguments.int_pair(self, "strides", strides)
        self.padding = arguments.window_padding(self, padding)
        self.data_format = arguments.data_format(self, data_format)
        self.dilation_rate = arguments.int_pair(self, "dilation_rate", dilation_rate)
        self.groups = arguments.positive_int(self, "groups", groups)
        if self.filters % self.groups:
            self.fail(f"needs filters divisible by groups, not {filters} filters, {groups} groups")
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            self.fail(
                f"takes strides or dilation_rate above 1, not both: {self.strides} and "
                f"{self.dilation_rate}"
            )
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)

    def build(self, input_shape):
        (channels,) = arguments.known_axes(self, input_shape, [3])
        if channels % self.groups:
            self.fail(
                f"got {channels} input channels, which do not divide into {self.groups} groups: "
                "groups divides both the channels and the filters"
            )
        self.add_kernel_and_bias((*self.kernel_size, channels // self.groups, self.filters))

    def compute_output_shape(self, input_shape):
        size = shapes.window_output_size(
            input_shape[1:3], self.kernel_size, self.strides, self.padding, self.dilation_rate
        )
        if any(s is not None and s < 1 for s in size):
            self.fail(
                f"has a kernel of {self.kernel_size} with dilation {self.dilation_rate}, larger "
                f"than its input of {tuple(input_shape[1:3])} pixels: use padding='same', a smaller"
                " kernel, or less pooling before it"
            )
        return (input_shape[0], *size, self.filters)

    def check_input_shape(self, shape):
        super().check_input_shape(shape)
        if self.built and shape[3] != self.kernel.shape[2] * self.groups:
            self.fail(
                f"was built for {self.kernel.shape[2] * self.groups} input channels, got shape "
                f"{tuple(shape)}; images are (n, height, width, channels)"
            )

    @property
    def final_activation(self):
        return self.activation

    @property
    def activation_for_above(self):
        return activation_for_above(self, Conv2D)

    @property
    def _geometry(self):
        return self.strides, self.padding, self.dilation_rate, self.groups

    def takes_over(self, following, context, x):
        if not computes_as(self, Conv2D):
            return 0
        predicting = not (context.training or context.keep)
        context.prepared = ending = _Ending(self)
        return len(list(itertools.takewhile(lambda one: ending.take(one, predicting), following)))

    def forward(self, x, context):
        ending = context.prepared or _Ending(self)
        kernel, (scale, bias, floor) = self.kernel.value, ending.parameters()
        activation = None if context.logits else ending.activation
        fused = getattr(activation, "fused", None)  # runs in the epilogue; its y is all we keep
        pooled = []  # what backward needs if the maxima of windows were taken
        if ending.pool and (context.training or context.keep):
            y, index = ops.conv2d_max_pool(x, kernel, bias, *self._geometry, fused, ending.pool)
            pooled = [index, ending.pool]
        else:
            given = x, kernel, bias, *self._geometry, fused, floor, ending.pool
            y = ops.conv2d(*given, scale=scale)
        after = y if fused else None
        if activation and not fused:
            y, after = activation.forward(y, context)
        return y, (x, after, activation, *pooled)

    def backward(self, dy, saved, needs_dx):
        x, after, activation, *pooled = saved
        if pooled and not needs_dx and self.kernel.trainable:
            return self._backward_of_first(x, dy, activation, after, *pooled)
        if pooled:
            index, pool = pooled
            windows = self.compute_output_shape(x.shape), *shapes.PAIRS, pool
            if after is None:
                dz = ops.max_pool2d_grad(dy, index, *windows), ops.bias_grad(dy)
            else:
                spec = activation.spec
                dz = ops.max_pool2d_activation_grad(dy, index, after, spec, *windows)
            dy = GradientOfSum(*dz)
        dy = self.backward_to_sum(dy, activation, after)
        if self.kernel.trainable:
            room = self.kernel.room(x.dtype)
            dkernel = ops.conv2d_kernel_grad(x, dy, self.kernel.shape, *self._geometry, out=room)
            self.kernel.accumulate(dkernel)
        if needs_dx:
            return ops.conv2d_input_grad(dy, self.kernel.value, x.shape, *self._geometry)

    def _backward_of_first(self, x, dy, activation, after, index, pool):
        """Where maxima were taken and nobody wants the gradient of x, nobody needs that of the sum
        either: it is four times as large as dy."""
        spec = None if after is None else activation.spec
        dkernel, dbias = ops.conv2d_max_pool_kernel_grad(
            x, dy, index, after, self.kernel.shape, *self._geometry, spec, pool,
            out=self.kernel.room(x.dtype),
        )  # fmt: skip
        self.kernel.accumulate(dkernel)
        if self.bias is not None and self.bias.trainable:
            self.bias.accumulate(dbias)


class _Ending:
    """What becomes of the sum z = k * x: activation(scale z + bias), or its maximum with a floor;
    then perhaps the maxima of 2x2 windows.

    A batch normalisation is a scale and an offset in prediction, so it is a part of k and b; above
    a rectifier, max(z, 0) scale + offset = max(z scale + offset, offset) if the scale is positive.
    """

    def __init__(self, layer):
        self.dtype, self.activation = layer.kernel.dtype, layer.activation
        self.scale, self.floor, self.pool = None, None, None
        self.bias = layer.bias.value if layer.use_bias else None

    def take(self, layer, predicting):
        """Take the layer above in, if that is possible."""
        if self.pool is not None:
            return False
        linear = self.floor is None and self.activation == activations.get(None)
        fused = getattr(self.activation, "fused", None)
        if layer.pair_maxima and (linear or fused or self.floor is not None):
            self.pool = layer.pair_maxima
            return True
        if linear and getattr(layer.whole_activation, "fused", None):
            self.activation = layer.whole_activation
            return True
        affine = layer.scale_and_offset if predicting else None
        if affine is None:
            return False
        scale, offset, all_positive = affine
        if self.bias is not None:
            recording.depends_on(self.bias)
        if not linear:
            if fused != ("relu",) or not all_positive:
                return False
            self.activation, self.floor = None, offset
        self.scale = scale if self.scale is None else self.scale * scale
        self.bias = offset if self.bias is None else self.bias * scale + offset
        return True

    def parameters(self):
        """Scale, bias and floor in the kernel's type; all may be None."""
        vectors = self.scale, self.bias, self.floor
        return [None if one is None else one.astype(self.dtype, copy=False) for one in vectors]


Convolution2D = Conv2D
