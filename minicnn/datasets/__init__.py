"""Data sets by name, as in Keras: `from minicnn.datasets import cifar10; cifar10.load_data()`.

Each looks into the cache folder (`$MINICNN_HOME`, by default `~/.minicnn`) and downloads what is
missing. `cifar10.load_sample()` is part of the package and needs no network.
"""

from minicnn.datasets import cifar10, cifar100, fashion_mnist, mnist

__all__ = ["cifar10", "cifar100", "fashion_mnist", "mnist"]
