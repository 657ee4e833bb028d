"""The network that `minicnn train` builds, by size and number of the pictures.

    longer side of the input   the median picture's, at most 64 (fewer than 500 training pictures),
                               96 (fewer than 5,000) or 128; sides are multiples of 8 from 16 on
    blocks                     convolutions 3 x 3, batch normalisation, ReLU; max-pooling 2 x 2:
                               as many as leave the shorter side 4 pixels, at most 5
    convolutions per block     1 (fewer than 2,000 pictures) or 2
    filters                    16 (fewer than 500 pictures) or 32, doubled from block to block up to
                               128 (fewer than 20,000) or 256
    then                       global average pooling, dropout 0.4 (fewer than 500) or 0.3, a dense
                               softmax
    augmentation               up to 20,000 pictures: mirrored, moved by 8 %, turned by 10 degrees,
                               zoomed by 10 %
    pictures per step          32, or 64 from 5,000 pictures on; at least 8 steps an epoch

Pixels go in as 0..255; the first layer scales them. The moving statistics have momentum 0.9: small
data means few steps.
"""

import math

from minicnn import layers
from minicnn.initializers import RandomNormal
from minicnn.models.model import Sequential


def input_size(median, count):
    """(height, width) of the network's input for pictures of this median size."""
    longest = 64 if count < 500 else 96 if count < 5_000 else 128
    scale = min(1.0, longest / max(median))
    return tuple(_rounded(side * scale) for side in median)


def _rounded(side):
    return max(8, round(side)) if side < 16 else max(16, 8 * round(side / 8))


def blocks_for(size):
    """How many times the shorter side can be halved."""
    return min(5, max(1, int(math.log2(min(size) / 4))))


def batch_size_for(count):
    """Pictures per step."""
    return max(1, min(64 if count >= 5_000 else 32, count // 8))


def augmentation(flip):
    """Layers that act in training only."""
    moved = [layers.RandomFlip("horizontal")] if flip else []
    return [
        *moved,
        layers.RandomTranslation(0.08, 0.08),
        layers.RandomRotation(10 / 360),
        layers.RandomZoom(0.1),
    ]


def default_network(size, channels, classes, count, augment, flip):
    """The network for `count` training pictures of this size; not yet compiled."""
    chain = [layers.Input((*size, channels))]
    if augment:
        chain += augmentation(flip)
    chain.append(layers.Rescaling(1 / 127.5, -1))
    filters, widest = (16 if count < 500 else 32), (128 if count < 20_000 else 256)
    for block in range(blocks_for(size)):
        for _ in range(1 if count < 2_000 else 2):
            chain += [
                layers.Conv2D(min(widest, filters << block), 3, padding="same", use_bias=False),
                layers.BatchNormalization(momentum=0.9),
                layers.ReLU(),
            ]
        chain.append(layers.MaxPooling2D())
    chain += [
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.4 if count < 500 else 0.3),
        # Small weights: the first loss is ln k, and nothing has to be unlearnt.
        layers.Dense(classes, "softmax", kernel_initializer=RandomNormal(stddev=0.01)),
    ]
    return Sequential(chain, name="pictures")
