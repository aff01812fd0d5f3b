"""Checks of drives, entropy and addresses; and that what a driver cannot do is refused before anything is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...errors import UnsupportedByMonitor
from ...settings.spec import DriveSpec, NetworkInterface, RateLimiter, TokenBucket, VsockSpec
from ...vmm.base import Capability, SnapshotCreate, SnapshotLoad, VmmState
from .. import guest_services as services
from .bench import SMALL_DRIVE_BYTES, Bench, nothing_runs_in
from .check import check
from .expecting import expect, refused

SECTOR = services.SECTOR_BYTES
#: A cid that is no driver's default.
OTHER_CID = 4242
#: Limits so high that a check takes no longer; whether the monitor enforces limits is not checked.
GENEROUS = RateLimiter(
    bandwidth=TokenBucket(size=1 << 30, one_time_burst=1 << 20, refill_time_ms=1000),
    ops=TokenBucket(size=1_000_000, refill_time_ms=1000),
)
INTERFACE = NetworkInterface(iface_id="eth0", host_dev_name="fcconf0")


@check(Capability.DRIVES)
async def drives_come_in_their_order(bench: Bench) -> None:
    """The guest sees the root drive, if any, and then the extra drives in the order of the spec, in their sizes."""
    guest = await bench.shared_guest()
    sizes = []
    for number in range(bench.first_drive, bench.first_drive + 2):
        status, sectors, _ = await guest.drive(services.SIZE, number)
        expect(status == services.DONE, f"drive {number}: status {status}")
        sizes.append(sectors * SECTOR)
    wanted = [SMALL_DRIVE_BYTES, bench.large_bytes]
    expect(sizes == wanted, f"the sizes are {sizes}, not {wanted}")
    status, _, _ = await guest.drive(services.SIZE, bench.first_drive + 2)
    expect(status == services.NO_DRIVE, "there is one drive too many")


@check(Capability.DRIVES)
async def drives_have_their_content(bench: Bench) -> None:
    """The guest reads what is in the host's file."""
    guest = await bench.shared_guest()
    for sector in (0, 1, SMALL_DRIVE_BYTES // SECTOR - 1):
        status, _, content = await guest.drive(services.READ, bench.first_drive, sector)
        expect(status == services.DONE, f"sector {sector}: status {status}")
        wanted = bench.small_content[sector * SECTOR : (sector + 1) * SECTOR]
        expect(content == wanted, f"sector {sector} has other content")


@check(Capability.DRIVES)
async def read_only_drive_is_not_written(bench: Bench) -> None:
    """A write to a read-only drive fails in the guest, and the host's file keeps its content."""
    guest = await bench.shared_guest()
    status, _, _ = await guest.drive(services.WRITE, bench.first_drive, 0, b"\0" * SECTOR)
    expect(status == services.FAILED, f"the write was answered with status {status}")
    expect((bench.directory / "small").read_bytes() == bench.small_content, "the file was changed")
    status, _, content = await guest.drive(services.READ, bench.first_drive)
    expect(status == services.DONE, "the drive cannot be read after a refused write")
    expect(content == bench.small_content[:SECTOR], "the drive has other content after a refused write")


@check(Capability.DRIVES)
async def drives_are_written_to_their_end(bench: Bench) -> None:
    """A write reaches the host's file, also on a drive that is larger than the guest's memory."""
    guest = await bench.shared_guest()
    for sector in (0, 12345, bench.large_bytes // SECTOR - 1):
        content = os.urandom(SECTOR)
        status, _, _ = await guest.drive(services.WRITE, bench.first_drive + 1, sector, content)
        expect(status == services.DONE, f"writing sector {sector}: status {status}")
        with (bench.directory / "large").open("rb") as file:
            file.seek(sector * SECTOR)
            expect(file.read(SECTOR) == content, f"sector {sector} of the host's file has other content")
        _, _, back = await guest.drive(services.READ, bench.first_drive + 1, sector)
        expect(back == content, f"sector {sector} reads differently")


@check()
async def entropy_is_random(bench: Bench) -> None:
    """The guest gets random bytes from its entropy device, others every time."""
    guest = await bench.shared_guest()
    async with guest.connect(services.ENTROPY_PORT) as connection:
        await connection.send(b"????")
        answers = {await connection.receive(services.ENTROPY_BYTES) for _ in range(4)}
    expect(len(answers) == 4, "the same bytes came twice")
    expect(bytes(services.ENTROPY_BYTES) not in answers, "only zeros came")


@check(Capability.DRIVES, Capability.RATE_LIMITERS)
async def drives_take_rate_limiters(bench: Bench) -> None:
    """A drive with limits on bytes and operations works."""
    drives = tuple(
        drive.model_copy(update={"rate_limiter": GENEROUS, "path_on_host": bench.new_drive(drive.drive_id)})
        for drive in bench.drives
    )
    async with bench.vmm(extra_drives=drives, rootfs_rate_limit=GENEROUS) as vmm:
        await vmm.start()
        expect(vmm.state is VmmState.RUNNING, f"the state is {vmm.state}")


@check(Capability.VSOCK_ADDRESS)
async def vsock_has_the_chosen_address(bench: Bench) -> None:
    """The socket has the chosen name, relative to the VM's directory."""
    async with bench.guest(vsock=VsockSpec(cid=OTHER_CID, uds_path=Path("other.sock"))) as guest:
        expect(guest.vmm.uds_path == guest.vmm.plan.run_dir / "other.sock", f"uds_path is {guest.vmm.uds_path}")
        await guest.echoes()


async def _refuses(bench: Bench, what: str, **changes: Any) -> None:
    async with bench.vmm(**changes) as vmm:
        with refused(UnsupportedByMonitor, f"start() with {what}") as refusal:
            await vmm.start()
        error = refusal.error
        assert isinstance(error, UnsupportedByMonitor)  # noqa: S101 - for the type checker
        expect(error.needs and error.found, f"the error does not tell what is needed and what was found: {error}")
        expect(vmm.pid is None and vmm.state is VmmState.CREATED, f"something was started: the state is {vmm.state}")
        nothing_runs_in(vmm.plan.run_dir)


@check(lacks=(Capability.DRIVES,))
async def drives_are_refused(bench: Bench) -> None:
    """A driver without drives refuses them before anything is started."""
    await _refuses(bench, "drives", extra_drives=bench.drives)


@check(lacks=(Capability.RATE_LIMITERS,))
async def rate_limiters_are_refused(bench: Bench) -> None:
    """A driver without rate limiters refuses them before anything is started."""
    await _refuses(bench, "a limit on the root drive", rootfs_rate_limit=GENEROUS)
    drive = DriveSpec(drive_id="d", path_on_host=Path("/d"), is_read_only=True, rate_limiter=GENEROUS)
    await _refuses(bench, "a limit on a drive", extra_drives=(drive,))


@check(lacks=(Capability.NETWORK,))
async def network_interfaces_are_refused(bench: Bench) -> None:
    """A driver without network interfaces refuses them before anything is started."""
    await _refuses(bench, "a network interface", network_interfaces=(INTERFACE,))


@check(lacks=(Capability.NETWORK_RATE_LIMITERS,))
async def network_rate_limiters_are_refused(bench: Bench) -> None:
    """A driver that cannot limit the network refuses limits, in either direction, before anything is started."""
    for name in ("rx_rate_limiter", "tx_rate_limiter"):
        interface = INTERFACE.model_copy(update={name: GENEROUS})
        await _refuses(bench, f"an interface with {name}", network_interfaces=(interface,))


@check(lacks=(Capability.VSOCK_ADDRESS,))
async def vsock_address_is_refused(bench: Bench) -> None:
    """A driver that cannot choose the vsock address refuses one before anything is started."""
    await _refuses(bench, "vsock", vsock=VsockSpec(cid=OTHER_CID, uds_path=Path("other.sock")))


@check(lacks=(Capability.SNAPSHOT,))
async def snapshots_are_refused(bench: Bench) -> None:
    """A driver without snapshots refuses to write and to load one, and the VM goes on."""
    files = bench.new_files("refused")
    async with bench.vmm() as vmm:
        with refused(UnsupportedByMonitor, "load()"):
            await vmm.load(SnapshotLoad(files=files))
        expect(vmm.pid is None, "load() started something")
        await vmm.start()
        with refused(UnsupportedByMonitor, "snapshot()"):
            await vmm.snapshot(SnapshotCreate(files=files))
        expect(vmm.state is VmmState.RUNNING, f"the state is {vmm.state}")
    expect(not files.vmstate.exists() and not files.mem.exists(), "a file was written")


@check(Capability.SNAPSHOT, lacks=(Capability.VSOCK_OVERRIDE,))
async def vsock_override_is_refused(bench: Bench) -> None:
    """A driver that cannot rename the vsock socket at a load refuses it before anything is started."""
    async with bench.vmm() as vmm:
        load = SnapshotLoad(files=bench.new_files("refused"), vsock_override=Path("other.sock"))
        with refused(UnsupportedByMonitor, "load() with vsock_override") as refusal:
            await vmm.load(load)
        expect(vmm.version in str(refusal.error), f"the error does not tell the version found: {refusal.error}")
        expect(vmm.pid is None and vmm.state is VmmState.CREATED, f"something was started: the state is {vmm.state}")
        nothing_runs_in(vmm.plan.run_dir)
