"""The engine's loop waits for no file: who holds the store's lock holds up nobody but those who need it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.base.verified import VerifiedFiles
from fc_kernel.errors import FcKernelError
from fc_kernel.snapshots import disk
from fc_kernel.snapshots.root import Root

from ...scripted_kernel import scripted_environment, scripted_kernels

DEADLINE_S = 60.0
ENGINE = "fc-kernel-engine"
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "rb+")
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_environment(monkeypatch, tmp_path)


@contextlib.contextmanager
def locked_by_another(path: Path) -> Iterator[None]:
    """Another process has the lock of this file."""
    words = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        yield
        holder.communicate()


async def test_a_lock_that_another_process_holds_stops_nobody_else() -> None:
    async with scripted_kernels() as make:
        kernel, other = await make(), await make()
        await kernel.client.run("x = 1")
        await kernel.snapshot("base")
        await kernel.client.run("x = 2")

        async def info() -> dict[str, Any]:
            return kernel.session.info()

        with locked_by_another(kernel.store.root / "lock"):
            waiting = [
                asyncio.ensure_future(kernel.restore("base")),
                asyncio.ensure_future(other.snapshot("theirs")),
            ]
            async with asyncio.timeout(DEADLINE_S):
                # If the loop waited for the lock these would never end.
                while await kernel.engine.run(info()) is None or kernel.session.state != "restoring":
                    await asyncio.sleep(0)
                assert await other.client.value("1 + 1") == "2"
                assert (await kernel.engine.run(info()))["lineage"] == ["base"]
            assert not any(task.done() for task in waiting)
        assert (await asyncio.gather(*waiting))[1] == "theirs"
        assert await kernel.client.value("x") == "1"


async def test_the_store_is_never_opened_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def watched(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            seen.append((name, threading.current_thread().name))
            return real(*args, **more)

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((Root, "opened"), (disk, "open_directory"), (disk, "remove_tree"), (VerifiedFiles, "_locked")):
        watched(owner, name)
    async with scripted_kernels(pool_size=1) as make:
        kernel = await make()
        await kernel.snapshot("base")
        await kernel.snapshot("next")
        await kernel.restore("base")
        [fork] = await kernel.fork(1, "forked")
        assert not fork.error
        assert (await kernel.client.run("%vm")).reply["status"] == "ok"
        for session in kernel.engine.sessions():

            async def info(session: Any = session) -> dict[str, Any]:
                found: dict[str, Any] = session.info()
                return found

            assert (await kernel.engine.run(info()))["lineage"]
        await kernel.inject("snapshot:ENOSPC@1")
        with pytest.raises(FcKernelError):
            await kernel.snapshot("none")
    assert {name for name, _ in seen} == {"opened", "open_directory", "remove_tree", "_locked"}
    assert [each for each in seen if each[1] == ENGINE] == []


async def test_removed_files_go_after_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a tree is removed, the store can be locked by others."""
    async with scripted_kernels() as make:
        kernel = await make()
        await kernel.snapshot("base")
        [base] = kernel.store.list()
        free: list[bool] = []
        real = disk.remove_tree

        def remove_tree(parent: int, name: str) -> None:
            lock = os.open(kernel.store.root / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free.append(True)
            except BlockingIOError:
                free.append(False)
            finally:
                os.close(lock)
            real(parent, name)

        monkeypatch.setattr(disk, "remove_tree", remove_tree)
        kernel.store.delete(base, force=True)
        left = kernel.store.root / f".{'a' * 16}.partial"
        left.mkdir()
        assert kernel.store.sweep() == [left.name]
        assert free == [True, True]
