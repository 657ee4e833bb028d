"""CIFAR-10: 60,000 colour pictures, 32x32, of 10 classes (Krizhevsky, 2009), and a sample of them.

The SHA-256 is that of two loaders that agree: tensorflow/datasets,
tensorflow_datasets/url_checksums/cifar10.txt (with the size), and JuliaML/MLDatasets.jl,
src/datasets/vision/cifar10.jl (both read in 2026).
"""

import numpy as np

from minicnn.datasets import cifar
from minicnn.datasets.download import RemoteFile
from minicnn.errors import IntegrityError

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

LAYOUT = cifar.Layout(
    folder="cifar-10-batches-bin",
    archive=RemoteFile(
        "cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        advice="minicnn.datasets.cifar10.load_sample() needs no download",
    ),
    train={f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
    test={"test_batch.bin": 10_000},
    classes=(10,),
)

SAMPLE_TRAIN, SAMPLE_TEST = 4_000, 1_000  # 400 and 100 of every class
SAMPLE_SHA256 = "5d9a3ce7615a4b8f263dcb24365db659f3e7433d19eb39ed093d197db101805f"


def load_data(path=None):
    """(x_train, y_train), (x_test, y_test): uint8 (50000, 32, 32, 3), (50000, 1); test 10,000.

    From `cifar-10-batches-bin/` or `cifar-10-binary.tar.gz` in `path` or $MINICNN_HOME (default
    ~/.minicnn), else downloaded. `path` may also be the archive or the folder of the batches.
    Errors: DownloadError (no network, or nowhere to write), FormatError, IntegrityError.
    """
    return cifar.load(LAYOUT, path)


def load_sample():
    """The same for the sample in this package: 4,000 training and 1,000 test pictures, no network.

    400 and 100 of every class, from the training and the test split of CIFAR-10 respectively; how
    they were chosen: see the file NOTICE beside the sample. Errors: IntegrityError.
    """
    import hashlib
    import lzma
    from importlib.resources import files

    packed = (files("minicnn.datasets") / "sample" / "cifar10.xz").read_bytes()
    if hashlib.sha256(packed).hexdigest() != SAMPLE_SHA256:
        raise IntegrityError("the CIFAR-10 sample of this package is damaged: reinstall it")
    x, y = decode_sample(lzma.decompress(packed))
    at = SAMPLE_TRAIN
    return (x[:at].copy(), y[:at].copy()), (x[at:].copy(), y[at:].copy())


def decode_sample(data):
    """Pictures uint8 (n, 32, 32, 3) and labels (n, 1) of n labels followed by n coded pictures.

    Coded are green, red - green and blue - green, each as p[r,c] - p[r-1,c] - p[r,c-1] + p[r-1,c-1]
    mod 256: two running sums undo it. It makes the sample a quarter smaller than xz alone.
    """
    data = np.frombuffer(data, np.uint8)
    count = data.size // (1 + cifar.PICTURE_BYTES)
    planes = data[count:].reshape(count, *cifar.PLANES)
    planes = planes.cumsum(axis=2, dtype=np.uint8).cumsum(axis=3, dtype=np.uint8)
    green = planes[:, 1]
    planes[:, 0] += green
    planes[:, 2] += green
    return planes.transpose(0, 2, 3, 1).copy(), data[:count, None].copy()
