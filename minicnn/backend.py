"""keras.backend under its name: the few questions that scripts ask of it."""

from minicnn import config
from minicnn.models.model import clear_session

__all__ = [
    "backend",
    "clear_session",
    "epsilon",
    "floatx",
    "image_data_format",
    "set_floatx",
    "set_image_data_format",
]


def backend():
    """The name of the engine."""
    return "minicnn"


def epsilon():
    """The small number that losses clip probabilities to."""
    return 1e-7


def floatx():
    """Type of new layers."""
    return config.floatx


def set_floatx(value):
    """Choose the type of new layers: "float32" or "float64"."""
    config.floatx = value


def image_data_format():
    """Always "channels_last"."""
    return config.image_data_format


def set_image_data_format(data_format):
    """Accepts "channels_last" only."""
    config.image_data_format = data_format
