"""A server on loopback that misbehaves on demand, and no way to anywhere else."""

import contextlib
import hashlib
import ipaddress
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from minicnn.datasets import download

CONTENT = np.random.default_rng(1).bytes(300_000)


class Handler(BaseHTTPRequestHandler):
    """The first part of the path names the behaviour: /short/file.bin."""

    protocol_version = "HTTP/1.0"
    timeout = 10

    def do_GET(self):
        _, behaviour, *_ = self.path.split("/")
        self.server.requests.append((behaviour, self.headers.get("Range")))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, f"do_{behaviour}")()

    def send(self, body, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def rest(self):
        """(status, headers, body) for the range that was asked for."""
        content = self.server.content
        begin = self.headers.get("Range")
        if begin is None:
            return 200, {}, content
        begin = int(begin.removeprefix("bytes=").removesuffix("-"))
        span = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        return 206, {"Content_Range": span}, content[begin:]

    def do_good(self):
        status, headers, body = self.rest()
        self.send(body, status, **headers)

    def do_norange(self):
        self.send(self.server.content)

    def do_status403(self):
        self.send(b"no", 403)

    def do_status404(self):
        self.send(b"no", 404)

    def do_status503(self):
        self.send(b"no", 503)

    def do_busy_once(self):
        if self.server.count("busy_once") == 1:
            self.send(b"no", 503)
        else:
            self.do_good()

    def do_html(self):
        page = b"<html>Please log in</html>".ljust(len(self.server.content))
        self.send(page, Content_Type="text/html; charset=utf-8")

    def do_gzipped(self):
        self.send(self.server.content, Content_Encoding="gzip")

    def do_wrong_length(self):
        self.send(self.server.content + b"more")

    def do_wrong_bytes(self):
        self.send(bytes(len(self.server.content)))

    def do_wrong_range(self):
        self.send(self.server.content[:10], 206, Content_Range="bytes 0-9/10")

    def do_short(self):
        """A third of what is left, every time."""
        status, headers, body = self.rest()
        self.send(body[: len(body) // 3], status, len(body), **headers)

    def do_short_once(self):
        (self.do_short if self.server.count("short_once") == 1 else self.do_good)()

    def do_unannounced(self):
        """No Content-Length, and the end comes early."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content[:1000])

    def do_chunked(self, cut=None):
        """In pieces, without saying how long the whole is, as a server that packs on the fly."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        body = self.server.content[:cut]
        for begin in range(0, len(body), 50_000):
            piece = body[begin : begin + 50_000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n" if cut is None else b"")

    def do_chunked_cut(self):
        self.do_chunked(100_000)

    def do_stall(self):
        self.send(self.server.content[:1000], length=len(self.server.content))
        self.server.stopping.wait(5)

    def do_silence(self):
        self.server.stopping.wait(5)

    def do_drip(self):
        """The whole file in 150 pieces over 3 seconds."""
        status, headers, body = self.rest()
        self.send(b"", status, len(body), **headers)
        step = len(self.server.content) // 150 + 1
        for begin in range(0, len(body), step):
            if self.server.stopping.wait(0.02):
                return
            self.wfile.write(body[begin : begin + step])

    def do_redirect(self):
        self.send(b"", 302, Location=self.server.url("good"))

    def do_redirect_away(self):
        self.send(b"", 302, Location=f"http://localhost:{self.server.server_port}/good/file.bin")

    def do_redirect_loop(self):
        self.send(b"", 302, Location=self.server.url("redirect_loop"))

    def do_nonsense(self):
        self.wfile.write(b"\x00\x01 this is not HTTP\r\n\r\n")

    def log_message(self, *_):
        """Silence: the tests look at `requests`."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    content = CONTENT

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.stopping = [], threading.Event()

    def url(self, behaviour, name="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/{name}"

    def count(self, behaviour):
        return sum(name == behaviour for name, _ in self.requests)

    def file(self, *behaviours, content=None, **changes):
        """A RemoteFile whose mirrors behave so."""
        content = self.content if content is None else content
        return download.RemoteFile(
            "file.bin",
            len(content),
            hashlib.sha256(content).hexdigest(),
            tuple(self.url(behaviour) for behaviour in behaviours),
            **changes,
        )


@pytest.fixture
def server(monkeypatch):
    """The server; plain http is allowed to 127.0.0.1 only, and all waiting is short."""
    monkeypatch.setattr(
        download, "_allowed", lambda url: url.startswith(("https://", "http://127.0.0.1:"))
    )
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(download, "CONNECT_SECONDS", 2.0)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.stopping.set()
        running.shutdown()
        thread.join(5)


@pytest.fixture(autouse=True)
def nothing_but_loopback(monkeypatch, tmp_path):
    """Any connection elsewhere is an error of the test, and the user's own folder is not seen."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and not ipaddress.ip_address(address[0]).is_loopback:
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path / "home"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def elapsed():
    """Seconds since the test began."""
    begin = time.monotonic()
    return lambda: time.monotonic() - begin
