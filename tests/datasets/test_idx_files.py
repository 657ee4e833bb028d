"""The idx reader and the MNIST loaders: right files and forged ones."""

import dataclasses
import gzip
import hashlib
import struct

import numpy as np
import pytest

from minicnn.datasets import fashion_mnist, idx, mnist
from minicnn.errors import DownloadError, FormatError


def idx_bytes(array, code=0x08, shape=None):
    shape = array.shape if shape is None else shape
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)
    return header + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("code", idx.TYPES)
def test_every_type_is_read(tmp_path, code, packed):
    want = np.arange(24).reshape(2, 3, 4).astype(idx.TYPES[code])
    data = idx_bytes(want, code)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(data) if packed else data)
    found = idx.read_idx(path)
    np.testing.assert_array_equal(found, want)
    assert found.dtype == want.dtype.newbyteorder("=")
    assert found.flags.writeable


GOOD = idx_bytes(np.zeros((2, 3), np.uint8))
FORGED = {
    "empty": (b"", "not an idx file"),
    "short magic": (GOOD[:3], "not an idx file"),
    "html": (b"<html><body>404</body></html>", "not an idx file"),
    "wrong type": (b"\0\0\x07" + GOOD[3:], "not an idx file"),
    "no dimensions": (b"\0\0\x08\x00", "not an idx file"),
    "255 dimensions": (b"\0\0\x08\xff" + GOOD[4:], "not an idx file"),
    "short header": (GOOD[:10], "ends within its header"),
    "little endian": (struct.pack("<BBBBII", 0, 0, 8, 2, 2, 3) + bytes(6), "holds 6"),
    "missing byte": (GOOD[:-1], r"declares \(2, 3\), 6 bytes, but holds 5"),
    "extra byte": (GOOD + b"\0", "but holds more"),
    "huge": (idx_bytes(np.zeros(6, np.uint8), shape=(2**32 - 1,) * 4), "but holds 6"),
    "zero": (idx_bytes(np.zeros(6, np.uint8), shape=(0, 3)), "but holds more"),
    "float": (idx_bytes(np.zeros(6, np.uint8), 0x0E), "48 bytes, but holds 6"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FORGED)
def test_forged_header(tmp_path, kind, packed):
    data, reason = FORGED[kind]
    if kind == "float":
        data = idx_bytes(np.zeros(6, np.uint8), 0x0E, (6,))
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(FormatError, match=reason) as caught:
        idx.read_idx(path)
    assert str(path) in str(caught.value)


def test_shape_is_checked_before_the_values(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(GOOD[:12])
    with pytest.raises(FormatError, match=r"declares uint8 \(2, 3\), not uint8 \(2, 4\)"):
        idx.read_idx(path, (2, 4))
    path.write_bytes(idx_bytes(np.zeros((2, 3), np.int8), 0x09))
    with pytest.raises(FormatError, match=r"declares int8"):
        idx.read_idx(path, (2, 3))


def test_damaged_gzip(tmp_path):
    packed = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 99, (9, 99), np.uint8)))
    path = tmp_path / "file"
    for data in (packed[:-9], packed[:40] + b"\xff" + packed[41:], packed[:2]):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="damaged"):
            idx.read_idx(path)


@pytest.mark.parametrize("kind", ["fits", "lies"])
def test_bomb_costs_no_memory(tmp_path, kind):
    """100 MB of zeros in 100 kB: refused by the expected shape, or read only as far as declared."""
    data = bytearray(100 << 20)
    rows = 100 << 10 if kind == "fits" else 3
    data[:12] = struct.pack(">BBBBII", 0, 0, 8, 2, rows, 1024)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(data, 1))
    with pytest.raises(FormatError):
        idx.read_idx(path, (3, 1024))


# The loaders.


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Full-size blank files but for a few values; {name in FILES: (array, packed bytes)}."""
    home = tmp_path / "home"
    home.mkdir()
    random = np.random.default_rng(5)
    contents = {}
    for split, count in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[::1000] = random.integers(0, 256, (len(images[::1000]), 28, 28), np.uint8)
        labels = random.integers(0, 10, count, np.uint8)
        for kind, array in (("images", images), ("labels", labels)):
            contents[f"{split}-{kind}"] = (array, gzip.compress(idx_bytes(array), 1))
    for module in (mnist, fashion_mnist):
        files = {
            key: dataclasses.replace(
                module.FILES[key],
                size=len(packed),
                sha256=hashlib.sha256(packed).hexdigest(),
                urls=("https://127.0.0.1:1/file",),
            )
            for key, (_, packed) in contents.items()
        }
        monkeypatch.setattr(module, "FILES", files)
    return contents


def write(contents, folder, unpack=False):
    folder.mkdir(parents=True, exist_ok=True)
    for key, (_, packed) in contents.items():
        name = mnist.FILES[key].name
        if unpack:
            (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(packed))
        else:
            (folder / name).write_bytes(packed)


def check(contents, result):
    (x_train, y_train), (x_test, y_test) = result
    assert x_train.shape == (60_000, 28, 28) and y_train.shape == (60_000,)
    assert x_test.shape == (10_000, 28, 28) and y_test.shape == (10_000,)
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    for key, found in (
        ("train-images", x_train),
        ("train-labels", y_train),
        ("t10k-images", x_test),
        ("t10k-labels", y_test),
    ):
        np.testing.assert_array_equal(found, contents[key][0])


@pytest.mark.parametrize(("module", "folder"), [(mnist, "mnist"), (fashion_mnist, "fashion-mnist")])
def test_places(small, tmp_path, module, folder):
    write(small, tmp_path / "home" / folder)
    check(small, module.load_data())
    check(small, module.load_data(tmp_path / "home"))
    check(small, module.load_data(tmp_path / "home" / folder))


def test_unpacked_files_and_keras_default_path(small, tmp_path):
    write(small, tmp_path / "home" / "mnist", unpack=True)
    check(small, mnist.load_data(path="mnist.npz"))


def test_from_the_network(small, tmp_path, server, monkeypatch):
    key, (_, packed) = "t10k-labels", small["t10k-labels"]
    server.content = packed
    write(small, tmp_path / "home" / "mnist")
    (tmp_path / "home" / "mnist" / mnist.FILES[key].name).unlink()
    changed = dataclasses.replace(
        mnist.FILES[key], urls=(server.url("status404"), server.url("good"))
    )
    monkeypatch.setitem(mnist.FILES, key, changed)
    check(small, mnist.load_data())
    assert server.requests == [("status404", None), ("good", None)]


def test_nothing_there_and_no_network(small):
    with pytest.raises(DownloadError, match="train-images-idx3-ubyte.gz.*MINICNN_HOME"):
        fashion_mnist.load_data()


def test_packed_file_with_another_checksum(small, tmp_path):
    write(small, tmp_path / "home" / "mnist")
    path = tmp_path / "home" / "mnist" / mnist.FILES["train-labels"].name
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(60_000, np.uint8))))
    with pytest.raises(DownloadError, match="train-labels-idx1-ubyte.gz is damaged"):
        mnist.load_data()


def test_swapped_files_and_wrong_labels(small, tmp_path):
    folder = tmp_path / "home" / "mnist"
    write(small, folder, unpack=True)
    labels = folder / "train-labels-idx1-ubyte"
    right = labels.read_bytes()
    labels.write_bytes((folder / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(FormatError, match=r"declares uint8 \(10000,\), not uint8 \(60000,\)"):
        mnist.load_data()
    labels.write_bytes(right[: 8 + 41] + b"\x0a" + right[8 + 42 :])
    with pytest.raises(FormatError, match=r"label 10 at 41, labels are 0\.\.9"):
        mnist.load_data()
