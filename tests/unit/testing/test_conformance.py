"""The conformance suite finds what is wrong with a driver: each defect here fails the check that is meant for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fc_kernel.errors import LaunchError
from fc_kernel.settings.spec import VmSpec
from fc_kernel.settings.tier import Tier
from fc_kernel.testing import FakeVmm, check_vmm
from fc_kernel.testing.conformance import CHECKS, Bench, Check, ConformanceError
from fc_kernel.testing.conformance import guest as guest_module
from fc_kernel.vmm.base import BootPlan, Capability, VmmExit, VmmState
from fc_kernel.vmm.journal import JOURNAL_NAME

SPEC = VmSpec(mem_size_mib=64)
#: What a defective driver never does is not waited for as long as a slow monitor may take.
SHORT_DEADLINE_S = 2.0


class SoundVmm(FakeVmm):
    """Without a defect."""

    def __init__(self, plan: BootPlan) -> None:
        super().__init__(plan, service="conformance")


def check_named(name: str) -> Check:
    [check] = [check for check in CHECKS if check.name == name]
    return check


async def fails(driver: type[FakeVmm], *names: str) -> None:
    async with Bench(driver, SPEC, boot_deadline_s=30.0) as bench:
        for name in names:
            with pytest.raises(ConformanceError):
                await check_named(name).run(bench)


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_module.within, "__defaults__", (SHORT_DEADLINE_S,))


def test_every_check_says_what_is_promised() -> None:
    assert len(CHECKS) == len({check.name for check in CHECKS}) > 50
    assert all(len(check.promise) > 30 and check.promise.endswith((".", ".)")) for check in CHECKS)
    asked = {capability for check in CHECKS for capability in check.needs | check.lacks}
    assert asked == set(Capability)


class StartsAgain(SoundVmm):
    async def start(self) -> None:
        if self.state is not VmmState.RUNNING:
            await super().start()


async def test_second_start() -> None:
    await fails(StartsAgain, "starts_once")


class ForgetsItsStates(SoundVmm):
    def _only_in(self, wanted: VmmState, what: str) -> None:
        """Everything goes."""


async def test_states() -> None:
    await fails(ForgetsItsStates, "pause_has_its_states")


class PausesNothing(SoundVmm):
    async def pause(self) -> None:
        self._only_in(VmmState.RUNNING, "pause")
        self._state = VmmState.PAUSED

    async def resume(self) -> None:
        self._only_in(VmmState.PAUSED, "resume")
        self._state = VmmState.RUNNING


async def test_pause() -> None:
    await fails(PausesNothing, "guest_stands_still_while_paused", "connections_outlive_a_pause")


class NeverResumes(SoundVmm):
    async def resume(self) -> None:
        self._state = VmmState.RUNNING


async def test_resume() -> None:
    await fails(NeverResumes, "connects_after_every_resume")


def sleeping_in(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], cwd=directory)


class ForgetsACancelledPause(SoundVmm):
    async def pause(self) -> None:
        before = self._state
        await super().pause()
        paused, self._state = self._state, before
        await asyncio.sleep(0.05)
        self._state = paused


async def test_cancelled_pause() -> None:
    await fails(ForgetsACancelledPause, "cancelled_change_leaves_a_true_state")


class LeavesSomething(SoundVmm):
    left: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        await super().start()
        type(self).left = sleeping_in(self.plan.run_dir)


async def test_left_process() -> None:
    try:
        await fails(LeavesSomething, "closes_while_cancelled")
    finally:
        assert LeavesSomething.left is not None
        LeavesSomething.left.kill()
        LeavesSomething.left.wait()


class TellsAnotherExit(SoundVmm):
    async def wait(self) -> VmmExit:
        await super().wait()
        return VmmExit(0)


async def test_exit() -> None:
    await fails(TellsAnotherExit, "kill_gives_the_exit", "several_tasks_wait", "death_of_the_monitor_is_seen")


class ClaimsAnIsolation(SoundVmm):
    @property
    def tier(self) -> Tier:
        return Tier.KVM


async def test_tier() -> None:
    await fails(ClaimsAnIsolation, "tier_is_the_running_process_own", "created_vm_has_no_process")


class KeepsNoJournal(SoundVmm):
    async def start(self) -> None:
        await super().start()
        (self.plan.run_dir / JOURNAL_NAME).unlink()


async def test_journal() -> None:
    await fails(KeepsNoJournal, "journal_names_the_process")


class HasNoDeadline(SoundVmm):
    def __init__(self, plan: BootPlan) -> None:
        super().__init__(BootPlan(**{**vars(plan), "start_timeout_s": 60.0}))


async def test_deadline() -> None:
    await fails(HasNoDeadline, "start_has_a_deadline")


class FailsWithAnotherError(SoundVmm):
    async def start(self) -> None:
        raise TimeoutError


async def test_unexpected_error_is_a_failure_of_its_check() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await check_vmm(FailsWithAnotherError, SPEC, boot_deadline_s=1.0)
    failed = {str(error).partition(":")[0] for error in caught.value.exceptions}
    assert {"starts_once", "start_has_a_deadline", "connects_and_echoes"} < failed
    assert "created_vm_has_no_process" not in failed
    assert all(isinstance(error, ConformanceError) and error.__cause__ for error in caught.value.exceptions)


class TakesWhatItLacks(SoundVmm):
    def _refuse_devices(self) -> None:
        """Nothing is refused, and nothing is there."""


async def test_unsupported() -> None:
    await fails(
        TakesWhatItLacks,
        "drives_are_refused",
        "rate_limiters_are_refused",
        "network_interfaces_are_refused",
        "network_rate_limiters_are_refused",
        "vsock_address_is_refused",
    )


class ClaimsWhatItLacks(SoundVmm):
    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities | {Capability.DRIVES, Capability.SNAPSHOT}


async def test_claimed_capabilities_are_checked() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await check_vmm(ClaimsWhatItLacks, SPEC)
    failed = {str(error).partition(":")[0] for error in caught.value.exceptions}
    assert {"drives_have_their_content", "full_snapshot_is_loaded_where_it_was", "damaged_vmstate_is_refused"} < failed


class RawConsole(SoundVmm):
    def console_tail(self, lines: int = 20) -> list[str]:
        return ["\x1b[31mred\x1b[0m"]


async def test_console() -> None:
    await fails(RawConsole, "console_tells", "created_vm_has_no_process")


class BetweenVmm(SoundVmm):
    """Its socket is one of ours, which passes everything on through :meth:`change`."""

    @property
    def uds_path(self) -> Path:
        return self.plan.run_dir / ("p.sock" if self.state is VmmState.RUNNING else "v.sock")

    async def start(self) -> None:
        await super().start()
        guest = os.fspath(self.plan.run_dir / "v.sock")
        self._server = await asyncio.start_unix_server(
            lambda reader, writer: self._pass_on(guest, reader, writer), self.plan.run_dir / "p.sock"
        )

    async def aclose(self) -> None:
        if self.state is VmmState.RUNNING:
            self._server.close()
        await super().aclose()

    async def _pass_on(self, guest: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with closing(writer):
            from_guest, to_guest = await asyncio.open_unix_connection(guest)
            async with closing(to_guest):
                with contextlib.suppress(ConnectionError):
                    await asyncio.gather(self._pump(reader, to_guest, False), self._pump(from_guest, writer, True))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, to_host: bool) -> None:
        passed = 0
        while data := await source.read(65536):
            changed = self.change(data, passed) if to_host else data
            passed += len(data)
            target.write(changed)
            await target.drain()
        target.write(self.last() if to_host else b"")
        target.close()

    def change(self, data: bytes, passed: int) -> bytes:
        return data

    def last(self) -> bytes:
        return b""


@asynccontextmanager
async def closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class FlipsABit(BetweenVmm):
    def change(self, data: bytes, passed: int) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if passed > 100_000 else data


class LosesBytes(BetweenVmm):
    def change(self, data: bytes, passed: int) -> bytes:
        return data[:-8] if passed > 100_000 else data


class SaysGoodbye(BetweenVmm):
    def last(self) -> bytes:
        return b"refused\n"


async def test_a_sound_driver_passes_through_the_same_socket() -> None:
    async with Bench(BetweenVmm, SPEC, boot_deadline_s=30.0) as bench:
        for name in ("megabytes_arrive_intact", "refused_port_closes_without_an_answer", "flood_arrives_in_order"):
            await check_named(name).run(bench)


async def test_damaged_streams() -> None:
    await fails(FlipsABit, "megabytes_arrive_intact", "last_bytes_come_before_the_end", "flood_arrives_in_order")


async def test_lost_bytes() -> None:
    await fails(LosesBytes, "megabytes_arrive_intact", "last_bytes_come_before_the_end", "flood_arrives_in_order")


async def test_an_answer_where_none_belongs() -> None:
    await fails(SaysGoodbye, "refused_port_closes_without_an_answer", "last_bytes_come_before_the_end")


async def test_a_guest_that_does_not_come_up_is_told_with_its_console() -> None:
    class WithoutService(FakeVmm):
        """The agent runs in place of the services."""

    async with Bench(WithoutService, SPEC, boot_deadline_s=2.0) as bench:
        with pytest.raises(ConformanceError, match=r"the guest does not serve within 2 s\n  \| agent: ready"):
            await bench.shared_guest()


async def test_a_monitor_that_dies_while_the_guest_boots() -> None:
    class Dies(SoundVmm):
        async def start(self) -> None:
            await super().start()
            (self.plan.run_dir / "v.sock").unlink()
            await self.kill()

    async with Bench(Dies, SPEC) as bench:
        with pytest.raises(ConformanceError, match="the monitor ended while the guest booted"):
            await bench.shared_guest()


async def test_start_errors_of_a_shared_guest_come_through() -> None:
    class CannotStart(SoundVmm):
        async def start(self) -> None:
            raise LaunchError("no")

    async with Bench(CannotStart, SPEC) as bench:
        with pytest.raises(LaunchError, match="no"):
            await bench.shared_guest()
