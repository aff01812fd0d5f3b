"""What each Firecracker release can do (its CHANGELOG.md, and what the real 1.12.1 and 1.16.1 answered)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import MonitorUnavailable, UnsupportedByMonitor

#: It introduced ``network_overrides``; older versions cannot hand over a warm VM.
LEAST = (1, 12, 0)
#: The newest version that was tried; later ones are accepted, as the API is stable within a major version.
NEWEST_SEEN = (1, 16, 1)
RECOMMENDED_VERSION = "1.16.1"

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Features:
    """The differences between versions that matter to the driver."""

    version: Version
    #: ``vsock_override`` in the load body.
    vsock_override: bool
    #: The load body's ``track_dirty_pages``; before, it was called ``enable_diff_snapshots``.
    load_tracks_dirty_pages: bool
    #: After ``Paused`` → ``Resumed`` without a snapshot between, every connection of the host hangs for good.
    bare_resume_hangs: bool

    def __str__(self) -> str:
        return "Firecracker " + ".".join(map(str, self.version))


def parse_version(text: str) -> Version:
    """``Firecracker v1.16.1`` or ``1.16.1`` → numbers; raises :class:`~fc_kernel.errors.MonitorUnavailable`."""
    match = re.search(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        raise MonitorUnavailable(f"not a Firecracker version: {text[:80]!r}")
    return int(match[1]), int(match[2]), int(match[3])


def features_of(version: Version) -> Features:
    """The features of a version; raises :class:`~fc_kernel.errors.UnsupportedByMonitor` for one that is too old."""
    if version < LEAST or version[0] > LEAST[0]:
        needs = "Firecracker {}.{} or later, below 2".format(*LEAST)
        raise UnsupportedByMonitor("a microVM", needs=needs, found="Firecracker {}.{}.{}".format(*version))
    return Features(
        version=version,
        vsock_override=version >= (1, 16, 0),
        load_tracks_dirty_pages=version >= (1, 13, 0),
        bare_resume_hangs=(1, 16, 0) <= version <= (1, 16, 1),
    )
