"""A double of QEMU: a program that opens the sockets it is told to and speaks as much QMP as the driver does."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from fc_kernel.vmm.qemu.program import QemuProgram

SERVER = Path(__file__).parent / "server.py"


def make_double(directory: Path, **faults: str) -> QemuProgram:
    """``faults`` by what they strike: ``start``, ``greeting``, ``cont``, ``stop``; see :mod:`.server`."""
    setup = directory / "qemu.json"
    setup.write_text(json.dumps(faults))
    path = directory / "qemu"
    path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-B", str(SERVER), str(setup)])} "$@"\n')
    path.chmod(0o755)
    return QemuProgram(path, "7.2.22")


def commands_in(directory: Path) -> list[str]:
    """The QMP commands so far to the double that was made in a directory.

    Without ``query-chardev``: how often that is asked depends on how soon the double takes the multiplexer's connection.
    """
    file = directory / "qemu.json.commands"
    return [name for name in file.read_text().split() if name != "query-chardev"] if file.exists() else []
