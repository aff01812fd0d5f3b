"""QEMU's vmstate: whole or refused, and of a machine that the plan can be."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import LaunchError
from fc_kernel.settings.spec import DriveSpec, NetworkInterface, VmSpec
from fc_kernel.vmm.qemu.vmstate import HEADER, MAGIC, Machine, read_vmstate, write_vmstate

DRIVE = DriveSpec(drive_id="data", path_on_host=Path("/d/data"), is_read_only=False)
INTERFACE = NetworkInterface(iface_id="eth0", host_dev_name="tap0", guest_mac="06:00:ac:10:00:02")
SPEC = VmSpec(
    kernel=Path("/k"),
    rootfs=Path("/r"),
    rootfs_read_only=True,
    vcpu_count=2,
    mem_size_mib=128,
    extra_drives=(DRIVE,),
    network_interfaces=(INTERFACE,),
)
MACHINE = Machine.of(SPEC, accelerated=False)


def written(path: Path, machine: Machine = MACHINE, devices: bytes = b"devices" * 100) -> bytes:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    write_vmstate(descriptor, machine, devices)
    os.close(descriptor)
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    data = written(tmp_path / "vmstate")
    assert read_vmstate(tmp_path / "vmstate") == (MACHINE, b"devices" * 100)
    # A snapshot names nothing of its host.
    assert not any(word in data for word in (b"/d/data", b"tap0", b"/k", b"/r"))


def test_any_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vmstate"
    data = written(path)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(LaunchError, match=r"damaged|not a vmstate"):
            read_vmstate(path)
        path.write_bytes(data[:at])
        with pytest.raises(LaunchError, match=r"damaged|not a vmstate"):
            read_vmstate(path)


def signed(rest: bytes) -> bytes:
    return MAGIC + hashlib.sha256(rest).digest() + rest


def described(**changes: Any) -> bytes:
    text = json.dumps({**json.loads(MACHINE.model_dump_json()), **changes}).encode()
    return signed(struct.pack("<I", len(text)) + text)


@pytest.mark.parametrize(
    "data",
    [
        signed(struct.pack("<I", 0)),
        signed(struct.pack("<I", 1 << 31) + b"{}"),
        signed(struct.pack("<I", 2) + b"{}"),
        signed(struct.pack("<I", 4000) + b"[" * 4000),
        described(vcpu_count=0),
        described(vcpu_count="2"),
        described(mem_size_mib=1 << 40),
        described(drives=[{"drive_id": "data"}]),
        described(kernel="/etc/passwd"),
    ],
)
def test_a_whole_file_that_describes_no_machine(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "vmstate").write_bytes(data)
    with pytest.raises(LaunchError, match="describes no machine"):
        read_vmstate(tmp_path / "vmstate")


def test_a_large_or_special_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(tmp_path / "fifo")
    for name in ("large", "fifo", "missing"):
        with pytest.raises(LaunchError, match="cannot be read"):
            read_vmstate(tmp_path / name)
    assert HEADER.size == 44


def test_the_spec_is_the_saved_machine_with_the_plans_files() -> None:
    plan = SPEC.model_copy(update={"vcpu_count": 1, "mem_size_mib": 64, "rootfs": Path("/other")})
    spec = MACHINE.spec(plan, [NetworkInterface(iface_id="eth0", host_dev_name="tap9")], accelerated=False)
    assert (spec.vcpu_count, spec.mem_size_mib, spec.rootfs) == (2, 128, Path("/other"))
    assert spec.extra_drives == (DRIVE,)
    assert spec.network_interfaces == (INTERFACE.model_copy(update={"host_dev_name": "tap9"}),)
    assert MACHINE.spec(SPEC, [], accelerated=False) == SPEC


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"rootfs": None}, (), "another root drive"),
        ({"rootfs_read_only": False}, (), "another root drive"),
        ({"extra_drives": ()}, (), r"has the drives \['data'\]; the spec has \[\]"),
        ({"extra_drives": (DRIVE.model_copy(update={"is_read_only": True}),)}, (), "is_read_only of the drive 'data'"),
        ({"network_interfaces": ()}, (), "'eth0' needs a device: give network_overrides"),
        ({}, (NetworkInterface(iface_id="eth7", host_dev_name="tap9"),), "has no network interface 'eth7'"),
    ],
)
def test_another_machine_is_refused(changes: dict[str, Any], overrides: Any, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        MACHINE.spec(SPEC.model_copy(update=changes), overrides, accelerated=False)


def test_an_emulated_machine_is_not_loaded_on_kvm() -> None:
    with pytest.raises(LaunchError, match="an emulated machine and cannot be loaded into a KVM one"):
        MACHINE.spec(SPEC, [], accelerated=True)
