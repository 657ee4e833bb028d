"""The only global settings. `config.threads = 1` sets one, `with config.using(...)` for a while.

ops           "fast" (Numba) or "reference" (NumPy, to be read)
threads       threads of the fast kernels; None: as many as this process may use
convolution   "auto", "direct" (no Winograd) or "winograd" (wherever it is defined)
compile_processes   processes that compile the kernels of a first training step, this one included;
              None: as many as it may use cores; 1: no others ($MINICNN_COMPILE_PROCESSES likewise)
amx           "auto" (the processor's tile unit, where there is one) or "off"
floatx        type of new layers: "float32" or "float64"
image_data_format   "channels_last"; "channels_first" is refused with the way to convert
largest_picture     pixels that a picture file may have to be decoded; the default, Pillow's own
              limit, is 256 MB of RGB: a file of a few kilobytes can claim to hold gigabytes
seed          seed of everything random that was given none; None: from the operating system
"""

import contextlib
import os
import sys
import types

_ALLOWED = {
    "ops": ("fast", "reference"),
    "convolution": ("auto", "direct", "winograd"),
    "amx": ("auto", "off"),
    "floatx": ("float32", "float64"),
    "image_data_format": ("channels_last",),
}

ops = "fast"
threads = None
compile_processes = int(os.environ.get("MINICNN_COMPILE_PROCESSES") or 0) or None
convolution = "auto"
amx = "auto"
floatx = "float32"
image_data_format = "channels_last"
largest_picture = 89_478_485
seed = None

_NAMES = frozenset({*_ALLOWED, "compile_processes", "largest_picture", "threads", "seed"})
_listeners = {}
_changes = 0


def on_change(name, listener):
    """Call `listener()` whenever the setting changes (the op set binds itself anew)."""
    _listeners.setdefault(name, []).append(listener)


def changes():
    """How often a setting was assigned."""
    return _changes


class _Config(types.ModuleType):
    """A module that checks what is assigned to its settings."""

    def __setattr__(self, name, value):
        if name.startswith("_"):
            return super().__setattr__(name, value)
        if name not in _NAMES:
            raise AttributeError(f"config has no setting {name!r}; there are {sorted(_NAMES)}")
        if name in _ALLOWED and value not in _ALLOWED[name]:
            hint = ""
            if value == "channels_first":
                hint = "; images are NHWC here: use x.transpose(0, 2, 3, 1)"
            raise ValueError(f"config.{name} is one of {_ALLOWED[name]}, not {value!r}{hint}")
        counted = name in ("threads", "compile_processes")
        if counted and value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"config.{name} is None or a positive integer, not {value!r}")
        if name == "largest_picture" and (type(value) is not int or value < 1):
            raise ValueError(f"config.largest_picture is a positive integer, not {value!r}")
        if name == "seed" and value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"config.seed is None or an integer >= 0, not {value!r}")
        super().__setattr__(name, value)
        self._changes = _changes + 1
        for listener in _listeners.get(name, ()):
            listener()

    @contextlib.contextmanager
    def using(self, **settings):
        """Settings for the length of a `with` block."""
        before = {name: getattr(self, name) for name in settings}
        try:
            for name, value in settings.items():
                setattr(self, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)


sys.modules[__name__].__class__ = _Config
