"""A web server with Firecracker releases, good and bad ones."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "1.16.1"
NAME = f"firecracker-v{VERSION}-x86_64"
ARCHIVE_PATH = f"/releases/v{VERSION}/{NAME}.tgz"


def program(version: str = VERSION) -> bytes:
    return f"#!/bin/sh\necho Firecracker v{version}\n".encode()


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def file(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o755
    return info, content


def link(name: str, kind: bytes, to: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = to
    return info, b""


def release(version: str = VERSION) -> bytes:
    """As the project packs it: the program between others."""
    return archive(
        file(f"release-v{VERSION}-x86_64/LICENSE", b"Apache"),
        file(f"release-v{VERSION}-x86_64/jailer-v{VERSION}-x86_64", b"jailer"),
        file(f"release-v{VERSION}-x86_64/{NAME}", program(version)),
        file(f"release-v{VERSION}-x86_64/{NAME}.debug", b"symbols"),
    )


GOOD = release()


def checksum(content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {NAME}.tgz\n".encode()


class Site:
    """What a local web server has to offer: content by path, and how it misbehaves."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.truncated: set[str] = set()
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def releases(self) -> str:
        return f"{self.url}/releases"

    @property
    def archive(self) -> str:
        return self.url + ARCHIVE_PATH

    def publish(self, content: bytes = GOOD, says: bytes | None = None) -> None:
        self.files[ARCHIVE_PATH] = content
        self.files[f"{ARCHIVE_PATH}.sha256.txt"] = checksum(content) if says is None else says


@contextmanager
def serving() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            if self.path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[self.path])
                self.end_headers()
            elif self.path in site.files:
                content = site.files[self.path]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                for name, value in site.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if self.path in site.truncated else content)
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, name="Thread-site", kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()
