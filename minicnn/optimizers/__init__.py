"""Optimisers: by name or as objects; `schedules` for learning rates that change."""

from minicnn.optimizers import schedules
from minicnn.optimizers.adagrad import Adadelta, Adagrad
from minicnn.optimizers.adam import Adam, Adamax, AdamW, Nadam
from minicnn.optimizers.base import Optimizer, deserialize, get, serialize, table
from minicnn.optimizers.lion import Lion
from minicnn.optimizers.muon import Muon
from minicnn.optimizers.rmsprop import RMSprop
from minicnn.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Muon",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "deserialize",
    "get",
    "schedules",
    "serialize",
    "table",
]
