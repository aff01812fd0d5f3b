"""When things break: the documented error, no hang, nothing left, and the next launch works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from traitlets.config import Config

from fc_kernel.base.paths import cache_dir, data_dir, runtime_dir
from fc_kernel.errors import FcKernelError
from fc_kernel.vmm.journal import list_entries

from ..jupyter.conftest import DEADLINE_S, Run
from ..jupyter.server import Server
from ..waiting import eventually


@contextmanager
def kernel(**options: Any) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A started kernel with a ready client, shut down at the end whatever became of it."""
    manager = KernelManager(kernel_name="fc-python3")
    manager.start_kernel(**options)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE_S)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def reply_of(client: BlockingKernelClient, msg_id: str) -> dict[str, Any]:
    while True:
        reply = client.get_shell_msg(timeout=DEADLINE_S)
        if reply["parent_header"].get("msg_id") == msg_id:
            return reply["content"]


def the_vm(manager: KernelManager) -> psutil.Process:
    """The monitor process of the manager's kernel, as the journal names it."""
    [entry] = [entry for entry in list_entries(runtime_dir()) if entry.kernel_id == manager.kernel_id]
    return psutil.Process(entry.pid)


def works() -> None:
    """The next launch works."""
    with kernel() as (_, client):
        assert Run(client, "6 * 7").value == "42"


def dies(code: str, *, restart: bool = False) -> None:
    """Run code that kills its kernel; its cell is answered with an error, and another kernel notices nothing."""
    with kernel() as (other, undisturbed), kernel() as (manager, client):
        Run(undisturbed, "kept = 1")
        reply = reply_of(client, client.execute(code))
        assert reply["status"] == "error"
        assert reply["ename"] == "KernelDied"
        eventually(lambda: not manager.is_alive(), "the manager sees the death")
        assert Run(undisturbed, "kept").value == "1"
        assert other.is_alive()
        if restart:
            manager.restart_kernel(now=True)
            client.wait_for_ready(timeout=DEADLINE_S)
            assert Run(client, "6 * 7").value == "42"


def test_kernel_process_dies(monitor: str) -> None:
    dies("import os; os._exit(3)", restart=True)


@pytest.mark.vm
def test_guest_kernel_panics(monitor: str) -> None:
    if monitor == "fake":
        pytest.skip("the fake has no guest kernel")
    dies("open('/proc/sysrq-trigger', 'w').write('c')", restart=True)


@pytest.mark.vm
def test_guest_memory_runs_out(monitor: str) -> None:
    if monitor == "fake":
        pytest.skip("the fake has no memory of its own")
    dies("hoard = []\nwhile True: hoard.append(b'x' * (16 << 20))", restart=True)


def test_monitor_gets_sigkill(monitor: str) -> None:
    with kernel() as (manager, client):
        msg_id = client.execute("import time; time.sleep(600)")
        while client.get_iopub_msg(timeout=DEADLINE_S)["content"].get("execution_state") != "busy":
            pass
        the_vm(manager).kill()
        reply = reply_of(client, msg_id)
        assert reply["ename"] == "KernelDied"
        eventually(lambda: not manager.is_alive(), "the manager sees the death")
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=DEADLINE_S)
        assert Run(client, "6 * 7").value == "42"


def test_guest_agent_gets_sigkill(monitor: str) -> None:
    """In a VM the agent is the init process, which the guest's kernel protects; the fake's agent is its monitor."""
    with kernel() as (manager, client):
        if monitor == "fake":
            reply = reply_of(client, client.execute("import os, signal; os.kill(os.getppid(), signal.SIGKILL)"))
            assert reply["ename"] == "KernelDied"
            eventually(lambda: not manager.is_alive(), "the manager sees the death")
        else:
            assert Run(client, "import os, signal; os.kill(1, signal.SIGKILL); 'still here'").value == "'still here'"
    works()


def test_launch_cannot_finish_in_time(monitor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error carries what the console said last."""
    if monitor == "fake":
        pytest.skip("the fake has no console of a booting guest")
    monkeypatch.setenv("FC_KERNEL_START_TIMEOUT_S", "2")
    # A boot takes longer than that; a restore need not.
    config = Config({"FcKernelConfig": {"templates": False}})
    manager = KernelManager(kernel_name="fc-python3", config=config)
    with pytest.raises(FcKernelError, match=r"(?s)2(\.0)? s.*last lines of the console"):
        manager.start_kernel()
    manager.cleanup_resources()
    assert list_entries(runtime_dir()) == []
    monkeypatch.undo()


@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated"])
def test_image_corrupt_or_missing(monitor: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if monitor == "fake":
        pytest.skip("the fake boots no image")
    import shutil

    from fc_kernel.images.store import ImageStore

    if damage != "missing":
        image = ImageStore(data_dir() / "images", cache_dir()).get("default")
        copy = tmp_path / "images" / "default"
        shutil.copytree(image.path, copy)
        rootfs = copy / image.rootfs.name
        rootfs.chmod(0o600)
        with rootfs.open("r+b") as file:
            if damage == "flipped":
                file.seek(1 << 20)
                byte = file.read(1)[0]
                file.seek(1 << 20)
                file.write(bytes([byte ^ 1]))
            else:
                file.truncate(rootfs.stat().st_size - 4096)
    monkeypatch.setenv("FC_KERNEL_DATA_DIR", str(tmp_path))
    manager = KernelManager(kernel_name="fc-python3")
    with pytest.raises(FcKernelError, match="default"):
        manager.start_kernel()
    manager.cleanup_resources()
    assert list_entries(runtime_dir()) == []


def test_socket_path_too_long(monitor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 90)
    monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", str(deep))
    manager = KernelManager(kernel_name="fc-python3")
    with pytest.raises(FcKernelError, match="FC_KERNEL_RUNTIME_DIR"):
        manager.start_kernel()
    manager.cleanup_resources()
    assert not deep.exists() or not list(deep.iterdir())


def test_disk_full(monitor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the run directory's files: one clear error, and nothing left on the full disk."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    full = tmp_path / "f"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], check=True)
    try:
        filler = full / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(b"\0" * (1 << 20))
        monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", str(full / "r"))
        manager = KernelManager(kernel_name="fc-python3")
        with pytest.raises(FcKernelError, match=r"(?i)space"):
            manager.start_kernel()
        manager.cleanup_resources()
        assert [path for path in full.rglob("*") if path.is_file()] == [filler]
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_fifty_rapid_restarts(monitor: str) -> None:
    """One VM at the end, and no descriptor, thread or process more than after the first."""
    restarts = 50 if monitor == "fake" else 5
    with kernel() as (manager, client):
        me = psutil.Process()
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=DEADLINE_S)
        before = me.num_fds(), me.num_threads()
        for _ in range(restarts):
            manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=DEADLINE_S)
        assert Run(client, "6 * 7").value == "42"
        assert len(list_entries(runtime_dir())) == 1
        after = me.num_fds(), me.num_threads()
    assert after <= (before[0] + 2, before[1] + 1)


def test_server_gets_sigkill(monitor: str, tmp_path: Path) -> None:
    """The VMs of a killed server end by themselves, and ``gc`` leaves nothing of them."""
    server = Server(tmp_path)
    try:
        with server.client() as http:
            for _ in range(2):
                assert http.post("/api/kernels", json={"name": "fc-python3"}).status_code == 201
        entries = list_entries(runtime_dir())
        assert len(entries) == 2
        processes = [psutil.Process(entry.pid) for entry in entries]
        processes += [child for process in processes for child in process.children(recursive=True)]
    finally:
        server.kill()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    done = subprocess.run(
        [sys.executable, "-m", "fc_kernel.cli", "gc", "--json"], capture_output=True, text=True, check=True
    )
    outcomes = {vm["vm_id"]: vm["outcome"] for vm in json.loads(done.stdout)}
    assert {entry.vm_id: "removed; its process had ended" for entry in entries}.items() <= outcomes.items()
    assert list(runtime_dir().iterdir()) == []
    works()


def test_server_ends_in_the_middle_of_a_launch(monitor: str, tmp_path: Path) -> None:
    """SIGTERM while a notebook's kernel starts: the server ends, and nothing of the launch is left."""
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    server = Server(tmp_path)
    body = {"path": "n.ipynb", "name": "n.ipynb", "type": "notebook", "kernel": {"name": "fc-python3"}}
    answers: list[object] = []

    def ask() -> None:
        with server.client() as http:
            try:
                answers.append(http.post("/api/sessions", json=body))
            except httpx.HTTPError as error:
                answers.append(error)

    asking = threading.Thread(target=ask, name="asking")
    asking.start()
    try:
        eventually(lambda: list_entries(runtime_dir()), "the launch begins")
    finally:
        server.stop()
        asking.join(DEADLINE_S)
    assert len(answers) == 1
    eventually(lambda: not list_entries(runtime_dir()), "the launch is undone")
    assert list(runtime_dir().iterdir()) == []


async def test_cancelled_in_the_middle_of_a_launch(monitor: str) -> None:
    """Whoever cancels a start finds nothing of it running."""
    import asyncio

    manager = AsyncKernelManager(kernel_name="fc-python3")
    start = asyncio.ensure_future(manager.start_kernel())
    while not list_entries(runtime_dir()):
        assert not start.done(), start
        await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    end = time.monotonic() + DEADLINE_S
    while list_entries(runtime_dir()) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    assert list_entries(runtime_dir()) == []
    await manager.cleanup_resources()


def test_the_reaper_spares_a_recycled_pid(monitor: str) -> None:
    """``gc`` after a server's death kills by identity, not by number; the living server's VM is untouched."""
    with kernel() as (manager, client):
        done = subprocess.run([sys.executable, "-m", "fc_kernel.cli", "gc"], capture_output=True, text=True, check=True)
        assert re.search("nothing to remove", done.stdout)
        assert Run(client, "6 * 7").value == "42"
        assert the_vm(manager).is_running()
