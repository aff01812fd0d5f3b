"""How much a store may hold, looked at before a machine is paused."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from ..errors import QuotaExceeded

GIB = 1 << 30
#: What a snapshot may take beyond what was foreseen, as a part of that.
SPARE = 10
#: A monitor that writes beyond RLIMIT_FSIZE is killed by SIGXFSZ: so far below it must a memory stay.
FILE_SPARE_BYTES = 16 << 20


@dataclass(frozen=True)
class StoreLimits:
    """Snapshots, their bytes on the disk (shared ones once), and what must stay free on the disk."""

    max_snapshots: int = 100
    max_bytes: int = 64 * GIB
    min_free_bytes: int = 1 * GIB


def check_room(
    limits: StoreLimits, root: int, *, count: int, used_bytes: int, expected_bytes: int, drafts_bytes: int
) -> None:
    """Whether one more fits; raises :class:`~fc_kernel.errors.QuotaExceeded`.

    ``count`` and ``used_bytes`` are of what is there, ``drafts_bytes`` is what the snapshots in the making may still write.
    """
    if count >= limits.max_snapshots:
        raise QuotaExceeded(
            f"there are {count} snapshots, and {limits.max_snapshots} are allowed; remove some: fc-kernel snapshot rm NAME"
        )
    wanted = used_bytes + drafts_bytes + expected_bytes
    if wanted > limits.max_bytes:
        raise QuotaExceeded(
            f"snapshots would take {_mib(wanted)}, and {_mib(limits.max_bytes)} are allowed; remove some: "
            "fc-kernel snapshot rm NAME"
        )
    found = os.fstatvfs(root)
    free = found.f_bavail * found.f_frsize - drafts_bytes
    needed = expected_bytes + expected_bytes // SPARE + limits.min_free_bytes
    if needed > free:
        raise QuotaExceeded(
            f"the snapshot needs {_mib(expected_bytes)} and {_mib(limits.min_free_bytes)} that stay free; the disk has "
            f"{_mib(max(0, free))}; remove snapshots, or make room"
        )
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most != resource.RLIM_INFINITY and expected_bytes + FILE_SPARE_BYTES > most:
        raise QuotaExceeded(
            f"the limit on the size of a file (ulimit -f) is {_mib(most)}, and the snapshot needs "
            f"{_mib(expected_bytes)}; raise it"
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
