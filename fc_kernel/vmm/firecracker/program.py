"""Finding Firecracker."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import MonitorUnavailable
from .versions import Features, features_of, parse_version

PROGRAM = "firecracker"
#: ``--version`` prints and exits.
ASK_DEADLINE_S = 10.0


@dataclass(frozen=True)
class FirecrackerProgram:
    """A usable Firecracker."""

    path: Path
    version: str
    features: Features


def installed_path(data_dir: Path, version: str) -> Path:
    """Where ``fc-kernel firecracker install`` puts a version below a data directory."""
    return data_dir / "firecracker" / version / PROGRAM


def find_firecracker(path: str | None = None, *, data_dir: Path | None = None) -> FirecrackerProgram:
    """The program at ``path``, else that of ``FC_KERNEL_FIRECRACKER``, on the PATH, or the newest installed below ``data_dir``.

    The first two may be several paths with ``:`` between; the first that is a program is taken.

    Raises :class:`~fc_kernel.errors.MonitorUnavailable`, or :class:`~fc_kernel.errors.UnsupportedByMonitor` when too old.
    """
    wanted = path or os.environ.get("FC_KERNEL_FIRECRACKER")
    found = next(filter(None, map(shutil.which, (wanted or PROGRAM).split(os.pathsep))), None)
    if found is None and wanted is None and data_dir is not None:
        found = next((str(ours) for ours in _installed(data_dir) if os.access(ours, os.X_OK)), None)
    if found is None:
        raise MonitorUnavailable(f"{wanted or PROGRAM} is not installed")
    return _ask(found, Path(found).stat().st_mtime_ns)


def _installed(data_dir: Path) -> list[Path]:
    base = data_dir / "firecracker"
    versions = [entry.name for entry in base.iterdir()] if base.is_dir() else []
    return [installed_path(data_dir, version) for version in sorted(versions, key=_sortable, reverse=True)]


def _sortable(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in name.split("."))


@cache
def _ask(path: str, _mtime_ns: int) -> FirecrackerProgram:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=ASK_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MonitorUnavailable(f"{path} cannot be run: {error}") from error
    version = parse_version(done.stdout)
    return FirecrackerProgram(Path(path), ".".join(map(str, version)), features_of(version))
