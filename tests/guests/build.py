"""Builds the bare-metal guest from its sources."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fc_kernel.wire.ports import CONTROL_PORT, PROTOCOL_VERSION

SOURCES = (
    *("start.S", "machine.c", "virtio.c", "devices.c", "vsock.c", "services.c"),
    *("text.c", "link.c", "kernel.c", "language.c", "agent.c"),
)
#: The guest needs 24 MiB.
BARE_METAL_MEM_MIB = 64
#: No instruction that a monitor without hardware virtualisation may not emulate, and nothing from a C library.
FLAGS = [
    *("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static"),
    *("-fno-pic", "-no-pie", "-mno-sse", "-mno-mmx", "-mno-red-zone", "-fno-stack-protector", "-fno-tree-vectorize"),
    *(f"-DCONTROL_PORT={CONTROL_PORT}", f"-DPROTOCOL_VERSION={PROTOCOL_VERSION}"),
    "-Wl,-Ttext=0x1000000,--build-id=none,-z,noexecstack",
]


def build_guest(directory: Path) -> Path:
    """Compile into ``directory`` and return the program; what the compiler says is in the error when it fails."""
    here = Path(__file__).parent
    program = directory / "guest.elf"
    done = subprocess.run(
        ["gcc", *FLAGS, "-o", str(program), *SOURCES], cwd=here, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"gcc could not build the guest:\n{done.stderr}")
    return program
