"""The binary CIFAR layouts as folder and as archive, right ones and forged ones."""

import dataclasses
import hashlib
import io
import os
import tarfile

import numpy as np
import pytest

from minicnn.datasets import cifar, cifar10, cifar100
from minicnn.errors import DownloadError, FormatError, IntegrityError

PER_FILE = 20
UNREACHABLE = ("https://127.0.0.1:1/file",)  # nobody listens on port 1


def records(seed, classes, count=PER_FILE):
    """Bytes of `count` records, labels and planes random."""
    random = np.random.default_rng(seed)
    labels = np.stack([random.integers(0, most, count, np.uint8) for most in classes], axis=1)
    planes = random.integers(0, 256, (count, cifar.PICTURE_BYTES), np.uint8)
    return np.concatenate([labels, planes], axis=1)


def expected(parts, classes):
    """What the loader is to return for the concatenated records, by slow indexing."""
    rows = np.concatenate(parts)
    k = len(classes)
    x = np.empty((len(rows), 32, 32, 3), np.uint8)
    for channel in range(3):
        for row in range(32):
            at = k + 1024 * channel + 32 * row
            x[:, row, :, channel] = rows[:, at : at + 32]
    return x, rows[:, :k]


class Set:
    """A small data set in the layout of `module`, whose loader is patched to its size."""

    def __init__(self, module, monkeypatch):
        layout = module.LAYOUT
        self.train = [records(n, layout.classes) for n, _ in enumerate(layout.train)]
        self.test = [records(99, layout.classes)]
        names = [*layout.train, *layout.test]
        self.contents = {
            name: part.tobytes() for name, part in zip(names, self.train + self.test, strict=True)
        }
        self.folder = layout.folder
        self.archive_name = layout.archive.name
        self.layout = dataclasses.replace(
            layout,
            train=dict.fromkeys(layout.train, PER_FILE),
            test=dict.fromkeys(layout.test, PER_FILE),
        )
        self.set_archive(self.tar(self.members()), UNREACHABLE, module, monkeypatch)

    def set_archive(self, data, urls, module, monkeypatch):
        self.packed = data
        archive = dataclasses.replace(
            self.layout.archive, size=len(data), sha256=hashlib.sha256(data).hexdigest(), urls=urls
        )
        self.layout = dataclasses.replace(self.layout, archive=archive)
        monkeypatch.setattr(module, "LAYOUT", self.layout)

    def members(self):
        """The official archive also has a folder entry, a readme and the names of the classes."""
        folder = tarfile.TarInfo(self.folder)
        folder.type = tarfile.DIRTYPE
        readme = tarfile.TarInfo(f"{self.folder}/readme.html")
        readme.size = 5
        yield folder, None
        yield readme, b"hello"
        for name, data in reversed(self.contents.items()):
            member = tarfile.TarInfo(f"{self.folder}/{name}")
            member.size = len(data)
            yield member, data

    @staticmethod
    def tar(members):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            for member, data in members:
                archive.addfile(member, None if data is None else io.BytesIO(data))
        return buffer.getvalue()

    def write_folder(self, place):
        folder = place / self.folder
        folder.mkdir(parents=True)
        for name, data in self.contents.items():
            (folder / name).write_bytes(data)
        return folder

    def check(self, result):
        classes = self.layout.classes
        for (x, y), parts in zip(result, (self.train, self.test), strict=True):
            want_x, want_y = expected(parts, classes)
            assert x.dtype == y.dtype == np.uint8
            assert x.flags.c_contiguous and x.flags.writeable and y.flags.writeable
            assert y.shape == (len(x), 1)
            np.testing.assert_array_equal(x, want_x)
            np.testing.assert_array_equal(y[:, 0], want_y[:, -1])


@pytest.fixture
def small(monkeypatch):
    return Set(cifar10, monkeypatch)


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("module", [cifar10, cifar100])
def test_folder_in_the_home(module, monkeypatch, home):
    small = Set(module, monkeypatch)
    small.write_folder(home)
    small.check(module.load_data())


@pytest.mark.parametrize("module", [cifar10, cifar100])
def test_archive_in_the_home(module, monkeypatch, home):
    small = Set(module, monkeypatch)
    (home / small.archive_name).write_bytes(small.packed)
    small.check(module.load_data())
    assert os.listdir(home) == [small.archive_name]


def test_archive_from_the_network(small, monkeypatch, home, server):
    server.content = small.packed
    small.set_archive(small.packed, (server.url("good"),), cifar10, monkeypatch)
    small.check(cifar10.load_data())
    assert (home / "cifar-10-binary.tar.gz").read_bytes() == small.packed
    small.check(cifar10.load_data())
    assert server.requests == [("good", None)]


def test_path_may_be_home_folder_or_archive(small, tmp_path):
    folder = small.write_folder(tmp_path / "elsewhere")
    small.check(cifar10.load_data(tmp_path / "elsewhere"))
    small.check(cifar10.load_data(str(folder)))
    archive = tmp_path / "any name"
    archive.write_bytes(small.packed)
    small.check(cifar10.load_data(archive))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        cifar10.load_data(tmp_path / "typo")


def test_nothing_there_and_no_network(small, home):
    with pytest.raises(DownloadError, match=r"MINICNN_HOME.*load_sample\(\) needs no download"):
        cifar10.load_data()


def test_home_that_is_a_file(small, monkeypatch, tmp_path):
    (tmp_path / "home").write_bytes(b"")
    with pytest.raises(DownloadError, match="MINICNN_HOME"):
        cifar10.load_data()


def test_pickled_version_is_not_read(small, home):
    folder = home / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DownloadError):
        cifar10.load_data()


def test_label_modes(monkeypatch, home):
    small = Set(cifar100, monkeypatch)
    small.write_folder(home)
    (_, fine), _ = cifar100.load_data("fine")
    (_, coarse), _ = cifar100.load_data(label_mode="coarse")
    np.testing.assert_array_equal(coarse, small.train[0][:, :1])
    np.testing.assert_array_equal(fine, small.train[0][:, 1:2])
    with pytest.raises(ValueError, match="label_mode is 'fine' or 'coarse', not 'both'"):
        cifar100.load_data("both")


def test_official_layouts():
    size = 30_730_000
    assert cifar10.LAYOUT.sizes == {
        **{f"data_batch_{n}.bin": size for n in range(1, 6)},
        "test_batch.bin": size,
    }
    assert cifar100.LAYOUT.sizes == {"train.bin": 153_700_000, "test.bin": 30_740_000}
    assert cifar10.LAYOUT.archive.size == 170_052_171


# Folders that are wrong.


def test_missing_file(small, home):
    (small.write_folder(home) / "data_batch_4.bin").unlink()
    with pytest.raises(FormatError, match=r"lacks data_batch_4.bin: unpack cifar-10-binary.tar.gz"):
        cifar10.load_data()


@pytest.mark.parametrize("change", [-1, 1, -3073])
def test_wrong_size(small, home, change):
    file = small.write_folder(home) / "data_batch_2.bin"
    file.write_bytes((file.read_bytes() + b"\0")[: PER_FILE * 3073 + change])
    message = f"data_batch_2.bin holds {PER_FILE * 3073 + change:,} bytes, not {PER_FILE * 3073:,}"
    with pytest.raises(FormatError, match=message):
        cifar10.load_data()


def test_label_out_of_range(small, home):
    file = small.write_folder(home) / "test_batch.bin"
    data = bytearray(file.read_bytes())
    data[7 * 3073] = 10
    file.write_bytes(data)
    with pytest.raises(FormatError, match=r"record 7 has the label 10, labels are 0\.\.9"):
        cifar10.load_data()


def test_coarse_label_out_of_range(monkeypatch, home):
    file = Set(cifar100, monkeypatch).write_folder(home) / "train.bin"
    data = bytearray(file.read_bytes())
    data[3 * 3074] = 20
    file.write_bytes(data)
    with pytest.raises(FormatError, match=r"record 3 has the label 20, labels are 0\.\.19"):
        cifar100.load_data()


def test_records_of_another_length():
    with pytest.raises(FormatError, match="holds 3,074 bytes, not 1 records of 3,073"):
        cifar.read_records(bytes(3074), 1, (10,), "x.bin")


# Archives that are wrong. Their checksum is made to fit, so that the reader has to see it.


def test_archive_with_another_checksum(small, home, tmp_path):
    changed = small.packed[:-1] + b"\1"
    (home / small.archive_name).write_bytes(changed)
    with pytest.raises(DownloadError, match="is damaged"):
        cifar10.load_data()
    with pytest.raises(IntegrityError, match="its SHA-256 is another"):
        cifar10.load_data(home / small.archive_name)


def forged(kind, small):
    """Members of an archive in which one thing is wrong."""
    wanted = f"{small.folder}/data_batch_3.bin"
    size = PER_FILE * 3073
    for member, data in small.members():
        if member.name != wanted:
            yield member, data
            continue
        if kind == "twice":
            yield member, data
            yield member, data
        elif kind == "short":
            member.size -= 1
            yield member, data[:-1]
        elif kind == "long":
            member.size += 1
            yield member, data + b"\0"
        elif kind in LINKS:
            member.type, member.linkname, member.size = LINKS[kind], "/etc/passwd", 0
            yield member, None
        elif kind in NAMES:
            member.name = NAMES[kind].format(name=wanted)
            yield member, data
        elif kind == "label":
            yield member, b"\xff" + data[1:]
        elif kind == "bomb":
            large = tarfile.TarInfo("zeros")
            large.size = 6 * size + (1 << 21)
            yield large, bytes(large.size)
            yield member, data
        else:
            assert kind == "missing"


LINKS = {
    "symlink": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
}
NAMES = {
    "absolute": "/{name}",
    "parent": "../{name}",
    "through a link": "link/../{name}",
    "sibling": "{name}_poisoned",
    "drive": "C:\\{name}",
}
REASONS = {
    "twice": "twice",
    "short": "not a plain file of",
    "long": "not a plain file of",
    **dict.fromkeys(LINKS, "not a plain file of"),
    **dict.fromkeys(NAMES, "lacks cifar-10-batches-bin/data_batch_3.bin"),
    "missing": "lacks cifar-10-batches-bin/data_batch_3.bin",
    "label": "labels are 0..9",
    "bomb": "unpacks to more than the data set has",
}


@pytest.mark.parametrize("kind", REASONS)
def test_forged_archive(kind, small, monkeypatch, home, tmp_path):
    data = small.tar(forged(kind, small))
    small.set_archive(data, UNREACHABLE, cifar10, monkeypatch)
    (home / small.archive_name).write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FormatError, match=REASONS[kind]):
        cifar10.load_data()
    assert sorted(tmp_path.rglob("*")) == before


def test_hostile_members_beside_the_wanted_ones_are_ignored(small, monkeypatch, home, tmp_path):
    """What an unpacking tool would have to refuse is not even looked at."""
    outside = tmp_path / "outside"

    def members():
        for number, kind in enumerate(LINKS.values()):
            member = tarfile.TarInfo(f"link{number}")
            member.type, member.linkname = kind, str(tmp_path)
            yield member, None
        for name in (str(outside), "../outside", "link0/outside", "a/../../outside", "x" * 5000):
            member = tarfile.TarInfo(name)
            member.size = 4
            yield member, b"evil"
        yield from small.members()

    data = small.tar(members())
    small.set_archive(data, UNREACHABLE, cifar10, monkeypatch)
    (home / small.archive_name).write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    small.check(cifar10.load_data())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "tar only", "html"])
def test_archive_that_is_none(kind, small, monkeypatch, home):
    data = {
        "empty": b"",
        "text": b"not an archive",
        "cut": small.packed[: len(small.packed) // 2],
        "tar only": tarfile.TarInfo("x").tobuf(),
        "html": b"<html></html>",
    }[kind]
    small.set_archive(data, UNREACHABLE, cifar10, monkeypatch)
    (home / small.archive_name).write_bytes(data)
    with pytest.raises(FormatError, match=small.archive_name):
        cifar10.load_data()


def test_flipped_bits_never_pass_unseen(small, home):
    """Each of 60 single-bit errors is seen by gzip or the reader, or has changed nothing."""
    path = home / "x.tar.gz"
    random = np.random.default_rng(3)
    want = small.contents
    refused = 0
    for _ in range(60):
        data = bytearray(small.packed)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(data)
        try:
            parts = cifar.read_archive(path, small.folder, small.layout.sizes)
            found = {name: part for name, _, part in parts}
        except FormatError:
            refused += 1
            continue
        assert found == want
    assert refused > 40
