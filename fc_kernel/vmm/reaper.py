"""The reaper: ends the bound monitors that dead owners left behind, and nothing else."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.paths import owner_is_dead, private_dir
from .journal import JournalEntry, read_entry
from .launch import Lifetime

#: SIGKILL ends a process in milliseconds, unless it is stuck in the kernel, waiting for a broken disk.
KILL_DEADLINE_S = 5.0


@dataclass(frozen=True)
class ReapedVm:
    """A run directory that was removed, and what happened to its process."""

    vm_id: str
    outcome: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def reap(run_dir: Path) -> list[ReapedVm]:
    """End the process and remove the directory of every VM below ``run_dir`` whose owner is dead; report each.

    A detached VM is left alone as long as its process lives: another owner may attach to it.

    Raises :class:`~fc_kernel.errors.RunDirError` when ``run_dir`` cannot be trusted.
    """
    reaped = []
    for path in sorted(private_dir(run_dir).iterdir()):
        if not path.is_dir() or path.is_symlink():
            continue
        lock = owner_is_dead(path)
        if lock is None:
            continue
        try:
            # The lock is held until the removal is done, so that two reapers never work in one directory.
            entry = read_entry(path)
            if entry is None or entry.lifetime != Lifetime.DETACHED or not entry.names(entry.pid):
                reaped.append(_reap_one(path, entry))
        finally:
            os.close(lock)
    return reaped


def _reap_one(path: Path, entry: JournalEntry | None) -> ReapedVm:
    outcome = "removed; no process had been recorded" if entry is None else _end(entry)
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        outcome = outcome.replace("removed", f"could not be removed ({path})", 1)
    return ReapedVm(path.name, outcome)


def _end(entry: JournalEntry) -> str:
    try:
        pidfd = os.pidfd_open(entry.pid)
    except OSError:
        return "removed; its process had ended"
    try:
        # Checked after the pidfd is open: from now on the descriptor, not the number, identifies the process.
        if not entry.names(entry.pid):
            return f"removed; pid {entry.pid} is another process now and was left alone"
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        readable, _, _ = select.select([pidfd], [], [], KILL_DEADLINE_S)
        return f"removed; its process {entry.pid} was {'killed' if readable else 'sent SIGKILL and has not ended yet'}"
    finally:
        os.close(pidfd)
