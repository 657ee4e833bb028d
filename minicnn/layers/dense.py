"""Dense: y = activation(x W + b), the matrix product of every row with one kernel."""

from minicnn import activations, constraints, initializers, ops, regularizers
from minicnn.layers import arguments
from minicnn.layers.base import Layer, activation_for_above, table


@table.register()
class Dense(Layer):
    """A fully connected layer: (..., k) -> (..., units) with a (k, units) kernel. As in Keras."""

    @property
    def repeats(self):
        return activations.can_be_recorded(self.activation)

    def __init__(
        self,
        units: int,
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
        self.units = arguments.positive_int(self, "units", units)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)

    def build(self, input_shape):
        (features,) = arguments.known_axes(self, input_shape, [-1])
        self.add_kernel_and_bias((features, self.units))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def check_input_shape(self, shape):
        if len(shape) < 2:
            self.fail(f"expects at least 2 axes (n, features), got shape {tuple(shape)}")
        if self.built and shape[-1] != self.kernel.shape[0]:
            self.fail(
                f"was built for {self.kernel.shape[0]} input features, got shape {tuple(shape)}; "
                "other inputs need a layer of their own"
            )

    @property
    def final_activation(self):
        return self.activation

    @property
    def activation_for_above(self):
        return activation_for_above(self, Dense)

    def forward(self, x, context):
        bias = self.bias.value if self.use_bias else None
        activation = None if context.logits else self.activation
        fused = getattr(activation, "fused", None)
        rows = x.reshape(-1, x.shape[-1])
        y = ops.dense(rows, self.kernel.value, bias, activation=fused)
        y = y.reshape(*x.shape[:-1], self.units)
        after = y if fused else None
        if activation and not fused:
            y, after = activation.forward(y, context)
        return y, (x, after, activation)

    def backward(self, dy, saved, needs_dx):
        x, after, activation = saved
        dy = self.backward_to_sum(dy, activation, after)
        rows, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, self.units)
        if self.kernel.trainable:
            room = self.kernel.room(rows.dtype)
            self.kernel.accumulate(ops.dense_kernel_grad(rows, dy, room))
        if needs_dx:
            return ops.dense_input_grad(dy, self.kernel.value).reshape(x.shape)
