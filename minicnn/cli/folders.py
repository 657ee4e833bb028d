"""Folders of pictures: which there are, how they are split, and their pixels."""

import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from minicnn.cli import fail, say
from minicnn.data.folders import PARTS, FolderIndex, index_directory
from minicnn.data.picture_datasets import PictureFiles
from minicnn.data.pictures import look_at_header
from minicnn.errors import PictureError

SHOWN = 10  # names of damaged files that are listed
GREY = ("1", "L", "LA", "I", "I;16", "F")  # Pillow's names


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
    listing = index_directory(directory)
    if class_names is None:
        return listing
    unknown = [name for name in listing.class_names if name not in class_names]
    if unknown:
        fail(
            f"{directory} has a folder {unknown[0]!r}, but the model knows the classes "
            f"{', '.join(class_names)}"
        )
    order = np.array([class_names.index(name) for name in listing.class_names], np.int64)
    return FolderIndex(listing.paths, order[listing.labels], list(class_names))


# -- pixels ---------------------------------------------------------------------------------------


def try_read(preparation, path):
    """Pixels of a file, or the error."""
    try:
        return preparation.read(path)
    except PictureError as error:
        return error


def look_at(paths, most=200):
    """Of evenly chosen files: their median (height, width), and whether all are grey."""
    sizes, grey = [], True
    for i in np.unique(np.linspace(0, len(paths) - 1, most).astype(int)):
        with contextlib.suppress(PictureError):  # damaged files are listed when all are read
            size, mode = look_at_header(paths[i])
            sizes.append(size)
            grey &= mode in GREY
    if not sizes:
        fail(f"none of the {len(paths)} pictures can be read, e.g. {paths[0]}")
    return tuple(float(side) for side in np.median(sizes, axis=0)), grey


def read_all(paths, preparation, refuse=False, keep=True, workers=2):
    """(pixels (n, h, w, c), or None unless `keep`; which files can be read).

    The damaged ones are told, or refused.
    """
    pixels = np.empty((len(paths), *preparation.shape), np.uint8) if keep else None
    good, errors = [], []
    with ThreadPoolExecutor(workers) as pool:
        for i, read in enumerate(pool.map(functools.partial(try_read, preparation), paths)):
            if not isinstance(read, np.ndarray):
                errors.append((paths[i], read))
                continue
            if keep:
                pixels[len(good)] = read
            good.append(i)
    tell_damaged(errors, len(paths), refuse)
    return pixels[: len(good)] if keep else None, np.array(good, np.int64)


def batches(listing, preparation, batch_size, seed=None):
    """A Dataset of pictures that are read when they are needed; seed: of their order, if any."""
    # Without its argument `note`: what is odd about the files was told when all were read.
    files = PictureFiles(
        listing.paths, listing.labels, lambda path, note: preparation.read(path), skip=False
    )
    data = files.dataset()
    return (data if seed is None else data.shuffle(len(listing), seed)).batch(batch_size)


def tell_damaged(errors, count, refuse):
    """List the files that could not be read; end here if they are to be refused."""
    if not errors:
        return
    what = f"{len(errors)} of {count} pictures cannot be read"
    for path, error in errors[:SHOWN]:
        say(f"  {path} {error.reason}")
    if len(errors) > SHOWN:
        say(f"  and {len(errors) - SHOWN} more")
    if refuse:
        fail(f"{what} (--damaged skip leaves them out)")
    if len(errors) == count:
        fail(what)
    say(f"minicnn: warning: {what} and are left out")
