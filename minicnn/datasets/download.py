"""Files from the network: https only, checked, resumed, and never half a file under its own name.

A download grows in `<name>.part` beside its destination, under a lock that other processes wait
for. When its SHA-256 is right it is synced to the disk and renamed. A process that is killed
leaves the part, and the next one goes on where it ended.
"""

import contextlib
import hashlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from minicnn.errors import DownloadError

CONNECT_SECONDS = 5.0  # shared by all mirrors: a machine without network hears of it in this time
STALL_SECONDS = 10.0  # a mirror that sends less than SLOWEST for so long is given up
SLOWEST = 1024  # bytes per second
ATTEMPTS = 3  # connections to one mirror that break off
PAUSE_SECONDS = 0.5  # before the next attempt
BLOCK = 1 << 16


@dataclass(frozen=True)
class RemoteFile:
    """A file as published: name, size in bytes, SHA-256, and where it is (first mirror first).

    `repacked` is the SHA-256 of the same content compressed anew, accepted where it lies on disk.
    `advice` ends the message of a download that failed. size None: what the server says; sha256
    may be an MD5 (32 digits), or "" for a file that nobody has described.
    """

    name: str
    size: int | None
    sha256: str
    urls: tuple[str, ...]
    repacked: str = ""
    advice: str = ""

    def matches(self, path):
        """Whether `path` holds this file."""
        if not self.sha256:
            return True
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, self.algorithm).hexdigest()
        return digest in {self.sha256, self.repacked}

    @property
    def algorithm(self):
        """Of the checksum."""
        return "md5" if len(self.sha256) == 32 else "sha256"

    @property
    def told_size(self):
        """Its size in words."""
        return "of unknown size" if self.size is None else f"{self.size:,} bytes"


class _MirrorFailed(Exception):
    """This mirror is to be given up."""


class _NothingLeft(Exception):
    """The part is as long as the file, or longer."""


class _Interrupted(Exception):
    """A connection broke off in the middle, or the server is busy: the same mirror may do later."""


def home(path: str | os.PathLike | None = None) -> Path:
    """The folder of the data sets: `path`, else $MINICNN_HOME, else ~/.minicnn."""
    if path is None:
        return Path(os.environ.get("MINICNN_HOME") or "~/.minicnn").expanduser()
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"path={str(path)!r} does not exist: create it or leave `path` out")
    return path


def fetch(file: RemoteFile, folder: Path, place: Path | None = None) -> Path:
    """`folder / file.name` with the right content, downloaded if need be.

    place: the folder that the user is advised to put the file into, if it is another.
    Errors: DownloadError, which says what each mirror answered and what to do.
    """
    final = folder / file.name
    reasons = []
    if final.exists():
        if file.matches(final):
            return final
        reasons.append(f"{final} is damaged (its {_kind(file)} is another)")
    lock = folder / f".{file.name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise _unwritable(file, place or folder, error) from error
    for url in file.urls:
        try:
            return _fetch_from(url, file, folder, lock)
        except _MirrorFailed as error:
            reason = " ".join(str(error).split())  # servers may answer anything
            reasons.append(f"{_host(url)}: {reason[:200]}")
    raise DownloadError(
        f"cannot download {file.name} ({'; '.join(reasons)}). Put it ({file.told_size}, from "
        f"{file.urls[0]}) into {place or folder}, or set MINICNN_HOME to the folder that holds it"
        + (f"; {file.advice}" if file.advice else "")
    )


def _fetch_from(url, file, folder, lock):
    """`fetch` from one mirror; _MirrorFailed when it is to be given up."""
    final, part = folder / file.name, folder / f"{file.name}.part"
    failures = 0
    while True:
        offset = _size(part)
        # The connection comes before the lock: of several processes without a network each then
        # fails in its own time and none waits for the others.
        seconds = CONNECT_SECONDS / len(file.urls)
        try:
            complete = contextlib.nullcontext()  # killed just before the renaming
            unfinished = file.size is None or offset < file.size
            response = _open(url, offset, seconds) if unfinished else complete
            with response, _locked(lock):
                if final.exists() and file.matches(final):
                    return final  # another process was quicker
                if _size(part) != offset:
                    continue  # another process went on with it: ask for the rest of that
                if unfinished:
                    begin, size = _check_answer(response, file, offset)
                    _copy(response, file, part, begin, size, url)
                if file.matches(part):
                    _move_into_place(part, final)
                    return final
                part.unlink()
                if offset == 0:
                    raise _MirrorFailed(f"sends other bytes (the {_kind(file)} is another)")
                # What was there before may have been at fault: once more from the beginning.
        except _NothingLeft:
            part.unlink(missing_ok=True)  # of another version of the file: from the beginning
        except _Interrupted as error:
            # A bad line that still gets ahead may break off as often as it likes.
            failures = 1 if _size(part) - offset > 1 << 20 else failures + 1
            if failures == ATTEMPTS:
                raise _MirrorFailed(error) from error
            time.sleep(PAUSE_SECONDS)
        except OSError as error:
            raise _unwritable(file, folder, error) from error


def _allowed(url):
    return url.lower().startswith("https://")


def _open(url, offset, seconds):
    """The answer to a request for the bytes from `offset` on, within `seconds`.

    In a thread, since the resolution of a name has no time limit of its own.
    """
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    class HttpsOnly(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, request, stream, code, message, headers, target):
            if not _allowed(target):
                stream.close()
                raise _MirrorFailed(f"redirects to {target}, which is not https")
            return super().redirect_request(request, stream, code, message, headers, target)

    if not _allowed(url):
        raise _MirrorFailed("not an https address")
    headers = {"User-Agent": "minicnn", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(url, headers=headers)
    answer = []
    given_up = threading.Event()

    def connect():
        try:
            response = urllib.request.build_opener(HttpsOnly).open(request, timeout=STALL_SECONDS)
        except Exception as error:
            answer.append(error)
            if isinstance(error, urllib.error.HTTPError):
                error.close()
        else:
            answer.append(response)
            if given_up.is_set():
                response.close()

    thread = threading.Thread(target=connect, name="minicnn-download", daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        given_up.set()
        if answer and not isinstance(answer[0], Exception):
            answer[0].close()  # it came between the two lines above
        raise _MirrorFailed(f"no answer within {seconds:.1f} s")
    result = answer[0]
    if isinstance(result, urllib.error.HTTPError):
        if result.code == 416 and offset:
            raise _NothingLeft
        kind = _Interrupted if result.code in (429, 500, 502, 503, 504) else _MirrorFailed
        raise kind(f"answers {result.code} {result.reason}")
    if isinstance(result, urllib.error.URLError):
        raise _MirrorFailed(result.reason)
    if isinstance(result, (OSError, HTTPException)):
        raise _MirrorFailed(str(result) or type(result).__name__)
    if isinstance(result, Exception):
        raise result
    return result


def _check_answer(response, file, offset):
    """(where the body begins, `offset` or 0, the size of the file or None).

    _MirrorFailed for a body that cannot be the file.
    """
    headers = response.headers
    page = headers.get_content_type() == "text/html"
    if page and not file.name.lower().endswith((".htm", ".html")):
        raise _MirrorFailed("sends a web page instead of the file")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise _MirrorFailed(f"sends the file as {headers['Content-Encoding']}")
    begin, size = 0, file.size
    length = headers.get("Content-Length")
    if response.status == 206:
        begin, span = offset, headers.get("Content-Range") or ""
        if size is None and span.rpartition("/")[2].isdecimal():
            size = int(span.rpartition("/")[2])
        if size is None or span != f"bytes {offset}-{size - 1}/{size}":
            raise _MirrorFailed(f"sends {headers.get('Content-Range')} of another file")
    elif response.status != 200:
        raise _MirrorFailed(f"answers {response.status}")
    if size is None and length is not None and length.isdecimal():
        size = int(length)
    if size is not None and length is not None and length != str(size - begin):
        raise _MirrorFailed(f"sends {length} bytes, not {size - begin}")
    if size is None and not (file.sha256 or response.chunked):
        raise _MirrorFailed("does not say how long the file is, and there is no checksum for it")
    return begin, size


def _copy(response, file, part, begin, size, url):
    """Write the body into `part` from `begin` to the end; _Interrupted when it breaks off."""
    from http.client import HTTPException

    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(part, flags, 0o666), "wb") as stream, _progress(file, url) as report:
        stream.truncate(begin)
        stream.seek(begin)
        received = window = begin
        window_start = time.monotonic()
        while size is None or received < size:
            try:
                block = response.read1(BLOCK if size is None else min(BLOCK, size - received))
            except (OSError, HTTPException) as error:
                raise _Interrupted(
                    f"{str(error) or type(error).__name__} after {received:,} bytes"
                ) from error
            if not block and size is None:
                break  # a chunked body that is cut off raises IncompleteRead
            if not block:
                raise _Interrupted(f"ends after {received:,} of {size:,} bytes")
            _write(stream, block)
            received += len(block)
            report(received)
            elapsed = time.monotonic() - window_start
            if elapsed >= STALL_SECONDS:
                if received - window < SLOWEST * elapsed:
                    raise _Interrupted(f"stalls after {received:,} bytes")
                window, window_start = received, time.monotonic()
        stream.flush()
        os.fsync(stream.fileno())


def _write(stream, block):
    try:
        stream.write(block)
        stream.flush()  # what a killed process received is then there to be resumed
    except OSError:
        with contextlib.suppress(OSError):
            stream.truncate(0)  # the disk is full: give back what was taken
        raise


def _move_into_place(part, final):
    os.replace(part, final)
    if os.name == "posix":
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _locked(path):
    """Hold the lock file; the system gives it back when the process ends, however it ends."""
    with open(path, "ab") as handle:
        waiting = False
        while not _try_lock(handle):
            if not waiting:
                say(f"waiting for another process to download {path.name[1 : -len('.lock')]}")
                waiting = True
            time.sleep(0.05)
        yield


def _try_lock(handle):
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _progress(file, url):
    """A function to be told the bytes so far: a bar on a terminal, else a line before and after."""
    if sys.stderr is None or not sys.stderr.isatty():
        size = "" if file.size is None else f" ({file.size / 1e6:.1f} MB)"
        say(f"downloading {file.name}{size} from {_host(url)}")
        yield lambda received: None
        say(f"downloaded {file.name}")
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(file.name, total=file.size)
        yield lambda received: bar.update(task, completed=received)


def _kind(file):
    return "MD5" if file.algorithm == "md5" else "SHA-256"


def say(text):
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _host(url):
    from urllib.parse import urlsplit

    return urlsplit(url).netloc


def _unwritable(file, folder, error):
    return DownloadError(
        f"cannot write {file.name} ({file.told_size}) to {folder} ({error.strerror or error}): "
        "set MINICNN_HOME to a folder that can be written and has room for it"
    )
