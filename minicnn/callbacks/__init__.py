"""Callbacks: what is called before and after epochs and batches. Names and meaning as in Keras."""

from minicnn.callbacks.base import Callback, History, LambdaCallback
from minicnn.callbacks.callback_list import CallbackList
from minicnn.callbacks.checking import CheckTraining
from minicnn.callbacks.control import (
    EarlyStopping,
    LearningRateScheduler,
    ReduceLROnPlateau,
    SwapEMAWeights,
    TerminateOnNaN,
)
from minicnn.callbacks.display import ProgbarLogger
from minicnn.callbacks.saving import CSVLogger, ModelCheckpoint

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "CheckTraining",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TerminateOnNaN",
]
