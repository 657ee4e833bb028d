"""Downloads from a server that misbehaves: every outcome is the right file or a clear error."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from http.client import HTTPMessage
from pathlib import Path

import pytest

from minicnn.datasets import cifar10, cifar100, download, fashion_mnist, mnist
from minicnn.errors import DownloadError

BAD = {
    "status403": "403",
    "status404": "404",
    "status503": "503",
    "html": "web page",
    "gzipped": "gzip",
    "wrong_length": "300004 bytes",
    "wrong_bytes": "SHA-256",
    "wrong_range": "another file",
    "unannounced": "ends after 1,000 of",
    "stall": "after 1,000",
    "silence": "timed out",
    "redirect_away": "not https",
    "redirect_loop": "redirect",
    "nonsense": "not HTTP",
}


def names(folder):
    """What lies in the folder, but for lock files."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("behaviour", ["good", "norange", "redirect", "short_once", "busy_once"])
def test_file_arrives(server, tmp_path, behaviour):
    path = download.fetch(server.file(behaviour), tmp_path / "new" / "folder")
    assert path.read_bytes() == server.content
    assert names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("behaviour", BAD)
def test_bad_mirror_is_passed_over(server, tmp_path, behaviour):
    path = download.fetch(server.file(behaviour, "good"), tmp_path)
    assert path.read_bytes() == server.content
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("behaviour", BAD)
def test_bad_mirror_alone_is_an_error_with_advice(server, tmp_path, behaviour, elapsed):
    file = server.file(behaviour, advice="or do without")
    with pytest.raises(DownloadError, match=re.escape(BAD[behaviour])) as caught:
        download.fetch(file, tmp_path)
    assert elapsed() < 5
    message = str(caught.value)
    for part in ("file.bin", "300,000 bytes", file.urls[0], "MINICNN_HOME", "or do without"):
        assert part in message
    assert "\n" not in message
    assert not (tmp_path / "file.bin").exists()


def test_every_mirror_is_named_in_the_error(server, tmp_path):
    with pytest.raises(DownloadError, match="404.*403.*web page"):
        download.fetch(server.file("status404", "status403", "html"), tmp_path)
    assert [name for name, _ in server.requests] == ["status404", "status403", "html"]


def test_short_bodies_are_resumed(server, tmp_path):
    with pytest.raises(DownloadError, match="ends after"):
        download.fetch(server.file("short"), tmp_path)
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=166666-"]
    assert names(tmp_path) == ["file.bin.part"]
    download.fetch(server.file("good"), tmp_path)
    assert server.requests[-1] == ("good", "bytes=211110-")
    assert names(tmp_path) == ["file.bin"]


def test_range_that_is_ignored_starts_again(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(server.content[:1234])
    path = download.fetch(server.file("norange"), tmp_path)
    assert server.requests == [("norange", "bytes=1234-")]
    assert path.read_bytes() == server.content


@pytest.mark.parametrize("size", [1000, 299_999, 300_000, 400_000])
def test_wrong_part_is_thrown_away(server, tmp_path, size):
    (tmp_path / "file.bin.part").write_bytes(bytes(size))
    path = download.fetch(server.file("good"), tmp_path)
    assert path.read_bytes() == server.content
    assert server.requests[-1] == ("good", None)


def test_complete_part_needs_no_network(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(server.content)
    path = download.fetch(server.file("good"), tmp_path)
    assert path.read_bytes() == server.content
    assert server.requests == []


def test_file_in_place_needs_no_network_and_no_writing(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(server.content)
    download.fetch(server.file("good"), tmp_path)
    assert server.requests == []
    assert os.listdir(tmp_path) == ["file.bin"]


def test_repacked_file_in_place_is_taken(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"the same, packed by others")
    packed = download.hashlib.sha256(b"the same, packed by others").hexdigest()
    download.fetch(server.file("good", repacked=packed), tmp_path)
    assert server.requests == []


def test_damaged_file_in_place_is_replaced_or_named(server, tmp_path):
    final = tmp_path / "file.bin"
    final.write_bytes(b"damaged")
    with pytest.raises(DownloadError, match=f"{re.escape(str(final))} is damaged.*404"):
        download.fetch(server.file("status404"), tmp_path)
    assert final.read_bytes() == b"damaged"
    download.fetch(server.file("good"), tmp_path)
    assert final.read_bytes() == server.content


def test_one_line_before_and_after_without_a_terminal(server, tmp_path, capsys):
    download.fetch(server.file("good"), tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"downloading file\.bin \(0\.3 MB\) from 127\.0\.0\.1:\d+\ndownloaded file\.bin\n", err
    )


def test_bar_on_a_terminal(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    download.fetch(server.file("good"), tmp_path)
    err = capsys.readouterr().err
    assert "file.bin" in err and "300.0/300.0 kB" in err


# Without a network.


def test_refused_connection_is_an_error_at_once(server, tmp_path, elapsed):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file.bin"
        file = download.RemoteFile("file.bin", 10, "0" * 64, (url, url))
        with pytest.raises(DownloadError, match="refused"):
            download.fetch(file, tmp_path)
    assert elapsed() < 1


def test_hanging_connection_is_an_error_in_time(server, tmp_path, monkeypatch, elapsed):
    monkeypatch.setattr(download, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.4)
    with pytest.raises(DownloadError, match="no answer within 0.2 s.*no answer within 0.2 s"):
        download.fetch(server.file("silence", "silence"), tmp_path)
    assert elapsed() < 1


def test_hanging_name_resolution_is_an_error_in_time(server, tmp_path, monkeypatch, elapsed):
    def getaddrinfo(*_, **__):
        time.sleep(1)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.2)
    with pytest.raises(DownloadError, match="no answer"):
        download.fetch(cifar10.LAYOUT.archive, tmp_path)
    assert elapsed() < 0.9


def test_budget_for_connecting_is_five_seconds():
    assert download.CONNECT_SECONDS <= 5


# https only.


@pytest.mark.parametrize("url", ["http://example.org/file", "ftp://example.org/file", "file:///x"])
def test_other_schemes_are_refused(tmp_path, url):
    with pytest.raises(DownloadError, match="not an https address"):
        download.fetch(download.RemoteFile("file", 1, "0" * 64, (url,)), tmp_path)


def test_redirect_from_https_to_http_is_refused(monkeypatch, tmp_path):
    """An opener whose https requests are answered by a redirect to http."""

    class Answer(urllib.request.HTTPSHandler):
        def https_open(self, request):
            headers = HTTPMessage()
            headers["Location"] = "http://example.org/file"
            stream = open(os.devnull, "rb")  # noqa: SIM115 - urllib closes it
            response = urllib.request.addinfourl(stream, headers, request.full_url, 302)
            response.msg = "Found"
            return response

    build = urllib.request.build_opener
    monkeypatch.setattr(urllib.request, "build_opener", lambda *handlers: build(Answer, *handlers))
    file = download.RemoteFile("file", 1, "0" * 64, ("https://example.org/file",))
    with pytest.raises(DownloadError, match="redirects to http://example.org/file"):
        download.fetch(file, tmp_path)


PUBLISHED = [
    cifar10.LAYOUT.archive,
    cifar100.LAYOUT.archive,
    *mnist.FILES.values(),
    *fashion_mnist.FILES.values(),
]


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.urls[0].split("/", 3)[-1])
def test_published_files_are_well_described(file):
    assert re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert re.fullmatch("([0-9a-f]{64})?", file.repacked)
    assert all(url.startswith("https://") and url.endswith("/" + file.name) for url in file.urls)


def test_published_files_differ():
    assert len({file.sha256 for file in PUBLISHED}) == len(PUBLISHED) == 10


# Folders that cannot be written. (File modes do not bind the superuser, so nothing is chmodded.)


def check_unwritable(file, folder, reason):
    with pytest.raises(DownloadError, match="set MINICNN_HOME") as caught:
        download.fetch(file, folder)
    assert str(folder) in str(caught.value) and reason in str(caught.value)
    return caught.value


def test_file_in_place_of_the_folder(server, tmp_path):
    (tmp_path / "home").write_bytes(b"a file")
    check_unwritable(server.file("good"), tmp_path / "home", "File exists")
    check_unwritable(server.file("good"), tmp_path / "home" / "below", "Not a directory")
    assert server.requests == []


def test_read_only_folder(server, tmp_path, monkeypatch):
    def touch(self, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "touch", touch)
    check_unwritable(server.file("good"), tmp_path, "Read-only file system")
    assert server.requests == []


def test_full_disk_gives_back_what_was_taken(server, tmp_path, monkeypatch):
    write = download._write

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def write(self, block):
            if self.stream.tell() > 100_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.stream.write(block)

        def __getattr__(self, name):
            return getattr(self.stream, name)

    monkeypatch.setattr(download, "_write", lambda stream, block: write(Full(stream), block))
    check_unwritable(server.file("good"), tmp_path, "No space left")
    assert names(tmp_path) == ["file.bin.part"]
    assert (tmp_path / "file.bin.part").stat().st_size == 0


def test_rename_that_fails_leaves_the_old_file(server, tmp_path, monkeypatch):
    (tmp_path / "file.bin").write_bytes(b"old")

    def replace(*_):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", replace)
    check_unwritable(server.file("good"), tmp_path, "Permission denied")
    assert (tmp_path / "file.bin").read_bytes() == b"old"


def test_link_in_place_of_the_part_is_not_followed(server, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "file.bin.part").symlink_to(outside)
    with pytest.raises(DownloadError):
        download.fetch(server.file("good"), folder)
    assert outside.read_bytes() == b"precious"


# Several processes.

CHILD = """
import sys
from minicnn.datasets import download

download._allowed = lambda url: url.startswith("http://127.0.0.1:")
url, size, sha256, folder = sys.argv[1:]
file = download.RemoteFile("file.bin", int(size), sha256, (url,))
print(download.fetch(file, download.Path(folder)))
"""


def start(server, folder, behaviour):
    file = server.file(behaviour)
    arguments = [file.urls[0], str(file.size), file.sha256, str(folder)]
    root = Path(download.__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), *arguments],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, out, err


def wait_for_part(folder, more_than, process):
    part = folder / "file.bin.part"
    deadline = time.monotonic() + 15
    while not part.exists() or part.stat().st_size <= more_than:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_three_processes_at_once(server, tmp_path):
    processes = [start(server, tmp_path, "drip") for _ in range(3)]
    results = [finish(process) for process in processes]
    assert [code for code, _, _ in results] == [0, 0, 0], results
    assert (tmp_path / "file.bin").read_bytes() == server.content
    assert names(tmp_path) == ["file.bin"]
    assert sum("downloaded file.bin" in err for _, _, err in results) == 1
    assert sum("waiting for another process" in err for _, _, err in results) == 2


def test_killed_download_is_resumed_and_never_half_in_place(server, tmp_path):
    reached = 0
    for _ in range(2):
        process = start(server, tmp_path, "drip")
        wait_for_part(tmp_path, reached + 20_000, process)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        assert names(tmp_path) == ["file.bin.part"]
        reached = (tmp_path / "file.bin.part").stat().st_size
    path = download.fetch(server.file("good"), tmp_path)
    assert server.requests[-1] == ("good", f"bytes={reached}-")
    assert path.read_bytes() == server.content


def test_waiting_process_takes_over_from_a_killed_one(server, tmp_path):
    first = start(server, tmp_path, "drip")
    wait_for_part(tmp_path, 0, first)
    second = start(server, tmp_path, "good")
    while server.count("good") == 0:
        time.sleep(0.01)
        assert second.poll() is None, second.communicate()
    first.kill()
    finish(first)
    code, _, err = finish(second)
    assert code == 0, err
    assert (tmp_path / "file.bin").read_bytes() == server.content


# Where the data are looked for, and what importing costs.


def test_home(tmp_path, monkeypatch):
    assert download.home() == tmp_path / "home"
    assert download.home(tmp_path) == tmp_path
    monkeypatch.setenv("MINICNN_HOME", "")
    assert download.home() == Path.home() / ".minicnn"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        download.home(tmp_path / "typo")


def test_import_is_light():
    code = (
        "import sys; before = set(sys.modules); import numpy; numpy_needs = set(sys.modules);"
        "import minicnn.datasets;"
        "print(sorted((set(sys.modules) - numpy_needs) & {'urllib.request', 'http.client', 'ssl',"
        "'rich', 'tarfile', 'gzip', 'lzma', 'PIL', 'scipy', 'matplotlib'}))"
    )
    root = Path(download.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr
