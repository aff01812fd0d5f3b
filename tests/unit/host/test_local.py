"""The tenant's snapshots and VMs through the host, as it is and behind a wall that only bytes get through; no engine starts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fc_kernel.api.inventory import BrokenSnapshot
from fc_kernel.errors import SnapshotCorrupt, SnapshotExists, SnapshotInUse, SnapshotNotFound
from fc_kernel.host.engine import Engine
from fc_kernel.host.local import LocalHost
from fc_kernel.host.service import ByteStream, KernelHost
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.tenant import Tenant
from fc_kernel.snapshots import Snapshot, SnapshotStore
from fc_kernel.supply.stores import snapshot_store, template_store

from ...encoded_host import EncodedHost
from ...snapshots_made import OWNER, SCOPE, memory, page, save

DEADLINE_S = 60


@pytest.fixture
def tenant(tmp_path: Path) -> Tenant:
    return Tenant(
        owner=OWNER,
        data_dir=tmp_path / "data",
        image_dir=tmp_path / "images",
        cache_dir=tmp_path / "cache",
        run_dir=tmp_path / "run",
        config=FcKernelConfig(),
    )


@pytest.fixture
def store(tenant: Tenant) -> SnapshotStore:
    return snapshot_store(tenant)


@pytest.fixture(params=["plain", "encoded"])
def host(request: pytest.FixtureRequest, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> KernelHost:
    def started() -> Engine:
        raise AssertionError("the engine was started")

    monkeypatch.setattr(Engine, "shared", started)
    inner = LocalHost(tenant)
    made: KernelHost = EncodedHost(inner) if request.param == "encoded" else inner
    return made


@pytest.fixture
def saved(store: SnapshotStore) -> Snapshot:
    first = save(store, "first", notebook=b'{"cells": []}')
    return save(store, "second", on=first, pages={5: page(5)}, vm_id="0a1b2c3d")


async def test_nothing_is_made_by_looking(host: KernelHost, tenant: Tenant) -> None:
    assert await host.snapshots() == []
    assert await host.broken_snapshots() == []
    assert await host.snapshot_details(["0" * 16]) == []
    assert await host.kernels() == []
    assert not tenant.data_dir.exists()


async def test_details(host: KernelHost, saved: Snapshot, store: SnapshotStore) -> None:
    first = store.get("first")
    [details, other] = await host.snapshot_details([saved.id, "0" * 16, first.id])
    assert other.id == first.id
    assert (details.id, details.name, details.vm_id, details.scope) == (saved.id, "second", "0a1b2c3d", SCOPE)
    assert [(each.id, each.name) for each in details.lineage] == [(first.id, "first"), (saved.id, "second")]
    assert details.spec == saved.spec
    assert details.cpu == saved.manifest.cpu
    assert details.image_ref == saved.manifest.image
    assert details.path == str(saved.directory)
    assert details.disk_bytes == saved.size_bytes
    assert details.own_bytes == store.disk_bytes(saved)
    assert details.kernel.cell == "m1"
    assert "secret" not in details.model_dump_json()
    files = {each.file: each for each in details.files}
    assert files.keys() == {"mem", "vmstate", "pages.0"}
    assert {name: each.sha256 for name, each in files.items()} == {p.file: p.sha256 for p in saved.manifest.parts}
    assert (files["mem"].links, files["vmstate"].links) == (2, 1)
    assert files["mem"].disk_bytes == saved.mem.stat().st_blocks * 512


async def test_a_file_that_is_gone_has_no_size(host: KernelHost, saved: Snapshot) -> None:
    saved.vmstate.unlink()
    [details] = await host.snapshot_details([saved.id])
    [vmstate] = [each for each in details.files if each.file == "vmstate"]
    assert (vmstate.disk_bytes, vmstate.links) == (None, None)
    with pytest.raises(SnapshotCorrupt, match="vmstate"):
        await host.verify_snapshot(saved.id)


async def test_verify(host: KernelHost, saved: Snapshot) -> None:
    await host.verify_snapshot(saved.id)
    saved.vmstate.chmod(0o600)
    saved.vmstate.write_bytes(b"x" * saved.vmstate.stat().st_size)
    with pytest.raises(SnapshotCorrupt, match="vmstate"):
        await host.verify_snapshot(saved.id)
    with pytest.raises(SnapshotNotFound):
        await host.verify_snapshot("second")


async def test_a_broken_one_is_told_of_and_deleted(host: KernelHost, saved: Snapshot) -> None:
    (saved.directory / "manifest.json").write_text("{}")
    [broken] = await host.broken_snapshots()
    assert broken == BrokenSnapshot(id=saved.id, error=broken.error)
    assert "manifest" in broken.error
    assert [each.name for each in await host.snapshots()] == ["first"]
    await host.delete_snapshot(saved.id)
    assert await host.broken_snapshots() == []
    assert not saved.directory.exists()
    with pytest.raises(SnapshotNotFound):
        await host.delete_snapshot(saved.id)


async def test_one_in_use_is_deleted_only_by_force(host: KernelHost, saved: Snapshot, store: SnapshotStore) -> None:
    with store.hold(saved):
        assert (await host.find_snapshot("second")).in_use
        with pytest.raises(SnapshotInUse):
            await host.delete_snapshot(saved.id)
        assert saved.directory.exists()
        await host.delete_snapshot(saved.id, force=True)
    assert [each.name for each in store.list()] == ["first"]


async def test_changes_are_told(host: KernelHost, saved: Snapshot) -> None:
    async with host.events() as events:
        changed = await host.change_snapshot(saved.id, name="third", description="why")
        await host.delete_snapshot(saved.id)
        told = [await asyncio.wait_for(anext(events), DEADLINE_S) for _ in range(2)]
    assert (changed.name, changed.description) == ("third", "why")
    assert [each.action for each in told] == ["rename", "delete"]
    assert [each.seq for each in told] == [1, 2]


async def test_lineage_notebook_and_disk_use(host: KernelHost, saved: Snapshot, store: SnapshotStore) -> None:
    assert [each.name for each in await host.lineage(saved.id)] == ["first", "second"]
    assert await host.snapshot_notebook(store.get("first").id) == b'{"cells": []}'
    assert await host.snapshot_notebook(saved.id) is None
    assert (await host.disk_use()).used_bytes == store.disk_bytes()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


def stream(data: bytes) -> ByteStream:
    return pieces(data)  # type: ignore[return-value]


async def test_export_and_import(host: KernelHost, saved: Snapshot, store: SnapshotStore) -> None:
    size, content = await host.export_snapshot(saved.id)
    data = b"".join([each async for each in content])
    assert len(data) == size
    with pytest.raises(SnapshotExists, match=r"already; choose another name, or remove it first$"):
        await host.import_snapshot(stream(data), scope=None)
    async with host.events() as events:
        taken = await host.import_snapshot(stream(data), scope="b.ipynb", name="theirs")
        told = await asyncio.wait_for(anext(events), DEADLINE_S)
    assert told.action == "snapshot"
    found = store.get("theirs", scope="b.ipynb")
    assert found.id == taken.id != saved.id
    assert memory(found) == memory(saved)
    with pytest.raises(SnapshotCorrupt):
        await host.import_snapshot(stream(data[: len(data) // 2]), scope="c.ipynb")
    assert [each.scope for each in store.list()] == [SCOPE, SCOPE, "b.ipynb"]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_an_export_that_is_not_read_leaves_no_file_open(host: KernelHost, saved: Snapshot) -> None:
    before = open_files()
    _, content = await host.export_snapshot(saved.id)
    assert open_files() > before
    await content.aclose()
    assert open_files() == before


async def test_an_export_needs_no_room_on_the_disk(tenant: Tenant, saved: Snapshot) -> None:
    full = dataclasses.replace(tenant, config=FcKernelConfig(min_free_bytes=1 << 60))
    host = LocalHost(full)
    assert (await host.disk_use()).room_bytes == 0
    size, content = await host.export_snapshot(saved.id)
    assert sum([len(each) async for each in content]) == size


async def test_a_failed_import_leaves_no_file_open(host: KernelHost, saved: Snapshot) -> None:
    async def breaks() -> ByteStream:
        yield b"some"
        raise ConnectionResetError("the client has gone")

    before = open_files()
    with pytest.raises(ConnectionResetError):
        await host.import_snapshot(breaks(), scope=None)
    assert open_files() == before


ORPHAN = """
import subprocess, sys
from pathlib import Path
from fc_kernel.base.paths import RunDir
from fc_kernel.vmm.journal import JournalEntry
run_dir = RunDir.create(Path(sys.argv[1]), "0000dead")
monitor = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
monitor.stdout.readline()
JournalEntry.of_process(monitor.pid, vm_id="0000dead", monitor="fake", labels={"kernel_id": "k"}).write(run_dir.path)
print(monitor.pid, flush=True)
sys.stdin.read()
"""


async def test_vms_and_sweep(host: KernelHost, tenant: Tenant, store: SnapshotStore) -> None:
    """A list ends nothing; a sweep ends what a dead server left, and what it left unfinished."""
    assert await host.vms() == []
    command = [sys.executable, "-c", ORPHAN, str(tenant.run_dir)]
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))  # noqa: ASYNC220
        stack.callback(owner.kill)
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        monitor = os.pidfd_open(pid)
        stack.callback(os.close, monitor)
        [vm] = await host.vms()
        assert (vm.vm_id, vm.pid, vm.owner_pid, vm.owner_alive) == ("0000dead", pid, owner.pid, True)
        assert (vm.kernel_id, vm.labels, vm.lifetime) == ("k", {"kernel_id": "k"}, "bound")
        assert (await host.sweep()).vms == []
        owner.kill()
        owner.wait(DEADLINE_S)
        assert [each.owner_alive for each in await host.vms()] == [False]
        os.kill(pid, 0)
        # A draft that nobody finishes, and a template without a manifest.
        for root, name in (
            (store.root, ".0123456789abcdef.partial"),
            (template_store(tenant).root, "0123456789abcdef"),
        ):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            (root / name).mkdir(mode=0o700)
        swept = await host.sweep()
    assert [(each.vm_id, each.outcome) for each in swept.vms] == [
        ("0000dead", f"removed; its process {pid} was killed")
    ]
    assert swept.snapshots == [".0123456789abcdef.partial"]
    assert swept.templates == ["0123456789abcdef"]
    assert await host.vms() == []
