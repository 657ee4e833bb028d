"""Small models and their files, and what hostile files are made of."""

import json
import struct
import zipfile
import zlib

import numpy as np

import minicnn
from minicnn import layers
from minicnn.saving import container


def tiny_model():
    """23 numbers in five arrays; its file has about 7 kB."""
    model = minicnn.Sequential(
        [
            minicnn.Input((4, 4, 1)),
            layers.Conv2D(1, 2, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(1, name="out"),
        ],
        name="tiny",
    )
    fill(model)
    return model


def fill(model, seed=0):
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        value = generator.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Parts:
    """The three members of a .keras file, to be changed and written again as Keras would."""

    def __init__(self, path):
        with zipfile.ZipFile(path) as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}
        self.config = json.loads(self.members["config.json"])
        self.members["metadata.json"] = b'{"keras_version": "3.15.1", "date_saved": "2026"}'

    def layer(self, name):
        """The entry of a layer in config.json."""
        for entry in self.config["config"]["layers"]:
            if entry["config"]["name"] == name:
                return entry
        raise KeyError(name)

    def write(self, path, config=None):
        """`config`: other text for config.json."""
        text = json.dumps(self.config).encode() if config is None else config
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**self.members, "config.json": text}.items():
                archive.writestr(name, data)


def stored(members, names=None):
    """A zip archive of these (name, data) pairs, stored; as bytes, laid out as ours."""
    body, directory, offset = [], [], 0
    for name, data in members:
        header = container._local_header(name, zlib.crc32(data), len(data))
        directory.append(container._central_header(name, zlib.crc32(data), len(data), offset))
        body += [header, data]
        offset += len(header) + len(data)
    listing = b"".join(directory)
    count = len(members)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(listing), offset, 0)
    return b"".join([*body, listing, end])
