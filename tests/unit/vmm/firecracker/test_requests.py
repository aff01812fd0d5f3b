"""The bodies of Firecracker's requests, checked against its API description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import UnsupportedByMonitor
from fc_kernel.settings.spec import DriveSpec, NetworkInterface, RateLimiter, TokenBucket, VmSpec, VsockSpec
from fc_kernel.vmm.base import BootPlan, SnapshotCreate, SnapshotFiles, SnapshotLoad
from fc_kernel.vmm.firecracker.requests import Request, boot_requests, snapshot_create, snapshot_load, vm_state
from fc_kernel.vmm.firecracker.versions import features_of, parse_version

from ....firecracker_double.description import VERSIONS, ApiDescription, BadRequest

FILES = SnapshotFiles(vmstate=Path("/s/vmstate"), mem=Path("/s/mem"))
LIMITER = RateLimiter(
    bandwidth=TokenBucket(size=1000, one_time_burst=500, refill_time_ms=100),
    ops=TokenBucket(size=10, refill_time_ms=1000),
)
LIMITER_BODY = {
    "bandwidth": {"size": 1000, "one_time_burst": 500, "refill_time": 100},
    "ops": {"size": 10, "refill_time": 1000},
}
EVERYTHING = VmSpec(
    kernel=Path("/k/vmlinux"),
    rootfs=Path("/k/rootfs.erofs"),
    rootfs_read_only=False,
    vcpu_count=3,
    mem_size_mib=768,
    boot_args="console=ttyS0",
    rootfs_rate_limit=LIMITER,
    network_interfaces=(
        NetworkInterface(
            iface_id="eth0",
            host_dev_name="tap0",
            guest_mac="06:00:ac:10:00:02",
            rx_rate_limiter=LIMITER,
            tx_rate_limiter=LIMITER,
        ),
        NetworkInterface(iface_id="eth1", host_dev_name="tap1"),
    ),
    extra_drives=(
        DriveSpec(drive_id="data", path_on_host=Path("/d/data"), is_read_only=True, rate_limiter=LIMITER),
        DriveSpec(drive_id="more", path_on_host=Path("/d/more"), is_read_only=False),
    ),
    vsock=VsockSpec(cid=77, uds_path=Path("other.sock")),
    track_dirty_pages=False,
)


@pytest.fixture(params=VERSIONS)
def description(request: pytest.FixtureRequest) -> ApiDescription:
    return ApiDescription(request.param)


def plan(spec: VmSpec, initrd: Path | None = None) -> BootPlan:
    return BootPlan(vm_id="v", spec=spec, run_dir=Path("/run/v"), initrd=initrd)


def described(requests: list[Request], description: ApiDescription) -> dict[str, Any]:
    """The bodies by path, each of which the description allows."""
    for request in requests:
        description.check(request.method, request.path, request.body)
    return {request.path: request.body for request in requests}


def test_every_field_is_sent(description: ApiDescription) -> None:
    bodies = described(boot_requests(plan(EVERYTHING, Path("/k/initrd.img"))), description)
    assert bodies["/machine-config"] == {"vcpu_count": 3, "mem_size_mib": 768, "track_dirty_pages": False}
    assert bodies["/boot-source"]["kernel_image_path"] == "/k/vmlinux"
    assert bodies["/boot-source"]["initrd_path"] == "/k/initrd.img"
    assert bodies["/boot-source"]["boot_args"].startswith("console=ttyS0 ")
    assert bodies["/drives/rootfs"] == {
        "drive_id": "rootfs",
        "path_on_host": "/k/rootfs.erofs",
        "is_root_device": False,
        "is_read_only": False,
        "rate_limiter": LIMITER_BODY,
    }
    assert bodies["/drives/data"] == {
        "drive_id": "data",
        "path_on_host": "/d/data",
        "is_root_device": False,
        "is_read_only": True,
        "rate_limiter": LIMITER_BODY,
    }
    assert "rate_limiter" not in bodies["/drives/more"]
    assert bodies["/network-interfaces/eth0"] == {
        "iface_id": "eth0",
        "host_dev_name": "tap0",
        "guest_mac": "06:00:ac:10:00:02",
        "rx_rate_limiter": LIMITER_BODY,
        "tx_rate_limiter": LIMITER_BODY,
    }
    assert bodies["/network-interfaces/eth1"] == {"iface_id": "eth1", "host_dev_name": "tap1"}
    assert bodies["/vsock"] == {"guest_cid": 77, "uds_path": "other.sock"}
    assert bodies["/entropy"] == {}
    assert bodies["/actions"] == {"action_type": "InstanceStart"}


def test_requests_come_in_the_order_of_the_guests_devices(description: ApiDescription) -> None:
    paths = [request.path for request in boot_requests(plan(EVERYTHING))]
    described(boot_requests(plan(EVERYTHING)), description)
    drives = ["/drives/rootfs", "/drives/data", "/drives/more"]
    assert [path for path in paths if path.startswith("/drives")] == drives
    assert paths[-1] == "/actions"
    assert len(paths) == len(set(paths)) == 10


def test_defaults(description: ApiDescription) -> None:
    spec = VmSpec(kernel=Path("/k"), vcpu_count=1, mem_size_mib=128)
    bodies = described(boot_requests(plan(spec)), description)
    assert bodies["/machine-config"]["track_dirty_pages"] is True
    assert not any(path.startswith(("/drives", "/network")) for path in bodies)
    assert "initrd_path" not in bodies["/boot-source"]
    # Relative: a snapshot holds it, and two VMs of one snapshot each have a directory of their own.
    assert bodies["/vsock"] == {"guest_cid": 3, "uds_path": "v.sock"}


def test_root_drive_without_an_initrd_is_the_root_device(description: ApiDescription) -> None:
    bodies = described(boot_requests(plan(EVERYTHING)), description)
    assert bodies["/drives/rootfs"]["is_root_device"] is True


@pytest.mark.parametrize("state", ["Paused", "Resumed"])
def test_pause_and_resume(description: ApiDescription, state: str) -> None:
    request = vm_state(state)
    description.check(request.method, request.path, request.body)
    assert request == Request("PATCH", "/vm", {"state": state})


@pytest.mark.parametrize(("kind", "sent"), [("full", "Full"), ("diff", "Diff")])
def test_snapshot_create(description: ApiDescription, kind: Any, sent: str) -> None:
    request = snapshot_create(SnapshotCreate(files=FILES, kind=kind))
    description.check(request.method, request.path, request.body)
    assert request.body == {"snapshot_type": sent, "snapshot_path": "/s/vmstate", "mem_file_path": "/s/mem"}


@pytest.mark.parametrize(("version", "name"), [("1.12.1", "enable_diff_snapshots"), ("1.16.1", "track_dirty_pages")])
@pytest.mark.parametrize("tracked", [True, False])
def test_snapshot_load(version: str, name: str, tracked: bool) -> None:
    overrides = (NetworkInterface(iface_id="eth0", host_dev_name="tap9", guest_mac="06:00:ac:10:00:02"),)
    load = SnapshotLoad(files=FILES, track_dirty_pages=tracked, network_overrides=overrides)
    request = snapshot_load(load, features_of(parse_version(version)))
    ApiDescription(version).check(request.method, request.path, request.body)
    assert request.path == "/snapshot/load"
    assert request.body == {
        "snapshot_path": "/s/vmstate",
        "mem_backend": {"backend_type": "File", "backend_path": "/s/mem"},
        "resume_vm": True,
        name: tracked,
        # No guest_mac: the snapshot holds it, and Firecracker refuses it here.
        "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap9"}],
    }


def test_snapshot_load_without_overrides_and_paused() -> None:
    request = snapshot_load(SnapshotLoad(files=FILES, resume=False), features_of((1, 16, 1)))
    ApiDescription("1.16.1").check(request.method, request.path, request.body)
    assert request.body["resume_vm"] is False
    assert "network_overrides" not in request.body
    assert "vsock_override" not in request.body


def test_vsock_override() -> None:
    load = SnapshotLoad(files=FILES, vsock_override=Path("/run/w/v.sock"))
    request = snapshot_load(load, features_of((1, 16, 0)))
    ApiDescription("1.16.1").check(request.method, request.path, request.body)
    assert request.body["vsock_override"] == {"uds_path": "/run/w/v.sock"}


def test_vsock_override_names_the_version_needed_and_the_one_found() -> None:
    load = SnapshotLoad(files=FILES, vsock_override=Path("/run/w/v.sock"))
    with pytest.raises(
        UnsupportedByMonitor, match=r"vsock_override needs Firecracker 1\.16\.0; found Firecracker 1\.12\.1"
    ):
        snapshot_load(load, features_of((1, 12, 1)))


@pytest.mark.parametrize(
    ("version", "body"),
    [
        ("1.12.1", {"track_dirty_pages": True}),
        ("1.12.1", {"vsock_override": {"uds_path": "x"}}),
        ("1.16.1", {"network_interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0"}]}),
        (
            "1.16.1",
            {"network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"}]},
        ),
        ("1.16.1", {"resume_vm": "yes"}),
    ],
)
def test_the_description_refuses_what_the_real_one_did(version: str, body: dict[str, Any]) -> None:
    """The check itself can fail: these are bodies that the real versions answered with 400."""
    good = {"snapshot_path": "/s", "mem_backend": {"backend_type": "File", "backend_path": "/m"}}
    description = ApiDescription(version)
    assert description.check("PUT", "/snapshot/load", good) == "/snapshot/load"
    with pytest.raises(BadRequest):
        description.check("PUT", "/snapshot/load", {**good, **body})


def test_the_description_refuses_other_paths_methods_and_ids() -> None:
    description = ApiDescription("1.16.1")
    drive = {"drive_id": "a", "is_root_device": False, "path_on_host": "/d"}
    assert description.check("PUT", "/drives/a", drive) == "/drives/{drive_id}"
    for method, path, body in (("PUT", "/drive/a", drive), ("POST", "/drives/a", drive), ("PUT", "/drives/b", drive)):
        with pytest.raises(BadRequest):
            description.check(method, path, body)
