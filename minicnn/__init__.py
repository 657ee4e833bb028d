"""minicnn: convolutional networks on CPUs. Keras's API outside, hand-written backprop inside."""

from minicnn import (
    activations,
    applications,
    backend,
    callbacks,
    config,
    constraints,
    datasets,
    initializers,
    layers,
    losses,
    metrics,
    models,
    ops,
    optimizers,
    preprocessing,
    regularizers,
    saving,
    schedules,
    utils,
)
from minicnn.gradient_check import check_gradients
from minicnn.layers import *  # noqa: F403  every public layer is also a name of the package
from minicnn.layers import __all__ as _layer_names
from minicnn.models import Model, Sequential
from minicnn.models.compiling import warmup
from minicnn.saving import load_model
from minicnn.training_check import check_training
from minicnn.utils import set_random_seed, to_categorical

__version__ = "0.1.0"

_LAYER_ROOM_ONLY = {"add", "concatenate", "deserialize", "serialize"}

__all__ = sorted(
    {
        "Model",
        "Sequential",
        "activations",
        "applications",
        "backend",
        "callbacks",
        "check_gradients",
        "check_training",
        "config",
        "constraints",
        "datasets",
        "initializers",
        "layers",
        "load_model",
        "losses",
        "metrics",
        "models",
        "ops",
        "optimizers",
        "preprocessing",
        "regularizers",
        "saving",
        "schedules",
        "set_random_seed",
        "to_categorical",
        "utils",
        "warmup",
        *(set(_layer_names) - _LAYER_ROOM_ONLY),
    }
)
