"""Model: a graph of layers, walked forward and then backward."""

import math

import numpy as np

from minicnn import graph, ops, randomness
from minicnn.configurable import closest, serialize
from minicnn.context import Context
from minicnn.data.batches import flat
from minicnn.graph import Node, SymbolicTensor
from minicnn.layers.base import Layer, can_be_recorded, reset_names, table, unique_name
from minicnn.layers.input import InputLayer
from minicnn.models.plan import Graph
from minicnn.models.training import Trainer

_TAKEN_OVER = object()  # stands for what a layer saved whose work the one before it did


def _is_single(value):
    """Whether a model has one input (output), given bare or, as in many scripts, as a list."""
    return not isinstance(value, dict) and (not isinstance(value, list | tuple) or len(value) == 1)


def _tensors(value, what):
    """One symbolic tensor, or a list, tuple or dict of them, as a list."""
    if isinstance(value, dict):
        value = list(value.values())
    tensors = list(value) if isinstance(value, list | tuple) else [value]
    for tensor in tensors:
        if not isinstance(tensor, SymbolicTensor):
            array = isinstance(tensor, np.ndarray)
            given = f"an array of shape {tensor.shape}" if array else repr(tensor)
            raise TypeError(
                f"Model takes symbolic tensors as {what}, as Input(shape) and calling layers give, "
                f"not {given}"
            )
    return tensors


@table.register("Functional")
class Model(Trainer, Layer):
    """Layers between `inputs` and `outputs` (tensors, or lists of them). As keras.Model.

    A model is a layer: it can be called on tensors (again and again, sharing its weights) and on
    arrays, and stand inside other models.
    """

    takes_lists = True
    input_keys = output_keys = None  # names that a dict of inputs or outputs was given with
    notes = None  # a dict of plain values that is saved with the model, such as class names

    def __init__(self, inputs=None, outputs=None, name: str | None = None, **base):
        if name is None and type(self) is Model:
            name = unique_name("functional")  # as Keras counts them
        super().__init__(name=name, **base)
        if inputs is None or outputs is None:
            self.fail("needs inputs= and outputs=, or use Sequential([...])")
        self._single, self._single_output = _is_single(inputs), _is_single(outputs)
        self.input_keys = list(inputs) if isinstance(inputs, dict) else None
        self.output_keys = list(outputs) if isinstance(outputs, dict) else None
        self._set_graph(_tensors(inputs, "inputs"), _tensors(outputs, "outputs"))

    def _set_graph(self, inputs, outputs):
        self.graph = Graph(inputs, outputs)
        self.built = True
        self.dtype = self.graph.steps[0].layer.dtype if self.graph.steps else self.dtype
        names = [layer.name for layer in self.layers]
        for name in names:
            if names.count(name) > 1:
                self.fail(f"has two layers named {name!r}; give one another name=")
        if not self._trainable:
            self.trainable = False
        Layer.trainable_version += 1

    # -- the two walks ----------------------------------------------------------------------------

    def forward(self, x, context):
        """Outputs (one array, or a list) and what the nodes saved, in order."""
        plan = self._graph()
        values = [None] * plan.slot_count
        for slot, array in zip(plan.input_slots, x if isinstance(x, list) else [x], strict=True):
            values[slot] = array
        saved, taken_over = [], set()
        for number, step in enumerate(plan.steps):
            if number in taken_over:
                saved.append(_TAKEN_OVER)
                continue
            logits = step.leaves_out(context.logits)
            below = step.below.activation_for_above if step.below is not None else None
            joins = step.joins and context.watch is None
            inner = context.at(number, step.training, logits, below, joins)
            inputs = [values[slot] for slot in step.inputs] if step.many else values[step.inputs[0]]
            taken = plan.taken(step, inner, context.logits, inputs)
            taken_over.update(taken)
            inner.taken = tuple(plan.steps[i].layer for i in taken)
            slots = plan.steps[taken[-1]].outputs if taken else step.outputs
            y, kept = step.layer.forward(inputs, inner)
            if context.watch is not None:
                context.watch(step.layer, y)
            if context.keep:
                saved.append(kept)
                if step.layer.activity_regularizer is not None:
                    saved[-1] = (kept, y)
            if step.layer.activity_regularizer is not None and context.penalties is not None:
                context.penalties.append(step.layer.activity_regularizer.value(y) / len(y))
            if len(slots) == 1:
                values[slots[0]] = y
            else:
                for slot, one in zip(slots, y, strict=True):
                    values[slot] = one
            del inputs, y, kept
            for slot in step.finished:  # its memory is free for the next layer's output
                values[slot] = None
        outputs = [values[slot] for slot in plan.output_slots]
        return outputs[0] if self._single_output else outputs, saved

    def backward(self, dy, saved, needs_dx, watch=None):
        """Walk the nodes in reverse; each one's `saved` is dropped as soon as it was used.

        watch(layer, dx) is called after every layer.
        """
        plan = self._graph()
        gradients = [[] for _ in range(plan.slot_count)]  # of a value, one from each reader
        for slot, one in zip(plan.output_slots, [dy] if self._single_output else dy, strict=True):
            _collect(gradients[slot], one)
        for step, above in zip(reversed(plan.steps), reversed(plan.plan(needs_dx)), strict=True):
            kept = saved.pop()
            if kept is _TAKEN_OVER:  # they are for the layer that took this one over
                gradients[step.inputs[0]] = _taken(gradients, step.outputs[0])
                continue
            dy = [_taken(gradients, slot) for slot in step.outputs]
            in_its_pass = step.layer.adds_gradients and step.layer.activity_regularizer is None
            dy = [(one or None) if in_its_pass else _total(one) for one in dy]
            if step.layer.activity_regularizer is not None:
                kept, y = kept
                penalty = step.layer.activity_regularizer.grad(y) / len(y)
                dy = [penalty if dy[0] is None else dy[0] + penalty]
            if above is None or all(one is None for one in dy):
                continue
            dx = step.layer.backward(dy if len(dy) > 1 else dy[0], kept, above)
            if watch is not None:
                watch(step.layer, dx)
            del dy, kept
            if above:
                for slot, one in zip(step.inputs, dx if step.many else [dx], strict=True):
                    _collect(gradients[slot], one)
            del dx
        if needs_dx:
            dx = [_total(gradients[slot]) for slot in plan.input_slots]
            return dx[0] if self._single else dx

    @property
    def repeats(self):
        return all(can_be_recorded(step.layer) for step in self._graph().steps)

    def _graph(self):
        if self.graph is None:
            self.fail("is not built: give its first layer input_shape=, or call it on data first")
        return self.graph

    # -- as a layer -------------------------------------------------------------------------------

    def compute_output_shape(self, input_shape):
        plan = self._graph()
        shapes = [None] * plan.slot_count
        given = [input_shape] if self._single else input_shape
        for slot, shape in zip(plan.input_slots, given, strict=True):
            shapes[slot] = tuple(shape)
        for step in plan.steps:
            inputs = [shapes[slot] for slot in step.inputs]
            inputs = inputs if step.many else inputs[0]
            step.layer.check_input_shape(inputs)
            made = step.layer.compute_output_shape(inputs)
            for slot, shape in zip(
                step.outputs, made if isinstance(made, list) else [made], strict=True
            ):
                shapes[slot] = shape
        outputs = [shapes[slot] for slot in plan.output_slots]
        return outputs[0] if self._single_output else outputs

    def check_input_shape(self, shape):
        if self.graph is None:
            return
        shapes = [shape] if self._single else shape
        if len(shapes) != len(self.graph.inputs) or not all(
            isinstance(one, list | tuple) for one in shapes
        ):
            self.fail(f"takes {len(self.graph.inputs)} inputs, got shapes {shape}")
        for one, tensor in zip(shapes, self.graph.inputs, strict=True):
            expected = tensor.shape
            if len(one) == len(expected) and all(
                a is None or b is None or a == b for a, b in zip(one[1:], expected[1:], strict=True)
            ):
                continue
            self.fail(
                f"expects inputs of shape {expected} (the batch first) at {tensor.name!r}, got "
                f"{tuple(one)}{_shape_advice(one, expected)}"
            )
        if any(None in tensor.shape[1:] for tensor in self.graph.inputs):
            self.compute_output_shape(shape)  # sizes that were unknown when the graph was made

    def _call_symbolic(self, inputs, training):
        if isinstance(inputs, dict):
            inputs = self._in_order(inputs)
        many = isinstance(inputs, list | tuple)
        if many and self._single and len(inputs) == 1:
            inputs, many = inputs[0], False
        shape = [tensor.shape for tensor in inputs] if many else inputs.shape
        self.ensure_built(shape)
        made = self.compute_output_shape(shape)
        node = Node(
            self,
            list(inputs) if many else [inputs],
            [made] if self._single_output else made,
            not self._single,
            training,
        )
        self.nodes.append(node)
        return self._structured(node.outputs)

    def check_inputs(self, x):
        """Array or list of arrays in the order of `inputs`, shapes checked; builds if need be."""
        if isinstance(x, dict):
            x = self._in_order(x)
        if isinstance(x, list | tuple) and not self._single:
            x = [np.asarray(one) for one in x]
            self.ensure_built([one.shape for one in x])
            return x
        if isinstance(x, list | tuple) and len(x) == 1 and self._is_whole_input(x[0]):
            (x,) = x
        x = np.asarray(x)
        self.ensure_built(x.shape)
        return x

    def cast_inputs(self, x):
        """`check_inputs`, and the arrays as this model's type."""
        x = self.check_inputs(x)
        return [self.cast(one) for one in x] if isinstance(x, list) else self.cast(x)

    def _in_order(self, named):
        """The values of a dict of inputs as the model takes them."""
        names = self.input_keys or self.input_names
        if any(name not in named for name in names):
            self.fail(f"needs inputs {names}, got {sorted(named)}")
        return named[names[0]] if self._single else [named[name] for name in names]

    def _is_whole_input(self, array):
        """Whether [array] is a list with the model's one input, not a batch of one sample."""
        rank = 2 if self.graph is None else len(self.graph.inputs[0].shape)
        return getattr(array, "ndim", 0) >= rank

    def _structured(self, outputs):
        """A list with all outputs as the user sees them: one of them, a list, or a dict."""
        if self.output_keys is not None:
            return dict(zip(self.output_keys, outputs, strict=True))
        return outputs[0] if self._single_output else outputs

    @property
    def accepts_integers(self):
        """Whether every layer that reads an input of the model reads uint8 itself."""
        return self.graph is not None and all(
            step.layer.accepts_integers
            for step in self.graph.steps
            if any(slot in self.graph.input_slots for slot in step.inputs)
        )

    def _call_eager(self, inputs, training):
        context = Context(training=training, seed=randomness.next_seed() if training else 0)
        return self._structured(self._run(inputs, context))

    def _run(self, inputs, context):
        """Outputs for arrays, as a list of copies."""
        with self._walk(self.cast_inputs(inputs), context) as walk:
            return [np.array(one) for one in flat(walk.outputs)]

    @property
    def final_activation(self):
        return self.output_activation(0) if self._single_output and self.graph else None

    def output_activation(self, number):
        """Activation that output `number` ends with, if nothing else reads that output."""
        for step in self._graph().steps:
            for position, output in step.output_numbers.items():
                if output == number and step.layer.activity_regularizer is None:
                    if isinstance(step.layer, Model):
                        return step.layer.output_activation(position)
                    return step.layer.final_activation
        return None

    # -- what it is made of -----------------------------------------------------------------------

    @property
    def layers(self):
        """The layers in Keras's order: those farthest from the outputs first."""
        return [] if self.graph is None else list(self.graph.layers)

    @property
    def sublayers(self):
        return self.layers

    @sublayers.setter
    def sublayers(self, value):
        pass  # Layer's constructor sets an empty list; a model's parts are its graph's layers

    @property
    def inputs(self):
        return self._graph().inputs

    @property
    def outputs(self):
        return self._graph().outputs

    @property
    def input(self):
        return self.inputs[0] if self._single else self.inputs

    @property
    def output(self):
        return self._structured(self.outputs)

    @property
    def output_names(self):
        """Names of the outputs: of the dict they were given as, else of the layers that make them.

        Equal names are made distinct by a number.
        """
        if self.output_keys is not None:
            return self.output_keys
        names = [tensor.node.layer.name for tensor in self.outputs]
        return [
            name if names.count(name) == 1 else f"{name}_{names[:i].count(name)}"
            for i, name in enumerate(names)
        ]

    input_names = property(lambda self: [tensor.name for tensor in self.inputs])

    def get_layer(self, name=None, index=None):
        """The layer of that name or number."""
        if (name is None) == (index is None):
            self.fail("get_layer takes a name or an index")
        if index is not None:
            if not -len(self.layers) <= index < len(self.layers):
                self.fail(f"has {len(self.layers)} layers, there is no layer {index}")
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        self.fail(f"has no layer {name!r}.{closest(name, names)} Its layers: {', '.join(names)}.")

    def summary(
        self,
        line_length=None,
        positions=None,
        print_fn=None,
        expand_nested=False,
        show_trainable=False,
        layer_range=None,
    ):
        """Print a table of the layers: type, output shape, number of parameters, inputs."""
        from minicnn.models.summary import print_summary

        print_summary(self, line_length, print_fn, expand_nested, show_trainable, layer_range)

    def save(self, filepath, overwrite=True, zipped=None):
        """Write the whole model to a .keras file."""
        from minicnn import saving

        saving.save_model(self, filepath, overwrite=overwrite)

    def save_weights(self, filepath, overwrite=True):
        """Write the weights to a .weights.h5 file."""
        from minicnn import saving

        saving.save_weights(self, filepath, overwrite=overwrite)

    def load_weights(self, filepath, skip_mismatch=False):
        """Read weights that `save_weights` or `save` wrote."""
        from minicnn import saving

        return saving.load_weights(self, filepath, skip_mismatch=skip_mismatch)

    def to_json(self):
        """The architecture as a JSON string, which `models.model_from_json` and Keras read."""
        from minicnn import saving

        return saving.model_to_json(self)

    # -- config -----------------------------------------------------------------------------------

    def get_config(self):
        """Layers, which outputs each of their calls reads, and the ends of the graph."""
        calls, place = {layer: [] for layer in self.layers}, {}
        begins = [self._input_layer(tensor) for tensor in self.inputs]
        for tensor, layer in zip(self.inputs, begins, strict=True):
            place[id(tensor)] = [layer.name, 0, 0]
        order, _ = graph.topological(self.outputs, self.inputs)
        for node in order:
            if id(node.outputs[0]) in place:
                continue  # an input
            for tensor in node.outputs:
                place[id(tensor)] = [node.layer.name, len(calls[node.layer]), tensor.index]
            calls[node.layer].append(
                {
                    "inputs": [place[id(tensor)] for tensor in node.inputs],
                    "many": node.many,
                    "training": node.training,
                }
            )
        return {
            "name": self.name,
            "trainable": self.trainable,
            "layers": [
                {**serialize(layer), "name": layer.name, "calls": calls.get(layer, [])}
                for layer in dict.fromkeys([*begins, *self.layers])
            ],
            "inputs": [place[id(tensor)] for tensor in self.inputs],
            "outputs": [place[id(tensor)] for tensor in self.outputs],
            "single": [self._single, self._single_output],
            "keys": [self.input_keys, self.output_keys],
        }

    def _input_layer(self, tensor):
        """The InputLayer of an input; a new one where a model begins at a tensor inside another."""
        if isinstance(tensor.node.layer, InputLayer):
            return tensor.node.layer
        name = tensor.name
        while any(layer.name == name for layer in self.graph.layers):
            name += "_input"
        return InputLayer(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)

    @classmethod
    def from_config(cls, config):
        """The model that `get_config` described, with fresh weights."""
        layers, made = {}, {}
        for entry in config["layers"]:
            layers[entry["name"]] = table.build(
                {key: entry[key] for key in ("class_name", "config")}
            )
        for place in config["inputs"]:
            made[tuple(place)] = layers[place[0]].output
        waiting = [
            (entry["name"], number, call)
            for entry in config["layers"]
            for number, call in enumerate(entry["calls"])
        ]
        while waiting:  # layers come in their order: one round is enough, unless one is used twice
            left = []
            for name, number, call in waiting:
                # calls of one layer must happen in their order: their numbers name their outputs
                if any(tuple(place) not in made for place in call["inputs"]) or any(
                    name == other for other, _, _ in left
                ):
                    left.append((name, number, call))
                    continue
                inputs = [made[tuple(place)] for place in call["inputs"]]
                output = layers[name](
                    inputs if call["many"] else inputs[0], training=call["training"]
                )
                for i, tensor in enumerate(_tensors(output, "outputs")):
                    made[(name, number, i)] = tensor
            if len(left) == len(waiting):
                raise ValueError(f"The config of model {config['name']!r} has a cycle or a gap")
            waiting = left
        inputs = [made[tuple(place)] for place in config["inputs"]]
        outputs = [made[tuple(place)] for place in config["outputs"]]
        input_keys, output_keys = config.get("keys", (None, None))
        model = Model(
            inputs if input_keys is None else dict(zip(input_keys, inputs, strict=True)),
            outputs if output_keys is None else dict(zip(output_keys, outputs, strict=True)),
            name=config["name"],
        )
        if not config.get("trainable", True):
            model._trainable = False
        return model


def _collect(waiting, gradient):
    """Put a gradient to those of the same value, of which at most two wait to be added up."""
    if gradient is None:
        return
    if len(waiting) == 2:
        waiting[:] = [_total(waiting)]
    waiting.append(gradient)


def _taken(gradients, slot):
    """The gradients of a value, which nobody needs any more."""
    taken, gradients[slot] = gradients[slot], []
    return taken


def _total(gradients):
    """Where paths join, their gradients add up, in memory that belongs to nobody else."""
    if len(gradients) > 1:
        return ops.add(gradients)
    return gradients[0] if gradients else None


def _shape_advice(got, expected):
    """How to mend the commonest mistakes, as an expression."""
    got, expected = tuple(got), tuple(expected)
    inner, wanted = got[1:], expected[1:]
    if got == wanted:
        return "; a single sample needs a batch axis: x[None]"
    if len(wanted) == 3:
        height, width, channels = wanted
        if inner in ((height, width), (height, width, 1)):
            x = "x[..., None]" if len(inner) == 2 else "x"
            if channels == 1:
                return f"; add the channel axis with {x}"
            return f"; grey pictures need {channels} channels here: np.repeat({x}, {channels}, -1)"
        if inner == (channels, height, width):
            return "; channels come last here: x.transpose(0, 2, 3, 1)"
    if None not in (*inner, *wanted) and math.prod(inner) == math.prod(wanted):
        return f"; the same numbers in that shape: x.reshape({(-1, *wanted)})"
    return f"; bring x to that shape, or build the model for {inner}"


def clone_model(model):
    """A model of the same layers with fresh weights."""
    return type(model).from_config(model.get_config())


def clear_session(free_memory=True):
    """Start counting layer names anew and give back unused memory."""
    reset_names()
    ops.arena.trim()
