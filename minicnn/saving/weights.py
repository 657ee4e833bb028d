"""model.weights.h5: the numbers of a model, in HDF5 groups named as Keras names them.

    layers/conv2d/vars/0, 1 ...     weights of the first Conv2D among model.layers, in its order
    layers/conv2d_1/vars/0 ...      of the second: the class in snake case and a counter, never
                                    the layer's own name, which is an attribute of `vars`
    layers/sequential/layers/...    a nested model; layers/x/part/vars: a layer in attribute `part`
    optimizer/vars/0 ...            iteration, learning rate, slots

Our files carry a sha256 of all their bytes (in a dataset that Keras does not look at), and every
dataset that can has fletcher32 checksums, which other readers verify too.
"""

import hashlib
import io
import math

import h5py
import numpy as np

from minicnn.configurable import snake_case
from minicnn.errors import FormatError, IntegrityError
from minicnn.layers.base import Layer
from minicnn.models.model import Model

DIGEST = "minicnn_sha256"  # name of the dataset, which holds _MARK and 32 bytes
_MARK = b"\x00minicnn sha256\x00"
DEEPEST, MOST_OBJECTS = 64, 200_000
CHUNK = 1 << 20  # bytes from which HDF5 chooses the chunks; smaller arrays are one chunk

# Groups that some versions of Keras add for things that are not weights of layers.
_KERAS_EXTRAS = ("seed_generator", "generator", "_metrics", "metrics", "_loss_tracker", "loss")


# -- where a model's weights are -------------------------------------------------------------------


def places(model):
    """(group, layer, its own parameters) of the model and all its parts, in Keras's order."""
    found, visited = [], set()

    def visit(layer, path):
        if id(layer) in visited:
            return
        visited.add(id(layer))
        own = sorted(layer.own_parameters, key=lambda parameter: parameter.state)
        found.append((f"{path}vars", layer, own))
        if isinstance(layer, Model):
            several(layer.layers, f"{path}layers/")
        for name in sorted(vars(layer), key=lambda n: (n == "sublayers", n.startswith("_"), n)):
            value = vars(layer)[name]
            if isinstance(value, Layer):
                visit(value, f"{path}{name}/")
            elif isinstance(value, list | tuple | dict):
                several(value.values() if isinstance(value, dict) else value, f"{path}{name}/")

    def several(parts, path):
        used = {}
        for part in parts:
            if isinstance(part, Layer):
                name = snake_case(type(part).__name__)
                name = "functional" if type(part) is Model else name
                count = used[name] = used.get(name, -1) + 1
                visit(part, f"{path}{name}_{count}/" if count else f"{path}{name}/")

    visit(model, "")
    return found


# -- writing ---------------------------------------------------------------------------------------


def pack(model, optimizer=None):
    """The HDF5 file's bytes."""
    memory = io.BytesIO()
    # v110: checksums over the metadata, and less of it; read by HDF5 1.10 (2016) and later.
    with h5py.File(memory, "w", libver=("v110", "v110")) as file:
        for path, layer, parameters in places(model):
            group = file.create_group(path)
            group.attrs["name"] = layer.name
            for number, parameter in enumerate(parameters):
                _write(group, str(number), parameter.value)
        if optimizer is not None:
            group = file.create_group("optimizer/vars")
            group.attrs["name"] = optimizer.name
            for number, (_, array) in enumerate(optimizer.state()):
                _write(group, str(number), array)
        file.create_dataset(DIGEST, data=np.frombuffer(_MARK + bytes(32), np.uint8))
    at = _mark(memory.getvalue())
    data = memory.getbuffer()
    data[at : at + 32] = _digest(data, at)
    return data


def _write(group, name, array):
    array = np.asarray(array, order="C")
    if array.size == 0 or array.ndim == 0:
        group.create_dataset(name, data=array)  # HDF5 has no checksums for these
        return
    chunks = array.shape if array.nbytes < CHUNK else True
    group.create_dataset(name, data=array, chunks=chunks, fletcher32=True)


def _mark(data):
    """Where the digest begins, None if there is none."""
    at = data.find(_MARK)
    return None if at < 0 else at + len(_MARK)


def _digest(data, at):
    """sha256 of the file with zeros in place of the digest."""
    view = memoryview(data)
    digest = hashlib.sha256(view[:at])
    digest.update(bytes(32))
    digest.update(view[at + 32 :])
    return digest.digest()


# -- reading ---------------------------------------------------------------------------------------


class WeightFile:
    """The datasets of HDF5 bytes, by name; all of them checked before one is read.

    `where` begins every message. Links, references, virtual and external data, objects, strings
    and filters other than checksums are refused, and shapes that declare more than is stored.
    """

    def __init__(self, data, where):
        self.where = where
        self.own = _check_bytes(data, where)
        try:
            self._file = h5py.File(io.BytesIO(data), "r")
            self.datasets = {}
            self._addresses, self._left = set(), len(data)
            self._walk(self._file, "", 0)
        except FormatError:
            raise
        except (OSError, KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
            raise FormatError(f"{where}: not readable as HDF5: {error}") from error
        if (self.datasets.pop(DIGEST, None) is not None) != self.own:
            raise IntegrityError(f"{where}: the file's checksum is damaged")

    def _fail(self, name, message):
        raise FormatError(f"{self.where}: /{name}: {message}")

    def _walk(self, group, path, depth):
        if depth > DEEPEST:
            self._fail(path, f"groups nested more than {DEEPEST} levels deep")
        for name in group:
            full = f"{path}{name}"
            if len(full) > 4096:
                self._fail(full[:80] + "...", "the name is too long")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                self._fail(full, f"a {type(link).__name__}, expected data in this file")
            kind = group.get(name, getclass=True)
            if kind not in (h5py.Group, h5py.Dataset):
                self._fail(full, f"a {kind.__name__}, expected a group or a dataset")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in self._addresses:
                self._fail(full, "a second name of the same object")
            self._addresses.add(address)
            if len(self._addresses) > MOST_OBJECTS:
                self._fail(full, f"more than {MOST_OBJECTS} objects")
            if kind is h5py.Group:
                self._walk(item, f"{full}/", depth + 1)
            else:
                self._check_dataset(item, full)
                self.datasets[full] = item

    def _check_dataset(self, dataset, name):
        plist = dataset.id.get_create_plist()
        if dataset.external or plist.get_external_count():
            self._fail(name, "its data lies in another file")
        if dataset.is_virtual:
            self._fail(name, "a virtual dataset")
        if dataset.dtype.kind not in "fiu" or h5py.check_dtype(ref=dataset.dtype):
            self._fail(name, f"holds {dataset.dtype}, expected numbers")
        if dataset.shape is None:
            self._fail(name, "has no shape")
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if any(code != h5py.h5z.FILTER_FLETCHER32 for code in filters):
            self._fail(name, "is compressed, expected plain data")
        declared = math.prod(dataset.shape) * dataset.dtype.itemsize
        stored = dataset.id.get_storage_size()
        if declared > stored or declared > self._left:
            self._fail(
                name,
                f"declares shape {dataset.shape}, {declared} bytes, but only "
                f"{min(stored, self._left)} are stored",
            )
        self._left -= declared

    def count(self, optimizer=False):
        """How many numbers the datasets hold (those of the optimiser, or all others)."""
        return sum(
            math.prod(dataset.shape)
            for name, dataset in self.datasets.items()
            if name.startswith("optimizer/") == optimizer
        )

    def read(self, name, dtype=None):
        """A dataset as an array of this type."""
        dataset = self.datasets[name]
        try:
            array = dataset[()]
        except (OSError, RuntimeError, ValueError) as error:
            raise IntegrityError(f"{self.where}: /{name} is damaged: {error}") from error
        return np.asarray(array, dtype)

    def optimizer_state(self):
        """The optimiser's arrays in order; [] if the file has none."""
        names = {name for name in self.datasets if name.startswith("optimizer/vars/")}
        ordered = [f"optimizer/vars/{number}" for number in range(len(names))]
        if names != set(ordered):
            self._fail("optimizer/vars", f"expected datasets 0 to {len(names) - 1}")
        return [self.read(name) for name in ordered]


def _check_bytes(data, where):
    """Whether the bytes are a whole HDF5 file of ours; FormatError unless they are a whole one."""
    if bytes(data[:8]) != b"\x89HDF\r\n\x1a\n":
        raise FormatError(f"{where}: byte 0: expected an HDF5 file")
    version = data[8] if len(data) > 8 else None
    # Base address and end-of-file address stand at fixed places of the superblock.
    at = {0: 24, 1: 28, 2: 12, 3: 12}.get(version)
    if at is None or len(data) < at + 24:
        raise FormatError(f"{where}: byte {min(len(data), 8)}: the file is cut off or damaged")
    end_at = at + 16
    end = int.from_bytes(data[end_at : end_at + 8], "little")
    base = int.from_bytes(data[at : at + 8], "little")
    mark = _mark(data)
    if mark is not None and bytes(data[mark : mark + 32]) != _digest(data, mark):
        cut = f", expected {end} bytes" if end != len(data) else ""
        raise IntegrityError(f"{where}: byte {len(data)}: the bytes were changed{cut}")
    if base or end != len(data):
        raise FormatError(
            f"{where}: byte {len(data)}: the file ends here, its header says at byte {end}: it is "
            "cut off, damaged, or something was appended"
        )
    return mark is not None


# -- between file and model ------------------------------------------------------------------------


def match(model, file):
    """([(parameter, dataset name)], [what does not fit]) for the weights of `model`."""
    pairs, problems = [], []
    wanted = set()
    for path, layer, parameters in places(model):
        for number, parameter in enumerate(parameters):
            name = f"{path}/{number}"
            wanted.add(name)
            of = f"layer {layer.name!r} ({type(layer).__name__}): {parameter.name}"
            if name not in file.datasets:
                problems.append(f"{of} {parameter.shape} is not in the file (/{name})")
            elif file.datasets[name].shape != parameter.shape:
                shape = file.datasets[name].shape
                problems.append(f"{of} has shape {parameter.shape}, the file's /{name} {shape}")
            else:
                pairs.append((parameter, name))
    for name, dataset in file.datasets.items():
        extra = name not in wanted and not name.startswith("optimizer/")
        if extra and (file.own or not any(part in _KERAS_EXTRAS for part in name.split("/"))):
            problems.append(f"the file's /{name} {dataset.shape} has no place in the model")
    return pairs, problems


def fill(pairs, file):
    """Read all, then assign all: a damaged dataset leaves the model as it was."""
    arrays = [file.read(name, parameter.dtype) for parameter, name in pairs]
    for (parameter, _), array in zip(pairs, arrays, strict=True):
        parameter.assign(array)
