"""Which picture files a folder holds, and of which class each is."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minicnn.errors import warn

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass
class FolderIndex:
    """Paths of pictures in order of class and name, a class number for each, the classes' names."""

    paths: list
    labels: np.ndarray
    class_names: list


def index_directory(
    directory, labels="inferred", class_names=None, follow_links=False, suffixes=SUFFIXES
):
    """The pictures under a folder: a class for each folder in it, sorted by name, or class_names.

    Hidden files and folders do not count; folders without a picture are left out with a warning
    that names them, unless class_names asks for them. labels=None: all pictures, of no class.
    """
    directory = os.fspath(directory)
    if not os.path.isdir(directory):
        what = "is a file" if os.path.exists(directory) else "does not exist"
        raise ValueError(f"the folder {directory!r} {what}: give a folder with one for each class")
    if labels is None:
        paths = list(pictures_under(directory, follow_links, suffixes))
        if not paths:
            raise ValueError(_nothing(directory, suffixes))
        return FolderIndex(paths, np.full(len(paths), -1, np.int32), [])
    there = sorted(
        entry.name
        for entry in os.scandir(directory)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    names = list(class_names) if class_names else there
    for name in names:
        if not os.path.isdir(os.path.join(directory, name)):
            raise ValueError(
                f"class {name!r} has no folder in {directory!r}; there are {', '.join(there)}"
            )
    found = {
        name: list(pictures_under(os.path.join(directory, name), follow_links, suffixes))
        for name in names
    }
    empty = [name for name, paths in found.items() if not paths]
    if len(empty) == len(found):
        raise ValueError(_nothing(directory, suffixes))
    if empty:
        warn(f"{len(empty)} folders of {directory!r} hold no picture: {', '.join(empty[:10])}")
        names = names if class_names else [name for name in names if found[name]]
    counts = [len(found[name]) for name in names]
    numbers = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return FolderIndex([path for name in names for path in found[name]], numbers, names)


def pictures_under(folder, follow_links=False, suffixes=SUFFIXES):
    """Paths of the picture files in a folder and in those below it, sorted; hidden ones left out.

    A link that leads back to a folder above it is not followed.
    """
    seen = set()
    for root, folders, files in sorted(_walk(folder, follow_links, seen)):
        del folders
        for name in sorted(files):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield os.path.join(root, name)


def _walk(folder, follow_links, seen):
    for root, folders, files in os.walk(folder, followlinks=follow_links):
        place = os.path.realpath(root)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield root, folders, files


def _nothing(directory, suffixes):
    inside = sorted(path.name for path in Path(directory).iterdir())[:5]
    return (
        f"no picture in the folders of {directory!r} (it holds {', '.join(inside) or 'nothing'}): "
        f"a folder for each class, with files that end in {', '.join(suffixes)}"
    )
