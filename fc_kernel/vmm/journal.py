"""The journal: an entry in each run directory that says which process to end, and how to recognise it."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..base.files import read_regular
from ..base.paths import owner_is_dead, private_dir
from .launch import Lifetime

JOURNAL_NAME = "journal.json"
#: An entry has some hundred bytes; a larger file is not ours.
MAX_ENTRY_BYTES = 64 << 10
#: Linux's PID_MAX_LIMIT on 64 bits; a larger number is no process.
MAX_PID = 4 << 20


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (``/proc/PID/stat``, field 22); ``None`` if it is gone."""
    try:
        # Bytes, because a process may have any name.
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])


def executable(pid: int) -> tuple[int, int] | None:
    """Device and inode of a process's program; ``None`` if it is gone or not ours."""
    try:
        found = Path(f"/proc/{pid}/exe").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One VM. ``pid``, ``start_time`` and ``exe`` together identify a process for ever; a pid alone is reused."""

    vm_id: str
    monitor: str
    pid: int
    start_time: int
    exe: tuple[int, int]
    owner_pid: int
    created: float
    kernel_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    #: Whether the reaper ends it when its owner is dead.
    lifetime: str = Lifetime.BOUND
    #: Filled in by :func:`list_entries`.
    owner_alive: bool = True

    @classmethod
    def of_process(
        cls, pid: int, *, vm_id: str, monitor: str, labels: dict[str, str], lifetime: Lifetime = Lifetime.BOUND
    ) -> JournalEntry:
        """The entry for a living process; raises :class:`ProcessLookupError` if it is gone already."""
        started, exe = start_time(pid), executable(pid)
        if started is None or exe is None:
            raise ProcessLookupError(pid)
        return cls(
            vm_id=vm_id,
            monitor=monitor,
            pid=pid,
            start_time=started,
            exe=exe,
            owner_pid=os.getpid(),
            created=time.time(),
            kernel_id=labels.get("kernel_id", ""),
            labels=labels,
            lifetime=lifetime,
        )

    def names(self, pid: int) -> bool:
        """Whether the process that now has ``pid`` is this entry's."""
        return pid == self.pid and start_time(pid) == self.start_time and executable(pid) == self.exe

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def write(self, run_dir: Path) -> None:
        """Write atomically; raises :class:`OSError`."""
        staged = run_dir / f"{JOURNAL_NAME}.new"
        try:
            staged.unlink(missing_ok=True)
            staged.touch(mode=0o600, exist_ok=False)
            staged.write_text(json.dumps(self.to_dict()))
            staged.replace(run_dir / JOURNAL_NAME)
        except OSError:
            staged.unlink(missing_ok=True)
            raise


def read_entry(run_dir: Path) -> JournalEntry | None:
    """The entry of a run directory; ``None`` when there is none or it is not one of ours."""
    try:
        data = json.loads(read_regular(run_dir / JOURNAL_NAME, MAX_ENTRY_BYTES, follow=False))
        entry = JournalEntry(**{**data, "exe": tuple(data["exe"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return entry if entry.vm_id == run_dir.name and _well_formed(entry) else None


def relabel(run_dir: Path, labels: dict[str, str]) -> None:
    """Replace the labels of a VM that now serves another kernel; raises :class:`OSError`."""
    entry = read_entry(run_dir)
    if entry is not None:
        replace(entry, labels=labels, kernel_id=labels.get("kernel_id", "")).write(run_dir)


def _well_formed(entry: JournalEntry) -> bool:
    """Whether the fields have the right types: the monitor's process can write to the file."""
    numbers = (entry.pid, entry.start_time, entry.owner_pid, *entry.exe)
    labels = entry.labels
    return (
        all(type(number) is int and number > 0 for number in numbers)
        and len(entry.exe) == 2
        and 1 < entry.pid <= MAX_PID
        and type(entry.created) in (int, float)
        and math.isfinite(entry.created)
        and isinstance(entry.monitor, str)
        and isinstance(entry.kernel_id, str)
        and entry.lifetime in tuple(Lifetime)
        and isinstance(labels, dict)
        and all(isinstance(text, str) for text in (*labels, *labels.values()))
    )


def list_entries(run_dir: Path) -> list[JournalEntry]:
    """All entries of the VMs below ``run_dir``, oldest first."""
    entries = []
    for path in private_dir(run_dir).iterdir():
        entry = read_entry(path)
        if entry is None:
            continue
        lock = owner_is_dead(path)
        if lock is not None:
            os.close(lock)
        entries.append(JournalEntry(**{**asdict(entry), "owner_alive": lock is None}))
    return sorted(entries, key=lambda entry: entry.created)
