"""The scripted guest saved and loaded: what a restored kernel must do and must not do, and the files."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import LaunchError, StateError
from fc_kernel.memory.pages import changed_pages, merge, write_pages
from fc_kernel.settings.spec import NetworkInterface, VmSpec
from fc_kernel.testing.conformance import CHECKS, Bench, NotPossibleHere
from fc_kernel.testing.fake_vmm import FakeVmm
from fc_kernel.testing.scripted_guest.memory import write_vmstate
from fc_kernel.vmm.base import Capability, SnapshotFiles, SnapshotLoad, VmmState

from ...waiting import until
from ..scripted_host import DEADLINE_S, MEM_MIB, CallFailed, ScriptedHost, booted, files_in, loaded, machine


@pytest.fixture
async def host() -> AsyncIterator[ScriptedHost]:
    async with booted() as host:
        yield host


async def test_both_go_on_after_a_snapshot(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await host.run("x = {'a': [1, 2.5, None, True]}\ny = 'ü'")
    frozen = await host.save(files)
    assert (frozen["execution_count"], frozen["cell"]) == (1, None)
    assert files.mem.stat().st_size == MEM_MIB << 20
    assert files.mem.stat().st_blocks * 512 < 1 << 20
    await host.run("x = 'source'")
    async with loaded(files) as copy:
        assert await copy.restored() == {"instance": 1, "hook_errors": [], "rekeyed": True}
        assert await copy.value("x['a']") == "[1, 2.5, None, True]"
        assert await copy.value("y + role() + hostname()") == "'ürestoredh2'"
        assert (await copy.run("x = 'copy'"))["execution_count"] == 2
        assert await host.value("x") == "'source'"
        assert {message.session for message in copy.messages}.isdisjoint(message.session for message in host.messages)


async def test_a_snapshot_in_a_cell(host: ScriptedHost, tmp_path: Path) -> None:
    """The source's cell goes on; the copy's ends quietly at that line, and what was queued behind it never runs there."""
    files = files_in(tmp_path)
    msg_id = await host.send("x = 1\nprint('before')\n%snapshot a\nx = 2\nprint('after')")
    queued = await host.send("x += 10")
    asked = await host.asked()
    frozen = await host.save(files)
    assert frozen["cell"] == msg_id
    await host.call("answer", id=asked["id"], result={"role": "source", "snapshot": {"name": "a"}})
    await host.reply(queued)
    assert host.printed() == "before\nsnapshot a\nafter\n"
    assert await host.value("x") == "12"
    async with loaded(files) as copy:
        await copy.restored()
        await until(lambda: copy.idle(msg_id), DEADLINE_S)
        assert await copy.value("x") == "1"
        assert [message.kind for message in copy.messages if message.parent == msg_id] == ["execute_reply", "status"]
        assert not [message for message in copy.messages if message.parent == queued]
        # A request of its own works: the old one is void.
        again = await copy.send("%snapshot b")
        assert (await copy.asked())["id"] != asked["id"]
        await copy.call("answer", id=asked["id"], result={})
        assert not copy.idle(again)


async def test_a_running_cell_goes_on_in_the_copy(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    msg_id = await host.send("stream(400)\nx = 'done'")
    await until(lambda: len(host.printed(msg_id)) > 100, DEADLINE_S)
    await host.save(files)
    await host.reply(msg_id)
    assert host.printed(msg_id).split() == [str(number) for number in range(400)]
    async with loaded(files) as copy:
        await copy.restored()
        await until(lambda: copy.idle(msg_id), DEADLINE_S)
        numbers = [int(number) for number in copy.printed(msg_id).split()]
        assert 0 < numbers[0] < 400, "outputs of the past came again"
        assert numbers == list(range(numbers[0], 400))
        assert await copy.value("x") == "'done'"


async def test_nothing_of_the_past_is_said(host: ScriptedHost, tmp_path: Path) -> None:
    """Not even what the kernel had said while nobody was connected."""
    await host.detach()
    files = files_in(tmp_path)
    await host.attach(2)
    msg_id = await host.send("stream(100000)")
    await host.detach()
    await asyncio.sleep(0.1)
    await host.save(files)
    async with loaded(files) as copy:
        await copy.call("kernel.signal", signum=2)
        await copy.restored(3)
        await until(lambda: copy.idle(msg_id), DEADLINE_S)
        assert copy.printed() == ""


async def test_hooks(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await host.run(
        "on_snapshot('saved = 1')\non_snapshot('nothing')\non_restore('back = generation()')\non_restore('sleep(1)')"
    )
    frozen = await host.save(files)
    assert frozen["hook_errors"] == ["NameError: name 'nothing' is not defined"]
    assert (await host.run("back"))["ename"] == "NameError"
    async with loaded(files) as copy:
        answer = await copy.restored(7)
        assert answer["hook_errors"] == ["SyntaxError: a hook neither waits nor asks"]
        assert await copy.value("saved + back") == "8"
    await host.save(files_in(tmp_path, "without"), hooks=False)
    assert await host.value("saved") == "1"


async def test_a_cell_that_asked_for_something_else(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    msg_id = await host.send("%vm\nx = 1")
    await host.asked()
    assert (await host.save(files))["cell"] == msg_id
    async with loaded(files) as copy:
        await copy.restored()
        reply = await copy.reply(msg_id)
        assert (reply["ename"], reply["evalue"]) == ("SnapshotError", "the machine was restored meanwhile")


async def test_a_started_kernel_has_no_past_to_come_back_from(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await host.run("x = 0\non_restore('x = 1')")
    await host.save(files)
    async with loaded(files) as copy:
        await copy.restored(role="started")
        assert await copy.call("rehearse", timeout_s=1.0) == {}
        assert await copy.value("x") == "0"
        await copy.call("freeze", hooks=False, timeout_s=1.0)
        with pytest.raises(CallFailed, match="nothing to rehearse with"):
            await copy.call("rehearse", timeout_s=1.0)


async def test_who_it_is_now(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await host.save(files)
    await asyncio.sleep(0.2)
    before = float(await host.value("monotonic()"))
    async with loaded(files) as copy:
        now = time.time() + 3600
        await copy.restored(5, time=now, env={"B": "2"}, cwd="/tmp", hostname="there", machine_id="f" * 32, role="fork")
        assert abs(float(await copy.value("time()")) - now) < 5
        assert float(await copy.value("monotonic()")) < before + DEADLINE_S
        assert await copy.value("env('A') + env('B') + cwd() + hostname() + role()") == "'12/tmptherefork'"
        assert await copy.value("generation()") == "5"
        assert await copy.value("machine_id()") == f"'{'f' * 32}'"


async def test_forks_draw_other_numbers_unless_asked(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await host.save(files)
    drawn, kernels = [await host.value("random()")], [await host.value("urandom()")]
    for reseed in (True, True, False):
        async with loaded(files) as copy:
            await copy.restored(reseed=reseed)
            drawn.append(await copy.value("random()"))
            kernels.append(await copy.value("urandom()"))
    assert len(set(kernels)) == 4
    assert drawn[3] == drawn[0]
    assert len(set(drawn)) == 3


async def test_what_comes_before_restored_is_refused(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    msg_id = await host.send("%snapshot")
    await host.asked()
    await host.save(files)
    async with loaded(files) as copy:
        for method, params in {"thaw": {}, "freeze": {"hooks": True, "timeout_s": 1.0}, "kernel.start": {}}.items():
            with pytest.raises(CallFailed, match="not told so"):
                await copy.call(method, **params)
        with pytest.raises(CallFailed, match="16 bytes of randomness") as refused:
            await copy.restored(entropy_b64="AAAAAAAAAAAAAAAAAAAAAA==")
        assert refused.value.code == -32001
        with pytest.raises(CallFailed, match="role"):
            await copy.restored(role="source")
        assert not [line for line in copy.vmm.console_tail() if "user code" in line]
        await copy.restored(4)
        await until(lambda: copy.idle(msg_id), DEADLINE_S)
        # As a pool does it: told, frozen, and told again by the next owner.
        assert (await copy.call("freeze", hooks=False, timeout_s=1.0))["cell"] is None
        await copy.restored(5)
        assert await copy.value("generation()") == "5"
        copy.key = "key 4"
        with pytest.raises((TimeoutError, OSError)):
            await asyncio.wait_for(copy.attach(3), 0.5)
    with pytest.raises(CallFailed, match="not loaded"):
        await host.restored()


async def test_a_template_without_a_kernel(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    async with booted(kernel=False) as template:
        frozen = await template.save(files)
        assert frozen["instance"] is None
    async with loaded(files) as copy:
        assert await copy.restored(role="started") == {"instance": None, "hook_errors": [], "rekeyed": False}
        await copy.start_kernel(instance=3)
        assert await copy.value("role()") == "'started'"


async def test_a_chain_of_layers(tmp_path: Path) -> None:
    """Each generation is a diff on the one before; the layers, or a merged file, are the whole memory."""
    base = files_in(tmp_path, "base")
    async with booted() as host:
        await host.run("x = 0\nbig = 'b' * 200000")
        await host.save(base)
    layers: list[Path] = []
    files = base
    for number in range(1, 6):
        async with loaded(files, layers=tuple(layers)) as copy:
            await copy.restored(number + 1)
            await copy.run(f"x += 1\nbig = 'b' * {200000 // number}")
            diff = files_in(tmp_path, f"d{number}")
            await copy.save(diff, "diff")
        layer = tmp_path / f"pages.{number}"
        write_pages(layer, changed_pages(diff.mem, base.mem, layers))
        layers.append(layer)
        files = SnapshotFiles(vmstate=diff.vmstate, mem=base.mem)
    async with loaded(files, layers=tuple(layers)) as last:
        await last.restored(9)
        assert await last.value("x") == "5"
        assert await last.value("len(big)") == "40000"
    merged = SnapshotFiles(vmstate=files.vmstate, mem=tmp_path / "merged")
    merge(base.mem, layers, merged.mem)
    async with loaded(merged) as last:
        await last.restored(9)
        assert await last.value("x") == "5"


async def test_a_diff_is_of_what_changed(host: ScriptedHost, tmp_path: Path) -> None:
    await host.run("big = 'b' * 4000000")
    full, diff, nothing = (files_in(tmp_path, name) for name in ("full", "diff", "nothing"))
    await host.save(full)
    await host.run("x = 1")
    await host.save(diff, "diff")
    assert diff.mem.stat().st_blocks < full.mem.stat().st_blocks / 10
    with pytest.raises(StateError, match="exists"):
        await host.save(nothing.__class__(vmstate=nothing.vmstate, mem=full.mem))
    assert host.vmm.state is VmmState.PAUSED


async def test_files_may_go_after_the_load(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await host.save(files)
    async with loaded(files) as copy:
        for path in (files.vmstate, files.mem):
            path.unlink()
        await copy.restored()
        assert await copy.value("1") == "1"


async def test_bad_files_are_refused(host: ScriptedHost, tmp_path: Path) -> None:
    good = files_in(tmp_path)
    await host.save(good)
    bad = files_in(tmp_path, "bad")
    facts = json.loads(good.vmstate.read_text().split("\n")[1])

    def vmstate(**changes: Any) -> None:
        bad.vmstate.unlink(missing_ok=True)
        write_vmstate(bad.vmstate, {**facts, **changes})

    def mem(page: int, content: bytes) -> None:
        shutil.copyfile(good.mem, bad.mem)
        with bad.mem.open("r+b") as file:
            os.pwrite(file.fileno(), content, page * 4096)

    async def refused(match: str, files: SnapshotFiles) -> None:
        async with machine() as vmm:
            with pytest.raises(LaunchError, match=match):
                await vmm.load(SnapshotLoad(files=files))

    with_bad_vmstate = SnapshotFiles(vmstate=bad.vmstate, mem=good.mem)
    with_bad_mem = SnapshotFiles(vmstate=good.vmstate, mem=bad.mem)
    vmstate(format=2)
    await refused("format 2; this monitor reads 1", with_bad_vmstate)
    vmstate(magic="FIRECRACKER")
    await refused("another monitor", with_bad_vmstate)
    vmstate(shape={**facts["shape"], "mem_size_mib": 2 * MEM_MIB})
    await refused("mem has", with_bad_vmstate)
    bad.vmstate.write_bytes(good.vmstate.read_bytes()[:-20])
    await refused("damaged", with_bad_vmstate)
    mem(0, b"nothing")
    await refused("no scripted guest", with_bad_mem)
    mem(1, b"other")
    await refused("not what was written", with_bad_mem)
    bad.mem.unlink()
    os.mkfifo(bad.mem)
    await refused("not a regular file", with_bad_mem)


async def test_network_interfaces_are_overridden(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    mine = f"fcs{os.getpid() % 10**6}"
    interface = NetworkInterface(iface_id="eth0", host_dev_name=f"{mine}a")
    override = NetworkInterface(iface_id="eth0", host_dev_name=f"{mine}b")
    async with booted(network_interfaces=(interface,)) as host:
        await host.save(files)
        async with machine() as taken:
            with pytest.raises(LaunchError, match="taken"):
                await taken.load(SnapshotLoad(files=files))
        async with loaded(files, network_overrides=(override,)) as copy:
            await copy.restored()
            assert await copy.value("interfaces()") == f"{{'eth0': '{mine}b'}}"
            assert await host.value("interfaces()") == f"{{'eth0': '{mine}a'}}"


async def test_eight_forks_at_once(host: ScriptedHost, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    await host.run("x = 'kept'")
    await host.save(files)
    async with AsyncExitStack() as stack:
        forks = await asyncio.gather(*(stack.enter_async_context(loaded(files)) for _ in range(8)))
        await asyncio.gather(*(fork.restored(number + 2, role="fork") for number, fork in enumerate(forks)))
        await asyncio.gather(*(fork.run(f"x = x + '{number}'") for number, fork in enumerate(forks)))
        values = [await fork.value("x + hostname()") for fork in forks]
        assert values == [f"'kept{number}h{number + 2}'" for number in range(8)]
        assert len({await fork.value("urandom()") for fork in forks}) == 8
    assert await host.value("x") == "'kept'"


@pytest.mark.parametrize("faults", ["", "resume:reset"], ids=["keeps", "resets"])
async def test_it_is_a_monitor_as_others_are(faults: str) -> None:
    """All that the conformance suite asks of a driver with these capabilities, but for what takes seconds."""

    def make(plan: Any) -> FakeVmm:
        return FakeVmm(plan, service="conformance", guest="scripted", faults=faults)

    slow = {"guest_stands_still_while_paused"}
    if faults:
        slow |= {check.name for check in CHECKS if not {Capability.PAUSE, Capability.SNAPSHOT} & check.needs}
    async with Bench(make, VmSpec(mem_size_mib=MEM_MIB)) as bench:
        for check in CHECKS:
            if check.name not in slow and not check.inapplicable(bench.capabilities):
                try:
                    await check.run(bench)
                except NotPossibleHere:
                    continue
