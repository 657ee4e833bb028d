"""Files as such: opened only if they are plain files, replaced as a whole or not at all."""

import contextlib
import os
import secrets
import stat
import warnings

from minicnn.errors import FormatError

# What a file may be that is not what was wanted, by its first bytes.
_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x93NUMPY", "a NumPy array file"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "a PDF document"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x08\x07\x12", "an ONNX model"),
)

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def describe(head):
    """What a file that begins with these bytes is, in words."""
    if not head:
        return "an empty file"
    for signature, words in _SIGNATURES:
        if head.startswith(signature):
            return words
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file"
    text = head.lstrip()
    if text.startswith((b"{", b"[")):
        return "a JSON text"
    if text[:1] == b"<":
        return "an HTML or XML page"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "a text file"
    if not any(head):
        return "zeros"
    return "of no format known here"


def open_regular(path):
    """The file opened for reading, and its size; FormatError for anything but a plain file."""
    _refuse_special(path, os.stat(path).st_mode)
    # Not blocking, in case the path became a pipe after the line above.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb", buffering=0)
    try:
        status = os.fstat(file.fileno())
        _refuse_special(path, status.st_mode)
    except BaseException:
        file.close()
        raise
    return file, status.st_size


def _refuse_special(path, mode):
    for is_kind, words in _KINDS:
        if is_kind(mode):
            raise FormatError(f"{path} is {words}, not a file")


def read_exactly(file, offset, count, path):
    """`count` bytes at `offset`; FormatError if the file has become shorter meanwhile."""
    file.seek(offset)
    parts, missing = [], count
    while missing:
        part = file.read(min(missing, 1 << 24))
        if not part:
            raise FormatError(
                f"{path}: byte {offset + count - missing}: the file ends, expected {missing} more "
                "bytes; it changed while it was read"
            )
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def checked_path(filepath, suffix, what):
    """The path as a string; ValueError unless it ends in `suffix`."""
    if not isinstance(filepath, str | bytes | os.PathLike):
        raise TypeError(f"{what} takes a path ending in {suffix!r}, not {filepath!r}")
    path = os.fsdecode(filepath)
    if path.endswith(suffix):
        return path
    if path.endswith(".weights.h5"):
        raise ValueError(
            f"{what}: {path!r} names a file of weights alone: model.load_weights and "
            f"model.save_weights take it, whole models are files ending in {suffix!r}"
        )
    if path.endswith((".h5", ".hdf5")) and suffix == ".keras":
        raise ValueError(
            f"{what}: {path!r} names a legacy HDF5 model file, which is not supported: use the "
            "suffix '.keras' (for weights alone save_weights and '.weights.h5')"
        )
    raise ValueError(f"{what}: the file name must end in {suffix!r}, not {path!r}")


def refuse_existing(path, overwrite):
    """FileExistsError if there is something and it may not be replaced."""
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists; give overwrite=True to replace it")


def write_atomically(path, parts, overwrite=True):
    """Write the byte strings `parts` to `path` so that a crash leaves the old file or the new one.

    A temporary file in the same folder is written, synced and renamed. On an error the old file
    is untouched and the temporary one removed.
    """
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"the folder {folder} does not exist; create it to save {path}")
    refuse_existing(path, overwrite)
    temporary = os.path.join(folder, f".minicnn-{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        try:
            for part in parts:
                _write_all(descriptor, part)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        refuse_existing(path, overwrite)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            os.unlink(temporary)
        raise
    _sync_folder(folder, path)


def _write_all(descriptor, part):
    view = memoryview(part).cast("B")
    while view:
        view = view[os.write(descriptor, view[: 1 << 24]) :]


def _sync_folder(folder, path):
    """Make the rename itself survive a power loss, where the system can sync folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        warnings.warn(
            f"{path} is saved, but its folder could not be synced ({error}): after a power loss "
            "the file may be the old one",
            stacklevel=4,
        )
