"""Writing initramfs archives: cpio's ``newc`` format, deterministic (``Documentation/driver-api/early-userspace``)."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A regular file, or with ``device`` set a character device."""

    data: bytes = b""
    mode: int = 0o644
    device: tuple[int, int] | None = None


def archive(entries: Mapping[str, Entry]) -> bytes:
    """An archive of the entries and their parent directories, owned by root, with time zero."""
    directories = {
        "/".join(parts[:depth]) for name in entries for parts in [name.split("/")] for depth in range(1, len(parts))
    }
    records = [_record(name, stat.S_IFDIR | 0o755, b"") for name in sorted(directories)]
    for name, entry in sorted(entries.items()):
        kind = stat.S_IFCHR if entry.device else stat.S_IFREG
        records.append(_record(name, kind | entry.mode, entry.data, entry.device or (0, 0)))
    records.append(_record("TRAILER!!!", 0, b""))
    joined = b"".join(records)
    return joined + b"\0" * (-len(joined) % 512)


def _record(name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)
