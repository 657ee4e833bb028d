"""CIFAR-100: 60,000 colour pictures, 32x32, of 100 classes in 20 groups (Krizhevsky, 2009).

The SHA-256 is that of two loaders that agree: tensorflow/datasets,
tensorflow_datasets/url_checksums/cifar100.txt (with the size), and JuliaML/MLDatasets.jl,
src/datasets/vision/cifar100.jl (both read in 2026).
"""

from minicnn.datasets import cifar
from minicnn.datasets.download import RemoteFile

LAYOUT = cifar.Layout(
    folder="cifar-100-binary",
    archive=RemoteFile(
        "cifar-100-binary.tar.gz",
        168_513_733,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    ),
    train={"train.bin": 50_000},
    test={"test.bin": 10_000},
    classes=(20, 100),  # the coarse label comes first
)


def load_data(label_mode: str = "fine", path=None):
    """(x_train, y_train), (x_test, y_test): uint8 (50000, 32, 32, 3), (50000, 1); test 10,000.

    `label_mode`: "fine" (0..99) or "coarse" (0..19). `path`: a folder instead of $MINICNN_HOME, or
    the archive itself. Errors: DownloadError, FormatError, IntegrityError.
    """
    if label_mode not in ("fine", "coarse"):
        raise ValueError(f"label_mode is 'fine' or 'coarse', not {label_mode!r}")
    column = slice(1, 2) if label_mode == "fine" else slice(0, 1)
    (x_train, y_train), (x_test, y_test) = cifar.load(LAYOUT, path)
    return (x_train, y_train[:, column].copy()), (x_test, y_test[:, column].copy())
