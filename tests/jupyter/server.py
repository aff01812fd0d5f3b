"""A real Jupyter server for tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from .conftest import DEADLINE_S


class Server:
    """A Jupyter server with a token, serving ``root``; ``url`` is where its REST API and its WebSockets are."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.token = "sesame"
        self.root = root
        self.url = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "server", "--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1",
             f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={root}", *arguments],
            stderr=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "A_SERVER_SECRET": "hunter2"},
        )  # fmt: skip
        self.log: list[str] = []
        self._listens = threading.Event()
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()
        if not (self._listens.wait(DEADLINE_S) and self.url):
            self.kill()
            raise AssertionError("".join(self.log))

    def _read(self) -> None:
        """Take all that the server logs, so that it never waits for a reader."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if not self.url and (found := re.search(r"http://127\.0\.0\.1:(\d+)/", line)):
                self.url = f"http://127.0.0.1:{found[1]}"
                self._listens.set()
        self._listens.set()

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs to be let in."""
        return {"Authorization": f"token {self.token}"}

    def client(self) -> httpx.Client:
        """A client of the REST API."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=DEADLINE_S)

    def stop(self) -> None:
        """Ask the server to end, and wait until it has."""
        self.process.terminate()
        self.join()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.join()

    def join(self) -> None:
        """Wait until the server has ended by itself."""
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        if self.process.stderr is not None:
            self.process.stderr.close()
