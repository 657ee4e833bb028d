"""Folders of pictures: which there are, how they are split, and their pixels."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from minicnn.cli import fail, say
from minicnn.data.batches import PyDataset
from minicnn.data.folders import index_directory
from minicnn.data.pictures import read_picture
from minicnn.errors import PictureError

PARTS = {"train": ("train", "training"), "validation": ("validation", "val", "valid")}
PARTS["test"] = ("test", "testing")
SHOWN = 10  # names of damaged files that are listed


@dataclass
class Listing:
    """Paths of pictures with their class numbers."""

    paths: list
    labels: np.ndarray
    class_names: list

    def __len__(self):
        return len(self.paths)

    def rows(self, index):
        """Some of them; `index`: whole numbers."""
        return Listing([self.paths[i] for i in index], self.labels[index], self.class_names)

    @property
    def counts(self):
        return np.bincount(self.labels, minlength=len(self.class_names))

    def told(self):
        """ "cat 300, dog 280" """
        pairs = zip(self.class_names, self.counts, strict=True)
        return ", ".join(f"{name} {count}" for name, count in pairs)


def parts_of(directory):
    """{"train": folder, ...} where DIR is split already, else {}."""
    found = {}
    for part, names in PARTS.items():
        for name in names:
            if (directory / name).is_dir():
                found.setdefault(part, directory / name)
    return found if "train" in found and len(found) > 1 else {}


def list_pictures(directory, class_names=None):
    """The pictures of a folder per class; in the order of `class_names` if they are given."""
    index = index_directory(directory)
    listing = Listing(
        [str(path) for path in index.paths],
        np.asarray(index.labels, np.int64),
        list(index.class_names),
    )
    if class_names is None:
        return listing
    unknown = [name for name in listing.class_names if name not in class_names]
    if unknown:
        fail(
            f"{directory} has a folder {unknown[0]!r}, but the model knows the classes "
            f"{', '.join(class_names)}"
        )
    order = np.array([class_names.index(name) for name in listing.class_names], np.int64)
    return Listing(listing.paths, order[listing.labels], list(class_names))


# -- pixels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparation:
    """How a file becomes an input: kept in the model file."""

    size: tuple
    color_mode: str = "rgb"
    interpolation: str = "bilinear"
    crop_to_aspect_ratio: bool = False

    @property
    def channels(self):
        return {"grayscale": 1, "rgb": 3, "rgba": 4}[self.color_mode]

    @property
    def nbytes(self):
        return self.size[0] * self.size[1] * self.channels

    def read(self, path):
        """uint8 (h, w, c); PictureError if the file cannot be read."""
        return read_picture(
            path, self.color_mode, self.size, self.interpolation, self.crop_to_aspect_ratio
        )

    def try_read(self, path):
        """Pixels, or the error."""
        try:
            return self.read(path)
        except (PictureError, OSError) as error:
            return error

    def as_dict(self):
        return {
            "size": list(self.size),
            "color_mode": self.color_mode,
            "interpolation": self.interpolation,
            "crop_to_aspect_ratio": self.crop_to_aspect_ratio,
        }


def look_at(paths, most=200):
    """Of evenly chosen files: their median (height, width), and whether all are grey."""
    from PIL import Image

    sizes, grey = [], True
    for i in np.unique(np.linspace(0, len(paths) - 1, most).astype(int)):
        try:
            with Image.open(paths[i]) as picture:
                width, height = picture.size
                if picture.getexif().get(0x0112, 1) >= 5:  # lies on its side
                    width, height = height, width
                grey &= picture.mode in ("1", "L", "LA", "I", "I;16", "F")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # damaged files are listed when all are read
        sizes.append((height, width))
    if not sizes:
        fail(f"none of the {len(paths)} pictures can be read, e.g. {paths[0]}")
    return tuple(float(side) for side in np.median(sizes, axis=0)), grey


def read_all(paths, preparation, refuse=False, workers=2):
    """(pixels (n, h, w, c), which files they are of); the damaged ones are told, or refused."""
    pixels = np.empty((len(paths), *preparation.size, preparation.channels), np.uint8)
    good, errors = [], []
    with ThreadPoolExecutor(workers) as pool:
        for i, read in enumerate(pool.map(preparation.try_read, paths)):
            if isinstance(read, np.ndarray):
                pixels[len(good)] = read
                good.append(i)
            else:
                errors.append((paths[i], read))
    tell_damaged(errors, len(paths), refuse)
    return pixels[: len(good)], np.array(good, np.int64)


def readable(paths, preparation, refuse=False, workers=2):
    """Which files can be read, for pictures that do not fit into memory."""
    with ThreadPoolExecutor(workers) as pool:
        read = pool.map(lambda path: _error(preparation.try_read(path)), paths)
        errors = [(path, error) for path, error in zip(paths, read, strict=True) if error]
    tell_damaged(errors, len(paths), refuse)
    bad = {path for path, _ in errors}
    return np.array([i for i, path in enumerate(paths) if path not in bad], np.int64)


def _error(read):
    return None if isinstance(read, np.ndarray) else read


def tell_damaged(errors, count, refuse):
    """List the files that could not be read; end here if they are to be refused."""
    if not errors:
        return
    what = f"{len(errors)} of {count} pictures cannot be read"
    for path, error in errors[:SHOWN]:
        text = " ".join(str(error).split())
        say(f"  {text if str(path) in text else f'{path}: {text}'}")
    if len(errors) > SHOWN:
        say(f"  and {len(errors) - SHOWN} more")
    if refuse:
        fail(f"{what} (--damaged skip leaves them out)")
    if len(errors) == count:
        fail(what)
    say(f"minicnn: warning: {what} and are left out")


class PictureBatches(PyDataset):
    """Batches of pictures that are read when they are needed."""

    def __init__(self, listing, preparation, batch_size, shuffle=False, workers=2):
        super().__init__()
        self.listing, self.preparation, self.batch_size = listing, preparation, batch_size
        self.pool = ThreadPoolExecutor(workers)
        self.generator = np.random.default_rng(0) if shuffle else None
        self.order = np.arange(len(listing))
        self.on_epoch_end()

    def on_epoch_end(self):
        if self.generator is not None:
            self.generator.shuffle(self.order)

    def __len__(self):
        return -(-len(self.listing) // self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        pixels = self.pool.map(self.preparation.read, [self.listing.paths[i] for i in rows])
        return np.stack(list(pixels)), self.listing.labels[rows]
