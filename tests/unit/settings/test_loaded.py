"""The administrator's limits hold for a VM that is loaded from a snapshot, whatever its manifest says."""

from __future__ import annotations

from typing import Any

import pytest

from fc_kernel.errors import LimitError
from fc_kernel.settings.loaded import check_loaded
from fc_kernel.settings.resolve import Limits
from fc_kernel.settings.spec import NetworkInterface, VmSpec

LAB = NetworkInterface(iface_id="eth0", host_dev_name="tap-lab")
FOREIGN = NetworkInterface(iface_id="eth1", host_dev_name="tap-foreign")
LIMITS = Limits(max_vcpu_count=2, max_mem_size_mib=512, allowed_images=frozenset({"default"}), networks={"lab": (LAB,)})


def spec(**fields: Any) -> VmSpec:
    return VmSpec(**{"vcpu_count": 1, "mem_size_mib": 256, **fields})


@pytest.mark.parametrize(
    ("fields", "image", "field"),
    [
        ({"vcpu_count": 200}, "default", "vcpu_count"),
        ({"vcpu_count": 3}, None, "vcpu_count"),
        ({"mem_size_mib": 512 << 10}, "default", "mem_size_mib"),
        ({}, "other", "image"),
        ({"rootfs_read_only": False}, "default", "rootfs_read_only"),
        ({"network_interfaces": (FOREIGN,)}, "default", "network_interfaces"),
        ({"network_interfaces": (LAB, FOREIGN)}, "default", "network_interfaces"),
    ],
)
def test_what_a_fresh_start_would_not_get(fields: dict[str, Any], image: str | None, field: str) -> None:
    with pytest.raises(LimitError) as caught:
        check_loaded(spec(**fields), image, LIMITS)
    assert caught.value.field == field
    assert caught.value.source == "snapshot"


@pytest.mark.parametrize(
    ("fields", "image", "granted"),
    [
        ({"vcpu_count": 2, "mem_size_mib": 512}, "default", ()),
        ({"rootfs_read_only": True}, "default", None),
        # What is no image's is not shared.
        ({"rootfs_read_only": False}, None, ()),
        ({"network_interfaces": (LAB,)}, "default", ()),
        ({"network_interfaces": (FOREIGN,)}, "default", (FOREIGN,)),
    ],
)
def test_what_a_fresh_start_would_get(
    fields: dict[str, Any], image: str | None, granted: tuple[NetworkInterface, ...] | None
) -> None:
    check_loaded(spec(**fields), image, LIMITS, granted=granted)
