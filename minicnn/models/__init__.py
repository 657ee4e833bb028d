"""Models: graphs of layers that can be trained."""

from minicnn.models.model import Model, clone_model
from minicnn.models.sequential import Sequential
from minicnn.models.views import predict_views

__all__ = [
    "Model",
    "Sequential",
    "clone_model",
    "load_model",
    "model_from_json",
    "predict_views",
    "save_model",
]


def __getattr__(name):
    if name in (
        "load_model",
        "model_from_json",
        "save_model",
    ):  # saving builds models, so it is imported after them
        from minicnn import saving

        return getattr(saving, name)
    raise AttributeError(f"module 'minicnn.models' has no attribute {name!r}")
