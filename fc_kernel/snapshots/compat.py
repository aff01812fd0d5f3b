"""Whether a snapshot can be loaded on this host."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import SnapshotIncompatible
from ..settings.spec import Frozen
from .manifest import Cpu, ImageRef, ManifestDraft


class Host(Frozen):
    """What this host offers a snapshot. A field that is ``None`` is not compared."""

    monitor: str | None = None
    monitor_version: str | None = None
    cpu: Cpu | None = None
    agent_protocol: int | None = None
    image: ImageRef | None = None


Difference = tuple[str, object, object]


def differences(saved: ManifestDraft, here: Host) -> Iterator[Difference]:
    """What keeps a snapshot from being loaded here: the field, the snapshot's value, the host's."""
    yield from _different("monitor", saved.monitor, here.monitor)
    yield from _different("monitor_version", saved.monitor_version, here.monitor_version)
    if here.cpu is not None:
        yield from _different("cpu.model", saved.cpu.model, here.cpu.model)
        yield from _different("cpu.flags", saved.cpu.flags_sha256, here.cpu.flags_sha256)
    yield from _different("agent_protocol", saved.agent_protocol, here.agent_protocol)
    if here.image is not None:
        image = saved.image
        yield from _different("image", image and image.name, here.image.name if image is None else image.name)
        if image is not None:
            yield from _different("image.kernel", image.kernel_sha256, here.image.kernel_sha256)
            yield from _different("image.rootfs", image.rootfs_sha256, here.image.rootfs_sha256)


def _different(field: str, have: object, want: object) -> Iterator[Difference]:
    if want is not None and have != want:
        yield field, have, want


def check_host(saved: ManifestDraft, here: Host) -> None:
    """Raise :class:`~fc_kernel.errors.SnapshotIncompatible` for the first difference."""
    for field, have, want in differences(saved, here):
        raise SnapshotIncompatible(field, have=have, want=want)
