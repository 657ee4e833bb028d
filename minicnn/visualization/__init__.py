"""Pictures of a training and of what a classifier gets wrong; Matplotlib loads when first used."""

from minicnn.visualization.report import (
    confusion_matrix,
    curves,
    list_mistakes,
    mistakes,
    worst_mistakes,
    write_report,
)

__all__ = [
    "confusion_matrix",
    "curves",
    "list_mistakes",
    "mistakes",
    "worst_mistakes",
    "write_report",
]
