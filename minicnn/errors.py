"""Errors about files and downloads (all else raises ValueError or TypeError), and warnings."""

import sys
import warnings
from pathlib import Path

import numpy as np

_INSIDE = tuple(str(Path(file).parent) for file in (__file__, np.__file__))


def warn(message, category=UserWarning):
    """Warn at the line outside of this package (and of NumPy) from which all this was called."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


class FormatError(ValueError):
    """A file is not what it should be: truncated, of another format, with a lying header."""


class IntegrityError(FormatError):
    """A file has the right format, but its bytes are not those that were written."""


class DownloadError(OSError):
    """A data set is neither on disk nor to be had from the network."""


class PictureError(ValueError):
    """A picture file cannot be decoded; has the path and the reason."""

    def __init__(self, path, reason):
        super().__init__(f"{str(path)!r} {reason}")
        self.path, self.reason = path, reason
