"""The ``vmstate`` of a QEMU snapshot: a description of the machine, its devices' state, and a digest over both.

QEMU's own stream has no checksum and does not describe the machine: a different machine would load it wrongly, or crash. The
file holds no paths or device names of the host; a load takes those from its own plan.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...base.files import read_regular
from ...errors import LaunchError
from ...settings.spec import DriveSpec, NetworkInterface, VmSpec

#: Magic with a version, SHA-256 of all that follows, length of the JSON.
HEADER = struct.Struct("<8s32sI")
MAGIC = b"FCQEMU01"
DIGEST_AT, LENGTH_AT = 8, 40
#: The devices' state has some ten kilobytes, plus a few for each drive and interface.
MAX_BYTES = 16 << 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class SavedDrive(_Part):
    """A drive of the machine."""

    drive_id: str
    is_read_only: bool


class SavedInterface(_Part):
    """A network interface of the machine."""

    iface_id: str
    guest_mac: str | None


class Machine(_Part):
    """The machine to which the saved devices belong."""

    accelerated: bool
    vcpu_count: int = Field(ge=1, le=255)
    mem_size_mib: int = Field(ge=1, le=1 << 24)
    #: ``None`` for a machine without a root drive.
    rootfs_read_only: bool | None
    drives: tuple[SavedDrive, ...] = Field(max_length=64)
    interfaces: tuple[SavedInterface, ...] = Field(max_length=64)

    @classmethod
    def of(cls, spec: VmSpec, *, accelerated: bool) -> Self:
        """The machine of a resolved spec."""
        return cls(
            accelerated=accelerated,
            vcpu_count=spec.vcpu_count or 1,
            mem_size_mib=spec.mem_size_mib or 1,
            rootfs_read_only=None if spec.rootfs is None else bool(spec.rootfs_read_only),
            drives=tuple(
                SavedDrive(drive_id=drive.drive_id, is_read_only=drive.is_read_only) for drive in spec.extra_drives
            ),
            interfaces=tuple(
                SavedInterface(iface_id=interface.iface_id, guest_mac=interface.guest_mac)
                for interface in spec.network_interfaces
            ),
        )

    def spec(self, plan: VmSpec, overrides: Sequence[NetworkInterface], *, accelerated: bool) -> VmSpec:
        """The spec of this machine, with the host's files and devices from ``plan`` and ``overrides``.

        Raises :class:`~fc_kernel.errors.LaunchError` when the machine and they do not have the same devices.
        """
        if accelerated is not self.accelerated:
            raise LaunchError(
                f"the snapshot is of {_kind(self.accelerated)} machine and cannot be loaded into {_kind(accelerated)} one"
            )
        if self.rootfs_read_only is not (None if plan.rootfs is None else bool(plan.rootfs_read_only)):
            raise LaunchError("the snapshot's machine has another root drive than the spec")
        drives = {drive.drive_id: drive for drive in plan.extra_drives}
        if [drive.drive_id for drive in self.drives] != list(drives):
            raise LaunchError(
                f"the snapshot's machine has the drives {_names(self.drives)}; the spec has {_names(plan.extra_drives)}"
            )
        for drive in self.drives:
            if drives[drive.drive_id].is_read_only is not drive.is_read_only:
                raise LaunchError(
                    f"is_read_only of the drive {drive.drive_id!r} is {drive.is_read_only} in the snapshot"
                )
        return plan.model_copy(
            update={
                "vcpu_count": self.vcpu_count,
                "mem_size_mib": self.mem_size_mib,
                "network_interfaces": self._interfaces(plan, overrides),
            }
        )

    def _interfaces(self, plan: VmSpec, overrides: Sequence[NetworkInterface]) -> tuple[NetworkInterface, ...]:
        known = [interface.iface_id for interface in self.interfaces]
        for interface in (*plan.network_interfaces, *overrides):
            if interface.iface_id not in known:
                raise LaunchError(f"the snapshot has no network interface {interface.iface_id!r}; it has {known}")
        devices = {interface.iface_id: interface.host_dev_name for interface in (*plan.network_interfaces, *overrides)}
        if missing := [iface_id for iface_id in known if iface_id not in devices]:
            raise LaunchError(f"the snapshot's network interface {missing[0]!r} needs a device: give network_overrides")
        return tuple(
            NetworkInterface(
                iface_id=interface.iface_id,
                host_dev_name=devices[interface.iface_id],
                guest_mac=interface.guest_mac,
            )
            for interface in self.interfaces
        )


def _kind(accelerated: bool) -> str:
    return "a KVM" if accelerated else "an emulated"


def _names(drives: Sequence[SavedDrive | DriveSpec]) -> list[str]:
    return [drive.drive_id for drive in drives]


def write_vmstate(descriptor: int, machine: Machine, devices: bytes) -> None:
    """Write a vmstate into a new, empty file."""
    text = machine.model_dump_json().encode()
    rest = struct.pack("<I", len(text)) + text + devices
    data = memoryview(MAGIC + hashlib.sha256(rest).digest() + rest)
    while data:
        data = data[os.write(descriptor, data) :]


def read_vmstate(path: Path) -> tuple[Machine, bytes]:
    """The machine and its devices' state; raises :class:`~fc_kernel.errors.LaunchError` unless it is a whole vmstate."""
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise LaunchError(f"the snapshot's vmstate cannot be read: {path}: {error.strerror}") from error
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise LaunchError(f"{path} is not a vmstate of QEMU")
    _, digest, length = HEADER.unpack_from(data)
    if hashlib.sha256(memoryview(data)[LENGTH_AT:]).digest() != digest:
        raise LaunchError(f"the snapshot's vmstate is damaged: {path} does not have the digest that it records")
    try:
        machine = Machine.model_validate_json(data[HEADER.size : HEADER.size + length])
    except ValidationError as error:
        raise LaunchError(f"the snapshot's vmstate describes no machine: {path}") from error
    return machine, data[HEADER.size + length :]
