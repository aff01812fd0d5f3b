"""Small snapshots for the tests of the store: real files, no monitor."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from fc_kernel.base.verified import VerifiedFiles
from fc_kernel.memory.pages import PAGE_BYTES, PageStack
from fc_kernel.settings.spec import VmSpec
from fc_kernel.snapshots.manifest import Cpu, ImageRef, KernelState, ManifestDraft
from fc_kernel.snapshots.snapshot import Base, Snapshot
from fc_kernel.snapshots.store import SnapshotStore

MIB = 1 << 20
MEM_MIB = 4
SCOPE, OWNER = "a.ipynb", "ann"


def store_in(path: Path, **more: Any) -> SnapshotStore:
    """A store with records of its own."""
    return SnapshotStore(path / "snapshots", **{"owner": OWNER, "records": VerifiedFiles(path / "cache"), **more})


def fields(**more: Any) -> ManifestDraft:
    """What a taker of a snapshot says."""
    said: dict[str, Any] = {
        "monitor": "qemu",
        "monitor_version": "7.2.0",
        "cpu": Cpu.of("Some CPU", ["sse", "fpu"]),
        "agent_protocol": 2,
        "image": ImageRef(name="default", kernel_sha256="a" * 64, rootfs_sha256="b" * 64),
        "spec": VmSpec(vcpu_count=1, mem_size_mib=MEM_MIB, kernel=Path("/somewhere/vmlinux")),
        "kernel": KernelState(instance=1, language="python", execution_count=3, cell="m1", key="secret"),
        "boot_args": "console=ttyS0",
    }
    return ManifestDraft(**{**said, **more})


def page(number: int, salt: str = "") -> bytes:
    """Bytes of a page, different for each number and salt."""
    return random.Random(f"{number}{salt}").randbytes(PAGE_BYTES)


def write_sparse(path: Path, pages: dict[int, bytes], size: int = MEM_MIB * MIB) -> None:
    """As a driver writes: a sparse file."""
    with path.open("xb") as file:
        file.truncate(size)
        for number, data in pages.items():
            os.pwrite(file.fileno(), data, number * PAGE_BYTES)


def save(
    store: SnapshotStore,
    name: str | None = None,
    *,
    on: Snapshot | None = None,
    pages: dict[int, bytes] | None = None,
    scope: str = SCOPE,
    notebook: bytes | None = None,
    **more: Any,
) -> Snapshot:
    """One snapshot, whole or on another."""
    with store.begin(name=name, scope=scope, expected_bytes=MIB) as draft:
        write_sparse(draft.files.mem, {1: page(1), 300: page(300)} if pages is None else pages)
        draft.files.vmstate.write_bytes(b"vmstate of " + draft.id.encode())
        base = Base.full() if on is None else Base.diff_on(on)
        parent = {} if on is None else {"parent": on.id}
        return draft.publish(fields(**parent, **more), base=base, notebook=notebook)


def memory(snapshot: Snapshot) -> bytes:
    """What the guest would find in its memory."""
    with PageStack(snapshot.mem, snapshot.layers) as stack:
        return stack.read(0, MEM_MIB * MIB // PAGE_BYTES)


def holes_filled(pages: dict[int, bytes]) -> bytes:
    """A memory with these pages and zeros."""
    whole = bytearray(MEM_MIB * MIB)
    for number, data in pages.items():
        whole[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] = data
    return bytes(whole)


def directories(store: SnapshotStore) -> list[str]:
    """What is in the store's root, but for its lock."""
    if not store.root.exists():
        return []
    return sorted(entry.name for entry in store.root.iterdir() if entry.name != "lock")
