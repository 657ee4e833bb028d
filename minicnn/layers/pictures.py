"""What layers on pictures share: called on arrays, they take batches, single pictures and dicts."""

import numpy as np

from minicnn.graph import is_symbolic
from minicnn.layers import arguments
from minicnn.layers.base import Layer


class PictureLayer(Layer):
    """A layer (n, h, w, c) -> (n, h', w', c), which can also be mapped over a Dataset.

    Called on an array it gives an array; on one picture (h, w, c), one picture; on a dict with
    "images" and "labels", such a dict. As in Keras, these calls are in training mode unless
    training=False is given. Random layers define `draw` and `transform`, see augmentation/base.py.
    """

    rank = 4

    def __init__(self, *, data_format: str | None = None, **base):
        super().__init__(**base)
        self.data_format = arguments.data_format(self, data_format)

    def __call__(self, inputs, training=None):
        if is_symbolic(inputs) or isinstance(inputs, list):
            # Keras writes training=True for every such call into its files, and means nothing by it
            return super().__call__(inputs, False if training is False else None)
        training = training is None or bool(training)
        images = inputs["images"] if isinstance(inputs, dict) else inputs
        transformation = self.get_random_transformation(images, training)
        if not isinstance(inputs, dict):
            return self.transform_images(images, transformation, training)
        unknown = set(inputs) - {"images", "labels"}
        if unknown:
            self.fail(f"transforms 'images' and 'labels', not {sorted(unknown)}; leave them out")
        made = {"images": self.transform_images(images, transformation, training)}
        if "labels" in inputs:
            single = np.ndim(images) == 3
            labels = np.asarray(inputs["labels"])
            labels = self.transform_labels(
                labels[None] if single else labels, transformation, training
            )
            made["labels"] = labels[0] if single else labels
        return made

    def get_random_transformation(self, data, training=True, seed=None):
        """What `transform_images` needs to know: nothing, for a layer that draws nothing."""
        return None

    def transform_images(self, images, transformation=None, training=True):
        """The pictures as the transformation makes them, in an array of their own."""
        x, single = self.as_batch(images)
        y = np.array(self.apply(x, transformation, training))
        return y[0] if single else y

    def transform_labels(self, labels, transformation=None, training=True):
        """Labels of transformed pictures: the same, unless pictures are mixed."""
        return labels

    def as_batch(self, images):
        """(pictures as a batch of this layer's type, whether it was a single one)."""
        x = self.cast(images)
        single = x.ndim == 3
        x = x[None] if single else x
        self.ensure_built(x.shape)
        return x, single

    def _call_eager(self, inputs, training):
        self.fail(f"takes one array of pictures, not {len(inputs)} in a list")
