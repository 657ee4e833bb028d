"""Layer: a pair of hand-written methods, forward and backward, and the parameters between them."""

import threading

import numpy as np

from minicnn import config, ops, randomness, regularizers
from minicnn.activations import GradientOfSum
from minicnn.configurable import (
    Configurable,
    Table,
    closest,
    constructor_arguments,
    serialize,
    snake_case,
)
from minicnn.context import Context
from minicnn.graph import Node, is_symbolic
from minicnn.parameter import Parameter, allocate

table = Table("layers", "layer")

_counters = {}
_counter_lock = threading.Lock()


def unique_name(prefix):
    """prefix, prefix_1, prefix_2 ... as in Keras."""
    with _counter_lock:
        count = _counters[prefix] = _counters.get(prefix, -1) + 1
    return prefix if count == 0 else f"{prefix}_{count}"


def reset_names():
    """Start counting layer names anew (`clear_session`)."""
    _counters.clear()


class Layer(Configurable):
    """y, saved = forward(x, context); dx = backward(dy, saved, needs_dx).

    `saved` is all that backward needs and nothing else; backward adds the gradients of the layer's
    parameters into them and returns the gradient of x (None where needs_dx is False). Layers with
    several inputs get and return lists. `build(input_shape)` makes the parameters. Shapes are
    NHWC; entry 0 is the batch and may be None.
    """

    rank = None  # number of axes of the input, where the layer insists on one
    accepts_integers = False  # reads uint8 pixels itself
    activation_for_above = None  # fused; its derivative may be left to the layer above
    whole_activation = None  # the activation of a layer that does nothing else
    # What a layer does per channel in prediction, if only that: two arrays (c,) of float64, and
    # whether every scale is positive.
    scale_and_offset = None
    pair_maxima = None  # the padding of a layer that takes the maxima of 2x2 windows and no more
    derives_below = False  # backward can apply `context.below` and return a GradientOfSum
    trainable_version = 0  # counts changes of any `trainable`: plans made before are stale
    changes = 0  # counts assignments to public attributes of any layer
    repeats = False  # see `can_be_recorded`

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: str | None = None,
        activity_regularizer=None,
        input_shape: tuple | None = None,
        batch_input_shape: tuple | None = None,
        input_dim: int | None = None,
        weights: list | None = None,
        **unknown,
    ):
        if unknown:
            wrong, known = next(iter(unknown)), constructor_arguments(type(self))
            known = [name for name in known if name != wrong]  # Sequential has none of Model's own
            raise TypeError(
                f"{type(self).__name__} takes no argument {wrong!r}.{closest(wrong, known)}"
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"{type(self).__name__}: name is a string, not {name!r}")
        self.name = unique_name(snake_case(type(self).__name__)) if name is None else name
        self.dtype = np.dtype(dtype or config.floatx).name
        if self.dtype not in ("float32", "float64"):
            self.fail(f"dtype is 'float32' or 'float64', not {dtype!r}")
        if input_dim is not None and input_shape is None:
            input_shape = (input_dim,)
        if batch_input_shape is None and input_shape is not None:
            batch_input_shape = (None, *self.as_shape("input_shape", input_shape))
        if batch_input_shape is not None:
            batch_input_shape = self.as_shape("batch_input_shape", batch_input_shape)
        self.batch_input_shape = batch_input_shape
        if weights is not None and not isinstance(weights, list | tuple):
            self.fail(
                f"takes a list of arrays as weights, not {weights!r}; minicnn has no trained "
                "weights, load_weights(path) reads yours"
            )
        self.input_dim, self.weights_argument = input_dim, weights
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self.built = False
        self.own_parameters, self.sublayers, self.nodes = [], [], []
        self._trainable = bool(trainable)

    def __setattr__(self, name, value):
        """Layers assigned to an attribute are parts of this one: their weights count as its own."""
        if isinstance(value, Layer) and "sublayers" in self.__dict__:
            self.sublayers.append(value)
        super().__setattr__(name, value)
        if not name.startswith("_"):
            Layer.changes += 1

    # -- what a layer defines ---------------------------------------------------------------------

    def build(self, input_shape):
        """Make the parameters for inputs of this shape; called once."""

    def compute_output_shape(self, input_shape):
        """Shape of y for an input of this shape."""
        return input_shape

    def forward(self, x, context):
        raise TypeError(f"{type(self).__name__} defines no forward(x, context) -> y, saved")

    def backward(self, dy, saved, needs_dx):
        raise TypeError(f"{type(self).__name__} defines no backward(dy, saved, needs_dx) -> dx")

    def takes_over(self, following, context, x):
        """How many of the layers `following` this one does in a pass of its own, for the input x.

        Each of them is the only reader of the output before it. Those that it takes over are
        `context.taken` in forward, which returns the output of the last of them; backward gets the
        gradient of that.
        """
        return 0

    @property
    def final_activation(self):
        """The activation that this layer ends with and leaves out when `context.logits` is set."""
        return None

    # -- parameters -------------------------------------------------------------------------------

    def add_weight(
        self, name, shape, initializer, trainable=True, regularizer=None, constraint=None
    ):
        """Make a Parameter of this layer; one that is not trainable counts as state."""
        value = self._first_value(name, shape, initializer)
        parameter = Parameter(
            value,
            f"{self.name}/{name}",
            trainable and self._trainable,
            regularizer,
            constraint,
            state=not trainable,
        )
        self.own_parameters.append(parameter)
        return parameter

    def add_kernel_and_bias(self, shape):
        """Make self.kernel of this shape and self.bias (one number per output, or None).

        For layers with the arguments use_bias and kernel_..., bias_... initializer and so on.
        """
        self.kernel = self.add_weight(
            "kernel",
            shape,
            self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                "bias",
                shape[-1:],
                self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def backward_to_sum(self, dy, activation, after):
        """Gradient of the sum that bias and activation were applied to; adds up the bias's own.

        `after` is what the activation saved; activation None means none. The layer above may have
        done all that already (`GradientOfSum`).
        """
        learns_bias = self.bias is not None and self.bias.trainable
        if isinstance(dy, GradientOfSum):
            dy, dbias = dy
            if learns_bias:
                self.bias.accumulate(dbias)
            return dy
        in_one_pass = getattr(activation, "backward_with_bias", None)
        if learns_bias and in_one_pass:
            dy, dbias = in_one_pass(dy, after)
            self.bias.accumulate(dbias)
            return dy
        if activation:
            dy = activation.backward(dy, after, True)
        if learns_bias:
            self.bias.accumulate(ops.bias_grad(dy))
        return dy

    def add_state(self, name, shape, initializer):
        """Make an array that training writes but no gradient moves (moving statistics)."""
        return self.add_weight(name, shape, initializer, trainable=False)

    def _first_value(self, name, shape, initializer):
        shape, allocated = tuple(shape), allocate.get()
        if allocated is not None:
            return allocated(f"{self.name}/{name}", shape, self.dtype)
        return np.asarray(initializer(shape, dtype=self.dtype), self.dtype)

    @property
    def weights(self):
        """All Parameters in Keras's order: own trainable, own state, then those of the parts."""
        own = sorted(self.own_parameters, key=lambda parameter: parameter.state)
        below = [p for layer in self.sublayers for p in layer.weights]
        return list(dict.fromkeys([*own, *below]))

    @property
    def trainable_weights(self):
        return [p for p in self.weights if p.trainable]

    @property
    def non_trainable_weights(self):
        return [p for p in self.weights if not p.trainable]

    variables = weights
    trainable_variables, non_trainable_variables = trainable_weights, non_trainable_weights

    @property
    def trainable(self):
        return self._trainable

    @trainable.setter
    def trainable(self, value):
        self._trainable = bool(value)
        Layer.trainable_version += 1
        for parameter in self.own_parameters:
            parameter.trainable = self._trainable and not parameter.state
        for layer in self.sublayers:
            layer.trainable = value

    def get_weights(self):
        """Copies of all weights, in the order of `weights`."""
        return [parameter.numpy() for parameter in self.weights]

    def set_weights(self, weights):
        """Overwrite all weights; nothing is changed if one shape disagrees."""
        own, weights = self.weights, [np.asarray(w) for w in weights]
        if len(own) != len(weights):
            self.fail(
                f"has {len(own)} weights, {len(weights)} were given"
                + ("" if self.built else "; it is not built yet: give it an input shape first")
            )
        for parameter, value in zip(own, weights, strict=True):
            if parameter.shape != value.shape:
                self.fail(f"{parameter.name} has shape {parameter.shape}, not {value.shape}")
        for parameter, value in zip(own, weights, strict=True):
            parameter.assign(value)

    def count_params(self):
        """Number of numbers in all weights."""
        if not self.built:
            self.fail("is not built: its weights depend on the input shape; give one")
        return sum(parameter.size for parameter in self.weights)

    # -- being called -----------------------------------------------------------------------------

    def __call__(self, inputs, training=None):
        """On symbolic tensors: add a node to the graph. On arrays: compute, in inference mode."""
        if is_symbolic(inputs):
            return self._call_symbolic(inputs, training)
        return self._call_eager(inputs, bool(training))

    def _call_symbolic(self, inputs, training):
        many = isinstance(inputs, list | tuple)
        tensors = list(inputs) if many else [inputs]
        for tensor in tensors:
            if not is_symbolic(tensor):
                self.fail("was called with symbolic tensors and arrays mixed; give one kind")
        shape = [tensor.shape for tensor in tensors] if many else inputs.shape
        self.ensure_built(shape)
        output_shape = self.compute_output_shape(shape)
        node = Node(self, tensors, [output_shape], many, training)
        self.nodes.append(node)
        return node.outputs[0]

    def _call_eager(self, inputs, training):
        many = isinstance(inputs, list | tuple) and self.takes_lists
        arrays = [self.cast(value) for value in inputs] if many else self.cast(inputs)
        self.ensure_built([array.shape for array in arrays] if many else arrays.shape)
        context = Context(training=training, seed=randomness.next_seed() if training else 0)
        y, _ = self.forward(arrays, context)
        return [np.array(one) for one in y] if isinstance(y, list) else np.array(y)

    takes_lists = False  # merging layers and models: a list of arrays is several inputs
    leaves_normalized = False  # forward may return a Normalized (layers/normalization.py),
    adds_normalized = False  # which this layer takes as one of two inputs
    adds_gradients = False  # backward takes a list: the gradients of all that read the output

    def cast(self, x):
        """x as this layer's type (pixels stay integers where the layer reads them itself)."""
        x = np.asarray(x)
        if x.dtype == self.dtype or (self.accepts_integers and x.dtype == np.uint8):
            return x
        if x.dtype.kind not in "fiub":
            self.fail(f"works on numbers, not on an array of type {x.dtype}")
        return x.astype(self.dtype)

    def ensure_built(self, input_shape):
        """Check the input's rank, build once, and apply the `weights` argument."""
        self.check_input_shape(input_shape)
        if not self.built:
            if not self.own_parameters:  # else build was called by hand, and weights may be set
                self.build(input_shape)
            self.built = True
            if self.weights_argument is not None:
                self.set_weights(self.weights_argument)
                self.weights_argument = None

    def unbuild(self):
        """Forget own weights and places: the layer was built for a shape that proved wrong."""
        self.built, self.own_parameters, self.nodes = False, [], []

    def parts(self):
        """This layer, its sublayers, their sublayers ..."""
        yield self
        for layer in self.sublayers:
            yield from layer.parts()

    def check_input_shape(self, shape):
        """One clear error for an input of the wrong rank."""
        if self.rank is None or len(shape) == self.rank:
            return
        wanted = {2: "(n, features)", 4: "(n, height, width, channels)"}[self.rank]
        fix = ""
        if self.rank == 4 and len(shape) == 3:
            fix = "; add the channel axis with x[..., None]"
        elif self.rank == 4:
            fix = "; put the layer before Flatten, or use Reshape"
        self.fail(f"expects {self.rank} axes {wanted}, got shape {tuple(shape)}{fix}")

    # -- places in graphs -------------------------------------------------------------------------

    def _only_node(self, what):
        if not self.nodes:
            raise AttributeError(
                f"{type(self).__name__} {self.name!r} has no {what} yet: it was never called on a "
                "tensor; give its model an input shape"
            )
        return self.nodes[0]

    @property
    def input(self):
        """Symbolic input of the layer's first use (a list if there are several)."""
        node = self._only_node("input")
        return node.inputs if node.many else node.inputs[0]

    @property
    def output(self):
        """Symbolic output of the layer's first use (a list if there are several)."""
        outputs = self._only_node("output").outputs
        return outputs if len(outputs) > 1 else outputs[0]

    @property
    def input_shape(self):
        """Shape of `input`, batch first (None); a list if there are several."""
        return _shapes(self.input)

    @property
    def output_shape(self):
        """Shape of `output`, batch first (None); a list or dict if there are several."""
        return _shapes(self.output)

    # -- config and messages ----------------------------------------------------------------------

    def get_config(self):
        """The constructor's arguments, without those on where it stands (input_shape, ...)."""
        places = {"input_shape", "batch_input_shape", "input_dim", "weights"}
        names = [n for n in constructor_arguments(type(self)) if n not in places]
        if self.activity_regularizer is None:
            names.remove("activity_regularizer")
        config_ = {name: serialize(getattr(self, name)) for name in names}
        return {**{n: config_.pop(n) for n in ("name", "trainable", "dtype")}, **config_}

    def __repr__(self):
        return f"<{type(self).__name__} name={self.name} built={self.built}>"

    def as_shape(self, what, shape):
        """A shape argument as a tuple of positive integers and None."""
        sizes = (shape,) if isinstance(shape, int | np.integer) else shape
        if not isinstance(sizes, tuple | list) or any(
            size is not None and (not isinstance(size, int | np.integer) or size < 1)
            for size in sizes
        ):
            self.fail(f"takes positive integers or None as {what}, not {shape!r}")
        return tuple(None if size is None else int(size) for size in sizes)

    def fail(self, message):
        """ValueError that names this layer."""
        raise ValueError(f"{type(self).__name__} '{self.name}' {message}")


def computes_as(layer, family):
    """Whether `layer` has the forward and backward of the class `family`, not its own."""
    kind, own = type(layer), vars(layer)
    inherited = kind.forward is family.forward and kind.backward is family.backward
    return inherited and "forward" not in own and "backward" not in own


def can_be_recorded(layer):
    """Whether all that `layer` does to numbers is launches and `recording.noted`, the same ones as
    long as its settings, the shapes and the context are.

    The class that computes says so by `repeats = True`; a forward or backward of a class below it
    would have to say so itself.
    """
    family = next(one for one in type(layer).__mro__ if "repeats" in vars(one))
    return layer.repeats and computes_as(layer, family) and layer.activity_regularizer is None


def activation_for_above(layer, family):
    """The fused activation of a layer of `family` whose derivative the layer above may apply.

    None where a subclass has a backward of its own, which would not know a GradientOfSum.
    """
    if not computes_as(layer, family) or layer.activity_regularizer is not None:
        return None
    return getattr(layer.activation, "fused", None)


def rectifier_of(layer):
    """The activation of a layer that is a rectifier and nothing else, as the operations take it;
    None for other layers."""
    fused = getattr(layer.whole_activation, "fused", None)
    return fused if fused and fused[0] in ops.shapes.RECTIFIERS else None


def _shapes(tensors):
    if isinstance(tensors, dict):
        return {name: tensor.shape for name, tensor in tensors.items()}
    return [tensor.shape for tensor in tensors] if isinstance(tensors, list) else tensors.shape
