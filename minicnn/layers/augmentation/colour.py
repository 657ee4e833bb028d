"""Contrast, brightness, saturation and hue, drawn per picture; results are kept in value_range."""

import numpy as np

from minicnn import ops, randomness
from minicnn.layers.augmentation.base import (
    RandomLayer,
    between,
    factor_range,
    pixel_range,
    to_both_sides,
)
from minicnn.layers.base import table
from minicnn.randomness import uniforms


class _Recolour(RandomLayer):
    """A map of pixels with one number per picture, `self.number` in the transformation."""

    needs_input = True

    def draw(self, shape, key, first_sample):
        u = uniforms(key, first_sample, shape[0], 2)
        return {self.number: self.scaled(between(u[:, 0], self.factor), u[:, 1])}

    def scaled(self, factor, sign):
        """The number for a drawn factor; sign: another draw."""
        return factor

    def transform(self, x, transformation):
        return self.value(x, np.ravel(transformation[self.number]), *self.value_range)

    def transform_grad(self, dy, x, transformation):
        return self.grad(dy, x, np.ravel(transformation[self.number]), *self.value_range)


@table.register()
class RandomContrast(_Recolour):
    """y = (x - mean) f + mean per channel, f in [1 - lower, 1 + upper], kept in value_range.

    factor: (lower, upper), each in [0, 1], or a number for both, as Keras describes it (Keras 3.15
    itself never lowers the contrast for one number).
    """

    number = "contrast_factor"

    def __init__(self, factor, value_range=(0, 255), seed: int | None = None, **base):
        super().__init__(seed=seed, **base)
        self.factor = factor_range(self, "factor", factor, 0, 1, lambda f: (f, f))
        self.value_range = pixel_range(self, value_range)

    def draw(self, shape, key, first_sample):
        lower, upper = self.factor
        u = uniforms(key, first_sample, shape[0], 1)[:, 0]
        return {self.number: between(u, (1 - lower, 1 + upper))}

    def value(self, x, factors, low, high):
        return ops.adjust_levels(x, factors, np.zeros(len(x)), low, high)

    def grad(self, dy, x, factors, low, high):
        return ops.adjust_levels_grad(dy, x, factors, np.zeros(len(x)), low, high)


@table.register()
class RandomBrightness(_Recolour):
    """y = x + d, kept in value_range; d: up to `factor` of the range, to both sides."""

    number = "rgb_delta"

    def __init__(self, factor, value_range=(0, 255), seed: int | None = None, **base):
        super().__init__(seed=seed, **base)
        self.factor = factor_range(self, "factor", factor, -1, 1, to_both_sides)
        self.value_range = pixel_range(self, value_range)

    def scaled(self, factor, sign):
        return factor * (self.value_range[1] - self.value_range[0])

    def value(self, x, delta, low, high):
        return ops.adjust_levels(x, np.ones(len(x)), delta, low, high)

    def grad(self, dy, x, delta, low, high):
        return ops.adjust_levels_grad(dy, x, np.ones(len(x)), delta, low, high)


class _Colour(_Recolour):
    """Pictures with the three channels red, green, blue; `factor` is drawn within [0, 1]."""

    number = "factor"

    def __init__(
        self,
        factor,
        value_range=(0, 255),
        data_format: str | None = None,
        seed: int | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        self.factor = factor_range(self, "factor", factor, 0, 1, lambda f: (0, f))
        self.value_range = pixel_range(self, value_range)

    def check_input_shape(self, shape):
        super().check_input_shape(shape)
        if shape[-1] not in (None, 3):
            self.fail(f"works on colours, 3 channels, and got shape {tuple(shape)}: leave it out")


@table.register()
class RandomSaturation(_Colour):
    """Saturation times f / (1 - f): f = 0 is grey, 0.5 as before, 1 fully saturated.

    factor: two numbers in [0, 1] that f is drawn between; one number stands for (0, factor).
    """

    def scaled(self, factor, sign):
        return factor / (1 - factor + 1e-7)

    def value(self, x, factors, low, high):
        return ops.adjust_saturation(x, factors, low, high)

    def grad(self, dy, x, factors, low, high):
        return ops.adjust_saturation_grad(dy, x, factors, low, high)


@table.register()
class RandomHue(_Colour):
    """Turn the hue by up to half of `factor` of the colour circle, to both sides.

    factor: two numbers in [0, 1] that it is drawn between; one number stands for (0, factor).
    """

    def scaled(self, factor, sign):
        return factor * np.where(sign > 0.5, -0.5, 0.5)

    def value(self, x, shifts, low, high):
        return ops.adjust_hue(x, shifts, low, high)

    def grad(self, dy, x, shifts, low, high):
        return ops.adjust_hue_grad(dy, x, shifts, low, high)


@table.register()
class RandomColorJitter(RandomLayer):
    """RandomBrightness, -Contrast, -Saturation and -Hue in this order; None leaves one out."""

    needs_input = True

    def __init__(
        self,
        value_range=(0, 255),
        brightness_factor=None,
        contrast_factor=None,
        saturation_factor=None,
        hue_factor=None,
        seed: int | None = None,
        data_format: str | None = None,
        **base,
    ):
        super().__init__(seed=seed, data_format=data_format, **base)
        self.value_range = pixel_range(self, value_range)
        self.brightness_factor, self.contrast_factor = brightness_factor, contrast_factor
        self.saturation_factor, self.hue_factor = saturation_factor, hue_factor
        for name, cls in self.PARTS.items():
            factor = getattr(self, f"{name}_factor")
            part = None
            if factor is not None:
                part = cls(factor, value_range=self.value_range, seed=seed, name=f"random_{name}")
            setattr(self, f"random_{name}", part)

    PARTS = {
        "brightness": RandomBrightness,
        "contrast": RandomContrast,
        "saturation": RandomSaturation,
        "hue": RandomHue,
    }

    @property
    def _parts(self):
        named = ((name, getattr(self, f"random_{name}")) for name in self.PARTS)
        return {name: part for name, part in named if part is not None}

    def check_input_shape(self, shape):
        super().check_input_shape(shape)
        for part in self._parts.values():
            part.check_input_shape(shape)

    def draw(self, shape, key, first_sample):
        """{"brightness": its transformation, "contrast": ...}"""
        return {
            name: part.draw(shape, randomness.mix(key, number), first_sample)
            for number, (name, part) in enumerate(self._parts.items())
        }

    def transform(self, x, transformation):
        for name, part in self._parts.items():
            x = part.transform(x, transformation[name])
        return x

    def transform_grad(self, dy, x, transformation):
        inputs = [x]
        for name, part in self._parts.items():
            inputs.append(part.transform(inputs[-1], transformation[name]))
        for (name, part), x in zip(reversed(self._parts.items()), inputs[-2::-1], strict=True):
            dy = part.transform_grad(dy, x, transformation[name])
        return dy
