"""From what the user has to batches of arrays."""

from minicnn.data.alternating_flips import AlternatingFlips
from minicnn.data.batches import PyDataset, Sequence
from minicnn.data.labels import normalize, to_categorical

__all__ = ["AlternatingFlips", "PyDataset", "Sequence", "normalize", "to_categorical"]
