"""keras.preprocessing under its name; the code lives in minicnn.data."""

from minicnn.data.picture_datasets import image_dataset_from_directory
from minicnn.preprocessing import image

__all__ = ["image", "image_dataset_from_directory"]
