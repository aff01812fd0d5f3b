"""When a snapshot or a restore goes wrong: one error where it was asked for, the kernel goes on, nothing half-made is left."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from fc_kernel.base.paths import runtime_dir
from fc_kernel.errors import (
    LaunchError,
    NotReseeded,
    QuotaExceeded,
    SnapshotCorrupt,
    SnapshotError,
    SnapshotExists,
    SnapshotInUse,
    SnapshotNotFound,
)
from fc_kernel.testing import FakeVmm
from fc_kernel.testing.fake_vmm import FAULTS_VARIABLE
from fc_kernel.vmm.journal import list_entries

from ..scripted_kernel import ScriptedKernel, scripted_environment, scripted_kernels
from ..waiting import until
from .failing_os import CHANGES, FailingOs, install

Make = Callable[..., Awaitable[ScriptedKernel]]

#: Steps of the driver at which a file cannot be written.
WRITES = ("snapshot", "vmstate", "written")
ERRORS = {"ENOSPC": "No space", "EIO": "Input/output", "EDQUOT": "quota"}


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    scripted_environment(monkeypatch, tmp_path)
    async with scripted_kernels() as make:
        yield make


@pytest.fixture
async def kernel(make: Make) -> ScriptedKernel:
    kernel = await make()
    await kernel.client.run("x = 1")
    return kernel


async def goes_on(kernel: ScriptedKernel, names: list[str]) -> None:
    """The kernel is the same and works, and so does the next snapshot."""
    assert kernel.session.running
    assert kernel.names == names
    assert kernel.half_made == []
    assert await kernel.client.value("x") == "1"
    assert (await kernel.client.run("%snapshot next\nx = 2")).printed == "snapshot next\n"
    assert (await kernel.client.run("%restore next")).printed == "restored next\n"
    assert await kernel.client.value("x") == "1"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("step", WRITES)
@pytest.mark.parametrize("base", [False, True], ids=["first", "diff"])
async def test_a_disk_that_is_full_or_broken(kernel: ScriptedKernel, step: str, error: str, base: bool) -> None:
    """While the monitor writes. The cell gets an error; the rest of it does not run, as after any error."""
    if base:
        await kernel.snapshot("base")
    await kernel.inject(f"{step}:{error}@1")
    cell = await kernel.client.run("%snapshot a\nx = 2")
    assert cell.reply["ename"] == "SnapshotError"
    assert ERRORS[error] in cell.reply["evalue"]
    await goes_on(kernel, ["base"] if base else [])


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
async def test_a_disk_that_fails_at_any_call_of_the_store(kernel: ScriptedKernel, error: str) -> None:
    """Each call that changes something fails once, from the beginning of the draft to its publication."""

    def fault(_name: str) -> None:
        number = getattr(errno, error)
        raise OSError(number, os.strerror(number))

    await kernel.snapshot("base")
    refusals = []
    for at in itertools.count(1):
        failing = FailingOs(at, fault, calls=CHANGES - {"open"})  # most of those only read
        with pytest.MonkeyPatch.context() as patch:
            install(patch, failing)
            [taken] = await asyncio.gather(kernel.snapshot(), return_exceptions=True)
        if not failing.failed:
            break
        # A snapshot can do without some of them, such as those of a sweep.
        refusals += [] if isinstance(taken, str) else [taken]
    assert len(refusals) > 5
    assert all(isinstance(each, SnapshotError) for each in refusals), refusals
    assert await kernel.client.value("x") == "1"
    await kernel.snapshot("last")
    # What could not even be removed then is swept now.
    assert kernel.half_made == []


async def test_what_the_quota_does_not_allow_is_refused_before_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_environment(monkeypatch, tmp_path)
    async with scripted_kernels(max_snapshots=1) as make:
        kernel = await make()
        await kernel.client.run("x = 1")
        await kernel.snapshot("a")
        # A freezing would end it.
        await kernel.inject("freeze:die")
        with pytest.raises(QuotaExceeded, match="1 are allowed"):
            await kernel.snapshot("b")
        cell = await kernel.client.run("%snapshot b")
        assert "are allowed" in cell.reply["evalue"]
        assert await kernel.client.value("x") == "1"


@pytest.mark.parametrize("fault", ["freeze:refuse@1", "pause:late=0.1", "freeze:late=0.3,thaw:late=0.3"])
async def test_a_guest_that_refuses_or_is_slow(kernel: ScriptedKernel, fault: str) -> None:
    await kernel.inject(fault)
    cell = await kernel.client.run("%snapshot a")
    refused = "refuse" in fault
    assert cell.reply["status"] == ("error" if refused else "ok")
    await goes_on(kernel, [] if refused else ["a"])


async def test_a_guest_that_does_not_freeze(kernel: ScriptedKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fc_kernel.machine.capture.FREEZE_TIMEOUT_S", 0.3)
    await kernel.inject("freeze:hang@1")
    cell = await kernel.client.run("%snapshot a")
    assert "did not answer" in cell.reply["evalue"]
    await goes_on(kernel, [])


async def test_a_guest_that_does_not_thaw_is_ended(kernel: ScriptedKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that stays frozen would hang for ever; one that died says so."""
    monkeypatch.setattr("fc_kernel.machine.capture.AGENT_TIMEOUT_S", 0.3)
    await kernel.inject("thaw:hang")
    cell = await kernel.client.run("%snapshot a")
    assert cell.reply["ename"] == "KernelDied"
    assert kernel.names == []
    assert kernel.half_made == []


@pytest.mark.parametrize("step", ["freeze", "pause", "snapshot", "vmstate", "resume", "thaw", "written"])
async def test_a_monitor_that_is_killed_while_it_saves(kernel: ScriptedKernel, step: str) -> None:
    await kernel.snapshot("before")
    await kernel.inject(f"{step}:die@1")
    cell = await kernel.client.run("%snapshot a")
    assert cell.reply["ename"] == "KernelDied"
    await until(lambda: kernel.half_made == [])
    assert kernel.names == ["before"]
    await until(lambda: kernel.session.machine is None and list_entries(runtime_dir()) == [])
    await kernel.start()
    await kernel.restore("before")
    assert await kernel.client.value("x") == "1"


@pytest.mark.parametrize(
    "fault", ["load:die", "load:EIO", "load:refuse", "renew:die", "renew:refuse", "thaw:die", "thaw:refuse"]
)
@pytest.mark.parametrize("magic", ["%restore a", "%fork"])
async def test_a_monitor_that_fails_while_it_loads(
    kernel: ScriptedKernel, fault: str, magic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel that asked goes on as it was, and the fork that failed says why."""
    await kernel.snapshot("a")
    await kernel.client.run("x = 2")
    pid = kernel.vmm.pid
    monkeypatch.setenv(FAULTS_VARIABLE, fault)
    cell = await kernel.client.run(magic)
    assert cell.reply["ename"] == "SnapshotError"
    with pytest.raises(LaunchError):
        await (kernel.restore("a") if "restore" in magic else kernel.fork(1))
    assert kernel.vmm.pid == pid
    assert len(list_entries(runtime_dir())) == 1
    assert await kernel.client.value("x") == "2"
    monkeypatch.delenv(FAULTS_VARIABLE)
    await kernel.restore("a")
    assert await kernel.client.value("x") == "1"


async def test_a_restored_guest_that_takes_no_randomness(
    kernel: ScriptedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended before one statement of the user's has run in it; a cell was running when it was saved."""
    running = kernel.client.send("stream(100000)")
    await until(lambda: running.printed)
    await kernel.snapshot("a")
    machines: list[FakeVmm] = []
    load = FakeVmm.load

    async def watched(vmm: FakeVmm, *args: object) -> None:
        machines.append(vmm)
        await load(vmm, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeVmm, "load", watched)
    monkeypatch.setenv(FAULTS_VARIABLE, "renew:refuse")
    with pytest.raises(NotReseeded):
        await kernel.restore("a")
    [vmm] = machines
    assert vmm.pid is None
    assert not [line for line in vmm.console_tail(100) if "user code" in line]
    assert kernel.session.running
    assert len(list_entries(runtime_dir())) == 1


async def test_a_template_that_takes_no_randomness(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    await make()
    monkeypatch.setenv(FAULTS_VARIABLE, "renew:refuse")
    with pytest.raises(NotReseeded):
        await make()
    assert len(list_entries(runtime_dir())) == 1


async def test_eight_snapshots_of_one_name_at_once(make: Make) -> None:
    """Of two kernels in one scope: one wins, the others are told, and all go on."""
    kernels = [await make(), await make()]
    taken = await asyncio.gather(
        *(kernel.snapshot("one") for _ in range(4) for kernel in kernels), return_exceptions=True
    )
    assert taken.count("one") == 1
    others = [each for each in taken if each != "one"]
    assert all(isinstance(each, SnapshotExists) for each in others), others
    assert kernels[0].names == ["one"]
    assert kernels[0].half_made == []
    for kernel in kernels:
        assert await kernel.client.value("1 + 1") == "2"


SERVER = """
import asyncio, sys
from pathlib import Path
import pytest
from tests.scripted_kernel import scripted_environment, scripted_kernels

async def main():
    scripted_environment(pytest.MonkeyPatch(), Path(sys.argv[1]))
    async with scripted_kernels() as make:
        kernel = await make()
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(10):
            print(await kernel.snapshot(), flush=True)

asyncio.run(main())
"""


async def test_two_servers_on_one_store(kernel: ScriptedKernel, tmp_path: Path) -> None:
    """Each takes snapshots without a name, at the same time: every name is given once, and all can be restored."""
    await kernel.snapshot("mine")
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(tmp_path),
        cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert other.stdout is not None
    assert await other.stdout.readline() == b"ready\n"
    theirs = asyncio.ensure_future(other.communicate(b"go\n"))
    mine = [await kernel.snapshot() for _ in range(10)]
    said, _ = await theirs
    assert other.returncode == 0
    names = {*mine, *said.decode().split()}
    assert names == {f"s{number}" for number in range(1, 21)}
    assert set(kernel.names) == {"mine", *names}
    assert kernel.half_made == []
    for name in ("mine", mine[-1]):
        await kernel.restore(name)
        assert await kernel.client.value("x") == "1"


async def test_what_is_in_use_is_not_deleted(kernel: ScriptedKernel) -> None:
    """Not while a kernel stands on it; afterwards its children are as whole as before."""
    await kernel.snapshot("a")
    await kernel.restore("a")
    snapshot = kernel.store.get("a")
    with pytest.raises(SnapshotInUse):
        kernel.store.delete(snapshot)
    with pytest.raises(SnapshotInUse, match=f"end the kernels that run from it first: kernel {kernel.kernel_id}$"):
        await kernel.delete("a")
    await kernel.snapshot("b")
    await kernel.restore("b")
    kernel.store.delete(snapshot)
    assert kernel.names == ["b"]
    assert await kernel.client.value("x") == "1"
    await kernel.restore("b")
    await goes_on(kernel, ["b"])


async def test_what_is_in_use_and_deleted_by_force(kernel: ScriptedKernel) -> None:
    """Its kernel goes on. The next snapshot finds that what it would be on is gone; the one after that is whole by itself."""
    await kernel.snapshot("a")
    await kernel.restore("a")
    kernel.store.delete(kernel.store.get("a"), force=True)
    assert await kernel.client.value("x") == "1"
    [taken] = await asyncio.gather(kernel.snapshot("b"), return_exceptions=True)
    assert taken == "b" or isinstance(taken, SnapshotError)
    await goes_on(kernel, [taken] if taken == "b" else [])


async def test_a_damaged_snapshot_is_refused_before_a_monitor_starts(
    kernel: ScriptedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kernel.snapshot("a")
    await kernel.client.run("%restore a\n")
    snapshot = kernel.store.get("a")
    for part in ("vmstate", "mem", "manifest.json"):
        path = snapshot.directory / part
        content = bytearray(path.read_bytes())
        mode = path.stat().st_mode
        path.chmod(0o600)
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        path.chmod(mode)
        monkeypatch.setattr(FakeVmm, "load", None)
        with pytest.raises(SnapshotNotFound if part == "manifest.json" else SnapshotCorrupt):
            await kernel.restore(snapshot.id)
        path.chmod(0o600)
        path.write_bytes(content)
        path.chmod(mode)
    monkeypatch.undo()
    assert kernel.session.running
    assert await kernel.client.value("x") == "1"


async def test_connections_that_break_at_every_resume(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Firecracker's do: nothing is lost, and nothing comes twice."""
    monkeypatch.setenv(FAULTS_VARIABLE, "resume:reset")
    kernel = await make()
    cell = kernel.client.send("stream(2000)")
    for _ in range(10):
        await kernel.snapshot()
    await kernel.client.until_done(cell)
    assert cell.printed == "".join(f"{number}\n" for number in range(2000))
    for number in range(10):
        assert (await kernel.client.run(f"x = {number}\n%snapshot r{number}\nx = ''")).reply["status"] == "ok"
        assert (await kernel.client.run(f"%restore r{number}")).reply["status"] == "ok"
        assert await kernel.client.value("x") == str(number)


async def test_many_magics_in_a_row(kernel: ScriptedKernel) -> None:
    """A cell may ask as often as it likes, one after the other."""
    cell = await kernel.client.run("\n".join(["%vm"] * 200))
    assert cell.reply["status"] == "ok"
    assert len(cell.printed.splitlines()) == 200
    assert kernel.session.running
