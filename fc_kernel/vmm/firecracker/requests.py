"""The bodies of Firecracker's API requests: pure functions, checked in tests against its API description."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UnsupportedByMonitor
from ...settings.spec import MIN_CID, DriveSpec, NetworkInterface, RateLimiter, TokenBucket, VmSpec
from ..base import BootPlan, SnapshotCreate, SnapshotLoad
from .versions import Features

#: Relative to the VM's own working directory, so that two VMs restored from one snapshot do not collide.
VSOCK_PATH = "v.sock"
BOOT_ARGS = "reboot=k 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd fc.transport=vsock"


@dataclass(frozen=True)
class Request:
    """One request: method, path, body."""

    method: str
    path: str
    body: dict[str, Any]


def boot_requests(plan: BootPlan) -> list[Request]:
    """The requests that configure and start a VM, in order."""
    spec = plan.spec
    requests = [
        Request("PUT", "/machine-config", _machine(spec)),
        Request("PUT", "/boot-source", _boot_source(plan)),
    ]
    if spec.rootfs is not None:
        root = _drive("rootfs", spec.rootfs, read_only=bool(spec.rootfs_read_only), limiter=spec.rootfs_rate_limit)
        # The initramfs mounts the root; Firecracker would only add root= to the command line.
        root["is_root_device"] = plan.initrd is None
        requests.append(Request("PUT", "/drives/rootfs", root))
    requests += [_extra_drive(drive) for drive in spec.extra_drives]
    requests += [_interface(interface) for interface in spec.network_interfaces]
    vsock = {
        "guest_cid": spec.vsock.cid if spec.vsock else MIN_CID,
        "uds_path": str(spec.vsock.uds_path) if spec.vsock else VSOCK_PATH,
    }
    requests.append(Request("PUT", "/vsock", vsock))
    requests.append(Request("PUT", "/entropy", {}))
    requests.append(Request("PUT", "/actions", {"action_type": "InstanceStart"}))
    return requests


def _machine(spec: VmSpec) -> dict[str, Any]:
    return {
        "vcpu_count": spec.vcpu_count,
        "mem_size_mib": spec.mem_size_mib,
        "track_dirty_pages": True if spec.track_dirty_pages is None else spec.track_dirty_pages,
    }


def _boot_source(plan: BootPlan) -> dict[str, Any]:
    body = {
        "kernel_image_path": str(plan.spec.kernel),
        "boot_args": f"{plan.spec.boot_args or ''} {BOOT_ARGS}".strip(),
    }
    if plan.initrd is not None:
        body["initrd_path"] = str(plan.initrd)
    return body


def _drive(drive_id: str, path: Path, *, read_only: bool, limiter: RateLimiter | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "drive_id": drive_id,
        "path_on_host": str(path),
        "is_root_device": False,
        "is_read_only": read_only,
    }
    if limiter is not None:
        body["rate_limiter"] = _rate_limiter(limiter)
    return body


def _extra_drive(drive: DriveSpec) -> Request:
    body = _drive(drive.drive_id, drive.path_on_host, read_only=drive.is_read_only, limiter=drive.rate_limiter)
    return Request("PUT", f"/drives/{drive.drive_id}", body)


def _interface(interface: NetworkInterface) -> Request:
    body: dict[str, Any] = {"iface_id": interface.iface_id, "host_dev_name": interface.host_dev_name}
    if interface.guest_mac is not None:
        body["guest_mac"] = interface.guest_mac
    for name in ("rx_rate_limiter", "tx_rate_limiter"):
        limiter = getattr(interface, name)
        if limiter is not None:
            body[name] = _rate_limiter(limiter)
    return Request("PUT", f"/network-interfaces/{interface.iface_id}", body)


def _rate_limiter(limiter: RateLimiter) -> dict[str, Any]:
    buckets = {"bandwidth": limiter.bandwidth, "ops": limiter.ops}
    return {name: _bucket(bucket) for name, bucket in buckets.items() if bucket is not None}


def _bucket(bucket: TokenBucket) -> dict[str, int]:
    body = {"size": bucket.size, "refill_time": bucket.refill_time_ms}
    if bucket.one_time_burst is not None:
        body["one_time_burst"] = bucket.one_time_burst
    return body


def vm_state(state: str) -> Request:
    """``Paused`` or ``Resumed``."""
    return Request("PATCH", "/vm", {"state": state})


def snapshot_create(request: SnapshotCreate) -> Request:
    """Write a snapshot of the paused VM."""
    body = {
        "snapshot_type": request.kind.capitalize(),
        "snapshot_path": str(request.files.vmstate),
        "mem_file_path": str(request.files.mem),
    }
    return Request("PUT", "/snapshot/create", body)


def snapshot_load(load: SnapshotLoad, features: Features) -> Request:
    """Load a snapshot with the ``File`` backend, which is lazy and copy-on-write.

    The key of the overrides is ``network_overrides``; each has only ``iface_id`` and ``host_dev_name``. Raises
    :class:`~fc_kernel.errors.UnsupportedByMonitor`.
    """
    body: dict[str, Any] = {
        "snapshot_path": str(load.files.vmstate),
        "mem_backend": {"backend_type": "File", "backend_path": str(load.files.mem)},
        "resume_vm": load.resume,
    }
    body["track_dirty_pages" if features.load_tracks_dirty_pages else "enable_diff_snapshots"] = load.track_dirty_pages
    if load.network_overrides:
        body["network_overrides"] = [
            {"iface_id": interface.iface_id, "host_dev_name": interface.host_dev_name}
            for interface in load.network_overrides
        ]
    if load.layers:
        raise UnsupportedByMonitor("layers over a snapshot's memory", needs="QEMU", found=str(features))
    if load.vsock_override is not None:
        if not features.vsock_override:
            raise UnsupportedByMonitor("vsock_override", needs="Firecracker 1.16.0", found=str(features))
        body["vsock_override"] = {"uds_path": str(load.vsock_override)}
    return Request("PUT", "/snapshot/load", body)
