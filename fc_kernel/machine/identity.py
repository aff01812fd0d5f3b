"""What a snapshot must match to be loaded: the monitor, the processor and the image of this host."""

from __future__ import annotations

import functools
from pathlib import Path

from ..images.store import Image
from ..settings.tier import Tier
from ..snapshots.compat import Host
from ..snapshots.manifest import Cpu, ImageRef
from ..vmm.monitors import Choice
from ..wire.ports import PROTOCOL_VERSION

#: What TCG emulates depends on QEMU's version, which is compared separately, not on the host's processor.
EMULATED = "emulated"


def host_for(choice: Choice, image: Image | None) -> Host:
    """This host with the monitor of ``choice``; ``image`` is ``None`` for a guest without one."""
    return Host(
        monitor=choice.monitor,
        monitor_version=choice.version,
        cpu=_cpu() if choice.tier.rank >= Tier.KVM.rank else Cpu(model=EMULATED, flags_sha256=""),
        agent_protocol=PROTOCOL_VERSION,
        image=None if image is None else image_ref(image),
    )


def image_ref(image: Image) -> ImageRef:
    """An image by its name and digests."""
    manifest = image.manifest
    return ImageRef(
        name=image.name, kernel_sha256=manifest.part("kernel").sha256, rootfs_sha256=manifest.part("rootfs").sha256
    )


@functools.cache
def _cpu() -> Cpu:
    model, flags = "", ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        elif name.strip() == "flags":
            flags = value
        if model and flags:
            break
    return Cpu.of(model, flags.split())
