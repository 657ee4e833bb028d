"""keras.preprocessing under its name; the code lives in minicnn.data."""

from minicnn.preprocessing import image

__all__ = ["image"]
