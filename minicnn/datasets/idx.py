"""The idx format of MNIST and the data sets made after it.

Two zero bytes, a type code, the number of dimensions, then each dimension as a big-endian uint32,
then the values, big-endian (http://yann.lecun.com/exdb/mnist/).
"""

import math

import numpy as np

from minicnn.datasets.download import RemoteFile, fetch, home
from minicnn.errors import FormatError

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path, shape: tuple[int, ...] | None = None):
    """The array of an idx file, plain or .gz, in native byte order; `shape` is what it must have.

    Errors: FormatError when magic, type, dimensions and number of bytes do not agree.
    """
    import gzip
    import zlib

    with open(path, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
            return _read(stream, path, shape)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FormatError(f"{path} is a damaged gzip file: {error}") from error


def _read(stream, path, shape):
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= 4:
        raise FormatError(f"{path} is not an idx file: it begins with {magic.hex(' ')!r}")
    dtype, rank = np.dtype(TYPES[magic[2]]), magic[3]
    header = stream.read(4 * rank)
    if len(header) < 4 * rank:
        raise FormatError(f"{path} ends within its header")
    declared = tuple(int(length) for length in np.frombuffer(header, ">u4"))
    if shape is not None and (declared != tuple(shape) or dtype != np.uint8):
        raise FormatError(f"{path} declares {dtype.name} {declared}, not uint8 {tuple(shape)}")
    size = math.prod(declared) * dtype.itemsize
    # In blocks: a header that lies costs no more memory than the file has bytes.
    data = bytearray()
    while len(data) <= size and (block := stream.read(min(1 << 24, size + 1 - len(data)))):
        data += block
    if len(data) != size:
        more = "more" if len(data) > size else f"{len(data):,}"
        raise FormatError(f"{path} declares {declared}, {size:,} bytes, but holds {more}")
    return np.frombuffer(data, dtype).reshape(declared).astype(dtype.newbyteorder("="), copy=False)


def load(folder: str, files: dict[str, RemoteFile], train: int, test: int, path=None):
    """((x, y), (x, y)) of four idx files: x uint8 (n, 28, 28), y uint8 (n,) with classes 0..9.

    `files` has the keys train-images, train-labels, t10k-images, t10k-labels. Unpacked files are
    taken as they are; packed ones must have the published checksum.
    """
    place = home(path)
    if not _holds_one(place, files):
        place = place / folder
    splits = []
    for split, count in (("train", train), ("t10k", test)):
        x = read_idx(_find(files[f"{split}-images"], place), (count, 28, 28))
        labels_file = _find(files[f"{split}-labels"], place)
        y = read_idx(labels_file, (count,))
        if count and y.max() > 9:
            index = int(y.argmax())
            raise FormatError(f"{labels_file}: label {y[index]} at {index}, labels are 0..9")
        splits.append((x, y))
    return tuple(splits)


def _find(file, place):
    plain = place / file.name.removesuffix(".gz")
    return plain if plain.is_file() else fetch(file, place)


def _holds_one(place, files):
    return any(
        (place / name).is_file()
        for file in files.values()
        for name in (file.name, file.name.removesuffix(".gz"))
    )
