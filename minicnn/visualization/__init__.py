"""Pictures of a training and of what a classifier gets wrong; Matplotlib loads when first used."""

from minicnn.visualization.report import confusion_matrix, curves, worst_mistakes

__all__ = ["confusion_matrix", "curves", "worst_mistakes"]
