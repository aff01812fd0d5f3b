"""Commands on a running kernel: which server, which kernel, which snapshot; and what a server's refusal becomes."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fc_kernel.errors import LaunchError

from ..calling import call
from ..server_site import MICROVM, TOKEN, Site, publish, serving

DEADLINE_S = 60


class Running:
    """The server on a thread of its own, found as a user's own server is."""

    def __init__(self, tmp_path: Path, runtime_dir: Path) -> None:
        self.site: Site
        self.ready, self.loop = threading.Event(), asyncio.new_event_loop()
        self.end = asyncio.Event()
        self.thread = threading.Thread(target=self._run, args=(tmp_path,), name="server")
        self.thread.start()
        assert self.ready.wait(DEADLINE_S)
        self.url = str(self.site.client.base_url).removesuffix("fc-kernel/api/")
        info = {"url": self.url, "token": TOKEN, "root_dir": self.site.app.root_dir, "pid": os.getpid()}
        self.file = runtime_dir / f"jpserver-{os.getpid()}.json"
        self.file.write_text(json.dumps(info))

    def _run(self, tmp_path: Path) -> None:
        async def serve() -> None:
            async with serving(tmp_path) as self.site:
                await self.site.app.session_manager.create_session(
                    path="n.ipynb", name="n.ipynb", type="notebook", kernel_id=MICROVM
                )
                self.ready.set()
                await self.end.wait()

        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(serve())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join(DEADLINE_S)


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings_of_nobody: None) -> Iterator[Running]:
    runtime_dir = tmp_path / "runtime"
    runtime_dir.mkdir()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime_dir))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    running = Running(tmp_path, runtime_dir)
    yield running
    running.stop()


def said(*words: str) -> Any:
    done = call(*words, "--json")
    assert done.status == 0, done.out + done.err
    return json.loads(done.out)


def test_from_a_snapshot_to_forks(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made = said("snapshot", "create", "n.ipynb", "first", "-m", "all loaded")
    assert (made["name"], made["description"]) == ("first", "all loaded")
    assert "s1" in call("snapshot", "create", MICROVM[:8]).out
    restored = said("snapshot", "restore", MICROVM, "first", "--same-seed")
    assert restored["current"] == made["id"]
    assert running.site.sessions[MICROVM].asked[-1] == ("restore", made["id"], True)
    assert "restored first" in call("snapshot", "restore", "n.ipynb", made["id"][:6]).out
    forks = said("fork", "n.ipynb", "first", "-n", "2", "--copy")
    assert sorted(each["path"] for each in forks) == ["n-fork-1.ipynb", "n-fork-2.ipynb"]
    monkeypatch.chdir(running.site.app.root_dir)
    done = call("fork", "./n.ipynb")
    assert (done.status, len(done.out.splitlines())) == (0, 1)


def test_a_server_that_is_named(running: Running) -> None:
    url = running.url.rstrip("/")
    assert said("snapshot", "create", MICROVM, "--server", url)["name"] == "s1"
    running.file.unlink()
    done = call("snapshot", "create", MICROVM, "--server", url, "--token", "wrong")
    assert done.status == 1
    assert "--token" in done.err
    assert said("snapshot", "create", MICROVM, "--server", url, "--token", TOKEN)["name"] == "s2"
    assert "no Jupyter server" in call("snapshot", "create", MICROVM).err


def test_a_server_on_a_unix_socket(running: Running, tmp_path: Path) -> None:
    socket = str(tmp_path / "sock")
    info = json.loads(running.file.read_text())
    info |= {"sock": socket, "url": f"http+unix://{quote(socket, safe='')}/a%40b/"}
    running.file.write_text(json.dumps(info))
    assert said("snapshot", "create", "n.ipynb")["name"] == "s1"


def test_what_is_not_there(running: Running) -> None:
    done = call("snapshot", "create", "no-such.ipynb")
    assert done.status == 1
    assert MICROVM in done.err
    assert "n.ipynb" in done.err
    done = call("snapshot", "restore", "n.ipynb", "no-such", "--json")
    assert json.loads(done.out)["error"]["type"] == "SnapshotNotFound"
    running.site.add_kernel(MICROVM[:-1] + "2")
    assert "could be any of these kernels" in call("fork", MICROVM[:8]).err
    assert call("fork", MICROVM).status == 0


def test_a_refusal_is_the_servers(running: Running) -> None:
    publish(running.site.store, scope="n.ipynb", name="a")
    done = call("snapshot", "create", "n.ipynb", "a", "--json")
    assert (done.status, json.loads(done.out)["error"]["type"]) == (1, "SnapshotExists")
    assert "allowed" in call("snapshot", "create", "n.ipynb", "../a").err
    running.site.sessions[MICROVM].fails = LaunchError("it did not\x1b[31m start", console=["Kernel panic"])
    done = call("fork", "n.ipynb")
    assert done.status == 1
    assert "it did not start" in done.err
    assert "Kernel panic" in done.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["fork"], "KERNEL"),
        (["fork", "a", "b", "c"], "KERNEL"),
        (["fork", "a", "-n", "0"], "count"),
        (["snapshot", "restore", "a"], "SNAPSHOT"),
        (["fork", "a", "--token", "x"], "--server"),
        (["fork", "a", "--server", "localhost:8888"], "URL"),
    ],
)
def test_usage(words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    done = call(*words)
    assert done.status == 2
    assert why in done.err


def test_a_server_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    done = call("fork", "abc", "--server", "http://127.0.0.1:9")
    assert done.status == 1
    assert "does not answer" in done.err
    assert "Traceback" not in done.err
