"""The binary versions of CIFAR-10 and CIFAR-100, as a folder or as the archive they come in.

A record is one byte per kind of label and 3,072 bytes of picture: the red, green and blue planes
of 32x32, row by row (https://www.cs.toronto.edu/~kriz/cifar.html). The pickled versions are never
read: unpickling a file can run any code.
"""

import os
from dataclasses import dataclass

import numpy as np

from minicnn.datasets.download import RemoteFile, fetch, home
from minicnn.errors import FormatError, IntegrityError

PLANES = (3, 32, 32)
PICTURE_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """Where the records are: `train` and `test` map a file's name to its number of records.

    `classes` holds the number of classes per label byte: (10,), or (20, 100) for CIFAR-100.
    """

    folder: str
    archive: RemoteFile
    train: dict[str, int]
    test: dict[str, int]
    classes: tuple[int, ...]

    @property
    def sizes(self):
        """Bytes per file."""
        record = len(self.classes) + PICTURE_BYTES
        return {name: count * record for name, count in (self.train | self.test).items()}


def load(layout: Layout, path=None):
    """(pictures, labels) of training and of test: uint8 (n, 32, 32, 3) and (n, label bytes).

    Errors: FormatError, IntegrityError, DownloadError.
    """
    split_of, result = {}, []
    for files in (layout.train, layout.test):
        count = sum(files.values())
        pictures = np.empty((count, 32, 32, 3), np.uint8)
        labels = np.empty((count, len(layout.classes)), np.uint8)
        result.append((pictures, labels))
        begin = 0
        for name, records in files.items():
            split_of[name] = (pictures[begin : begin + records], labels[begin : begin + records])
            begin += records
    for name, where, data in _contents(layout, path):
        pictures, labels = split_of[name]
        planes, found = read_records(data, len(pictures), layout.classes, where)
        pictures[...] = planes.transpose(0, 2, 3, 1)
        labels[...] = found
    return tuple(result)


def read_records(data, count, classes, where):
    """Planes uint8 (count, 3, 32, 32) and labels (count, len(classes)), views of `data`.

    Errors: FormatError for another number of bytes or a label out of range.
    """
    record = len(classes) + PICTURE_BYTES
    if len(data) != count * record:
        raise FormatError(
            f"{where} holds {len(data):,} bytes, not {count:,} records of {record:,}: "
            "unpack the binary (not the python or matlab) archive again"
        )
    records = np.frombuffer(data, np.uint8).reshape(count, record)
    labels = records[:, : len(classes)]
    wrong = np.argwhere(labels >= np.array(classes))
    if len(wrong):
        row, column = wrong[0]
        raise FormatError(
            f"{where} is not CIFAR: record {row} has the label {labels[row, column]}, "
            f"labels are 0..{classes[column] - 1}"
        )
    return records[:, len(classes) :].reshape(count, *PLANES), labels


def _contents(layout, path):
    """Yield (name, a description for errors, bytes) of every file, from the folder or archive."""
    place = home(path)
    if path is not None and place.is_file():
        if not layout.archive.matches(place):
            raise IntegrityError(
                f"{place} is not the published {layout.archive.name}: its SHA-256 is another"
            )
        yield from read_archive(place, layout.folder, layout.sizes)
        return
    for folder in (place, place / layout.folder):
        if any((folder / name).exists() for name in layout.sizes):
            yield from _read_folder(folder, layout)
            return
    archive = fetch(layout.archive, place)
    yield from read_archive(archive, layout.folder, layout.sizes)


def _read_folder(folder, layout):
    # The sizes are looked at before anything is read: a wrong file costs no memory and no time.
    for name, size in layout.sizes.items():
        file = folder / name
        if not file.is_file():
            raise FormatError(
                f"{folder} lacks {name}: unpack {layout.archive.name} again or remove the folder"
            )
        found = os.path.getsize(file)
        if found != size:
            raise FormatError(
                f"{file} holds {found:,} bytes, not {size:,}: unpack {layout.archive.name} again"
            )
    for name, size in layout.sizes.items():
        with open(folder / name, "rb") as stream:
            yield name, folder / name, stream.read(size + 1)


def read_archive(path, folder, sizes):
    """Yield (name, description, bytes) of the members `folder/name` of a tar.gz, as they come.

    Nothing is unpacked to the disk, so a member's path cannot lead anywhere; a wanted name that is
    no plain file of the right size, comes twice or not at all is a FormatError.
    """
    import gzip
    import tarfile
    import zlib

    wanted = {f"{folder}/{name}": name for name in sizes}
    seen = set()
    # Headers, padding and the small files beside the wanted ones are far below 1 MB.
    limit = sum(sizes.values()) + (1 << 20)
    try:
        with gzip.open(path, "rb") as unpacked:
            stream = _Limited(unpacked, limit, path)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = wanted.get(member.name)
                    if name is None:
                        continue
                    _check_member(member, path, sizes[name], seen)
                    yield name, f"{member.name} in {path}", archive.extractfile(member).read()
            while stream.read(1 << 20):
                pass  # to the end, where gzip checks its sum
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FormatError(f"{path} is not a tar.gz archive or is damaged: {error}") from error
    if missing := sorted(wanted.keys() - seen):
        raise FormatError(f"{path} lacks {', '.join(missing)}: it is another archive")


def _check_member(member, path, size, seen):
    if member.name in seen:
        raise FormatError(f"{path} holds {member.name} twice")
    seen.add(member.name)
    if not member.isreg() or member.issparse() or member.size != size:
        raise FormatError(f"{member.name} in {path} is not a plain file of {size:,} bytes")


class _Limited:
    """A stream that raises after `limit` bytes: a small archive can unpack to a huge one."""

    def __init__(self, stream, limit, path):
        self.stream, self.left, self.path = stream, limit, path

    def read(self, size):
        data = self.stream.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise FormatError(f"{self.path} unpacks to more than the data set has")
        return data
