"""Makes the double where a test wants it, and reads what it was asked."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fc_kernel.vmm.firecracker.program import FirecrackerProgram, find_firecracker

SERVER = Path(__file__).parent / "server.py"
#: What /proc shows of the descriptor that the double has in place of a VM of KVM's (``fc_kernel.vmm.isolation.KVM_VM``).
VM = "/memfd:vm (deleted)"


@dataclass(frozen=True)
class Double:
    """One double and its set-up."""

    program: FirecrackerProgram
    setup: Path

    @classmethod
    def make(cls, directory: Path, version: str = "1.16.1", faults: Mapping[str, str] = {}) -> Double:
        """``faults`` by the request that they strike, as :mod:`.server` describes them."""
        setup = directory / "setup.json"
        setup.write_text(json.dumps({"version": version, "faults": dict(faults)}))
        path = directory / "firecracker"
        words = shlex.join([sys.executable, "-B", str(SERVER), "--setup", str(setup)])
        path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        path.chmod(0o755)
        return cls(find_firecracker(str(path)), setup)

    @staticmethod
    def requests_in(directory: Path) -> list[dict[str, Any]]:
        """All requests so far to the double that was made in a directory, in their order."""
        file = directory / "setup.json.requests"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @staticmethod
    def asked_in(directory: Path) -> list[str]:
        """``METHOD path`` of each."""
        return [f"{request['method']} {request['path']}" for request in Double.requests_in(directory)]
