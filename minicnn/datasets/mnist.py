"""MNIST: 70,000 handwritten digits, 28x28, grey (LeCun, Cortes and Burges).

The sizes and SHA-256 are those of two loaders that agree: tensorflow/datasets,
tensorflow_datasets/url_checksums/mnist.txt, and pytorch/vision,
torchvision/prototype/datasets/_builtin/mnist.py (both read in 2026).
"""

from minicnn.datasets import idx
from minicnn.datasets.download import RemoteFile

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)


def _file(name, size, sha256):
    return RemoteFile(name, size, sha256, tuple(mirror + name for mirror in MIRRORS))


FILES = {
    "train-images": _file(
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels": _file(
        "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images": _file(
        "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels": _file(
        "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}


def load_data(path=None):
    """(x_train, y_train), (x_test, y_test): uint8 (60000, 28, 28) and (60000,); 10,000 for test.

    `path`: a folder instead of $MINICNN_HOME; the four files lie in it or in its folder `mnist`.
    Keras's default, "mnist.npz", means none. Errors: DownloadError, FormatError.
    """
    return idx.load("mnist", FILES, 60_000, 10_000, None if path == "mnist.npz" else path)
