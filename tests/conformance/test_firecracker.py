"""Facts about the real Firecracker on which its driver rests; where one is no longer true, the driver can be simpler."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fc_kernel.settings.spec import VmSpec
from fc_kernel.testing import guest_services as services
from fc_kernel.testing.conformance import Bench, NotPossibleHere
from fc_kernel.testing.conformance.guest import Connection
from fc_kernel.testing.conformance.network import tap_device
from fc_kernel.vmm.base import SnapshotCreate
from fc_kernel.vmm.firecracker.driver import FirecrackerVmm
from fc_kernel.vmm.firecracker.program import FirecrackerProgram
from fc_kernel.vmm.firecracker.requests import Request
from fc_kernel.vmm.launch import ResourceLimits

from ..guests.build import BARE_METAL_MEM_MIB
from ..unit.vmm.firecracker.test_requests import EVERYTHING
from .conftest import Monitor, firecracker_params

pytestmark = [pytest.mark.firecracker, pytest.mark.asyncio(loop_scope="module")]

#: A connection is answered in a millisecond; one that is not answered in this time never is.
NEVER_S = 3.0


@pytest.fixture(scope="module", params=firecracker_params())
def program(request: pytest.FixtureRequest) -> FirecrackerProgram:
    monitor: Monitor = request.param
    assert monitor.program is not None
    return monitor.program


def bench_of(program: FirecrackerProgram, guest: Path) -> Bench:
    spec = VmSpec(kernel=guest, vcpu_count=1, mem_size_mib=BARE_METAL_MEM_MIB, boot_args="")
    return Bench(lambda plan: FirecrackerVmm(plan, program), spec)


async def test_bare_resume_hangs_where_the_table_says_so(program: FirecrackerProgram, bare_metal_guest: Path) -> None:
    """1.16.0 and 1.16.1: after Paused and Resumed alone nobody can connect any more; a diff snapshot heals that."""
    hangs = program.features.bare_resume_hangs
    unhealed = replace(program, features=replace(program.features, bare_resume_hangs=False))
    async with bench_of(unhealed, bare_metal_guest) as bench, bench.guest() as guest:
        await guest.vmm.pause()
        await guest.vmm.resume()
        connecting = asyncio.ensure_future(Connection.open(guest.vmm, services.ECHO_PORT))
        done, _ = await asyncio.wait({connecting}, timeout=NEVER_S)
        assert bool(done) is not hangs
        if done:
            await connecting.result().close()
            return
        connecting.cancel()
        await asyncio.wait({connecting})
        await guest.vmm.pause()
        await guest.vmm.snapshot(SnapshotCreate(files=bench.new_files("heal"), kind="diff"))
        await guest.vmm.resume()
        await guest.echoes()


async def test_guest_sees_a_reset_after_a_snapshot(program: FirecrackerProgram, bare_metal_guest: Path) -> None:
    """So "the connection was reset" does not mean "I was restored": the source sees it too."""
    async with bench_of(program, bare_metal_guest) as bench, bench.guest() as guest:
        assert (await guest.counters()).resets == 0
        await guest.vmm.pause()
        await guest.vmm.snapshot(SnapshotCreate(files=bench.new_files("full")))
        await guest.vmm.resume()
        assert (await guest.counters()).resets == 1


async def test_a_limit_below_a_drives_size_would_stop_its_writes(
    program: FirecrackerProgram, bare_metal_guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the file size limit counts the drives: RLIMIT_FSIZE holds for a write in a file too."""
    too_low = ResourceLimits(max_file_bytes=BARE_METAL_MEM_MIB << 20)
    monkeypatch.setattr(ResourceLimits, "for_guest", classmethod(lambda *_: too_low))
    async with bench_of(program, bare_metal_guest) as bench, bench.guest(extra_drives=bench.drives[1:]) as guest:
        last = bench.large_bytes // services.SECTOR_BYTES - 1
        try:
            status, _, _ = await guest.drive(services.WRITE, 0, last, bytes(services.SECTOR_BYTES))
        except (AssertionError, OSError):
            # The signal that comes with it ends the monitor.
            status = services.FAILED
        assert status == services.FAILED


async def test_log_and_metrics_are_written(program: FirecrackerProgram, bare_metal_guest: Path) -> None:
    async with bench_of(program, bare_metal_guest) as bench, bench.guest() as guest:
        run_dir = guest.vmm.plan.run_dir
        assert isinstance(guest.vmm, FirecrackerVmm)
        await guest.vmm._request_api().send(Request("PUT", "/actions", {"action_type": "FlushMetrics"}))
        flushed = [json.loads(line) for line in (run_dir / "metrics").read_text().splitlines()]
        assert flushed[-1]["vsock"]["rx_packets_count"] > 0
        assert (run_dir / "log").is_file()


async def test_every_field_is_accepted(program: FirecrackerProgram, bare_metal_guest: Path, tmp_path: Path) -> None:
    """The requests of the unit tests, which an API description allows, are taken by the real program too."""
    for name in ("rootfs", "data", "more", "initrd"):
        (tmp_path / name).write_bytes(bytes(64 << 10))
    with ExitStack() as stack:
        try:
            taps = [stack.enter_context(tap_device(f"fcall{number}")) for number in range(2)]
        except NotPossibleHere as error:
            pytest.skip(str(error))
        spec = EVERYTHING.model_copy(
            update={
                "kernel": bare_metal_guest,
                "rootfs": tmp_path / "rootfs",
                "extra_drives": tuple(
                    drive.model_copy(update={"path_on_host": tmp_path / drive.drive_id})
                    for drive in EVERYTHING.extra_drives
                ),
                "network_interfaces": tuple(
                    interface.model_copy(update={"host_dev_name": tap})
                    for interface, tap in zip(EVERYTHING.network_interfaces, taps, strict=True)
                ),
                "mem_size_mib": BARE_METAL_MEM_MIB,
            }
        )
        async with (
            Bench(lambda plan: FirecrackerVmm(plan, program), spec, initrd=tmp_path / "initrd") as bench,
            bench.guest() as guest,
        ):
            assert guest.vmm.uds_path.name == "other.sock"
            await guest.echoes()
            sizes = [(await guest.drive(services.SIZE, number))[1] for number in range(3)]
            assert sizes == [128, 128, 128]
