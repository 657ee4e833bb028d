"""Between objects and Keras's JSON: {"module", "class_name", "config", "registered_name", ...}.

Writing reads objects; building makes only what stands in the closed tables, plus what the program
registered. The two directions of each idea stand together: objects, Sequential, Functional, calls.
"""

import collections
import inspect
import math

import numpy as np

from minicnn import activations, parameter
from minicnn.configurable import Configurable, Table, closest, constructor_arguments
from minicnn.errors import FormatError
from minicnn.graph import topological
from minicnn.layers.base import Layer
from minicnn.layers.input import InputLayer
from minicnn.layers.pictures import PictureLayer
from minicnn.models.model import Model, Sequential
from minicnn.saving import registry
from minicnn.saving.names import check_name

MOST_LAYERS = 5_000

# Keras's module of each table's classes. Sequential and Functional have their own.
MODULES = {
    "layers": "keras.layers",
    "initializers": "keras.initializers",
    "regularizers": "keras.regularizers",
    "constraints": "keras.constraints",
    "losses": "keras.losses",
    "metrics": "keras.metrics",
    "optimizers": "keras.optimizers",
    "optimizers.schedules": "keras.optimizers.schedules",
}
_TABLES = {module: name for name, module in MODULES.items()}
_FUNCTIONAL_MODULES = ("keras.src.models.functional", "keras.src.engine.functional", "keras.models")
_FUNCTION_MODULES = ("builtins", "keras.activations", "keras.losses", "keras.metrics")
_DATA_CLASSES = ("__numpy__", "__tensor__")

# Layers that behave differently in training: only their calls may say training=, as in Keras.
_TAKE_TRAINING = ("BatchNormalization", "Dropout", "SpatialDropout2D")

# Compile arguments that say how to run, not what to compute.
RUN_ARGUMENTS = ("run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss")
COMPILE_ARGUMENTS = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")

# Arguments of ours that Keras's constructors refuse; without them nothing changes.
_KERAS_REFUSES = {"SpatialDropout2D": ("trainable",)}

KERAS_LACKS = ("ConfusionMatrix",)  # classes of ours that would stop real Keras from loading


# -- writing ---------------------------------------------------------------------------------------


class Writer:
    """Objects to entries. Layers that occur again get Keras's shared_object_id."""

    def __init__(self):
        self.entries = {}  # layer -> its first entry
        self.shared = 0  # how many of them occur again

    def value(self, value):
        """Any config value."""
        if isinstance(value, Layer):
            return self.layer(value)
        if isinstance(value, Configurable) or _has_config(value):
            return self._entry(value, self._config(value))
        if isinstance(value, dict):
            if set(value) == {"module", "class_name", "config"}:
                return self._serialized(value)
            return {str(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, activations.ActivationFunction):
            if activations.get(value.name) != value:
                raise ValueError(
                    f"activation {value.name!r} with numbers of its own has no name for a file: "
                    "use a layer, e.g. LeakyReLU(0.1)"
                )
            return value.name
        if isinstance(value, np.dtype):
            return value.name
        return self._function(value)

    def _function(self, value):
        if hasattr(value, "serialize") and not inspect.isclass(value):
            return value.serialize()
        if inspect.isclass(value) and issubclass(value, Configurable):
            return self.value(value())
        name = getattr(value, "__name__", None)
        if inspect.isfunction(value) and name != "<lambda>":
            stored = registry.get_registered_name(value)
            return {
                "module": "builtins",
                "class_name": "function",
                "config": stored,
                "registered_name": "function" if stored == name else stored,
            }
        if name == "<lambda>":
            raise ValueError("a lambda cannot be saved: define a named function and register it")
        raise ValueError(
            f"{value!r} cannot be saved: give it get_config() and derive it from a minicnn class"
        )

    def _config(self, thing):
        """The config; parts that are attributes are written from the object, not its dict."""
        config = thing.get_config()
        if not isinstance(config, dict):
            raise TypeError(f"{type(thing).__name__}.get_config() gave {config!r}, not a dict")
        made = {}
        for key, item in config.items():
            own = getattr(thing, key, None)
            from_object = _has_config(own) or isinstance(own, activations.ActivationFunction)
            made[key] = self.value(own if from_object else item)
        return made

    def _serialized(self, entry):
        """A dict that an object's get_config made of one of its parts."""
        table = Table.all.get(entry["module"])
        if table is None or entry["class_name"] not in table.classes:
            return {key: self.value(item) for key, item in entry.items()}
        return {
            "module": MODULES[entry["module"]],
            "class_name": entry["class_name"],
            "config": self.value(entry["config"]),
            "registered_name": None,
        }

    def _entry(self, thing, config):
        cls = type(thing)
        table = getattr(cls, "table", None)
        if table is not None and table.classes.get(cls.__name__) is cls:
            module, registered_name = MODULES[table.module], None
            for name in _KERAS_REFUSES.get(cls.__name__, ()):
                config.pop(name, None)
        else:
            module, registered_name = cls.__module__, registry.get_registered_name(cls)
        return {
            "module": module,
            "class_name": cls.__name__,
            "config": config,
            "registered_name": registered_name,
        }

    # -- layers and models --

    def layer(self, layer):
        """A layer or model."""
        if layer in self.entries:
            first = self.entries[layer]
            if "shared_object_id" not in first:
                self.shared += 1
                first["shared_object_id"] = self.shared
            return {key: first[key] for key in first if key not in ("name", "inbound_nodes")}
        check_name(layer.name, type(layer).__name__, ValueError)
        if isinstance(layer, Model) and type(layer).get_config in _MODEL_CONFIGS:
            write = self.sequential if isinstance(layer, Sequential) else self.functional
            entry = write(layer)
        elif isinstance(layer, InputLayer):
            entry = self._entry(layer, _input_config(layer.name, layer.output))
        else:
            entry = self._entry(layer, self._config(layer))
            if layer.nodes:
                shapes = [tensor.shape for tensor in layer.nodes[0].inputs]
                entry["build_config"] = {
                    "input_shape": _lists(shapes if layer.nodes[0].many else shapes[0])
                }
        self.entries[layer] = entry
        return entry

    def _model_entry(self, model, module, class_name, config):
        entry = self._entry(model, config)
        if type(model) in (Model, Sequential):
            registered = None if type(model) is Sequential else "Functional"
            entry.update(module=module, class_name=class_name, registered_name=registered)
        return entry

    def sequential(self, model):
        """InputLayer first (if the shape is known), then the layers."""
        config = {"name": model.name, "trainable": model.trainable, "dtype": model.dtype}
        chain = [self.layer(layer) for layer in model.layers]
        if model.graph is not None:
            given = model.inputs[0]
            entry = {
                "module": "keras.layers",
                "class_name": "InputLayer",
                "config": _input_config(given.node.layer.name, given),
                "registered_name": None,
            }
            chain.insert(0, entry)
            config["build_input_shape"] = list(given.shape)
        config["layers"] = chain
        entry = self._model_entry(model, "keras", "Sequential", config)
        if model.graph is not None:
            entry["build_config"] = {"input_shape": list(model.inputs[0].shape)}
        return entry

    def functional(self, model):
        """Layers with the calls that concern this model, and the ends of the graph."""
        order, _ = topological(model.outputs, model.inputs)
        calls, place = collections.defaultdict(list), {}
        inputs = []
        taken = {layer.name for layer in model.layers}
        for tensor in model.inputs:
            source, name = tensor.node.layer, tensor.node.layer.name
            if not isinstance(source, InputLayer):  # a model that begins inside another one
                name = f"{name}_input"
                while name in taken:
                    name += "_"
                taken.add(name)
            place[id(tensor)] = (None, [name, 0, 0])
            inputs.append(
                {
                    "module": "keras.layers",
                    "class_name": "InputLayer",
                    "config": _input_config(name, tensor),
                    "registered_name": None,
                    "name": name,
                    "inbound_nodes": [],
                }
            )
        for node in order:
            number = len(calls[node.layer])
            for tensor in node.outputs:
                place[id(tensor)] = (node.layer, [node.layer.name, number, tensor.index])
            calls[node.layer].append(node)

        def tensor_entry(tensor):
            config = {"shape": list(tensor.shape), "dtype": str(tensor.dtype)}
            config["keras_history"] = place[id(tensor)][1]
            return {"class_name": "__keras_tensor__", "config": config}

        def call_entry(node):
            tensors = [tensor_entry(tensor) for tensor in node.inputs]
            keywords = {}
            if node.training is not None and _takes_training(node.layer):
                keywords["training"] = node.training
            return {"args": [tensors if node.many else tensors[0]], "kwargs": keywords}

        def end(tensor):
            layer, (name, number, index) = place[id(tensor)]
            # Keras counts a Functional's own construction as its call 0, here and only here.
            is_functional = isinstance(layer, Model) and not isinstance(layer, Sequential)
            return [name, number + is_functional, index]

        layers = []
        for layer in model.layers:
            if not isinstance(layer, InputLayer):
                layers.append(self.layer(layer))
                nodes = [call_entry(node) for node in calls[layer]]
                layers[-1].update(name=layer.name, inbound_nodes=nodes)
        first, last = [end(t) for t in model.inputs], [end(t) for t in model.outputs]
        config = {
            "name": model.name,
            "trainable": model.trainable,
            "layers": [*inputs, *layers],
            "input_layers": first[0] if model._single else first,
            "output_layers": last[0] if model._single_output else last,
        }
        return self._model_entry(model, _FUNCTIONAL_MODULES[0], "Functional", config)


def _has_config(value):
    return hasattr(value, "get_config") and not inspect.isclass(value)


_MODEL_CONFIGS = (Model.get_config, Sequential.get_config)


def _takes_training(layer):
    cls = type(layer)
    own = cls.table.classes.get(cls.__name__) is not cls
    return own or isinstance(layer, Model | PictureLayer) or cls.__name__ in _TAKE_TRAINING


def _input_config(name, tensor):
    check_name(name, "an Input", ValueError)
    return {
        "batch_shape": list(tensor.shape),
        "dtype": str(tensor.dtype),
        "sparse": False,
        "ragged": False,
        "name": name,
    }


def _lists(shape):
    return [_lists(item) if isinstance(item, tuple | list) else item for item in shape]


def compile_entry(model):
    """What `compile` was given, as Keras writes it; None before `compile`."""
    if model.compiled is None:
        return None
    return Writer().value({"optimizer": model.optimizer, **model.compiled})


def for_keras(value):
    """The same without what real Keras could not build."""
    if isinstance(value, dict):
        return {key: for_keras(item) for key, item in value.items() if not _is_ours_alone(item)}
    if isinstance(value, list):
        return [for_keras(item) for item in value if not _is_ours_alone(item)]
    return value


def _is_ours_alone(item):
    return isinstance(item, dict) and item.get("class_name") in KERAS_LACKS


# -- building --------------------------------------------------------------------------------------


class Builder:
    """Entries to objects. `budget`: how many numbers the layers' weights may hold together.

    Weights are not drawn from initialisers but left empty, since the file's follow; asking for more
    than the file holds is refused before anything is allocated.
    """

    def __init__(self, where, custom_objects=None, budget=None):
        self.where, self.budget, self.left = where, budget, budget
        self.custom = registry.in_force(custom_objects)
        self.shared, self.layer_count = {}, 0

    def fail(self, message):
        raise FormatError(f"{self.where}: {message}")

    def build(self, entry):
        """The object of an entry. Everything that goes wrong is a FormatError."""
        if self.budget is None:
            return self._guarded(entry)
        token = parameter.allocate.set(self._allocate)
        try:
            return self._guarded(entry)
        finally:
            parameter.allocate.reset(token)

    def _guarded(self, entry):
        try:
            return self.value(entry)
        except FormatError:
            raise
        except (
            ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError,
            RecursionError,
        ) as error:  # fmt: skip
            raise FormatError(f"{self.where}: {str(error)[:2000]}") from error

    def _allocate(self, name, shape, dtype):
        whole = all(isinstance(n, int | np.integer) and n >= 0 for n in shape)
        size = math.prod(int(n) for n in shape) if whole else -1
        if not 0 <= size <= self.left:
            self.fail(
                f"{name} would have shape {tuple(shape)}, more numbers than the {self.left} that "
                f"remain of {self.budget} in the weights"
            )
        self.left -= size
        return np.empty(tuple(shape), dtype)

    def value(self, value):
        """Any config value: entries become objects, the rest stays."""
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "class_name" in value and "config" in value:
            return self._object(value)
        return {key: self.value(item) for key, item in value.items()}

    def _object(self, entry):
        name = entry["class_name"]
        if not isinstance(name, str):
            self.fail(f"class_name is {str(name)[:80]!r}, expected a string")
        if name in _DATA_CLASSES:
            return self._array(entry["config"])
        if name == "DTypePolicy":
            return self._dtype(entry)
        if name == "function":
            return self._function(entry)
        self._check_keys(entry)
        shared = entry.get("shared_object_id")
        if shared is not None and shared in self.shared:
            return self.shared[shared]
        cls, ours = self._find(entry)
        config, make = self._dict(entry), getattr(cls.from_config, "__func__", None)
        if make in _BUILDERS:
            made = _BUILDERS[make](self, cls, config)
        elif ours or make is Configurable.from_config.__func__:
            made = self._plain(cls, config)
        else:
            with registry.CustomObjectScope(self.custom):
                made = cls.from_config(dict(config))
        if isinstance(made, Layer):
            self._count(made)
        if shared is not None:
            self.shared[shared] = made
        return made

    def _check_keys(self, entry):
        known = {
            "module", "class_name", "config", "registered_name", "build_config", "compile_config",
            "shared_object_id", "name", "inbound_nodes",
        }  # fmt: skip
        unknown = sorted(set(entry) - known)
        if unknown:
            self.fail(f"class {entry['class_name'][:80]!r} has unknown entries {unknown[:5]}")
        if type(entry.get("shared_object_id", 0)) is not int:
            self.fail(f"shared_object_id is {entry['shared_object_id']!r}, expected an integer")

    def _dict(self, entry):
        config = entry["config"]
        if not isinstance(config, dict):
            self.fail(f"the config of {entry['class_name'][:80]!r} is {str(config)[:80]!r}")
        return config

    def _count(self, layer):
        self.layer_count += 1
        if self.layer_count > MOST_LAYERS:
            self.fail(f"more than {MOST_LAYERS} layers")
        check_name(layer.name, f"{self.where}: a {type(layer).__name__}", FormatError)

    def _find(self, entry):
        """The class of an entry, and whether it is the library's own."""
        name, module = entry["class_name"], entry.get("module")
        registered_name = entry.get("registered_name")
        for candidate in (registered_name, name):
            if isinstance(candidate, str) and candidate in self.custom:
                cls = self.custom[candidate]
                if not isinstance(cls, type) or not hasattr(cls, "from_config"):
                    self.fail(f"{candidate!r} is {cls!r} here, not a class with from_config")
                return cls, False
        cls = _library_class(module, name)
        if cls is not None and registered_name in (None, name):
            return cls, True
        self._unknown(name, module)

    def _unknown(self, name, module):
        known = [n for table in Table.all.values() for n in table.classes]
        raise FormatError(
            f"{self.where}: unknown class {name[:80]!r} of module {str(module)[:80]!r}."
            f"{closest(name[:80], known)} Only the library's classes and those that you register "
            "are built: pass custom_objects={name: class} or use register_keras_serializable"
        )

    def _array(self, config):
        dtype = np.dtype(config["dtype"])
        if dtype.kind not in "fiub":
            self.fail(f"an array of type {dtype}")
        return np.array(config["value"], dtype)

    def _dtype(self, entry):
        name = entry["config"].get("name")
        if name not in ("float32", "float64"):
            self.fail(f"type policy {str(name)[:80]!r}: here are float32 and float64")
        return name

    def _function(self, entry):
        name = entry["config"]
        for candidate in (entry.get("registered_name"), name):
            if isinstance(candidate, str) and candidate in self.custom:
                return self.custom[candidate]
        if not isinstance(name, str) or entry.get("module") not in _FUNCTION_MODULES:
            self._unknown(str(name), entry.get("module"))
        return name  # whoever takes it looks it up in a closed table

    def _plain(self, cls, config):
        """Parts first; arguments of Keras's that we lack and that say nothing are left out."""
        allowed = constructor_arguments(cls)
        made = {
            key: self.value(item)
            for key, item in config.items()
            if key in allowed or item is not None
        }
        return cls.from_config(made)

    # -- models --

    def sequential(self, cls, config):
        """Sequential: the layers of the list, InputLayer first if the shape is known."""
        layers = [self._layer(entry) for entry in self._entries(config)]
        dtype = self.value(config.get("dtype"))
        more = {"dtype": dtype} if dtype and cls is Sequential else {}
        model = cls(layers, name=config.get("name"), **more)
        shape = config.get("build_input_shape")
        if shape is not None and model.graph is None and layers:
            model.build(tuple(shape))
        return self._finish(model, config)

    def _entries(self, config):
        entries = config.get("layers")
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            self.fail("a model's config has no list of layers")
        if len(entries) > MOST_LAYERS:
            self.fail(f"a model of {len(entries)} layers, allowed are {MOST_LAYERS}")
        return entries

    def _layer(self, entry):
        layer = self.value(entry)
        if not isinstance(layer, Layer):
            self.fail(f"a model has {str(entry.get('class_name', layer))[:80]!r} among its layers")
        return layer

    def _finish(self, model, config):
        if config.get("trainable") is False:
            model._trainable = False  # its layers say for themselves whether they are frozen
        return model

    def functional(self, cls, config):
        """Functional: all layers first, then their calls, each as soon as its inputs exist."""
        entries = self._entries(config)
        layers, tensors = {}, {}
        calls, waiting, missing = {}, collections.defaultdict(list), {}
        for entry in entries:
            layer, name = self._layer(entry), entry.get("name")
            if name != layer.name or name in layers:
                self.fail(f"layer {layer.name!r} is listed as {str(name)[:80]!r}, or twice")
            layers[name] = layer
            if isinstance(layer, InputLayer):
                tensors[name, 0, 0] = layer.output
            for number, call in enumerate(self._calls(entry)):
                structure, training = self._arguments(call)
                needs = {tuple(place[:2]) for place in _flat(structure)}
                if number:
                    needs.add((name, number - 1))  # the number of a call is its rank among them
                calls[name, number] = (structure, training)
                missing[name, number] = len(needs)
                for need in needs:
                    waiting[need].append((name, number))
        done = {(name, 0) for name, layer in layers.items() if isinstance(layer, InputLayer)}
        ready = collections.deque(sorted(done))
        count = 0
        while ready:
            finished = ready.popleft()
            for name, number in waiting.pop(finished, ()):
                missing[name, number] -= 1
                if missing[name, number] == 0:
                    structure, training = calls[name, number]
                    inputs = _replace(structure, tensors)
                    output = layers[name](inputs, training=training)
                    for i, tensor in enumerate(output if isinstance(output, list) else [output]):
                        tensors[name, number, i] = tensor
                    ready.append((name, number))
                    count += 1
        if count != len(calls):
            left = next(f"{name} (call {number})" for (name, number), n in missing.items() if n)
            self.fail(f"the graph has a cycle or a gap at {left[:100]}")
        ends = []
        for key in ("input_layers", "output_layers"):
            structure = self._ends(config[key], layers)
            ends.append(_replace(structure, tensors))
        model = cls(*ends, name=config.get("name"))
        return self._finish(model, config)

    def _calls(self, entry):
        calls = entry.get("inbound_nodes")
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            self.fail(f"layer {str(entry.get('name'))[:80]!r} has no list of calls")
        return calls

    def _arguments(self, call):
        """(place or list of places that a call reads, its training argument)."""
        arguments, keywords = call.get("args"), call.get("kwargs", {})
        if not isinstance(arguments, list) or len(arguments) != 1:
            self.fail(f"a call with {str(arguments)[:80]} as arguments, expected one input")
        training = keywords.get("training")
        for key, item in keywords.items():
            if item is not None and not (key == "training" and isinstance(item, bool)):
                self.fail(f"a call with the argument {key[:80]!r}, which is not supported")

        def place(value):
            if isinstance(value, list):
                return [place(item) for item in value]
            if not isinstance(value, dict) or value.get("class_name") != "__keras_tensor__":
                self.fail(f"a call reads {str(value)[:80]!r}, expected a tensor")
            return self._place(value["config"]["keras_history"])

        return place(arguments[0]), training

    def _place(self, value):
        if (
            not isinstance(value, list)
            or [type(item) for item in value] != [str, int, int]
            or min(value[1:]) < 0
        ):
            self.fail(f"a tensor is at {str(value)[:80]}, expected [layer, call, output]")
        return tuple(value)

    def _ends(self, structure, layers):
        if isinstance(structure, dict):
            return {key: self._ends(item, layers) for key, item in structure.items()}
        if isinstance(structure, list) and structure and not isinstance(structure[0], str):
            return [self._ends(item, layers) for item in structure]
        name, number, index = self._place(structure)
        layer = layers.get(name)
        if isinstance(layer, Model) and not isinstance(layer, Sequential):
            number -= 1
        return (name, number, index)


_BUILDERS = {
    Model.from_config.__func__: Builder.functional,
    Sequential.from_config.__func__: Builder.sequential,
}


def _library_class(module, name):
    if name in ("Functional", "Model") and module in (*_FUNCTIONAL_MODULES, "keras"):
        return Model
    if name == "Sequential" and module in ("keras", "keras.models"):
        return Sequential
    table = Table.all.get(_TABLES.get(module) if isinstance(module, str) else None)
    cls = table.classes.get(name) if table is not None else None
    return None if cls in (Model, Sequential) else cls


def _flat(structure):
    if isinstance(structure, list):
        return [place for item in structure for place in _flat(item)]
    return [structure]


def _replace(structure, tensors):
    if isinstance(structure, dict):
        return {key: _replace(item, tensors) for key, item in structure.items()}
    if isinstance(structure, list):
        return [_replace(item, tensors) for item in structure]
    if structure not in tensors:
        raise ValueError(f"there is no tensor {structure}")
    return tensors[structure]
