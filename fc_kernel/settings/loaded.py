"""The administrator's limits on a VM that is loaded from a snapshot: they apply whatever its manifest says."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import LimitError
from .resolve import Limits
from .spec import NetworkInterface, VmSpec

SOURCE = "snapshot"


def check_loaded(
    spec: VmSpec, image: str | None, limits: Limits, *, granted: Sequence[NetworkInterface] | None = None
) -> None:
    """Refuse a VM that a fresh start would not get; raises :class:`~fc_kernel.errors.LimitError`.

    ``spec`` and ``image`` are the snapshot's, which anybody may have written. ``granted`` are the network interfaces of the
    kernel that is to have the VM; those of a network profile are allowed, too.
    """
    for name, value, most in (
        ("vcpu_count", spec.vcpu_count, limits.max_vcpu_count),
        ("mem_size_mib", spec.mem_size_mib, limits.max_mem_size_mib),
    ):
        if value is not None and value > most:
            raise LimitError(name, value, f"at most {most} (the administrator's limit)", source=SOURCE)
    if image is not None and limits.allowed_images is not None and image not in limits.allowed_images:
        allowed = f"one of: {', '.join(sorted(limits.allowed_images)) or 'none'}"
        raise LimitError("image", image, allowed, source=SOURCE)
    if image is not None and spec.rootfs_read_only is False:
        # The file is the image's, which other kernels run from.
        raise LimitError("rootfs_read_only", False, "true: an image is never written to", source=SOURCE)
    interfaces = tuple(spec.network_interfaces or ())
    allowed_interfaces = [tuple(granted or ()), *(tuple(each) for each in limits.networks.values())]
    if interfaces and interfaces not in allowed_interfaces:
        devices = [each.host_dev_name for each in interfaces]
        raise LimitError("network_interfaces", devices, "those of a network profile, or none", source=SOURCE)
