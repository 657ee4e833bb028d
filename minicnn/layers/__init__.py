"""The layers, a file per family: the list of files is the list of ideas."""

from minicnn.configurable import serialize
from minicnn.layers.activation import Activation, LeakyReLU, ReLU, Softmax
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
from minicnn.layers.base import Layer, table
from minicnn.layers.convolution import Conv2D, Convolution2D
from minicnn.layers.dense import Dense
from minicnn.layers.input import Input, InputLayer
from minicnn.layers.merging import Add, Concatenate, add, concatenate
from minicnn.layers.normalization import BatchNorm, BatchNormalization
from minicnn.layers.pooling import (
    AveragePooling2D,
    AvgPool,
    AvgPool2D,
    GlobalAveragePooling2D,
    GlobalAvgPool2D,
    GlobalMaxPool2D,
    GlobalMaxPooling2D,
    MaxPool,
    MaxPool2D,
    MaxPooling2D,
)
from minicnn.layers.preprocessing import CenterCrop, Normalization, Resizing
from minicnn.layers.regularization import Dropout, SpatialDropout2D
from minicnn.layers.reshaping import Flatten, Rescaling, Reshape, UpSampling2D, ZeroPadding2D

deserialize = table.build

__all__ = [
    "Activation",
    "Add",
    "AveragePooling2D",
    "AvgPool",
    "AvgPool2D",
    "BatchNorm",
    "BatchNormalization",
    "CenterCrop",
    "Concatenate",
    "Conv2D",
    "Convolution2D",
    "CutMix",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalAvgPool2D",
    "GlobalMaxPool2D",
    "GlobalMaxPooling2D",
    "Input",
    "InputLayer",
    "Layer",
    "LeakyReLU",
    "MaxPool",
    "MaxPool2D",
    "MaxPooling2D",
    "MixUp",
    "Normalization",
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
    "ReLU",
    "Rescaling",
    "Reshape",
    "Resizing",
    "Softmax",
    "SpatialDropout2D",
    "UpSampling2D",
    "ZeroPadding2D",
    "add",
    "concatenate",
    "deserialize",
    "serialize",
]
