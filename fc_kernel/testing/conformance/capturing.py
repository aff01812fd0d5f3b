"""Checks of what happens around a snapshot: traffic, files that are still being written, and monitors that die."""

from __future__ import annotations

import asyncio
import os

from ...errors import LaunchError, MonitorError, StateError
from ...vmm.base import Capability, SnapshotCreate, SnapshotFiles, SnapshotLoad, Vmm, VmmState
from .. import guest_services as services
from .bench import Bench, nothing_runs_in
from .check import check
from .expecting import expect
from .guest import Connection, within
from .snapshots import continues_from, is_refused

#: Much more than all buffers hold, so that data is in flight whenever the guest is paused.
VOLUME_BYTES = 3 << 20
NUMBERS = 64 << 10
#: When a monitor is killed, in seconds after the beginning.
KILL_AFTER_S = (0.0, 0.001, 0.005, 0.02, 0.05)


@check(Capability.SNAPSHOT)
async def files_are_whole_when_written(bench: Bench) -> None:
    """The VM runs while its snapshot is still being written; when written() has returned the snapshot can be loaded.

    Until then another snapshot either works or is a StateError.
    """
    async with bench.guest() as guest:
        await within(guest.vmm.written(), "written() without a snapshot")
        before = await guest.counters()
        files, second = bench.new_files("written"), bench.new_files("written-second")
        await guest.vmm.pause()
        await guest.vmm.snapshot(SnapshotCreate(files=files))
        try:
            await guest.vmm.snapshot(SnapshotCreate(files=second))
        except StateError:
            expect(not second.vmstate.exists() and not second.mem.exists(), "a refused snapshot left a file")
        expect(guest.vmm.state is VmmState.PAUSED, f"the state is {guest.vmm.state}")
        await guest.vmm.resume()
        await guest.echoes(os.urandom(100_000))
        for _ in range(2):
            await within(guest.vmm.written(), "written()")
        bench.knows(guest.vmm, files)
        async with bench.loaded(files) as copy:
            continues_from(await copy.counters(), before, "the guest loaded from what was written while its source ran")


@check(Capability.SNAPSHOT)
async def closed_vm_leaves_whole_files_or_none(bench: Bench) -> None:
    """A VM that is closed while its snapshot is being written leaves the whole snapshot, or nothing."""
    files = bench.new_files("closed")
    async with bench.guest() as guest:
        await guest.vmm.pause()
        await guest.vmm.snapshot(SnapshotCreate(files=files))
        bench.knows(guest.vmm, files)
    if files.vmstate.exists() or files.mem.exists():
        async with bench.loaded(files) as copy:
            await copy.echoes()


@check(Capability.SNAPSHOT, Capability.SNAPSHOT_KEEPS_CONNECTIONS)
async def connections_outlive_a_snapshot(bench: Bench) -> None:
    """Traffic in both directions goes on after snapshots, and nothing of it is lost; the copies serve anew."""
    guest = await bench.shared_guest()
    copies: list[SnapshotFiles] = []
    async with guest.connect(services.ECHO_PORT) as echo, guest.connect(services.FLOOD_PORT) as flood:
        await flood.send(b"!")
        echoing = asyncio.ensure_future(_echo_for_a_while(echo))
        for number in range(3):
            await flood.numbers(number * NUMBERS, NUMBERS)
            expect(not echoing.done(), "the echo ended before the snapshot: make the volume larger")
            files = bench.new_files(f"traffic-{number}")
            await guest.vmm.pause()
            await guest.vmm.snapshot(SnapshotCreate(files=files))
            await guest.vmm.resume()
            await within(guest.vmm.written(), "written()")
            bench.knows(guest.vmm, files)
            copies.append(files)
        await flood.numbers(3 * NUMBERS, NUMBERS)
        await within(echoing, "the echo")
    for files in copies:
        async with bench.loaded(files) as copy:
            await asyncio.gather(copy.echoes(os.urandom(200_000)), copy.echoes(os.urandom(50_000)))


async def _echo_for_a_while(connection: Connection) -> None:
    for _ in range(4):
        await connection.echo(os.urandom(VOLUME_BYTES))


@check(Capability.SNAPSHOT)
async def hostile_vmstates_are_refused(bench: Bench) -> None:
    """A vmstate with a flipped bit anywhere, cut off anywhere, empty, or of something else, is one LaunchError."""
    good = await bench.snapshot_of_shared()
    state = good.vmstate.read_bytes()
    size = len(state)
    wrong = {f"the bit {at} flipped": _flipped(state, at) for at in (0, 9, 50, size // 3, size - 9)}
    wrong.update({f"only {kept} bytes": state[:kept] for kept in (0, 1, 40, size // 2, size - 1)})
    wrong["zeros"] = bytes(size)
    bad = SnapshotFiles(vmstate=bench.directory / "hostile.vmstate", mem=good.mem)
    for what, content in wrong.items():
        bad.vmstate.write_bytes(content)
        await is_refused(bench, bad, f"a vmstate with {what}")
    await (await bench.shared_guest()).echoes()


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@check(Capability.SNAPSHOT)
async def monitor_killed_during_a_snapshot_leaves_no_file(bench: Bench) -> None:
    """A monitor that dies during a snapshot is one error, and no half snapshot is left."""
    good = await bench.snapshot_of_shared()
    for number, delay_s in enumerate(KILL_AFTER_S):
        files = bench.new_files(f"killed-{number}")
        async with bench.loaded(good) as guest:
            await guest.vmm.pause()
            saving = asyncio.ensure_future(_captured(bench, guest.vmm, files))
            await asyncio.wait({saving}, timeout=delay_s)
            await guest.vmm.kill()
            await within(asyncio.wait({saving}), "the end of snapshot() after its monitor's")
            error = saving.exception()
            if error is not None:
                expect(isinstance(error, (MonitorError, StateError)), f"snapshot() raised {error!r}")
                expect(not files.vmstate.exists() and not files.mem.exists(), "a failed snapshot left a file")
        if error is None:
            async with bench.loaded(files) as copy:
                await copy.echoes()


async def _captured(bench: Bench, vmm: Vmm, files: SnapshotFiles) -> None:
    await vmm.snapshot(SnapshotCreate(files=files))
    await vmm.written()
    bench.knows(vmm, files)


@check(Capability.SNAPSHOT)
async def monitor_killed_during_a_load_leaves_nothing(bench: Bench) -> None:
    """A monitor that dies while it loads is one LaunchError, and the snapshot can still be loaded."""
    files = await bench.snapshot_of_shared()
    for delay_s in KILL_AFTER_S:
        async with bench.loading(files) as vmm:
            loading = asyncio.ensure_future(vmm.load(SnapshotLoad(files=files)))
            while vmm.pid is None and not loading.done():
                await asyncio.sleep(0)
            await asyncio.wait({loading}, timeout=delay_s)
            if vmm.pid is not None:
                os.kill(vmm.pid, 9)
            await within(asyncio.wait({loading}), "the end of load() after its monitor's")
            if (error := loading.exception()) is not None:
                expect(isinstance(error, LaunchError), f"load() raised {error!r}")
                expect(vmm.pid is None, "a monitor runs after its load failed")
                nothing_runs_in(vmm.plan.run_dir)
    async with bench.loaded(files) as copy:
        await copy.echoes()
