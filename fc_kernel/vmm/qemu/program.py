"""Finding QEMU and what it can do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import MonitorUnavailable, UnsupportedByMonitor

PROGRAM = "qemu-system-x86_64"
#: Debian 12's version; older ones were not tried.
LEAST_VERSION = (7, 2)
#: ``-version`` prints and exits.
ASK_DEADLINE_S = 10.0


@dataclass(frozen=True)
class QemuProgram:
    """A usable QEMU."""

    path: Path
    version: str


def find_qemu(path: str | None = None) -> QemuProgram:
    """The QEMU at ``path`` (``None`` looks at ``FC_KERNEL_QEMU`` and on the PATH).

    Raises :class:`~fc_kernel.errors.MonitorUnavailable`, or :class:`~fc_kernel.errors.UnsupportedByMonitor` for one that is
    too old or lacks the ``microvm`` machine.
    """
    wanted = path or os.environ.get("FC_KERNEL_QEMU") or PROGRAM
    found = shutil.which(wanted)
    if found is None:
        raise MonitorUnavailable(f"{wanted} is not installed; apt-get install qemu-system-x86")
    return _ask(found, Path(found).stat().st_mtime_ns)


@cache
def _ask(path: str, _mtime_ns: int) -> QemuProgram:
    said = _output(path, "-version")
    match = re.search(r"version (\d+)\.(\d+)(\.\d+)?", said)
    if match is None:
        raise MonitorUnavailable(f"{path} does not say its version: {said[:80]!r}")
    version = match[0].removeprefix("version ")
    if (int(match[1]), int(match[2])) < LEAST_VERSION:
        raise UnsupportedByMonitor("a microVM", needs="QEMU {}.{}".format(*LEAST_VERSION), found=f"QEMU {version}")
    if not re.search(r"^microvm\s", _output(path, "-machine", "help"), re.MULTILINE):
        raise UnsupportedByMonitor("a microVM", needs="QEMU's machine 'microvm'", found=f"{path} without it")
    return QemuProgram(Path(path), version)


def _output(path: str, *words: str) -> str:
    try:
        done = subprocess.run([path, *words], capture_output=True, text=True, timeout=ASK_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MonitorUnavailable(f"{path} cannot be run: {error}") from error
    return done.stdout
