"""The user's own classes that files may name: registered, or given for a while or for one call.

Files never import anything. A class that is not the library's is built only if the program put it
here (or passed it as custom_objects) under the name that the file says.
"""

import contextvars
import inspect

_registered = {}  # name in files -> class or function
_names = {}  # class or function -> name in files
_scope = contextvars.ContextVar("custom_objects", default=None)


def register_keras_serializable(package="Custom", name=None):
    """Class decorator: files name the class "package>name" and may build it. As in Keras."""

    def add(thing):
        registered_name = f"{package}>{name if name is not None else thing.__name__}"
        if inspect.isclass(thing) and not hasattr(thing, "get_config"):
            raise ValueError(
                f"{thing.__name__} has no get_config(): files could not say how to build it; "
                "derive it from a minicnn class or define get_config and from_config"
            )
        if registered_name in _registered:
            raise ValueError(
                f"{registered_name} is registered already, as {_registered[registered_name]}; "
                "give another package= or name="
            )
        if thing in _names:
            raise ValueError(f"{thing} is registered already, as {_names[thing]!r}")
        _registered[registered_name] = thing
        _names[thing] = registered_name
        return thing

    return add


class CustomObjectScope:
    """Within `with CustomObjectScope({"MyLayer": MyLayer}):` files may build these classes."""

    def __init__(self, custom_objects):
        self.custom_objects = dict(custom_objects or {})

    def __enter__(self):
        self._token = _scope.set({**(_scope.get() or {}), **self.custom_objects})
        return self

    def __exit__(self, *exception):
        _scope.reset(self._token)


custom_object_scope = CustomObjectScope


def get_custom_objects():
    """The dictionary of registered names; entries added to it are registered."""
    return _registered


def get_registered_name(obj):
    """The name that files have for a class or function."""
    return _names.get(obj, obj.__name__)


def get_registered_object(name, custom_objects=None):
    """The class or function of that name, None if there is none."""
    return in_force(custom_objects).get(name)


def in_force(custom_objects=None):
    """All names that files may use besides the library's own."""
    return {**_registered, **(_scope.get() or {}), **(custom_objects or {})}
