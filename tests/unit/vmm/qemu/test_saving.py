"""A snapshot's files: whole when it is said, removed when it failed or was given up."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import MonitorApiError, MonitorError
from fc_kernel.memory.pages import PAGE_BYTES
from fc_kernel.settings.spec import VmSpec
from fc_kernel.vmm.base import SnapshotCreate, SnapshotFiles
from fc_kernel.vmm.qemu import capture as capture_module
from fc_kernel.vmm.qemu.capture import Capture, Reference, Writing
from fc_kernel.vmm.qemu.saving import Saving
from fc_kernel.vmm.qemu.vmstate import Machine, read_vmstate

from .test_capture import MEM_BYTES, Memory, pages_in

MACHINE = Machine.of(VmSpec(vcpu_count=1, mem_size_mib=MEM_BYTES >> 20), accelerated=False)


class Snapshotting:
    def __init__(self, directory: Path) -> None:
        self.memory: Any = Memory(bytes(MEM_BYTES))
        self.memory.put(5, os.urandom(PAGE_BYTES))
        self.reference = Reference(MEM_BYTES, None)
        self.files = SnapshotFiles(vmstate=directory / "vmstate", mem=directory / "mem")

    async def taken(self) -> Saving:
        saving = Saving(SnapshotCreate(files=self.files, kind="diff"), MACHINE, self.reference)
        await saving.take(Capture(self.memory))
        return saving

    def left(self) -> list[Path]:
        return [path for path in (self.files.vmstate, self.files.mem) if path.exists()]


@pytest.fixture
def one(tmp_path: Path) -> Snapshotting:
    return Snapshotting(tmp_path)


async def test_whole_files(one: Snapshotting) -> None:
    saving = await one.taken()
    saving.begin(b"devices")
    assert not any(one.reference.digests)
    for _ in range(2):
        await saving.written()
    assert read_vmstate(one.files.vmstate) == (MACHINE, b"devices")
    assert pages_in(one.files.mem) == {5}
    assert any(one.reference.digests)


async def test_a_full_disk(one: Snapshotting, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    saving = await one.taken()
    monkeypatch.setattr(os, "pwrite", full)
    saving.begin(b"devices")
    with pytest.raises(MonitorError, match=f"cannot be written into {one.files.mem.parent}: No space left on device"):
        await saving.written()
    assert one.left() == []
    assert not any(one.reference.digests), "the next diff has what this one should have had"


async def test_a_full_disk_while_the_guest_stands_still(one: Snapshotting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "MOST_BUFFERED_BYTES", 0)
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    for page in range(100):
        one.memory.put(page, os.urandom(PAGE_BYTES))
    saving = Saving(SnapshotCreate(files=one.files), MACHINE, one.reference)
    with pytest.raises(MonitorError, match="cannot be written into"):
        await saving.take(Capture(one.memory))
    await saving.abandon()
    assert one.left() == []


async def test_no_file_can_be_made(tmp_path: Path) -> None:
    one = Snapshotting(tmp_path)
    one.files.mem.write_bytes(b"mine")
    with pytest.raises(MonitorApiError, match="File exists"):
        Saving(SnapshotCreate(files=one.files), MACHINE, one.reference)
    assert one.left() == [one.files.mem]
    assert one.files.mem.read_bytes() == b"mine"
    nowhere = Snapshotting(tmp_path / "nowhere")
    with pytest.raises(MonitorApiError, match="No such file or directory"):
        Saving(SnapshotCreate(files=nowhere.files), MACHINE, nowhere.reference)


async def test_given_up_while_it_is_written(one: Snapshotting, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    begin = Writing.begin

    def slow(self: Writing) -> None:
        begun.set()
        assert go_on.wait(60)
        begin(self)

    saving = await one.taken()
    monkeypatch.setattr(Writing, "begin", slow)
    saving.begin(b"devices")
    waiting = asyncio.ensure_future(saving.written())
    await asyncio.get_running_loop().run_in_executor(None, begun.wait, 60)
    giving_up = asyncio.ensure_future(saving.abandon())
    await asyncio.sleep(0)
    assert not giving_up.done(), "it waits for the thread"
    go_on.set()
    await giving_up
    with pytest.raises(MonitorError, match="given up before it was written"):
        await waiting
    assert one.left() == []


async def test_given_up_when_it_was_written_but_nobody_was_told(one: Snapshotting) -> None:
    saving = await one.taken()
    saving.begin(b"devices")
    await saving.abandon()
    assert one.left() == []
    assert not any(one.reference.digests)


async def test_waiting_may_be_cancelled(one: Snapshotting) -> None:
    saving = await one.taken()
    saving.begin(b"devices")
    waiting = asyncio.ensure_future(saving.written())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await saving.written()
    assert len(one.left()) == 2


async def test_given_up_while_it_is_taken(one: Snapshotting) -> None:
    """The thread that copies is waited for, and what it copied is not written."""
    begun, go_on = threading.Event(), threading.Event()
    read = one.memory.read

    def slow(*arguments: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        read(*arguments)

    one.memory.read = slow
    saving = Saving(SnapshotCreate(files=one.files), MACHINE, one.reference)
    taking = asyncio.ensure_future(saving.take(Capture(one.memory)))
    await asyncio.get_running_loop().run_in_executor(None, begun.wait, 60)
    giving_up = asyncio.ensure_future(saving.abandon())
    await asyncio.sleep(0)
    assert not giving_up.done()
    go_on.set()
    await giving_up
    await asyncio.wait({taking})
    assert one.left() == []
    with pytest.raises(MonitorError, match="given up"):
        saving.begin(b"devices")
    await saving.abandon()
