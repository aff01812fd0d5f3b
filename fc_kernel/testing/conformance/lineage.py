"""Checks of snapshots of snapshots: chains of diffs, children of children, layers, and how small a diff is."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import UnsupportedByMonitor
from ...memory.pages import PAGE_BYTES, changed_pages, merge, pages_of_diff, write_pages
from ...vmm.base import Capability, SnapshotFiles, SnapshotLoad, VmmState
from .bench import Bench, nothing_runs_in
from .check import check
from .expecting import expect, refused
from .guest import Counters, Guest
from .snapshots import SUNK_BYTES, continues_from, is_refused

#: The length of a chain of diffs; and after how many of them one is loaded.
CHAIN, LOADED = 25, (1, 12, 25)
#: Enough for an idle guest's clock and stacks, its agent's buffers and a little more.
SMALL_DIFF_BYTES = 16 << 20
GENERATIONS = 4


class _Chain:
    """A base and the diffs over it: as page files where the driver takes layers, else merged into one file."""

    def __init__(self, bench: Bench, base: SnapshotFiles) -> None:
        self._bench = bench
        self.base = base
        self.layers: list[Path] = []

    def add(self, diff: SnapshotFiles) -> None:
        path = diff.mem.with_suffix(".pages")
        write_pages(path, changed_pages(diff.mem, self.base.mem, self.layers))
        self.layers.append(path)

    def load(self, vmstate: Path, count: int) -> tuple[SnapshotFiles, dict[str, object]]:
        """Files and further arguments of a load with the oldest ``count`` layers."""
        if Capability.LAYERS in self._bench.capabilities:
            return SnapshotFiles(vmstate=vmstate, mem=self.base.mem), {"layers": self.layers[:count]}
        whole = self._bench.directory / f"{vmstate.name}.merged"
        merge(self.base.mem, self.layers[:count], whole)
        return SnapshotFiles(vmstate=vmstate, mem=whole), {}


@check(Capability.SNAPSHOT, Capability.DIFF_SNAPSHOT)
async def chain_of_diffs_is_loaded_anywhere(bench: Bench) -> None:
    """Many diffs are laid over each other; after each the guest is as it was at that time."""
    async with bench.guest() as source:
        base = bench.new_files("chain-base")
        await bench.save(source, base)
        chain = _Chain(bench, base)
        states: list[tuple[Path, Counters]] = []
        for number in range(CHAIN):
            await source.sink(os.urandom(SUNK_BYTES))
            diff = bench.new_files(f"chain-{number}")
            before = await bench.save(source, diff, kind="diff")
            chain.add(diff)
            diff.mem.unlink()
            states.append((diff.vmstate, before))
        await source.echoes()
    for count in LOADED:
        vmstate, before = states[count - 1]
        files, more = chain.load(vmstate, count)
        async with bench.loaded(files, **more) as copy:
            continues_from(await copy.counters(), before, f"the guest loaded from {count} diffs")
            await copy.echoes(os.urandom(50_000))


@check(Capability.SNAPSHOT, Capability.DIFF_SNAPSHOT)
async def children_have_children(bench: Bench) -> None:
    """A diff of a VM that was loaded from diffs completes those: generation upon generation."""
    base = await bench.snapshot_of_shared()
    chain = _Chain(bench, base)
    files: SnapshotFiles = base
    more: dict[str, object] = {}
    for number in range(GENERATIONS):
        async with bench.loaded(files, **more) as child:
            await child.sink(os.urandom(SUNK_BYTES))
            diff = bench.new_files(f"generation-{number}")
            before = await bench.save(child, diff, kind="diff")
            chain.add(diff)
            if number == GENERATIONS // 2:
                # What it was loaded with may be written over by a second diff of the same child, too.
                await child.sink(os.urandom(SUNK_BYTES))
                second = bench.new_files(f"generation-{number}-again")
                before = await bench.save(child, second, kind="diff")
                chain.add(second)
                diff = second
            await child.echoes()
        files, more = chain.load(diff.vmstate, len(chain.layers))
    async with bench.loaded(files, **more) as last:
        continues_from(await last.counters(), before, "the last of the generations")
        whole = bench.new_files("generation-whole")
        before = await bench.save(last, whole)
    async with bench.loaded(whole) as copy:
        continues_from(await copy.counters(), before, "the full snapshot of the last of the generations")


@check(Capability.SNAPSHOT, Capability.DIFF_SNAPSHOT)
async def diff_of_a_small_change_is_small(bench: Bench) -> None:
    """What did not change is not in a diff: neither in a booted guest's nor in a loaded one's."""
    base = bench.new_files("small-base")
    async with bench.guest() as source:
        await bench.save(source, base)
        await source.sink(os.urandom(SUNK_BYTES))
        await _is_small(bench, source, "booted")
    async with bench.loaded(base) as copy:
        await copy.sink(os.urandom(SUNK_BYTES))
        await _is_small(bench, copy, "loaded")


async def _is_small(bench: Bench, guest: Guest, what: str) -> None:
    diff = bench.new_files(f"small-diff-of-{what}")
    await bench.save(guest, diff, kind="diff")
    size = sum(len(data) for _, data in pages_of_diff(diff.mem))
    expect(0 < size < SMALL_DIFF_BYTES, f"the diff of a {what} guest that did next to nothing has {size} bytes")


@check(Capability.SNAPSHOT, Capability.LAYERS)
async def damaged_layers_are_refused(bench: Bench) -> None:
    """A layer that is cut off, no page file, of a larger memory or missing is one LaunchError, and nothing is left."""
    files = await bench.snapshot_of_shared()
    pages = (bench.spec.mem_size_mib or 0) << 20 >> 12
    good, beyond = bench.directory / "good.pages", bench.directory / "beyond.pages"
    write_pages(good, [(5, bytes(2 * PAGE_BYTES))])
    write_pages(beyond, [(pages, bytes(PAGE_BYTES))])
    cut, other = bench.directory / "cut.pages", bench.directory / "other.pages"
    cut.write_bytes(good.read_bytes()[:-1])
    other.write_bytes(b"\x7fELF" + good.read_bytes()[4:])
    for bad in (beyond, cut, other, bench.directory / "missing.pages"):
        await is_refused(bench, files, f"the layer {bad.name}", layers=[good, bad])


@check(Capability.SNAPSHOT, lacks=(Capability.LAYERS,))
async def layers_are_refused(bench: Bench) -> None:
    """A driver without layers refuses them before anything is started."""
    async with bench.vmm() as vmm:
        load = SnapshotLoad(files=bench.new_files("refused"), layers=[bench.directory / "0.pages"])
        with refused(UnsupportedByMonitor, "load() with layers"):
            await vmm.load(load)
        expect(vmm.pid is None and vmm.state is VmmState.CREATED, f"something was started: the state is {vmm.state}")
        nothing_runs_in(vmm.plan.run_dir)
