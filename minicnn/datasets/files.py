"""Any file from the network, by its address: keras.utils.get_file."""

import contextlib
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from minicnn.datasets import download
from minicnn.datasets.download import RemoteFile
from minicnn.errors import DownloadError

FORMATS = {"auto": ("tar", "zip"), "tar": ("tar",), "zip": ("zip",), None: ()}
DIGITS = {"sha256": (64,), "md5": (32,), "auto": (32, 64)}


def get_file(
    fname=None,
    origin=None,
    untar=False,
    md5_hash=None,
    file_hash=None,
    cache_subdir="datasets",
    hash_algorithm="auto",
    extract=False,
    archive_format="auto",
    cache_dir=None,
    force_download=False,
):
    """Path of the file at the https address `origin`, downloaded if need be; or of the folder that
    it unpacks to (extract). As in Keras, in $MINICNN_HOME/datasets (default ~/.minicnn/datasets).

    file_hash (SHA-256 or MD5) is checked always. Archives: archives.py says what is refused.
    Errors: DownloadError, FormatError; what was there before is as it was then.
    """
    if not isinstance(origin, str) or not origin:
        raise ValueError(f"origin is the https address of the file, not {origin!r}")
    if hash_algorithm not in DIGITS:
        raise ValueError(f"hash_algorithm is one of {', '.join(DIGITS)}, not {hash_algorithm!r}")
    if md5_hash is not None and file_hash is None:
        file_hash, hash_algorithm = md5_hash, "md5"
    checksum = _checksum(file_hash, hash_algorithm)
    formats = _formats("tar" if untar else archive_format)
    folder = download.home() if cache_dir is None else Path(cache_dir).expanduser()
    folder = folder / cache_subdir
    name = _name(fname, origin)
    target, unpacked = folder / name, None
    if extract or untar:
        dotted = fname is not None and "." in name
        unpacked = folder / (f"{name.split('.')[0]}_extracted" if dotted else name)
        target = target if dotted else folder / f"{name}_archive"

    fresh = force_download or not target.exists()
    if not fresh and checksum and not RemoteFile(name, None, checksum, ()).matches(target):
        download.say(f"{target} has another checksum and is downloaded again")
        fresh = True
    if fresh:
        _fetch(origin, checksum, target)
    if unpacked is None:
        return str(target)
    if fresh or not unpacked.is_dir():
        from minicnn.datasets import archives

        archives.unpack(target, unpacked, formats)
    return str(unpacked)


def _fetch(origin, checksum, target):
    """Download beside the target and rename: what was there stays until the new file is whole.

    With a checksum, what an earlier process left unfinished is gone on with.
    """
    import shutil

    file = RemoteFile(target.name, None, checksum, (origin,))
    growing = target.parent / f".{target.name}.{checksum[:16] or secrets.token_hex(8)}"
    try:
        os.replace(download.fetch(file, growing, target.parent), target)
        shutil.rmtree(growing, ignore_errors=True)
    except (DownloadError, FileNotFoundError):
        if not (checksum and target.exists() and file.matches(target)):
            raise  # else another process that downloads the same was quicker
    finally:
        if not checksum:
            shutil.rmtree(growing, ignore_errors=True)
        with contextlib.suppress(OSError):
            growing.rmdir()  # if there is nothing in it


def _checksum(value, algorithm):
    if value is None:
        return ""
    text = str(value).lower()
    if len(text) not in DIGITS[algorithm] or set(text) - set("0123456789abcdef"):
        lengths = " or ".join(map(str, DIGITS[algorithm]))
        raise ValueError(f"file_hash is {lengths} hexadecimal digits ({algorithm}), not {value!r}")
    return text


def _formats(value):
    if isinstance(value, list | tuple):
        unknown = [one for one in value if one not in ("tar", "zip")]
        if not unknown:
            return tuple(value)
    elif value in FORMATS:
        return FORMATS[value]
    raise ValueError(
        f"archive_format is 'auto', 'tar', 'zip', a list of them or None, not {value!r}"
    )


def _name(fname, origin):
    name = urlsplit(origin).path.rpartition("/")[2] if fname is None else os.fspath(fname)
    if not name or name in (".", "..") or set(name) & set("/\\:\0"):
        what = f"fname={fname!r}" if fname is not None else f"the last part of origin={origin!r}"
        raise ValueError(f"{what} is no file name: give fname, a name without folders")
    return name
