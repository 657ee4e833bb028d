"""keras.utils under its name; the code lives elsewhere."""

from minicnn.configurable import serialize as serialize_keras_object
from minicnn.data import PyDataset, Sequence, normalize, to_categorical
from minicnn.models.model import clear_session
from minicnn.randomness import set_random_seed

__all__ = [
    "PyDataset",
    "Sequence",
    "clear_session",
    "normalize",
    "serialize_keras_object",
    "set_random_seed",
    "to_categorical",
]
