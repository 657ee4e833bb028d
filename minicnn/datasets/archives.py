"""Unpacking of archives that anybody may have made: tar (plain, gz, bz2, xz) and zip.

The list of members is read first, and nothing is written unless all of it is harmless: files and
folders only, below the destination, no name twice, no more bytes than LARGEST_RATIO allows. The
folder then grows under another name beside its destination and is renamed when it is complete.
"""

import bz2
import contextlib
import functools
import gzip
import lzma
import os
import secrets
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

from minicnn.errors import FormatError

LARGEST_RATIO = 200  # unpacked bytes for one of the archive; text packs to a tenth, pixels less
ALLOWED = 64 << 20  # unpacked bytes that are too few to be a bomb, whatever the ratio
SMALLEST = 512  # bytes that a member counts as, at least: millions of empty files are a bomb, too
LARGEST_READ = 4 << 20  # bytes at once: a header of a tar member may claim to have gigabytes
BLOCK = 1 << 20

_PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_DAMAGED += (gzip.BadGzipFile, NotImplementedError, UnicodeError, OverflowError, RuntimeError)


def unpack(archive: str | os.PathLike, folder: str | os.PathLike, formats=("tar", "zip")) -> Path:
    """Make `folder` of the members of `archive`; one that is there is replaced in one step.

    Errors: FormatError for a damaged archive, for a format not in `formats`, and for anything in it
    that is neither a file nor a folder, or would lie elsewhere; the folder is as it was then.
    """
    archive, folder = Path(archive), Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    growing, old = (folder.with_name(f".{folder.name}.{mark}.{end}") for end in ("part", "old"))
    try:
        with _opened(archive, formats) as members:
            _check(members, archive, folder)
            _write(members, growing, archive)
        if os.path.lexists(folder):
            os.rename(folder, old)
        try:
            os.rename(growing, folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; bz2 and gzip raise it without a number
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FormatError(f"{str(archive)!r} is damaged: {reason[:200]}") from error
    finally:
        for left in (growing, old):
            shutil.rmtree(left, ignore_errors=True)
    return folder


class _Member:
    """A file or folder: its name, size, and how to read it."""

    def __init__(self, name, size, kind, open_):
        self.name, self.size, self.kind, self.open = name, size, kind, open_


class _ShortReads:
    """A stream of a tar file that refuses to read gigabytes at once into memory."""

    def __init__(self, stream):
        self.stream = stream
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    def read(self, size=-1):
        if not 0 <= size <= LARGEST_READ:
            raise tarfile.ReadError(f"a header of a member claims to have {size:,} bytes")
        return self.stream.read(size)


@contextlib.contextmanager
def _opened(archive, formats):
    """A function that yields the members, from the first one in every call."""
    with open(archive, "rb") as file:
        start = file.read(512)
        file.seek(0)
        if start[:4] in (b"PK\x03\x04", b"PK\x05\x06") and "zip" in formats:
            with zipfile.ZipFile(file) as opened:
                yield lambda: _zip_members(opened)
            return
        unpacked = next((open_ for mark, open_ in _PACKED if start.startswith(mark)), None)
        tar_like = unpacked is not None or start[257:262] == b"ustar" or not start.strip(b"\0")
        if not tar_like or "tar" not in formats:
            known = " or ".join(formats) or "none: archive_format is empty"
            raise FormatError(
                f"{str(archive)!r} is no archive ({known}), it begins with {start[:16]!r}"
            )
        with unpacked(file) if unpacked else contextlib.nullcontext(file) as stream:
            yield lambda: _tar_members(stream)


def _tar_members(stream):
    stream.seek(0)
    with tarfile.open(fileobj=_ShortReads(stream), mode="r:", errorlevel=2) as opened:
        while (one := opened.next()) is not None:
            kind = "folder" if one.isdir() else "file" if one.isreg() else ""
            if one.islnk() or one.issym():
                kind = f"a link to {one.linkname!r}"
            elif one.issparse():
                kind = "a sparse file"
            open_ = functools.partial(opened.extractfile, one)
            yield _Member(one.name, one.size, kind or "a device", open_)
            opened.members.clear()  # they would take 1 kB of memory each


def _zip_members(opened):
    for one in opened.infolist():
        mode = one.external_attr >> 16
        kind = "folder" if one.is_dir() else "file"
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a link" if stat.S_ISLNK(mode) else "a device"
        elif one.flag_bits & 1:
            kind = "encrypted"
        yield _Member(one.orig_filename, one.file_size, kind, functools.partial(opened.open, one))


def _check(members, archive, folder):
    """FormatError for a member that must not be unpacked."""
    limit = max(ALLOWED, LARGEST_RATIO * archive.stat().st_size)
    free = shutil.disk_usage(folder.parent).free
    total, kinds = 0, {}

    def refuse(name, reason):
        raise FormatError(f"{str(archive)!r} is not unpacked: member {name[:200]!r} {reason}")

    for member in members():
        name, kind = member.name, member.kind
        if kind not in ("file", "folder"):
            refuse(name, f"is {kind}")
        parts = _parts(name)
        if parts is None:
            refuse(name, "would lie outside of the folder, or has a name that is not allowed")
        key = _key(parts)
        if key in kinds and not kind == kinds[key] == "folder":
            refuse(name, "is there twice (or in another spelling)")
        kinds[key] = kind
        for end in range(1, len(parts)):
            if kinds.setdefault(_key(parts[:end]), "folder") != "folder":
                refuse(name, "lies in a folder that is a file")
        total += max(member.size, SMALLEST)
        if total > limit:
            refuse(
                name,
                f"makes it {total:,} bytes, more than {LARGEST_RATIO} times the archive's size: "
                "unpack it yourself if that is meant",
            )
        if total > free:
            refuse(name, f"makes it {total:,} bytes, and {free:,} are free on the disk")
    if "file" not in kinds.values():
        raise FormatError(f"{str(archive)!r} is not unpacked: it holds no file")


def _parts(name):
    """The parts of a member's name, None if it is not one below the destination on every system."""
    if "\0" in name or "\\" in name or name.startswith("/") or len(name) > 4000:
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    colon = os.name == "nt" or name[1:2] == ":"  # of a drive
    if ".." in parts or (colon and ":" in name) or any(len(os.fsencode(p)) > 255 for p in parts):
        return None
    return tuple(parts)


def _key(parts):
    """Names that some system takes for the same one are equal."""
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()


def _write(members, growing, archive):
    """Write all members below a new folder, with permissions of their own."""
    growing.mkdir()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    for member in members():
        path = growing.joinpath(*_parts(member.name))
        if member.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with member.open() as source, os.fdopen(os.open(path, flags, 0o666), "wb") as target:
            while block := source.read(BLOCK):
                written += len(block)
                if written > member.size:
                    break
                target.write(block)
        if written != member.size:
            raise FormatError(
                f"{str(archive)!r} is damaged: member {member.name[:200]!r} does not have the "
                f"{member.size:,} bytes that it claims"
            )
