"""keras.utils under its name; the code lives elsewhere."""

from minicnn.data import PyDataset, Sequence, normalize, to_categorical
from minicnn.data.pictures import array_to_img, img_to_array, load_img, save_img
from minicnn.models.model import clear_session
from minicnn.randomness import set_random_seed
from minicnn.saving import (
    CustomObjectScope,
    custom_object_scope,
    deserialize_keras_object,
    get_custom_objects,
    get_registered_name,
    register_keras_serializable,
    serialize_keras_object,
)

__all__ = [
    "CustomObjectScope",
    "PyDataset",
    "Sequence",
    "array_to_img",
    "clear_session",
    "custom_object_scope",
    "deserialize_keras_object",
    "get_custom_objects",
    "get_registered_name",
    "img_to_array",
    "load_img",
    "normalize",
    "register_keras_serializable",
    "save_img",
    "serialize_keras_object",
    "set_random_seed",
    "to_categorical",
]
