"""Boxes erased, and pictures mixed with others of their batch together with their labels."""

import math

import numpy as np

from minicnn import ops, randomness
from minicnn.errors import warn
from minicnn.layers import arguments
from minicnn.layers.augmentation.base import RandomLayer, between, factor_range, pixel_range
from minicnn.layers.base import table
from minicnn.randomness import uniforms


def drawn_boxes(shape, shares, places):
    """Boxes (n, 4) of drawn size and place, and the part of the picture they cover, (n,).

    shares (n, 2): height and width over the picture's; places (n, 2) in [0, 1). A pixel belongs to
    the box if its corner does; the part is that of the box before this rounding, as in Keras.
    """
    size = shares * shape[1:3]
    starts = places * (shape[1:3] - size)
    rows, columns = np.stack([starts, starts + size], axis=2).transpose(1, 0, 2)
    return np.ceil(np.concatenate([rows, columns], axis=1)).astype(np.int64), shares.prod(axis=1)


@table.register()
class RandomErasing(RandomLayer):
    """Fill a random box of a picture with a value or with noise (Zhong et al. 2017).

    factor: the probability is drawn between two numbers in [0, 1]; one number stands for
    (0, factor), as in Keras: 1.0 erases in half of the pictures, (1.0, 1.0) in all of them.
    scale: squares of the box's height and width over the picture's lie between these numbers.
    fill_value: a number, one per channel, or None for normal noise times value_range[1].
    """

    def __init__(
        self,
        factor=1.0,
        scale=(0.02, 0.33),
        fill_value=None,
        value_range=(0, 255),
        seed: int | None = None,
        data_format: str | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        self.factor = factor_range(self, "factor", factor, 0, 1, lambda f: (0, f))
        self.scale = factor_range(self, "scale", scale, 0, 1, lambda f: (0, f))
        self.value_range, self.fill_value = pixel_range(self, value_range), fill_value
        if fill_value is not None:
            array = np.asarray(fill_value)
            if array.dtype.kind not in "fiu" or array.ndim > 1:
                self.fail(
                    f"takes None, a number, or one per channel as fill_value, not {fill_value!r}"
                )

    def check_input_shape(self, shape):
        super().check_input_shape(shape)
        count = 1 if self.fill_value is None else np.size(self.fill_value)
        if shape[-1] is not None and count not in (1, shape[-1]):
            self.fail(f"has {count} numbers as fill_value for an input {tuple(shape)}")

    def draw(self, shape, key, first_sample):
        """boxes (n, 4), empty where nothing is erased; noise: key and first sample."""
        u = uniforms(key, first_sample, shape[0], 6)
        boxes, _ = drawn_boxes(shape, np.sqrt(between(u[:, :2], self.scale)), u[:, 2:4])
        boxes[u[:, 5] >= between(u[:, 4], self.factor)] = 0
        return {"boxes": boxes, "noise": (randomness.mix(key, 1), first_sample)}

    def transform(self, x, transformation):
        low, high = self.value_range
        if self.fill_value is None:
            noise = (*transformation["noise"], high, low, high)
            return ops.erase_boxes(x, transformation["boxes"], noise=noise)
        return ops.erase_boxes(x, transformation["boxes"], np.clip(self.fill_value, low, high))

    def transform_grad(self, dy, x, transformation):
        return ops.erase_boxes(dy, transformation["boxes"], 0.0)


class _Mixing(RandomLayer):
    """Each picture gets something of another one of the batch, and as much of its label."""

    _warned = False

    def forward(self, x, context):
        if context.training and context.keep and not context.frozen_state and not self._warned:
            self._warned = True
            warn(
                f"{type(self).__name__} '{self.name}' inside a model mixes the pictures, but not "
                "their labels: call it on {'images': x, 'labels': y} in front of the model, e.g. "
                "with Dataset.map"
            )
        return super().forward(x, context)

    def _generator(self, key, first_sample):
        return randomness.generator(randomness.mix(key, first_sample))

    def transform_labels(self, labels, transformation=None, training=True):
        """own weight * label + (1 - own weight) * the other's label; labels are one-hot (n, k)."""
        if not training or transformation is None:
            return labels
        labels = np.asarray(labels)
        if labels.ndim != 2:
            self.fail(
                f"mixes one-hot labels (n, classes), and got shape {labels.shape}: convert them "
                "with utils.to_categorical"
            )
        dtype = labels.dtype if labels.dtype.kind == "f" else self.dtype
        weight = np.asarray(transformation["mix_weight"], np.float64).reshape(-1, 1)
        other = labels[np.asarray(transformation["permutation_order"])]
        return (weight * labels + (1 - weight) * other).astype(dtype)


@table.register()
class MixUp(_Mixing):
    """y = m x + (1 - m) x' with m from Beta(alpha, alpha), x' another picture; labels likewise.

    Call it on {"images": x, "labels": one-hot y}. Zhang et al. 2018.
    """

    def __init__(
        self,
        alpha: float = 0.2,
        data_format: str | None = None,
        seed: int | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        self.alpha = arguments.number(self, "alpha", alpha, "> 0", lambda v: 0 < v < math.inf)

    def draw(self, shape, key, first_sample):
        """mix_weight (n,), permutation_order (n,)."""
        generator = self._generator(key, first_sample)
        order = generator.permutation(shape[0])
        return {
            "mix_weight": generator.beta(self.alpha, self.alpha, shape[0]),
            "permutation_order": order,
        }

    def transform(self, x, transformation):
        weight = np.ravel(transformation["mix_weight"])
        return ops.mix(x, transformation["permutation_order"], weight, 1 - weight)

    def transform_grad(self, dy, x, transformation):
        weight = np.ravel(transformation["mix_weight"])
        inverse = np.argsort(transformation["permutation_order"])
        return ops.mix(dy, inverse, weight, (1 - weight)[inverse])


@table.register()
class CutMix(_Mixing):
    """A box of every picture comes from another one; labels are mixed by its area.

    The box covers 1 - m of the picture, m from Beta(a, a), a drawn between the two numbers of
    factor (one number stands for (0, factor)). Call it on {"images": x, "labels": one-hot y}.
    Yun et al. 2019.
    """

    def __init__(
        self,
        factor=1.0,
        seed: int | None = None,
        data_format: str | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        self.factor = factor_range(self, "factor", factor, 0, 1, lambda f: (0, f))

    def draw(self, shape, key, first_sample):
        """permutation_order (n,), boxes (n, 4), mix_weight (n,): what is left of the picture."""
        generator = self._generator(key, first_sample)
        order = generator.permutation(shape[0])
        alpha = between(generator.random(), self.factor) + 1e-6  # 0 has no distribution
        share = np.sqrt(1 - generator.beta(alpha, alpha, shape[0]))[:, None]
        places = generator.random((shape[0], 2))
        boxes, area = drawn_boxes(shape, np.repeat(share, 2, axis=1), places)
        return {"permutation_order": order, "boxes": boxes, "mix_weight": 1 - area}

    def transform(self, x, transformation):
        return ops.cut_mix(x, transformation["permutation_order"], transformation["boxes"])

    def transform_grad(self, dy, x, transformation):
        return ops.cut_mix_grad(dy, transformation["permutation_order"], transformation["boxes"])
