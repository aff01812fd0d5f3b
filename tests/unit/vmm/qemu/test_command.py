"""QEMU's command line: a pure function of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import UnsupportedByMonitor
from fc_kernel.settings.spec import (
    DriveSpec,
    NetworkInterface,
    RateLimiter,
    SnapshotRef,
    TokenBucket,
    VmSpec,
    VsockSpec,
)
from fc_kernel.vmm.base import BootPlan
from fc_kernel.vmm.qemu.command import MAX_DEVICES, OWN_DEVICES, command_line
from fc_kernel.vmm.qemu.program import QemuProgram

PROGRAM = QemuProgram(Path("/usr/bin/qemu-system-x86_64"), "7.2.22")
SPEC = VmSpec(
    kernel=Path("/i/vmlinux"),
    rootfs=Path("/i/rootfs.erofs"),
    rootfs_read_only=True,
    vcpu_count=3,
    mem_size_mib=768,
    boot_args="console=ttyS0 quiet",
    track_dirty_pages=True,
)


def words(
    spec: VmSpec = SPEC,
    *,
    accelerated: bool = False,
    initrd: Path | None = None,
    tsc_khz: int | None = None,
    mem: int | None = None,
) -> list[str]:
    plan = BootPlan(vm_id="v", spec=spec, run_dir=Path("/run/v"), initrd=initrd)
    return command_line(plan, PROGRAM, accelerated=accelerated, tsc_khz=tsc_khz, mem=mem)


def values(line: list[str], option: str) -> list[str]:
    """What stands behind each occurrence of an option."""
    return [line[at + 1] for at, word in enumerate(line) if word == option]


def value(line: list[str], option: str) -> str:
    [found] = values(line, option)
    return found


def changed(**changes: Any) -> VmSpec:
    return SPEC.model_copy(update=changes)


def limiter(**buckets: TokenBucket) -> RateLimiter:
    return RateLimiter(**buckets)


def test_machine() -> None:
    line = words(initrd=Path("/i/initrd.img"))
    assert line[0] == "/usr/bin/qemu-system-x86_64"
    assert {"-nodefaults", "-no-user-config", "-nographic", "-no-reboot"} < set(line)
    assert value(line, "-machine").split(",")[0] == "microvm"
    assert value(line, "-smp") == "3"
    assert value(line, "-m") == "768M"
    assert value(line, "-kernel") == "/i/vmlinux"
    assert value(line, "-initrd") == "/i/initrd.img"
    assert value(line, "-serial") == "stdio"
    assert "virtio-rng-device" in values(line, "-device")
    assert "virtserialport,chardev=mux,name=fc_kernel.mux.0" in values(line, "-device")
    assert values(line, "-chardev") == [
        "socket,id=qmp,path=qmp.sock,server=on,wait=off",
        "socket,id=mux,path=mux.sock,server=on,wait=off",
    ]
    assert value(line, "-mon") == "chardev=qmp,mode=control"
    assert "-S" in line


def test_a_load_has_the_saved_memory_and_boots_nothing() -> None:
    line = words(initrd=Path("/i/initrd.img"), mem=7)
    assert value(line, "-object") == "memory-backend-file,id=ram,size=768M,mem-path=/proc/self/fd/7,share=off"
    assert "memory-backend=ram" in value(line, "-machine").split(",")
    assert value(line, "-incoming") == "defer"
    assert value(line, "-global") == "migration.send-configuration=off"
    assert not {"-kernel", "-initrd", "-append"} & set(line)
    booted = words(initrd=Path("/i/initrd.img"))
    assert not {"-object", "-incoming", "-global"} & set(booted)
    assert values(line, "-device") == values(booted, "-device"), "the devices' state is for devices in the same places"


def test_the_monitor_may_do_nothing_that_it_need_not() -> None:
    options = value(words(), "-sandbox").split(",")
    assert options[0] == "on"
    assert {"elevateprivileges=deny", "spawn=deny", "resourcecontrol=deny", "obsolete=deny"} == set(options[1:])


def test_kvm_or_tcg() -> None:
    assert value(words(accelerated=True), "-accel") == "kvm"
    assert value(words(accelerated=True), "-cpu") == "host"
    assert value(words(), "-accel") == "tcg,thread=multi"
    assert value(words(), "-cpu") == "max,la57=off"


def test_boot_args() -> None:
    assert value(words(), "-append") == "console=ttyS0 quiet fc.transport=mux reboot=t"
    assert value(words(changed(boot_args=None)), "-append") == "fc.transport=mux reboot=t"


def test_only_an_emulated_guest_is_told_the_speed_of_its_clock() -> None:
    assert value(words(tsc_khz=2_100_000), "-append").split()[-1] == "tsc_early_khz=2100000"
    assert "tsc_early_khz" not in value(words(tsc_khz=2_100_000, accelerated=True), "-append")
    assert "tsc_early_khz" not in value(words(), "-append")


def test_without_initrd_root_and_network() -> None:
    line = words(changed(rootfs=None))
    assert "-initrd" not in line
    assert "-drive" not in line
    assert "-netdev" not in line
    assert not [device for device in values(line, "-device") if "blk" in device or "net" in device]


def test_root_drive() -> None:
    line = words()
    assert value(line, "-drive") == (
        "id=drive-rootfs,file=/i/rootfs.erofs,format=raw,if=none,read-only=on,file.locking=off"
    )
    assert "virtio-blk-device,drive=drive-rootfs" in values(line, "-device")


def test_a_drive_that_is_written_is_locked() -> None:
    options = value(words(changed(rootfs_read_only=False)), "-drive").split(",")
    assert {"read-only=off", "file.locking=auto"} < set(options)


def test_drives_keep_their_order() -> None:
    drives = tuple(
        DriveSpec(drive_id=name, path_on_host=Path(f"/d/{name}"), is_read_only=read_only)
        for name, read_only in (("one", True), ("2nd", False), ("_", True))
    )
    line = words(changed(extra_drives=drives))
    assert [options.split(",")[0] for options in values(line, "-drive")] == [
        "id=drive-rootfs",
        "id=drive-one",
        "id=drive-2nd",
        "id=drive-_",
    ]
    devices = [device for device in values(line, "-device") if "blk" in device]
    assert [device.partition("drive=")[2] for device in devices] == [
        "drive-rootfs",
        "drive-one",
        "drive-2nd",
        "drive-_",
    ]
    assert ["read-only=off" in options for options in values(line, "-drive")] == [False, False, True, False]


@pytest.mark.parametrize(
    ("path", "option"),
    [
        ("/d/a,b", "file=/d/a,,b"),
        ("/d/,,", "file=/d/,,,,"),
        ("/d/x,read-only=off", "file=/d/x,,read-only=off"),
        ("data.img", "file=./data.img"),
        ("fat:rw:/etc", "file=./fat:rw:/etc"),
        ("nbd:host:10809", "file=./nbd:host:10809"),
        ("/d/with space", "file=/d/with space"),
    ],
)
def test_a_path_stays_a_path(path: str, option: str) -> None:
    """In QEMU's syntax a comma ends a value, and a word before a colon is a protocol."""
    drive = DriveSpec(drive_id="d", path_on_host=Path(path), is_read_only=True)
    options = values(words(changed(extra_drives=(drive,))), "-drive")[1]
    assert options == f"id=drive-d,{option},format=raw,if=none,read-only=on,file.locking=off"


def test_paths_outside_of_options_need_no_care() -> None:
    line = words(changed(kernel=Path("/i/a,b")), initrd=Path("/i/c,d"))
    assert value(line, "-kernel") == "/i/a,b"
    assert value(line, "-initrd") == "/i/c,d"


def throttling(rate_limiter: RateLimiter) -> dict[str, int]:
    options = value(words(changed(rootfs_rate_limit=rate_limiter)), "-drive").split(",")
    pairs = [option.removeprefix("throttling.").split("=") for option in options if option.startswith("throttling.")]
    return {name: int(number) for name, number in pairs}


def test_bandwidth_and_operations_are_throttled() -> None:
    both = limiter(
        bandwidth=TokenBucket(size=1_000_000, refill_time_ms=100), ops=TokenBucket(size=50, refill_time_ms=1000)
    )
    assert throttling(both) == {
        "bps-total": 10_000_000,
        "bps-total-max": 10_000_000,
        "iops-total": 50,
        "iops-total-max": 50,
    }


@pytest.mark.parametrize(
    ("bucket", "rate", "burst"),
    [
        # Slower than one bucket a second: what the bucket holds may be used at once.
        (TokenBucket(size=6000, refill_time_ms=60_000), 100, 6000),
        (TokenBucket(size=100, one_time_burst=900, refill_time_ms=1000), 100, 1000),
        # Never 0, which is "no limit" to QEMU, and never more than it takes.
        (TokenBucket(size=1, refill_time_ms=60_000), 1, 1),
        (TokenBucket(size=2**64 - 1, one_time_burst=2**64 - 1, refill_time_ms=1), 10**15, 10**15),
    ],
)
def test_buckets_become_rates(bucket: TokenBucket, rate: int, burst: int) -> None:
    assert throttling(limiter(bandwidth=bucket)) == {"bps-total": rate, "bps-total-max": burst}
    assert throttling(limiter(ops=bucket)) == {"iops-total": rate, "iops-total-max": burst}


def test_extra_drives_are_throttled_too() -> None:
    rate_limiter = limiter(ops=TokenBucket(size=10, refill_time_ms=1000))
    drive = DriveSpec(drive_id="d", path_on_host=Path("/d"), is_read_only=True, rate_limiter=rate_limiter)
    root, extra = values(words(changed(extra_drives=(drive,))), "-drive")
    assert "throttling" not in root
    assert "throttling.iops-total=10,throttling.iops-total-max=10" in extra


def test_network_interfaces() -> None:
    interfaces = (
        NetworkInterface(iface_id="eth0", host_dev_name="tap0", guest_mac="06:00:ac:10:00:02"),
        NetworkInterface(iface_id="1", host_dev_name="tap1"),
    )
    line = words(changed(network_interfaces=interfaces))
    assert values(line, "-netdev") == [
        "tap,id=net-eth0,ifname=tap0,script=no,downscript=no",
        "tap,id=net-1,ifname=tap1,script=no,downscript=no",
    ]
    assert "virtio-net-device,netdev=net-eth0,mac=06:00:ac:10:00:02" in values(line, "-device")
    assert "virtio-net-device,netdev=net-1" in values(line, "-device")


BUCKET = TokenBucket(size=1, refill_time_ms=1)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"restore_from": SnapshotRef(vm_id="a", snapshot_id="b")}, "restore_from"),
        ({"vsock": VsockSpec(cid=5, uds_path=Path("v.sock"))}, "vsock"),
        (
            {
                "network_interfaces": (
                    NetworkInterface(iface_id="eth0", host_dev_name="t", rx_rate_limiter=RateLimiter(ops=BUCKET)),
                )
            },
            "a rate limiter on the network interface 'eth0'",
        ),
        (
            {
                "network_interfaces": (
                    NetworkInterface(iface_id="eth0", host_dev_name="t", tx_rate_limiter=RateLimiter(bandwidth=BUCKET)),
                )
            },
            "a rate limiter on the network interface 'eth0'",
        ),
    ],
)
def test_what_only_firecracker_can_do_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedByMonitor) as caught:
        words(changed(**changes))
    assert str(caught.value).startswith(what)
    assert "needs Firecracker 1.12; found QEMU 7.2.22" in str(caught.value)


def test_more_devices_than_the_machine_has_room_for() -> None:
    drives = tuple(DriveSpec(drive_id=f"d{n}", path_on_host=Path("/d"), is_read_only=True) for n in range(16))
    room = MAX_DEVICES - OWN_DEVICES - 1 - len(drives)
    interfaces = [NetworkInterface(iface_id=f"n{n}", host_dev_name=f"t{n}") for n in range(room + 1)]
    fits = words(changed(extra_drives=drives, network_interfaces=tuple(interfaces[:-1])))
    assert len([device for device in values(fits, "-device") if "blk" in device or "net-" in device]) == 22
    with pytest.raises(UnsupportedByMonitor, match="23 drives and network interfaces needs at most 22 of them"):
        words(changed(extra_drives=drives, network_interfaces=tuple(interfaces)))
