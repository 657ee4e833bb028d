"""Hostile and damaged archives: refused, and nothing is written anywhere."""

import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

from minicnn.datasets import archives
from minicnn.errors import FormatError

PLAIN = {"train/cat/1.jpg": b"meow" * 9, "train/dog/2 ä.jpg": b"", "readme": b"text"}


def tar(*members, mode="w:gz"):
    """Each a name with bytes, or (name, type, link)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as opened:
        for name, content, *link in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes) and not link:
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content, "".join(link)
                opened.addfile(member)
    return packed.getvalue()


def pack_zip(*members, attributes=0):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            member = zipfile.ZipInfo("x")
            member.filename = name
            member.external_attr = attributes << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            opened.writestr(member, content)
    return packed.getvalue()


def encrypted():
    """The bit is set in both headers."""
    packed = bytearray(pack_zip(("a", b"secret")))
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    return bytes(packed)


def pax(name, value):
    """A member whose extended header says so."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as opened:
        member = tarfile.TarInfo("a")
        member.pax_headers = {name: value}
        opened.addfile(member)
    return packed.getvalue()


def huge_header():
    """An extended header that claims to have 4 GB."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 4 << 30
    return gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20))


SYMLINK, DEVICE, FIFO = tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE
HOSTILE = {
    "tar-parent": tar(("../evil", b"x")),
    "tar-parent-within": tar(("a/../../evil", b"x")),
    "tar-absolute": tar(("/tmp/evil", b"x")),
    "tar-symlink": tar(("a", SYMLINK, "/etc"), ("a/evil", b"x")),
    "tar-symlink-within": tar(("b", b"x"), ("a", SYMLINK, "b")),
    "tar-hard-link": tar(("a", tarfile.LNKTYPE, "/etc/passwd")),
    "tar-device": tar(("null", DEVICE, "")),
    "tar-fifo": tar(("pipe", FIFO, "")),
    "tar-twice": tar(("a", b"x"), ("a", b"y")),
    "tar-twice-spelled": tar(("stra\u00dfe", b"x"), ("STRASSE", b"y")),
    "tar-file-as-folder": tar(("a", b"x"), ("a/b", b"y")),
    "tar-folder-as-file": tar(("a/b", b"x"), ("a", b"y")),
    "tar-bomb": tar(("zeros", bytes(archives.ALLOWED + 1))),
    "tar-many": tar(*((f"{number}", b"") for number in range(4000)), mode="w:xz"),
    "tar-huge-header": huge_header(),
    "tar-pax-path": pax("path", "../../evil"),
    "tar-long-name": tar((300 * "n", b"x")),
    "tar-drive": tar(("C:evil", b"x")),
    "tar-backslash": tar(("..\\evil", b"x")),
    "tar-empty": tar(),
    "zip-parent": pack_zip(("../evil", b"x")),
    "zip-absolute": pack_zip(("/tmp/evil", b"x")),
    "zip-link": pack_zip(("a", b"/etc"), attributes=stat.S_IFLNK | 0o777),
    "zip-device": pack_zip(("a", b""), attributes=stat.S_IFCHR | 0o666),
    "zip-bomb": pack_zip(("zeros", bytes(archives.ALLOWED + 1))),
    "zip-twice-spelled": pack_zip(("a", b"x"), ("A", b"y")),
    "zip-encrypted": encrypted(),
    "zip-backslash": pack_zip(("..\\evil", b"x")),
    "html": b"<html>not found</html>",
    "empty": b"",
}


@pytest.fixture
def place(tmp_path):
    """A folder that is there before, with a neighbour."""
    (tmp_path / "in" / "data").mkdir(parents=True)
    (tmp_path / "in" / "data" / "old").write_text("old")
    (tmp_path / "neighbour").write_text("mine")
    return tmp_path


def tree(folder):
    """{name: (mode, digest)} of all there is."""
    return {
        path.relative_to(folder).as_posix(): (
            path.lstat().st_mode,
            hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_write_nothing(place, kind, monkeypatch):
    monkeypatch.setattr(archives, "ALLOWED", archives.ALLOWED if "bomb" in kind else 1 << 20)
    archive = place / "archive"
    archive.write_bytes(HOSTILE[kind])
    before = tree(place)
    for folder in ("data", "new"):
        with pytest.raises(FormatError, match="archive") as caught:
            archives.unpack(archive, place / "in" / folder)
        assert "\n" not in str(caught.value)
    assert tree(place) == before
    assert not Path("/tmp/evil").exists()


PACKED = {
    "tar": tar(*PLAIN.items(), mode="w:"),
    "tgz": tar(*PLAIN.items()),
    "tbz": tar(*PLAIN.items(), mode="w:bz2"),
    "txz": tar(*PLAIN.items(), mode="w:xz"),
    "zip": pack_zip(*PLAIN.items(), attributes=stat.S_IFREG | 0o7777),
}


@pytest.mark.parametrize("kind", PACKED)
def test_good_archives_replace_the_folder(place, kind):
    archive = place / "archive"
    archive.write_bytes(PACKED[kind])
    folder = archives.unpack(archive, place / "in" / "data")
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == PLAIN
    assert not any(path.stat().st_mode & 0o7111 for path in found.values())
    assert os.listdir(place / "in") == ["data"]


@pytest.mark.parametrize("kind", PACKED)
def test_cut_and_changed_archives(place, kind):
    whole = PACKED[kind]
    archive = place / "archive"
    cuts = [whole[: len(whole) * part // 20] for part in range(1, 20)]
    flips = [bytearray(whole) for _ in range(20)]
    for number, one in enumerate(flips):
        one[len(whole) * number // 20] ^= 0x10
    for content in (*cuts, *flips):
        archive.write_bytes(content)
        before = tree(place)
        try:
            archives.unpack(archive, place / "in" / "new")
        except FormatError:
            assert tree(place) == before
        else:  # what was lost was the end mark, or a date
            shutil.rmtree(place / "in" / "new")


def test_folders_and_parts_of_names(place):
    archive = place / "archive"
    archive.write_bytes(
        tar(("./", tarfile.DIRTYPE, ""), ("./a//b", b"1"), ("a", tarfile.DIRTYPE, ""))
    )
    folder = archives.unpack(archive, place / "in" / "new")
    assert (folder / "a" / "b").read_bytes() == b"1"


def test_formats(place):
    archive = place / "archive"
    archive.write_bytes(PACKED["zip"])
    with pytest.raises(FormatError, match=r"no archive \(tar\)"):
        archives.unpack(archive, place / "in" / "new", ("tar",))


def test_a_full_disk_is_no_damage(place, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    archive = place / "archive"
    archive.write_bytes(PACKED["tgz"])
    before = tree(place)
    monkeypatch.setattr(archives.os, "fdopen", refuse)
    with pytest.raises(OSError, match="No space"):
        archives.unpack(archive, place / "in" / "data")
    monkeypatch.undo()
    assert tree(place) == before


def test_bombs_take_no_memory(tmp_path):
    """64 MB of zeros behind a header that makes the reader want all of them at once."""
    header = tarfile.TarInfo("zeros")
    header.type, header.size = tarfile.XHDTYPE, 64 << 20
    archive = tmp_path / "archive"
    archive.write_bytes(gzip.compress(header.tobuf() + bytes(64 << 20), 1))
    code = f"""
        import resource
        from minicnn.datasets import archives
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            archives.unpack({str(archive)!r}, {str(tmp_path / "out")!r})
        except archives.FormatError as error:
            print(error)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    message, used = done.stdout.splitlines()
    assert "claims to have" in message
    assert int(used) < 24 << 10  # in kB
