"""Class labels as arrays."""

import numpy as np


def to_categorical(x, num_classes=None):
    """Integer labels (...,) or (..., 1) -> one-hot float32 rows (..., num_classes). As in Keras."""
    labels = np.asarray(x)
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels)):
        raise ValueError("to_categorical takes class numbers; these labels are not whole numbers")
    if labels.dtype.kind not in "iubf":
        raise ValueError(f"to_categorical takes class numbers, not an array of {labels.dtype}")
    labels = labels.astype(np.int64)
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.size == 0:
        raise ValueError("to_categorical got no labels")
    count = int(labels.max()) + 1 if num_classes is None else int(num_classes)
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"labels lie in {labels.min()}..{labels.max()}, outside 0..{count - 1} "
            f"(num_classes={num_classes})"
        )
    one_hot = np.zeros((*labels.shape, count), np.float32)
    np.put_along_axis(one_hot, labels[..., None], 1.0, axis=-1)
    return one_hot


def normalize(x, axis=-1, order=2):
    """x divided by its norm along `axis`; zero vectors stay zero. As in Keras."""
    x = np.atleast_1d(np.asarray(x))
    norm = np.linalg.norm(x, order, axis, keepdims=True)
    return x / np.where(norm == 0, 1, norm)
