"""Files: whole models (.keras) and weights (.weights.h5), as Keras 3 writes and reads them.

What is read is bounded by the file's size and by closed tables of classes; what is written replaces
the old file as a whole. container.py is the archive, translation.py the architecture, weights.py
the numbers, disk.py the file. weights.py is imported in functions: it loads h5py.
"""

import os
import warnings

from minicnn.configurable import closest
from minicnn.errors import FormatError
from minicnn.models.model import Model
from minicnn.saving import bounded_json, container, disk, translation
from minicnn.saving.names import check_name
from minicnn.saving.registry import (
    CustomObjectScope,
    custom_object_scope,
    get_custom_objects,
    get_registered_name,
    get_registered_object,
    register_keras_serializable,
)

__all__ = [
    "CustomObjectScope",
    "custom_object_scope",
    "deserialize_keras_object",
    "get_custom_objects",
    "get_registered_name",
    "get_registered_object",
    "load_model",
    "load_weights",
    "model_from_json",
    "model_to_json",
    "register_keras_serializable",
    "save_model",
    "save_weights",
    "serialize_keras_object",
]

KERAS_VERSION = "3.15.1"  # whose layout we write

# A weight file may hold the optimiser's slots too, and in float64: bytes per byte of weights.
_LARGEST_RATIO, _OVERHEAD = 16, 1 << 26


def save_model(model, filepath, overwrite=True, zipped=None):
    """Write architecture, weights, compile arguments, optimiser state and notes to a .keras file.

    The old file is replaced only when the new one is complete on disk. Real Keras opens it.
    """
    from minicnn import __version__
    from minicnn.saving import weights

    if not isinstance(model, Model):
        raise TypeError(f"save_model takes a model, not {model!r}")
    if zipped is False:
        raise ValueError("save_model writes one .keras file, not a folder: leave zipped out")
    path = disk.checked_path(filepath, ".keras", "save_model")
    disk.refuse_existing(path, overwrite)
    if model.graph is None:
        warnings.warn(
            f"model {model.name!r} is not built and is saved without weights: give it an input "
            "shape, or call it on data first",
            stacklevel=3,
        )
    config = translation.Writer().layer(model)
    versions = {"keras_version": KERAS_VERSION, "minicnn_version": __version__}
    if model.notes is not None:
        versions["notes"] = _checked_notes(model.notes)  # Keras reads only its own entries
    optimizer = None
    compiled = _compile_entry(model)
    if compiled is not None:
        optimizer = model.optimizer
        config["compile_config"] = translation.for_keras(compiled)
        if config["compile_config"] != compiled:
            versions["compile_config"] = compiled  # Keras does not look for it in the metadata
    parts = container.pack(bounded_json.dumps(config), weights.pack(model, optimizer), versions)
    disk.write_atomically(path, parts, overwrite)


def _checked_notes(notes):
    """The notes, if they come back from a file as they are."""
    try:
        same = isinstance(notes, dict) and bounded_json.loads(bounded_json.dumps(notes), "notes")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"model.notes cannot be saved: {error}") from None
    if same != notes:
        raise ValueError(
            "model.notes is a dict of strings, finite numbers, True, False, None, lists and dicts "
            "with strings as keys"
        )
    return notes


def _compile_entry(model):
    try:
        return translation.compile_entry(model)
    except (ValueError, TypeError) as error:
        warnings.warn(f"the model is saved without its compile arguments: {error}", stacklevel=3)
        return None


def load_model(filepath, custom_objects=None, compile=True, safe_mode=True):
    """The model that a .keras file holds, written by minicnn or by Keras 3; compiled as it was.

    Classes come from the library, from custom_objects {name: class} and from those registered; no
    code in a file is ever run, whatever safe_mode says. FormatError: not such a file, or one that
    this library cannot represent. IntegrityError: bytes have changed since it was written.
    """
    from minicnn.saving import weights

    path = _existing(filepath, ".keras", "load_model")
    file = container.Container(path)
    stored = weights.WeightFile(file.weights, f"{path}: {container.WEIGHTS}")
    builder = translation.Builder(
        f"{path}: {container.CONFIG}", custom_objects, budget=stored.count()
    )
    model = builder.build(file.config)
    if not isinstance(model, Model):
        raise FormatError(f"{path}: {container.CONFIG}: a {type(model).__name__}, not a model")
    pairs, problems = weights.match(model, stored)
    if problems:
        raise FormatError(f"{path}: weights and architecture disagree: {_first(problems)}")
    weights.fill(pairs, stored)
    given = file.config.get("compile_config")
    if file.own:
        given = file.metadata.get("compile_config", given)
    notes = file.metadata.get("notes") if file.own else None
    if notes is not None and not isinstance(notes, dict):
        raise FormatError(f"{path}: {container.METADATA}: notes is {str(notes)[:80]!r}, not a dict")
    model.notes = notes
    if compile and given:
        _compile(model, given, stored, path, custom_objects)
    return model


def _existing(filepath, suffix, what):
    """The path, if it has this suffix; else FormatError, which says what the file is."""
    path = os.fsdecode(os.fspath(filepath))
    if path.endswith(suffix):
        return path
    file, size = disk.open_regular(path)
    with file:
        head = disk.read_exactly(file, 0, min(size, 512), path)
    try:
        disk.checked_path(path, suffix, what)
    except ValueError as error:
        raise FormatError(f"{error} ({path} is {disk.describe(head)})") from None


def _first(problems):
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return problems[0] + more


def _compile(model, given, stored, path, custom_objects):
    builder = translation.Builder(f"{path}: compile_config", custom_objects)
    arguments = builder.build(given)
    if not isinstance(arguments, dict):
        builder.fail(f"expected the arguments of compile, got {str(arguments)[:80]!r}")
    known = (*translation.COMPILE_ARGUMENTS, *translation.RUN_ARGUMENTS)
    for name in arguments:
        if name not in known:
            builder.fail(f"unknown argument {name[:80]!r}.{closest(name[:80], known)}")
    chosen = {n: arguments[n] for n in translation.COMPILE_ARGUMENTS if n in arguments}
    try:
        model.compile(**chosen)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(
            f"{path}: {error} (load_model(..., compile=False) loads without it)"
        ) from error
    arrays = stored.optimizer_state()
    if not arrays:
        return
    if len(arrays) != len(model.optimizer.state()):
        model.optimizer.build(model.trainable_weights)
    try:
        model.optimizer.load_state(arrays)
    except ValueError as error:
        warnings.warn(f"{path}: the optimizer starts anew: {error}", stacklevel=3)


def save_weights(model, filepath, overwrite=True):
    """Write the weights (without the optimiser's state) to a .weights.h5 file."""
    from minicnn.saving import weights

    path = disk.checked_path(filepath, ".weights.h5", "save_weights")
    disk.refuse_existing(path, overwrite)
    if not model.built:
        model.fail("is not built and has no weights yet: give it an input shape first")
    for _, layer, _ in weights.places(model):
        check_name(layer.name, type(layer).__name__, ValueError)
    disk.write_atomically(path, [weights.pack(model)], overwrite)


def load_weights(model, filepath, skip_mismatch=False):
    """Read weights from a .weights.h5 or .keras file: all of them, or nothing is changed.

    skip_mismatch: load those that fit, warn about the others, and return {"loaded": names,
    "skipped": reasons}.
    """
    from minicnn.saving import weights

    path = os.fsdecode(os.fspath(filepath))
    if not model.built:
        model.fail("is not built and has no weights yet: give it an input shape first")
    if path.endswith(".keras"):
        path = _existing(path, ".keras", "load_weights")
        data = container.Container(path).weights
        where = f"{path}: {container.WEIGHTS}"
    else:
        path = where = _existing(path, ".weights.h5", "load_weights")
        data = _read_bounded(path, model)
    stored = weights.WeightFile(data, where)
    pairs, problems = weights.match(model, stored)
    if problems and not skip_mismatch:
        raise ValueError(
            f"{path} does not fit model {model.name!r}: {_first(problems)}; skip_mismatch=True "
            "loads what fits"
        )
    weights.fill(pairs, stored)
    if problems:
        warnings.warn(f"{path}: {len(pairs)} weights loaded, not: {_first(problems)}", stacklevel=3)
    if skip_mismatch:
        return {"loaded": [parameter.name for parameter, _ in pairs], "skipped": problems}
    return None


def _read_bounded(path, model):
    file, size = disk.open_regular(path)
    held = sum(parameter.value.nbytes for parameter in model.weights)
    with file:
        if size > _LARGEST_RATIO * held + _OVERHEAD:
            raise FormatError(f"{path} has {size} bytes, far more than the model's {held}")
        return disk.read_exactly(file, 0, size, path)


def serialize_keras_object(obj):
    """Keras's dictionary of a layer, model, initialiser, loss, ... or a list or dict of them."""
    return translation.Writer().value(obj)


def deserialize_keras_object(config, custom_objects=None, safe_mode=True):
    """The object of such a dictionary: a class of the library, or one that you registered."""
    return translation.Builder("config", custom_objects).build(config)


def model_to_json(model):
    """The architecture as Keras's JSON text, without weights."""
    return bounded_json.dumps(translation.Writer().layer(model)).decode()


def model_from_json(json_string, custom_objects=None):
    """The model of `model.to_json()`, ours or Keras's, with fresh weights."""
    if not isinstance(json_string, str):
        raise TypeError(f"model_from_json takes the text of to_json, not {json_string!r}")
    config = bounded_json.loads(json_string.encode(), "the JSON text")
    model = translation.Builder("the JSON text", custom_objects).build(config)
    if not isinstance(model, Model):
        raise FormatError(f"the JSON text describes a {type(model).__name__}, not a model")
    return model
