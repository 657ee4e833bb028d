"""Layers that change pictures at random while training, and leave them alone otherwise."""

from minicnn.layers.augmentation.colour import (
    RandomBrightness,
    RandomColorJitter,
    RandomContrast,
    RandomHue,
    RandomSaturation,
)
from minicnn.layers.augmentation.geometry import (
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomShear,
    RandomTranslation,
    RandomZoom,
)
from minicnn.layers.augmentation.mixing import CutMix, MixUp, RandomErasing

__all__ = [
    "CutMix",
    "MixUp",
    "RandomBrightness",
    "RandomColorJitter",
    "RandomContrast",
    "RandomCrop",
    "RandomErasing",
    "RandomFlip",
    "RandomHue",
    "RandomRotation",
    "RandomSaturation",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
]
