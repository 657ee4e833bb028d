"""get_file: any address, checked, never half a file, old files kept when a download fails."""

import hashlib
import io
import tarfile

import pytest

from minicnn.datasets import download
from minicnn.errors import DownloadError, FormatError
from minicnn.utils import get_file

GOOD = ["good", "norange", "redirect", "short_once", "busy_once", "chunked"]
BAD = {
    "status403": "403",
    "html": "web page",
    "gzipped": "gzip",
    "short": "ends after",
    "unannounced": "how long",
    "chunked_cut": "after 100,000",
    "stall": "after 1,000",
    "redirect_away": "not https",
}


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home" / "datasets"


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def tar(**members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as opened:
        for name, content in members.items():
            member = tarfile.TarInfo(f"flowers/{name}.txt")
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("behaviour", GOOD)
def test_a_file_arrives_and_is_kept(server, home, behaviour, hashed):
    checksum = sha256(server.content) if hashed else None
    path = get_file(origin=server.url(behaviour) + "?size=large", file_hash=checksum)
    assert path == str(home / "file.bin")
    assert (home / "file.bin").read_bytes() == server.content
    asked = len(server.requests)
    assert get_file(origin=server.url(behaviour), file_hash=checksum) == path
    assert len(server.requests) == asked, "downloaded twice"
    assert files(home) == ["file.bin"]


@pytest.mark.parametrize("behaviour", BAD)
def test_a_download_that_fails_leaves_what_was_there(server, home, behaviour):
    home.mkdir(parents=True)
    (home / "file.bin").write_bytes(b"old")
    with pytest.raises(DownloadError, match=BAD[behaviour]) as caught:
        get_file("file.bin", server.url(behaviour), force_download=True)
    assert str(home) + "," in str(caught.value)
    assert files(home) == ["file.bin"] and (home / "file.bin").read_bytes() == b"old"


def test_another_checksum(server, home):
    home.mkdir(parents=True)
    (home / "file.bin").write_bytes(b"old")
    md5 = hashlib.md5(server.content).hexdigest()
    for arguments in ({"file_hash": md5}, {"md5_hash": md5.upper()}):
        assert get_file("file.bin", server.url("good"), **arguments) == str(home / "file.bin")
    assert len(server.requests) == 1 and (home / "file.bin").read_bytes() == server.content
    with pytest.raises(DownloadError, match="SHA-256 is another"):
        get_file("file.bin", server.url("good"), file_hash=64 * "0")
    assert (home / "file.bin").read_bytes() == server.content


def test_without_a_length_only_with_a_checksum(server, home):
    server.content = server.content[:1000]  # as much as this server sends
    with pytest.raises(DownloadError, match="no checksum"):
        get_file("file.bin", server.url("unannounced"))
    get_file("file.bin", server.url("unannounced"), file_hash=sha256(server.content))
    assert (home / "file.bin").read_bytes() == server.content


def test_what_was_left_unfinished_is_gone_on_with(server, home):
    checksum = sha256(server.content)
    with pytest.raises(DownloadError):
        get_file("file.bin", server.url("short"), file_hash=checksum)
    seen = len(server.requests)
    get_file("file.bin", server.url("good"), file_hash=checksum)
    assert server.requests[seen][1] is not None, "began anew"
    assert (home / "file.bin").read_bytes() == server.content
    assert files(home) == ["file.bin"]


def test_archives(server, home):
    server.content = tar(rose=b"red", lily=b"white")
    inside = ["flowers", "flowers/lily.txt", "flowers/rose.txt"]
    folder = get_file("flowers", server.url("good"), extract=True)
    assert folder == str(home / "flowers") and files(home / "flowers") == inside
    assert (home / "flowers_archive").is_file()
    assert get_file("flowers", server.url("good"), untar=True) == folder
    assert len(server.requests) == 1
    named = get_file("some.tar.gz", server.url("good"), extract=True)
    assert named == str(home / "some_extracted") and files(home / "some_extracted") == inside
    server.content = tar(tulip=b"yellow")
    get_file("flowers", server.url("good"), extract=True, force_download=True)
    assert files(home / "flowers") == ["flowers", "flowers/tulip.txt"]


def test_an_archive_that_is_none_leaves_the_old_folder(server, home):
    (home / "flowers").mkdir(parents=True)
    with pytest.raises(FormatError, match="no archive"):
        get_file("flowers", server.url("good"), extract=True)
    assert files(home) == ["flowers", "flowers_archive"]


def test_places(server, tmp_path):
    path = get_file("a b", server.url("good"), cache_dir=tmp_path, cache_subdir="sub/dir")
    assert path == str(tmp_path / "sub" / "dir" / "a b")
    assert get_file("c", server.url("good"), cache_subdir=tmp_path) == str(tmp_path / "c")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"origin": None}, "origin"),
        ({"fname": "a/b"}, "fname='a/b'"),
        ({"fname": ".."}, "no file name"),
        ({"origin": "https://example.org/"}, "give fname"),
        ({"file_hash": "abc"}, "32 or 64 hexadecimal"),
        ({"file_hash": 64 * "0", "hash_algorithm": "md5"}, "32 hexadecimal"),
        ({"hash_algorithm": "crc"}, "hash_algorithm"),
        ({"archive_format": "rar"}, "archive_format"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_file(**{"origin": "https://example.org/file.bin", **arguments})


def test_plain_http_is_refused(tmp_path):
    with pytest.raises(DownloadError, match="https"):
        get_file("file.bin", "http://192.0.2.1/file.bin", cache_dir=tmp_path)
    assert download.home().exists() is False
