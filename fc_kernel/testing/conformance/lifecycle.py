"""Checks of a VM's life cycle, from the host's side only: no guest has to boot for them."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from ...errors import LaunchError, StateError
from ...settings.spec import DriveSpec
from ...settings.tier import Tier
from ...vmm.base import Capability, Vmm, VmmState
from ...vmm.journal import read_entry, start_time
from .bench import Bench, nothing_runs_in
from .check import check
from .expecting import expect, refused
from .guest import within

#: When a start is cancelled, in seconds after its beginning: before the process, during its own start, in the middle.
CANCEL_AFTER_S = (0.0, 0.001, 0.005, 0.02, 0.05)
#: No monitor starts in this time.
TOO_SHORT_S = 0.0005


async def _refuses_all(vmm: Vmm, when: str) -> None:
    for call in (vmm.pause, vmm.resume, vmm.kill, vmm.wait):
        with refused(StateError, f"{call.__name__}() {when}"):
            await within(call(), f"{call.__name__}() {when}")
    with refused(StateError, f"tier {when}"):
        _ = vmm.tier


@check()
async def created_vm_has_no_process(bench: Bench) -> None:
    """Making a VM starts nothing; its version and capabilities are known, and what needs a process is a StateError."""
    async with bench.vmm() as vmm:
        expect(vmm.state is VmmState.CREATED, f"the state is {vmm.state}")
        expect(vmm.pid is None, f"a process {vmm.pid} runs")
        expect(vmm.version, "the version is empty")
        expect(vmm.name, "the name is empty")
        expect(not vmm.console_tail(), "a console before the start")
        nothing_runs_in(vmm.plan.run_dir)
        await _refuses_all(vmm, "before the start")
        expect(vmm.state is VmmState.CREATED, "a refused call changed the state")


@check()
async def starts_once(bench: Bench) -> None:
    """A started VM runs, has a process, and refuses to be started again without being disturbed."""
    async with bench.vmm() as vmm:
        await vmm.start()
        expect(vmm.state is VmmState.RUNNING, f"the state is {vmm.state}")
        pid = vmm.pid
        expect(pid is not None and start_time(pid) is not None, "no process runs")
        with refused(StateError, "a second start()"):
            await vmm.start()
        expect(vmm.state is VmmState.RUNNING and vmm.pid == pid, "the second start() changed something")


@check()
async def closes_twice_and_refuses_use_after(bench: Bench) -> None:
    """aclose() ends the monitor and may be called again; later calls are a StateError; the console stays readable."""
    async with bench.vmm() as vmm:
        await vmm.start()
        await vmm.aclose()
        await vmm.aclose()
        expect(vmm.state is VmmState.CLOSED, f"the state is {vmm.state}")
        expect(vmm.pid is None, "a process runs")
        with refused(StateError, "start() after aclose()"):
            await vmm.start()
        await _refuses_all(vmm, "after aclose()")
        expect(isinstance(vmm.console_tail(), list), "the console cannot be read after aclose()")


@check()
async def closes_without_a_start(bench: Bench) -> None:
    """A VM that was never started can be closed, and then not be started."""
    async with bench.vmm() as vmm:
        await vmm.aclose()
        with refused(StateError, "start() after aclose()"):
            await vmm.start()


@check()
async def closes_while_cancelled(bench: Bench) -> None:
    """A cancelled aclose() still ends the monitor."""
    async with bench.vmm() as vmm:
        await vmm.start()
        closing = asyncio.ensure_future(vmm.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
        expect(vmm.pid is None, "the monitor runs after a cancelled aclose()")
        nothing_runs_in(vmm.plan.run_dir)


@check()
async def kill_gives_the_exit(bench: Bench) -> None:
    """kill() ends the monitor by SIGKILL and reaps it; the same exit is there for a second kill() and for wait()."""
    async with bench.vmm() as vmm:
        await vmm.start()
        ended = await within(vmm.kill(), "kill()")
        expect(ended.returncode == -signal.SIGKILL, f"returncode is {ended.returncode}")
        expect(vmm.state is VmmState.EXITED, f"the state is {vmm.state}")
        expect(vmm.pid is None, "a process id after the end")
        expect(await within(vmm.kill(), "a second kill()") == ended, "the second kill() tells something else")
        expect(await within(vmm.wait(), "wait()") == ended, "wait() tells something else")
        for call in (vmm.pause, vmm.resume, vmm.start):
            with refused(StateError, f"{call.__name__}() after the end"):
                await call()


@check()
async def several_tasks_wait(bench: Bench) -> None:
    """wait() may be awaited by several tasks; a cancelled one disturbs no other."""
    async with bench.vmm() as vmm:
        await vmm.start()
        waiters = [asyncio.ensure_future(vmm.wait()) for _ in range(4)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.sleep(0)
        expect(not any(waiter.done() for waiter in waiters[1:]), "wait() returned while the monitor runs")
        ended = await within(vmm.kill(), "kill()")
        told = await within(asyncio.gather(*waiters[1:]), "wait() in several tasks")
        expect(all(each == ended for each in told), f"the waiters were told {told}")


@check()
async def death_of_the_monitor_is_seen(bench: Bench) -> None:
    """When the monitor is killed by somebody else, wait() returns with the signal, and the VM counts as exited."""
    async with bench.vmm() as vmm:
        await vmm.start()
        pid = vmm.pid
        assert pid is not None  # noqa: S101 - it runs
        os.kill(pid, signal.SIGKILL)
        ended = await within(vmm.wait(), "wait() after the monitor's death")
        expect(ended.returncode == -signal.SIGKILL, f"returncode is {ended.returncode}")
        expect(vmm.state is VmmState.EXITED, f"the state is {vmm.state}")
        expect("signal 9" in str(ended), f"the exit reads {str(ended)!r}")
        with refused(StateError, "pause() after the monitor's death"):
            await vmm.pause()


def _open_files(vmm: Vmm) -> set[str]:
    return {str(descriptor.readlink()) for descriptor in Path(f"/proc/{vmm.pid}/fd").iterdir()}


@check()
async def tier_is_the_running_process_own(bench: Bench) -> None:
    """The tier is computed from the running process: nothing above emulated without /dev/kvm open in it."""
    async with bench.vmm() as vmm:
        await vmm.start()
        tier = vmm.tier
        expect(isinstance(tier, Tier), f"the tier is {tier!r}")
        held = _open_files(vmm)
        expect(tier.rank <= Tier.EMULATED.rank or "/dev/kvm" in held, f"tier {tier} without /dev/kvm")


@check()
async def journal_names_the_process(bench: Bench) -> None:
    """A started VM has an entry in the journal with its process and what identifies it for good."""
    async with bench.vmm() as vmm:
        await vmm.start()
        entry = read_entry(vmm.plan.run_dir)
        expect(entry is not None, "there is no entry")
        assert entry is not None  # noqa: S101 - for the type checker
        expect(entry.pid == vmm.pid, f"the entry names the process {entry.pid}, not {vmm.pid}")
        expect(entry.names(entry.pid), "start time and executable do not fit the process")
        expect(entry.monitor == vmm.name, f"the entry names the monitor {entry.monitor}")
        expect(entry.labels == vmm.plan.labels, f"the entry has the labels {entry.labels}")
        expect(entry.owner_pid == os.getpid(), f"the entry's owner is {entry.owner_pid}")


@check()
async def monitor_has_a_session_of_its_own(bench: Bench) -> None:
    """The monitor is no member of our session or process group: a Ctrl-C in a terminal is not for it."""
    async with bench.vmm() as vmm:
        await vmm.start()
        expect(os.getsid(vmm.pid or 0) == vmm.pid, "the monitor leads no session of its own")


@check()
async def cancelled_start_leaves_nothing(bench: Bench) -> None:
    """A start that is cancelled at any moment leaves no process and no socket that answers."""
    for delay_s in CANCEL_AFTER_S:
        async with bench.vmm() as vmm:
            starting = asyncio.ensure_future(vmm.start())
            await asyncio.wait({starting}, timeout=delay_s)
            starting.cancel()
            await asyncio.wait({starting})
            if starting.cancelled() or starting.exception() is not None:
                expect(vmm.pid is None, f"a monitor runs after its start was cancelled after {delay_s} s")
                nothing_runs_in(vmm.plan.run_dir)
                if vmm.state is not VmmState.CREATED:
                    with refused(StateError, "start() after a cancelled one"):
                        await vmm.start()


@check()
async def start_has_a_deadline(bench: Bench) -> None:
    """A start that takes longer than start_timeout_s is a LaunchError, and nothing is left."""
    async with bench.vmm(start_timeout_s=TOO_SHORT_S) as vmm:
        with refused(LaunchError, "a start within no time") as refusal:
            await vmm.start()
        expect(f"{TOO_SHORT_S:g} s" in str(refusal.error), f"the error does not tell the deadline: {refusal.error}")
        expect(vmm.pid is None, "a monitor runs after its start failed")
        nothing_runs_in(vmm.plan.run_dir)


@check(Capability.DRIVES)
async def failed_start_says_why(bench: Bench) -> None:
    """A start that the monitor refuses is one LaunchError with the monitor's message, and nothing is left."""
    missing = bench.directory / "no-such-drive"
    drive = DriveSpec(drive_id="missing", path_on_host=missing, is_read_only=True)
    async with bench.vmm(extra_drives=(drive,)) as vmm:
        with refused(LaunchError, "a start with a drive that does not exist") as refusal:
            await vmm.start()
        expect(missing.name in str(refusal.error), f"the error does not name what is missing: {refusal.error}")
        expect(vmm.pid is None, "a monitor runs after its start failed")
        nothing_runs_in(vmm.plan.run_dir)
    async with bench.vmm(kernel=bench.directory / "no-such-kernel") as vmm:
        with refused(LaunchError, "a start with a kernel that does not exist"):
            await vmm.start()
        expect(vmm.pid is None, "a monitor runs after its start failed")


@check()
async def two_vms_side_by_side(bench: Bench) -> None:
    """Two VMs of one driver run at the same time and end independently."""
    async with bench.vmm() as one, bench.vmm() as other:
        await asyncio.gather(one.start(), other.start())
        expect(one.pid != other.pid, "both have one process")
        expect(one.uds_path != other.uds_path, "both have one socket")
        await one.kill()
        expect(other.state is VmmState.RUNNING, f"the other's state is {other.state}")
