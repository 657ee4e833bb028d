"""Every public name that Keras has too takes the same arguments, in the same order, with the same
defaults; what differs on purpose is listed in DIFFERENCES, with its reason.
"""

import importlib
import inspect

import pytest

from minicnn.configurable import Configurable, constructor_arguments
from minicnn.layers import Layer

ROOMS = [
    "activations",
    "backend",
    "callbacks",
    "constraints",
    "datasets.cifar10",
    "datasets.cifar100",
    "datasets.fashion_mnist",
    "datasets.mnist",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "optimizers.schedules",
    "preprocessing.image",
    "regularizers",
    "saving",
    "utils",
]

METHODS = {
    "layers.Layer": "add_weight build compute_output_shape count_params get_weights set_weights",
    "models.Model": "compile fit evaluate predict train_on_batch test_on_batch predict_on_batch "
    "summary save save_weights load_weights get_layer to_json get_weights set_weights "
    "reset_metrics get_compile_config compile_from_config get_metrics_result",
    "models.Sequential": "add pop build",
    "metrics.Metric": "update_state reset_state result",
    "optimizers.Optimizer": "build finalize_variable_values exclude_from_weight_decay",
    "callbacks.Callback": "set_params set_model on_epoch_begin on_epoch_end on_train_begin "
    "on_train_end on_train_batch_begin on_train_batch_end on_batch_begin on_batch_end "
    "on_test_begin on_test_end on_test_batch_begin on_test_batch_end on_predict_begin "
    "on_predict_end on_predict_batch_begin on_predict_batch_end",
}

# (name, argument) -> why it is not as in Keras. The argument "*" stands for the order.
DIFFERENCES = {
    **{
        (f"layers.{name}", "pool_size"): "defaults to (2, 2), as MaxPooling2D's and as in Keras 2"
        for name in ("AveragePooling2D", "AvgPool2D")
    },
    ("layers.Dense", "lora_rank"): "no low-rank adapters",
    ("layers.Dense", "lora_alpha"): "no low-rank adapters",
    ("layers.Dense", "quantization_config"): "no quantised weights",
    ("layers.Layer", "autocast"): "one floating-point type per layer",
    ("Layer.add_weight", "name"): "required, and first by position as in Keras 2",
    ("Layer.add_weight", "shape"): "required",
    ("Layer.add_weight", "initializer"): "required, an object",
    ("Layer.add_weight", "dtype"): "the layer's",
    ("Layer.add_weight", "autocast"): "one floating-point type per layer",
    ("Layer.add_weight", "aggregation"): "is about copies on several devices",
    ("Layer.add_weight", "overwrite_with_gradient"): "is about float8",
    ("models.Sequential", "inputs"): "read off Model's constructor; Sequential refuses it",
    ("models.Sequential", "outputs"): "read off Model's constructor; Sequential refuses it",
    **{
        ("models.clone_model", argument): "clones layers as they are"
        for argument in ("input_tensors", "clone_function", "call_function", "recursive")
    },
    ("Model.save_weights", "max_shard_size"): "one file",
    ("saving.save_weights", "max_shard_size"): "one file",
    ("saving.get_registered_object", "module_objects"): "nothing is looked up in modules",
    ("Optimizer.build", "variables"): "takes Parameters",
    ("Optimizer.build", "parameters"): "takes Parameters",
    ("Optimizer.finalize_variable_values", "var_list"): "None: all that it trains",
    **{
        (f"datasets.{name}.load_data", "path"): "a folder with the files, instead of the cache"
        for name in ("cifar10", "cifar100", "mnist", "fashion_mnist")
    },
}

# What every layer takes besides its own arguments: Keras has it in **kwargs, or not at all where
# a constructor forgot to pass it on (SpatialDropout2D, Sequential).
BASE_ARGUMENTS = set(constructor_arguments(Layer))

# Functions that are called with one positional argument, whose names mean nothing; our tables of
# classes are closed, so no custom_objects.
BY_POSITION = ("serialize", "deserialize", "serialize_keras_object")

REQUIRED = inspect.Parameter.empty
VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def explicit(function):
    """{argument: default} in order, without self, *args and **kwargs."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind not in VARIABLE and p.name != "self"}


def parameters(value):
    function = value.__init__ if inspect.isclass(value) else value
    return inspect.signature(function).parameters.values()


def positional(value):
    return [p.name for p in parameters(value) if p.kind is p.POSITIONAL_OR_KEYWORD]


def our_arguments(value):
    """{argument: default}; of a class those that its constructor passes on to its bases, too."""
    if not inspect.isclass(value):
        return explicit(value)
    if not issubclass(value, Configurable):
        return explicit(value.__init__)
    found = {}
    for base in value.__mro__:
        if "__init__" in vars(base) and base is not object:
            found = {**explicit(base.__init__), **found}
    return {name: found[name] for name in constructor_arguments(value)}


def shared():
    """(name, ours, Keras's) of everything public that can be called."""
    for room in ROOMS:
        ours, theirs = (importlib.import_module(f"{p}.{room}") for p in ("minicnn", "keras"))
        names = getattr(ours, "__all__", None) or [n for n in vars(ours) if n[0] != "_"]
        for name in sorted(names):
            value = getattr(ours, name)
            if callable(value) and hasattr(theirs, name):
                yield f"{room}.{name}", value, getattr(theirs, name)
    for name, methods in METHODS.items():
        room, cls = name.split(".")
        pair = [getattr(importlib.import_module(f"{p}.{room}"), cls) for p in ("minicnn", "keras")]
        for method in methods.split():
            yield f"{cls}.{method}", *(getattr(one, method) for one in pair)


SHARED = {name: (ours, theirs) for name, ours, theirs in shared()}


def found_differences(name):
    """{argument: what differs}."""
    ours, theirs = SHARED[name]
    wanted = explicit(theirs.__init__ if inspect.isclass(theirs) else theirs)
    given = our_arguments(ours)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters(theirs))
    if name.split(".")[-1] in BY_POSITION:
        return {} if len(given) == 1 else {"*": f"takes {list(given)}"}
    differences = {a: "missing" for a in wanted if a not in given}
    for argument, default in given.items():
        if argument not in wanted:
            if not (open_ended or inspect.isclass(ours) and argument in BASE_ARGUMENTS):
                differences[argument] = "not in Keras"
        elif not same_default(default, wanted[argument], ours, argument):
            differences[argument] = f"default {default!r}, in Keras {wanted[argument]!r}"
    common = [a for a in given if a in positional(theirs)]
    if common != [a for a in positional(theirs) if a in given]:
        differences["*"] = f"order {common}"
    return differences


def same_default(ours, theirs, cls, argument):
    if argument == "name" and ours is None and theirs is not None:
        return cls().name == theirs  # a name that follows from the class
    return ours is theirs or ours == theirs


@pytest.mark.parametrize("name", SHARED)
def test_arguments_order_and_defaults(name):
    found = found_differences(name)
    unexpected = {a: why for a, why in found.items() if (name, a) not in DIFFERENCES}
    assert not unexpected
    assert {a for n, a in DIFFERENCES if n == name} == set(found), "listed, but no longer different"


def test_differences_are_of_shared_names():
    assert {name for name, _ in DIFFERENCES} <= set(SHARED)


# Public names that Keras lacks, and why they are there.
EXTRA = {
    "layers": {"MaxPool", "AvgPool", "BatchNorm"},  # short names that scripts use
    "losses": {"BCE", "KLD", "MAE", "MAPE", "MSE", "MSLE", "bce", "kld", "mae", "mape", "mse"}
    | {"msle", "logcosh", "kullback_leibler_divergence"},  # names of Keras 2
    "metrics": {"ConfusionMatrix", "classification_report"},  # wanted by everybody who classifies
    "optimizers": set(),
    "callbacks": {"CheckTraining"},  # what check_training asks, during `fit`
}


@pytest.mark.parametrize("room", EXTRA)
def test_other_names(room):
    """A public name is Keras's, or listed: a slip of the pen would be neither."""
    ours, theirs = (importlib.import_module(f"{p}.{room}") for p in ("minicnn", "keras"))
    public = {n for n in ours.__all__ if callable(getattr(ours, n))} - {"table"}
    found = {name for name in public if not hasattr(theirs, name)}
    inherited = EXTRA["losses"] if room == "metrics" else set()
    assert found - inherited - {"resolve"} == EXTRA[room]
