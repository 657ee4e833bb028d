"""Fashion-MNIST: 70,000 pictures of clothing, 28x28, grey (Xiao et al., 2017; MIT licence).

The sizes and SHA-256 are those of two loaders that agree: tensorflow/datasets,
tensorflow_datasets/url_checksums/fashion_mnist.txt, and Keras, keras/src/datasets/fashion_mnist.py
(both read in 2026). Debian's package dataset-fashion-mnist 0.0~git20200523 holds the same data with
the name and time taken out of the gzip headers (`repacked`); with them put back (file name, and
1504176606 s for training or 1504176627 s for test) its four files have exactly these SHA-256.
"""

from minicnn.datasets import idx
from minicnn.datasets.download import RemoteFile

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# The publisher's own server speaks http only. The first is Keras's copy, the second the
# publisher's repository.
MIRRORS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)


def _file(name, size, sha256, repacked):
    return RemoteFile(name, size, sha256, tuple(mirror + name for mirror in MIRRORS), repacked)


FILES = {
    "train-images": _file(
        "train-images-idx3-ubyte.gz",
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    ),
    "train-labels": _file(
        "train-labels-idx1-ubyte.gz",
        29_515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    ),
    "t10k-images": _file(
        "t10k-images-idx3-ubyte.gz",
        4_422_102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    ),
    "t10k-labels": _file(
        "t10k-labels-idx1-ubyte.gz",
        5_148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    ),
}


def load_data(path=None):
    """(x_train, y_train), (x_test, y_test): uint8 (60000, 28, 28) and (60000,); 10,000 for test.

    `path`: a folder instead of $MINICNN_HOME; the four files lie in it or in its folder
    `fashion-mnist` (Debian's package: "/usr/share/datasets"). Errors: DownloadError, FormatError.
    """
    return idx.load("fashion-mnist", FILES, 60_000, 10_000, path)
