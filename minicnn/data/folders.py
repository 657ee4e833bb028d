"""Which picture files a folder holds, and of which class each is."""

import contextlib
import hashlib
import itertools
import os
from dataclasses import dataclass

import numpy as np

from minicnn.checks.arrays import near_duplicates
from minicnn.errors import warn

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pictures that phones, browsers and cameras write and that are left out, which is told.
NOT_READ = {".arw", ".avif", ".cr2", ".dng", ".heic", ".heif", ".jfif", ".jpe", ".nef", ".svg"}
# What folders of the parts of the data are called.
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}


@dataclass
class FolderIndex:
    """Paths of pictures in order of class and name, a class number for each, the classes' names."""

    paths: list
    labels: np.ndarray
    class_names: list

    def __len__(self):
        return len(self.paths)

    def rows(self, index):
        """Some of them; index: whole numbers."""
        return FolderIndex([self.paths[i] for i in index], self.labels[index], self.class_names)

    @property
    def counts(self):
        """Pictures of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @property
    def missing(self):
        """Names of the classes without a picture."""
        return [self.class_names[i] for i in np.flatnonzero(self.counts == 0)]


def index_directory(
    directory, labels="inferred", class_names=None, follow_links=False, suffixes=SUFFIXES
):
    """The pictures under a folder: a class for each folder in it, sorted by name, or class_names.

    Hidden files and folders do not count; folders without a picture are left out, unless
    class_names asks for them. One warning names what was left out and is probably missed.
    labels=None: all pictures, of no class; a list: a class number for each, in order of path.
    """
    directory = os.fsdecode(directory)
    if not os.path.isdir(directory):
        what = "is a file" if os.path.exists(directory) else "does not exist"
        raise ValueError(f"the folder {directory!r} {what}: give a folder with one for each class")
    odd = {}  # suffix -> number of files
    if labels is None or not isinstance(labels, str):
        if class_names:
            raise ValueError("class_names name the folders of labels='inferred'; leave it out")
        paths = list(pictures_under(directory, follow_links, suffixes, odd))
        if not paths:
            raise ValueError(_nothing(directory, suffixes))
        _tell(directory, _odd_files(odd))
        if labels is None:
            return FolderIndex(paths, np.full(len(paths), -1, np.int32), [])
        return FolderIndex(paths, *_given_labels(labels, paths, directory))
    entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    there = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    names = list(class_names) if class_names else there
    for name in names:
        if not os.path.isdir(os.path.join(directory, name)):
            raise ValueError(
                f"class {name!r} has no folder in {directory!r}; there are {', '.join(there)}"
            )
    found = {
        name: list(pictures_under(os.path.join(directory, name), follow_links, suffixes, odd))
        for name in names
    }
    empty = [name for name, paths in found.items() if not paths]
    if len(empty) == len(found):
        raise ValueError(_nothing(directory, suffixes))
    notes = [_odd_files(odd)]
    if empty:
        notes.append(f"{len(empty)} folders hold no picture: {', '.join(empty[:10])}")
        names = names if class_names else [name for name in names if found[name]]
    if not class_names:
        loose = [e.name for e in entries if _is_picture(e.name, suffixes) and e.is_file()]
        if loose:
            notes.append(f"{len(loose)} pictures lie beside the folders of classes: {loose[0]!r}")
        if {name.lower() for name in names} <= {name for some in PARTS.values() for name in some}:
            notes.append(f"{', '.join(names)} are taken for classes: give the folder of one part")
    _tell(directory, *notes)
    counts = [len(found[name]) for name in names]
    numbers = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return FolderIndex([path for name in names for path in found[name]], numbers, names)


def _given_labels(labels, paths, directory):
    """(class numbers, names) from a list with a number for each picture."""
    numbers = np.asarray(labels)
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1 or numbers.min(initial=0) < 0:
        raise ValueError("labels is a list of class numbers >= 0, one for each picture")
    if len(numbers) != len(paths):
        raise ValueError(
            f"{len(numbers)} labels were given for the {len(paths)} pictures in {directory!r}"
        )
    return numbers.astype(np.int32), [str(number) for number in np.unique(numbers).tolist()]


def _tell(directory, *notes):
    notes = [note for note in notes if note]
    if notes:
        warn(f"left out of {directory!r}: {'; '.join(notes)}")


def _odd_files(counts):
    """What to say about pictures of a kind that is not read."""
    told = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    return told and f"{told} (save them as JPEG or PNG)"


def pictures_under(folder, follow_links=False, suffixes=SUFFIXES, odd=None):
    """Paths of the picture files in a folder and in those below it, sorted; hidden ones left out.

    A link that leads back to a folder above it is not followed. odd: a dict that counts files
    that are pictures by their suffix, but of a kind that is not read.
    """
    for root, _, files in sorted(_walk(folder, follow_links, set())):
        for name in sorted(files):
            if _is_picture(name, suffixes):
                yield os.path.join(root, name)
            elif odd is not None and name[0] != ".":
                suffix = os.path.splitext(name)[1].lower()
                if suffix in NOT_READ:
                    odd[suffix] = odd.get(suffix, 0) + 1


def _is_picture(name, suffixes):
    return name.lower().endswith(tuple(suffixes)) and name[0] != "."


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
    inside = sorted(os.listdir(directory))[:5]
    return (
        f"no picture in the folders of {directory!r} (it holds {', '.join(inside) or 'nothing'}): "
        f"a folder for each class, with files that end in {', '.join(suffixes)}"
    )


# -- parts of the data ----------------------------------------------------------------------------


def compare_parts(parts, pixels=None):
    """One warning on what parts of the data share and do not: {"train": FolderIndex, ...}.

    Classes that are in some parts only, files whose bytes are in two parts and, with pixels
    {"train": (n, h, w, c), ...}, other pictures that look the same as one of another part.
    """
    notes = classes_apart(parts)
    twice = shared_files({part: index.paths for part, index in parts.items()})
    alike = [] if pixels is None else _look_alikes(parts, pixels, {copy for _, copy in twice})
    for found, what, sign in ((twice, "files are", "="), (alike, "pictures look the same", "~")):
        if found:
            (one, first), (other, second) = found[0]
            notes.append(
                f"{len(found)} {what} in two parts, e.g. {first!r} ({one}) {sign} {second!r} "
                f"({other}), so the score measures memory: remove them from one"
            )
    if notes:
        warn("; ".join(notes))


def classes_apart(parts):
    """Sentences on classes that only some of the parts hold."""
    notes = []
    names = {
        part: set(map(index.class_names.__getitem__, np.unique(index.labels)))
        for part, index in parts.items()
    }
    for name in sorted(set().union(*names.values())):
        having = [part for part, there in names.items() if name in there]
        if len(having) < len(parts):
            notes.append(f"class {name!r} is in {' and '.join(having)} only")
    return [*notes[:10], *([f"and {len(notes) - 10} more classes"] if len(notes) > 10 else [])]


def _look_alikes(parts, pixels, known):
    """As `shared_files`, by the looks of the pictures; without the (part, path) that are known."""
    found = {}
    for one, other in itertools.combinations(pixels, 2):
        for i, j in near_duplicates(pixels[one], pixels[other]):
            copy = other, parts[other].paths[j]
            if copy not in known:
                found.setdefault(copy, (one, parts[one].paths[i]))
    return [(first, copy) for copy, first in found.items()]


def shared_files(parts):
    """Files with equal bytes in different parts: [((part, path), (part, path)), ...].

    parts: {name: paths}. Only files of equal size are read, so it is quick where nothing is shared.
    """
    sizes = {}
    for part, paths in parts.items():
        for path in paths:
            with contextlib.suppress(OSError):  # a file that is gone is shared with nobody
                sizes.setdefault(os.stat(path).st_size, []).append((part, path))
    found = []
    for some in sizes.values():
        if len({part for part, _ in some}) > 1:
            first = {}
            for part, path in some:
                key = content_key(path)
                known = first.setdefault(key, (part, path))
                if known[0] != part:
                    found.append((known, (part, path)))
    return found


def content_key(path):
    """A hash of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
