"""keras.utils under its name; the code lives elsewhere."""

from minicnn.data import (
    PyDataset,
    Sequence,
    image_dataset_from_directory,
    normalize,
    split_dataset,
    to_categorical,
)
from minicnn.data.pictures import array_to_img, img_to_array, load_img, save_img
from minicnn.datasets.files import get_file
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
    "get_file",
    "get_registered_name",
    "image_dataset_from_directory",
    "img_to_array",
    "load_img",
    "normalize",
    "register_keras_serializable",
    "save_img",
    "serialize_keras_object",
    "set_random_seed",
    "split_dataset",
    "to_categorical",
]
