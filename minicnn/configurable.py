"""Objects whose config is their constructor's arguments, and the closed tables that name them.

Every `__init__` argument is kept as an attribute of that name, so a config is read off the
signature, and `from_config` is a plain call. A table lists the classes of one room ("layers",
"losses", ...): names in files and strings like "adam" are looked up there and nowhere else.
"""

import difflib
import functools
import inspect
import re

import numpy as np


@functools.cache
def constructor_arguments(cls):
    """Names of the arguments that `cls(...)` takes, most derived class first."""
    names = {}
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is None or base is object:
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        names.update(
            (p.name, p) for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        )
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # this constructor passes nothing on to its bases
    return tuple(names)


def closest(name, names):
    """The hint " Did you mean 'adam'?", or "" when nothing is close."""
    lowered = {str(n).lower(): n for n in names}
    match = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.6)
    return f" Did you mean {lowered[match[0]]!r}?" if match else ""


def snake_case(name):
    """Keras's rule: Conv2D -> conv2d, MaxPooling2D -> max_pooling2d, ReLU -> re_lu."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _is_default(cls, name, value):
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is not None and name in inspect.signature(init).parameters:
            return inspect.signature(init).parameters[name].default is value
    return False


class Configurable:
    """Base of everything that has a config."""

    def get_config(self):
        """The constructor's arguments as plain values."""
        return {name: serialize(getattr(self, name)) for name in constructor_arguments(type(self))}

    @classmethod
    def from_config(cls, config):
        """The object that `get_config` described."""
        allowed = constructor_arguments(cls)
        for name in config:
            if name not in allowed:
                raise ValueError(
                    f"{cls.__name__} takes no argument {name!r}.{closest(name, allowed)}"
                )
        return cls(**config)

    def __repr__(self):
        shown = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name in constructor_arguments(type(self))
            if not _is_default(type(self), name, getattr(self, name))
        )
        return f"{type(self).__name__}({shown})"


class Table:
    """The classes of one room by name: `register` adds one, `get` resolves an identifier."""

    all = {}

    def __init__(self, module, noun):
        self.module, self.noun = module, noun
        self.classes = {}  # public class name -> class: what files may name
        self.names = {}  # every accepted spelling -> class
        Table.all[module] = self

    def register(self, *aliases):
        """Class decorator: list the class under its name, its snake-case name and aliases."""

        def add(cls):
            cls.table = self
            self.classes[cls.__name__] = cls
            for name in (cls.__name__, cls.__name__.lower(), snake_case(cls.__name__), *aliases):
                self.names[name] = cls
            return cls

        return add

    def find(self, name):
        """The class of that name, or ValueError with the closest one."""
        if name in self.names:
            return self.names[name]
        raise ValueError(
            f"Unknown {self.noun} {name!r}.{closest(name, self.names)}"
            f" Known: {', '.join(sorted(self.classes))}."
        )

    def get(self, identifier):
        """None, a name, a config dict, a class or an object -> None or an object."""
        if identifier is None or isinstance(identifier, tuple(set(self.classes.values()))):
            return identifier
        if isinstance(identifier, str):
            return self.find(identifier)()
        if isinstance(identifier, dict):
            return self.build(identifier)
        if isinstance(identifier, type) and identifier in self.classes.values():
            return identifier()
        shown = " ".join(repr(identifier).split())  # arrays fill several lines
        shown = shown if len(shown) <= 80 else shown[:80] + "..."
        raise TypeError(
            f"{shown} is no {self.noun}: give a name, a config, or an object of "
            f"minicnn.{self.module}"
        )

    def build(self, config):
        """The object of {"class_name": ..., "config": {...}}, of this table's classes only."""
        extra = set(config) - {"module", "class_name", "config", "registered_name", "build_config"}
        if "class_name" not in config or extra:
            raise ValueError(
                f"A {self.noun} config has 'class_name' and 'config', not {sorted(config)}"
            )
        name = config["class_name"]
        if not isinstance(name, str) or name not in self.classes:
            raise ValueError(
                f"Unknown {self.noun} class {name!r}.{closest(name, self.classes)} Only the classes"
                f" of minicnn.{self.module} and those you registered are built."
            )
        return self.classes[name].from_config(config.get("config") or {})


def serialize(value):
    """Plain dicts, lists, numbers and strings for a config value."""
    if hasattr(value, "serialize"):
        return value.serialize()
    if isinstance(value, Configurable):
        return {
            "module": type(value).table.module,
            "class_name": type(value).__name__,
            "config": value.get_config(),
        }
    if isinstance(value, list | tuple):
        return [serialize(item) for item in value]
    if isinstance(value, dict):
        return {key: serialize(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype):
        return value.name
    return value
