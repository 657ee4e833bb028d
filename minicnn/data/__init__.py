"""From what the user has to batches of arrays."""

from minicnn.data.alternating_flips import AlternatingFlips
from minicnn.data.batches import PyDataset, Sequence
from minicnn.data.labels import normalize, to_categorical
from minicnn.data.picture_datasets import image_dataset_from_directory
from minicnn.data.pipeline import AUTOTUNE, Dataset, split_dataset

__all__ = [
    "AUTOTUNE",
    "AlternatingFlips",
    "Dataset",
    "PyDataset",
    "Sequence",
    "image_dataset_from_directory",
    "normalize",
    "split_dataset",
    "to_categorical",
]
