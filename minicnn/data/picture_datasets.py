"""image_dataset_from_directory: a folder of pictures as batches that are decoded ahead of time."""

import functools
import os
import threading

import numpy as np

from minicnn import config, randomness
from minicnn.data.ahead import doing
from minicnn.data.batches import one_of, positive
from minicnn.data.folders import index_directory
from minicnn.data.pictures import Preparation, check_data_format, picture_size
from minicnn.data.pipeline import LEFT_OUT, Dataset
from minicnn.errors import PictureError, warn

LABEL_MODES = ("int", "categorical", "binary", None)
RENAMED = {"area": "box", "lanczos3": "lanczos"}  # TensorFlow's names -> Pillow's
SHOWN = 5  # paths in a warning


def image_dataset_from_directory(
    directory,
    labels="inferred",
    label_mode="int",
    class_names=None,
    color_mode="rgb",
    batch_size=32,
    image_size=(256, 256),
    shuffle=True,
    seed=None,
    validation_split=None,
    subset=None,
    interpolation="bilinear",
    follow_links=False,
    crop_to_aspect_ratio=False,
    pad_to_aspect_ratio=False,
    data_format=None,
    format="tf",
    verbose=True,
    *,
    on_error="raise",
):
    """A Dataset of batches (pictures float32 0..255 (n, h, w, c), labels) of a folder's classes.

    As in Keras; subset="both" returns two. Besides: shuffle is uniform over all files; shrinking
    averages over all pixels; on_error="skip" leaves out files that cannot be read, with one
    warning. Labels: int32 (n,), "binary" float32 (n, 1), "categorical" (n, k), None: pictures only.
    """
    if labels not in ("inferred", None) and not isinstance(labels, list | tuple | np.ndarray):
        raise ValueError(f"labels is 'inferred', None or a list of class numbers, not {labels!r}")
    one_of("label_mode", label_mode, LABEL_MODES)
    one_of("format", format, ("tf", "grain"))
    one_of("on_error", on_error, ("raise", "skip"))
    check_data_format(data_format)
    side = isinstance(image_size, int | np.integer) and not isinstance(image_size, bool)
    interpolation = str(interpolation).lower()
    preparation = Preparation(
        picture_size("image_size", (image_size, image_size) if side else image_size),
        color_mode,
        RENAMED.get(interpolation, interpolation),
        bool(crop_to_aspect_ratio),
        bool(pad_to_aspect_ratio),
    )
    if batch_size is not None:
        batch_size = positive("batch_size", batch_size)
    _check_split(validation_split, subset, shuffle, seed)
    seed = randomness.next_seed() % 2**32 if seed is None else int(seed)

    index = index_directory(directory, labels, class_names or None, follow_links)
    if label_mode is None or labels is None:
        label_mode = None
    paths, numbers, names = index.paths, index.labels, index.class_names
    if verbose:
        what = "." if labels is None else f" belonging to {len(names)} classes."
        print(f"Found {len(paths)} files{what}")
    if label_mode == "binary" and len(names) != 2:
        raise ValueError(
            f"label_mode='binary' is for 2 classes, {os.fspath(directory)!r} has {len(names)} "
            f"({', '.join(names[:5])}): 'int' or 'categorical' take any number"
        )
    if label_mode is not None and len(names) == 1:
        warn(f"{os.fspath(directory)!r} has one class only, {names[0]!r}: nothing can be learnt")
    order = np.arange(len(paths))
    if shuffle:
        np.random.RandomState(seed).shuffle(order)  # as Keras orders file_paths, and splits them

    def part(rows, again):
        files = PictureFiles(
            [paths[i] for i in rows],
            _targets(numbers[rows], label_mode, len(names)),
            preparation.read,
            on_error == "skip",
        )
        data = files.dataset()
        if again:
            data = data.shuffle(len(rows), seed)
        if batch_size is not None:
            data = data.batch(batch_size)
        data.class_names = None if labels is None else list(names)
        data.file_paths = files.paths
        return data

    if validation_split is None:
        return part(order, shuffle)
    held_out = int(validation_split * len(order))
    rows = {
        "training": order[: len(order) - held_out],
        "validation": order[len(order) - held_out :],
    }
    for name, some in rows.items():
        if not len(some):
            raise ValueError(
                f"validation_split={validation_split} leaves no picture of {len(order)} for {name}"
            )
        if verbose and subset in (name, "both"):
            print(f"Using {len(some)} files for {name}.")
    if label_mode is not None:
        _tell_missing(numbers, rows, names)
    if subset == "both":
        return [part(rows["training"], shuffle), part(rows["validation"], False)]
    return part(rows[subset], shuffle)


class PictureFiles:
    """Files and their targets as the elements of a Dataset; knows which cannot be read.

    read(path, note) -> pixels; skip: leave out what it raises PictureError for.
    """

    def __init__(self, paths, targets, read, skip):
        self.paths, self.targets, self.read, self.skip = paths, targets, read, skip
        self.damaged = {}  # path -> reason
        self.odd = {}  # (kind) -> {path: text}
        self.told = {}  # what was told already: kind -> number of paths
        self.lock = threading.Lock()

    def dataset(self):
        data = Dataset(
            lambda number: (functools.partial(self.element, i) for i in range(len(self.paths))),
            len(self.paths),
            False,
        )
        data._notes.at_end.append(self.report)
        return data

    def element(self, number):
        """(pixels, target) of a file, or its pixels."""
        path = self.paths[number]
        if path in self.damaged:
            return LEFT_OUT
        doing(path)
        try:
            pixels = self.read(path, note=self.note)
        except PictureError as error:
            if not self.skip:
                raise
            with self.lock:
                self.damaged[path] = error.reason
                left = len(self.paths) - len(self.damaged)
            if left == 0:
                raise PictureError(
                    path, f"{error.reason}, and none of the other {len(self.paths) - 1} can be read"
                ) from error
            return LEFT_OUT
        pixels = pixels.astype(config.floatx)
        return pixels if self.targets is None else (pixels, self.targets[number])

    def note(self, kind, path, text):
        with self.lock:
            self.odd.setdefault(kind, {})[path] = text

    def report(self):
        """One message on what is new since the last one; None if nothing is."""
        with self.lock:
            lines = []
            for kind, found, what in (
                ("damaged", self.damaged, "cannot be read and are left out"),
                ("suffix", self.odd.get("suffix", {}), "are of another kind than their name says"),
                ("frames", self.odd.get("frames", {}), "hold several frames, the first is taken"),
            ):
                if len(found) > self.told.get(kind, 0):
                    self.told[kind] = len(found)
                    some = [f"{path!r} {text}" for path, text in list(found.items())[:SHOWN]]
                    rest = len(found) - len(some)
                    more = f" and {rest} more" if rest else ""
                    lines.append(
                        f"{len(found)} of {len(self.paths)} pictures {what}: "
                        f"{'; '.join(some)}{more}"
                    )
        return ". ".join(lines) or None


def _targets(numbers, label_mode, classes):
    if label_mode is None:
        return None
    if label_mode == "int":
        return numbers.astype(np.int32)
    if label_mode == "binary":
        return numbers.astype(np.float32)[:, None]
    if numbers.max() >= classes:
        raise ValueError(
            f"label_mode='categorical' takes the class numbers 0..{classes - 1} of {classes} "
            f"classes, not {numbers.max()}"
        )
    return np.eye(classes, dtype=np.float32)[numbers]


def _check_split(fraction, subset, shuffle, seed):
    one_of("subset", subset, ("training", "validation", "both", None))
    if (fraction is None) != (subset is None):
        raise ValueError("validation_split and subset go together: give both or neither")
    if fraction is None:
        return
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise ValueError(f"validation_split is a fraction between 0 and 1, not {fraction!r}")
    if shuffle and seed is None:
        raise ValueError(
            "validation_split with shuffle=True needs a seed, the same in both calls: otherwise "
            "the parts overlap"
        )


def _tell_missing(numbers, rows, names):
    """Warn of classes that are in one part only."""
    there = {part: set(numbers[some].tolist()) for part, some in rows.items()}
    notes = []
    for part, other in (("training", "validation"), ("validation", "training")):
        only = [names[number] for number in sorted(there[part] - there[other])]
        if only:
            notes.append(f"classes {', '.join(only[:10])} are in the {part} part only")
    if notes:
        warn(
            f"{', '.join(notes)}: too few pictures, or files in the order of classes (shuffle=True)"
        )
