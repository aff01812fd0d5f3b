"""Checks of snapshots: writing, loading, forking, and that a bad snapshot does no harm."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from ...errors import LaunchError, MonitorApiError, StateError
from ...memory.pages import PAGE_BYTES, pages_of_diff
from ...vmm.base import Capability, SnapshotCreate, SnapshotFiles, SnapshotLoad, VmmState
from .. import guest_services as services
from .bench import Bench, nothing_runs_in
from .check import check
from .expecting import expect, refused
from .guest import Counters, Guest, within

#: Sent to the sink before a snapshot, so that a loaded guest can be told from a booted one.
SUNK_BYTES = 12_345


def continues_from(now: Counters, before: Counters, what: str) -> None:
    """Expect that a guest continues from the saved one: its counters are the same or a little higher."""
    expect(now.sunk_bytes == before.sunk_bytes, f"{what} had swallowed {now.sunk_bytes} bytes, not {before.sunk_bytes}")
    expect(now.counter >= before.counter, f"{what} counts {now.counter}; before the snapshot it was {before.counter}")


@check(Capability.SNAPSHOT)
async def full_snapshot_is_loaded_where_it_was(bench: Bench) -> None:
    """A full snapshot, loaded into a fresh monitor, goes on where it was; the source goes on too."""
    async with bench.guest() as source:
        await source.sink(os.urandom(SUNK_BYTES))
        files = bench.new_files("full")
        before = await bench.save(source, files)
        expect(files.mem.stat().st_size == (bench.spec.mem_size_mib or 0) << 20, "mem is not as large as the memory")
        expect(files.vmstate.stat().st_size > 0, "vmstate is empty")
        async with bench.loaded(files) as copy:
            expect(copy.vmm.state is VmmState.RUNNING, f"the loaded VM's state is {copy.vmm.state}")
            continues_from(await copy.counters(), before, "the loaded guest")
            await copy.sink(b"only here")
            continues_from(await source.counters(), before, "the source")
            await asyncio.gather(source.echoes(os.urandom(50_000)), copy.echoes(os.urandom(50_000)))


@check(Capability.SNAPSHOT)
async def snapshot_is_forked(bench: Bench) -> None:
    """Two VMs loaded from one snapshot run side by side, independently, and do not change its files."""
    files = await bench.snapshot_of_shared()
    content = files.vmstate.read_bytes(), _sample(files.mem)
    async with bench.loaded(files) as one, bench.loaded(files) as other:
        expect(one.vmm.uds_path != other.vmm.uds_path, "both have one socket")
        start = await other.counters()
        await one.sink(os.urandom(1000))
        expect((await other.counters()).sunk_bytes == start.sunk_bytes, "one fork sees what the other swallowed")
        await asyncio.gather(one.echoes(os.urandom(100_000)), other.echoes(os.urandom(100_000)))
        await one.vmm.kill()
        await other.echoes()
    expect((files.vmstate.read_bytes(), _sample(files.mem)) == content, "the snapshot's files were changed")
    await (await bench.shared_guest()).echoes()


def _sample(path: Path) -> list[bytes]:
    """A few pages from all parts of a file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        pages = []
        for at in range(0, size, max(PAGE_BYTES, size // 256)):
            file.seek(at)
            pages.append(file.read(PAGE_BYTES))
    return pages


@check(Capability.SNAPSHOT, Capability.DIFF_SNAPSHOT)
async def diff_snapshot_completes_its_base(bench: Bench) -> None:
    """A diff snapshot holds what changed since the one before: laid over it, it is the guest at the later time."""
    async with bench.guest() as source:
        base, diff = bench.new_files("base"), bench.new_files("diff")
        await bench.save(source, base)
        await source.sink(os.urandom(SUNK_BYTES))
        later = await bench.save(source, diff, kind="diff")
        expect(diff.mem.stat().st_blocks * 512 < base.mem.stat().st_size, "the diff is as large as the memory")
        async with bench.loaded(_completed(bench, base, diff)) as copy:
            continues_from(await copy.counters(), later, "the guest loaded from base and diff")


def _completed(bench: Bench, base: SnapshotFiles, diff: SnapshotFiles) -> SnapshotFiles:
    """The later state: the diff laid over a copy of its base."""
    whole = SnapshotFiles(vmstate=diff.vmstate, mem=bench.directory / f"{diff.mem.name}.whole")
    shutil.copyfile(base.mem, whole.mem)
    with whole.mem.open("r+b") as target:
        for first, data in pages_of_diff(diff.mem):
            target.seek(first * PAGE_BYTES)
            target.write(data)
    return whole


@check(Capability.SNAPSHOT)
async def loaded_guest_can_be_saved_again(bench: Bench) -> None:
    """A loaded VM works like a booted one: it can be paused, saved and loaded in turn."""
    files = await bench.snapshot_of_shared()
    again = bench.new_files("again")
    async with bench.loaded(files) as copy:
        await copy.sink(os.urandom(SUNK_BYTES))
        before = await bench.save(copy, again)
        await copy.vmm.pause()
        await copy.vmm.resume()
        await copy.echoes()
    async with bench.loaded(again) as grandchild:
        continues_from(await grandchild.counters(), before, "the guest loaded from a loaded guest's snapshot")


@check(Capability.SNAPSHOT, Capability.DIFF_SNAPSHOT)
async def loaded_guest_has_its_snapshot_as_the_base(bench: Bench) -> None:
    """The first diff snapshot of a loaded VM completes the snapshot that it was loaded from."""
    base, diff = await bench.snapshot_of_shared(), bench.new_files("diff-of-loaded")
    async with bench.loaded(base) as copy:
        await copy.sink(os.urandom(SUNK_BYTES))
        before = await bench.save(copy, diff, kind="diff")
    async with bench.loaded(_completed(bench, base, diff)) as grandchild:
        continues_from(await grandchild.counters(), before, "the guest loaded from a loaded guest's diff")


@check(Capability.SNAPSHOT)
async def cancelled_snapshot_leaves_no_file(bench: Bench) -> None:
    """A snapshot that is cancelled leaves no file, and the VM is paused and goes on; the next one can be loaded."""
    async with bench.guest() as guest:
        await guest.vmm.pause()
        for number, delay_s in enumerate((0.0, 0.001, 0.01, 0.05)):
            files = bench.new_files(f"cancelled-{number}")
            saving = asyncio.ensure_future(guest.vmm.snapshot(SnapshotCreate(files=files)))
            await asyncio.wait({saving}, timeout=delay_s)
            saving.cancel()
            await asyncio.wait({saving})
            expect(guest.vmm.state is VmmState.PAUSED, f"the state is {guest.vmm.state}")
            if saving.cancelled():
                expect(not files.vmstate.exists() and not files.mem.exists(), "a cancelled snapshot left a file")
            else:
                await within(guest.vmm.written(), "written()")
        await guest.vmm.resume()
        await guest.echoes()
        after = bench.new_files("after-cancelled")
        before = await bench.save(guest, after)
        async with bench.loaded(after) as copy:
            continues_from(await copy.counters(), before, "the guest loaded from the next snapshot")


@check(Capability.SNAPSHOT)
async def loads_without_resuming(bench: Bench) -> None:
    """With resume=False the loaded VM is paused until it is resumed."""
    files = await bench.snapshot_of_shared()
    async with bench.loaded(files, resume=False) as copy:
        expect(copy.vmm.state is VmmState.PAUSED, f"the state is {copy.vmm.state}")
        with refused(StateError, "pause() of a VM that was loaded paused"):
            await copy.vmm.pause()
        await copy.vmm.resume()
        await copy.until_up()
        await copy.echoes()


@check(Capability.SNAPSHOT)
async def running_vm_is_not_saved(bench: Bench) -> None:
    """A snapshot of a VM that is not paused is a StateError, and nothing is written."""
    files = bench.new_files("running")
    async with bench.vmm() as vmm:
        with refused(StateError, "snapshot() before the start"):
            await vmm.snapshot(SnapshotCreate(files=files))
        await vmm.start()
        with refused(StateError, "snapshot() of a running VM"):
            await vmm.snapshot(SnapshotCreate(files=files))
        expect(vmm.state is VmmState.RUNNING, f"the state is {vmm.state}")
    expect(not files.vmstate.exists() and not files.mem.exists(), "a file was written")


@check(Capability.SNAPSHOT)
async def existing_files_are_not_overwritten(bench: Bench) -> None:
    """A snapshot over a file that exists is a StateError: a running VM may have it mapped."""
    async with bench.vmm() as vmm:
        await vmm.start()
        await vmm.pause()
        for existing in ("vmstate", "mem"):
            files = bench.new_files(f"over-{existing}")
            getattr(files, existing).write_bytes(b"mine")
            with refused(StateError, f"snapshot() over an existing {existing}"):
                await vmm.snapshot(SnapshotCreate(files=files))
            expect(getattr(files, existing).read_bytes() == b"mine", f"{existing} was changed")
            expect(vmm.state is VmmState.PAUSED, f"the state is {vmm.state}")


@check(Capability.SNAPSHOT)
async def failed_snapshot_leaves_the_vm(bench: Bench) -> None:
    """A snapshot that cannot be written is one error, leaves no file, and the VM is still paused and goes on."""
    async with bench.guest() as guest:
        nowhere = bench.directory / "no-such-directory"
        files = SnapshotFiles(vmstate=nowhere / "vmstate", mem=nowhere / "mem")
        await guest.vmm.pause()
        with refused(MonitorApiError, "snapshot() into a directory that does not exist"):
            await guest.vmm.snapshot(SnapshotCreate(files=files))
        expect(guest.vmm.state is VmmState.PAUSED, f"the state is {guest.vmm.state}")
        await guest.vmm.resume()
        await guest.echoes()


async def is_refused(bench: Bench, files: SnapshotFiles, what: str, **load: Any) -> None:
    """Expect that loading is one LaunchError, and that nothing is left."""
    async with bench.loading(await bench.snapshot_of_shared()) as vmm:
        with refused(LaunchError, f"load() of {what}") as refusal:
            await vmm.load(SnapshotLoad(files=files, **load))
        expect(str(refusal.error), "the error says nothing")
        expect(vmm.pid is None, f"a monitor runs after it refused {what}")
        nothing_runs_in(vmm.plan.run_dir)
        with refused(StateError, "a second load() after a failed one"):
            await vmm.load(SnapshotLoad(files=files))


@check(Capability.SNAPSHOT)
async def damaged_vmstate_is_refused(bench: Bench) -> None:
    """A vmstate with one flipped bit is one LaunchError, and nothing is left; the source is as it was."""
    good = await bench.snapshot_of_shared()
    state = bytearray(good.vmstate.read_bytes())
    state[len(state) // 2] ^= 1
    bad = SnapshotFiles(vmstate=bench.directory / "flipped.vmstate", mem=good.mem)
    bad.vmstate.write_bytes(state)
    await is_refused(bench, bad, "a damaged vmstate")
    await (await bench.shared_guest()).echoes()


@check(Capability.SNAPSHOT)
async def truncated_mem_is_refused(bench: Bench) -> None:
    """A mem that is too short is one LaunchError, and nothing is left."""
    good = await bench.snapshot_of_shared()
    bad = SnapshotFiles(vmstate=good.vmstate, mem=bench.directory / "short.mem")
    with good.mem.open("rb") as file:
        bad.mem.write_bytes(file.read(good.mem.stat().st_size // 2))
    await is_refused(bench, bad, "a truncated mem")


@check(Capability.SNAPSHOT)
async def missing_files_are_refused(bench: Bench) -> None:
    """A snapshot without its files is one LaunchError, and nothing is left."""
    good = await bench.snapshot_of_shared()
    nothing = bench.new_files("never-written")
    await is_refused(bench, SnapshotFiles(vmstate=nothing.vmstate, mem=good.mem), "a missing vmstate")
    await is_refused(bench, SnapshotFiles(vmstate=good.vmstate, mem=nothing.mem), "a missing mem")


@check(Capability.SNAPSHOT)
async def cancelled_load_leaves_nothing(bench: Bench) -> None:
    """A load that is cancelled leaves no process; the snapshot can still be loaded."""
    files = await bench.snapshot_of_shared()
    for delay_s in (0.0, 0.002, 0.01, 0.03):
        async with bench.loading(files) as vmm:
            loading = asyncio.ensure_future(vmm.load(SnapshotLoad(files=files)))
            await asyncio.wait({loading}, timeout=delay_s)
            loading.cancel()
            await asyncio.wait({loading})
            if loading.cancelled() or loading.exception() is not None:
                expect(vmm.pid is None, f"a monitor runs after its load was cancelled after {delay_s} s")
                nothing_runs_in(vmm.plan.run_dir)
    async with bench.loaded(files) as copy:
        await copy.echoes()


@check(Capability.SNAPSHOT, Capability.VSOCK_OVERRIDE)
async def vsock_is_overridden_at_a_load(bench: Bench) -> None:
    """vsock_override gives the loaded VM's socket another name, absolute or relative."""
    files = await bench.snapshot_of_shared()
    async with bench.loaded(files, vsock_override=Path("renamed.sock")) as copy:
        expect(copy.vmm.uds_path == copy.vmm.plan.run_dir / "renamed.sock", f"uds_path is {copy.vmm.uds_path}")
        await copy.echoes()
        async with bench.loading(files) as vmm:
            absolute = vmm.plan.run_dir / "absolute.sock"
            await vmm.load(SnapshotLoad(files=files, vsock_override=absolute))
            expect(vmm.uds_path == absolute, f"uds_path is {vmm.uds_path}")
            other = Guest(vmm)
            await other.until_up()
            async with other.connect(services.ECHO_PORT) as connection:
                await connection.echo(b"at the absolute path")
