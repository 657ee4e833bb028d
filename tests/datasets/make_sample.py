"""Builds minicnn/datasets/sample/cifar10.xz from the full CIFAR-10 in $MINICNN_HOME.

Run by hand: `python tests/datasets/make_sample.py [file]`. The choice is a rule, not a seed: of
each class the pictures whose record has the smallest SHA-256, so the order of the source is no
matter and whoever has the data set gets the same file (the xz version may change its bytes; the
test pins the pixels as well).
"""

import hashlib
import lzma
import sys
from pathlib import Path

import numpy as np

from minicnn.datasets import cifar10


def record_hashes(x, y):
    """SHA-256 of every record of the binary version: label byte, then the three planes."""
    planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(len(x), -1)
    return [hashlib.sha256(row.tobytes()).digest() for row in np.concatenate([y, planes], axis=1)]


def choose(x, y, count):
    """Indices of the `count` pictures with the smallest hashes, the same number of every class.

    They come in the order of the hashes read backwards: by the hashes themselves the end would
    hold only those classes whose largest chosen hash is the largest.
    """
    left = np.full(10, count // 10)
    hashes = record_hashes(x, y)
    chosen = []
    for index in sorted(range(len(x)), key=hashes.__getitem__):
        label = y[index, 0]
        if left[label]:
            left[label] -= 1
            chosen.append(index)
    return sorted(chosen, key=lambda index: hashes[index][::-1])


def encode(x, y):
    """The inverse of `cifar10.decode_sample`, as bytes."""
    planes = x.transpose(0, 3, 1, 2).copy()
    green = planes[:, 1].copy()
    planes[:, 0] -= green
    planes[:, 2] -= green
    for axis in (2, 3):
        planes = np.diff(planes, axis=axis, prepend=np.uint8(0))
    return y.tobytes() + planes.tobytes()


def main(target):
    (x_train, y_train), (x_test, y_test) = cifar10.load_data()
    train = choose(x_train, y_train, cifar10.SAMPLE_TRAIN)
    test = choose(x_test, y_test, cifar10.SAMPLE_TEST)
    x = np.concatenate([x_train[train], x_test[test]])
    y = np.concatenate([y_train[train], y_test[test]])
    # 16 MB is the least dictionary that spans the data; it is also what unpacking takes.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24}]
    packed = lzma.compress(encode(x, y), format=lzma.FORMAT_XZ, filters=filters)
    Path(target).write_bytes(packed)
    print(f"{target}: {len(packed):,} bytes, sha256 {hashlib.sha256(packed).hexdigest()}")
    print(f"pixels and labels: sha256 {hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()}")


if __name__ == "__main__":
    folder = Path(cifar10.__file__).parent / "sample"
    main(sys.argv[1] if len(sys.argv) > 1 else folder / "cifar10.xz")
