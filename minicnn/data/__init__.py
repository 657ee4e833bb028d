"""From what the user has to batches of arrays."""

from minicnn.data.batches import PyDataset, Sequence

__all__ = ["PyDataset", "Sequence"]
