"""A snapshot whose manifest claims what the administrator does not allow: nothing is loaded, and the kernel goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import LimitError, SnapshotNotFound
from fc_kernel.snapshots.manifest import MANIFEST_NAME, MEM, Manifest

from ..scripted_kernel import MEM_MIB, SCOPE, ScriptedKernel, scripted_environment, scripted_kernels


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_environment(monkeypatch, tmp_path)


def forge(kernel: ScriptedKernel, name: str, **fields: Any) -> None:
    """Write another manifest for a snapshot, its checksum made anew, as whoever exports one can."""
    snapshot = kernel.store.get(name, scope=SCOPE)
    path = snapshot.directory / MANIFEST_NAME
    manifest = Manifest.from_bytes(path.read_bytes())
    spec = manifest.spec.model_copy(update=fields.pop("spec", {}))
    if spec.mem_size_mib != manifest.spec.mem_size_mib:
        # A sparse file costs its maker nothing.
        size = (spec.mem_size_mib or 0) << 20
        (snapshot.directory / MEM).unlink()
        (snapshot.directory / MEM).touch(0o600)
        os.truncate(snapshot.directory / MEM, size)
        fields["parts"] = tuple(
            part.model_copy(update={"size_bytes": size}) if part.file == MEM else part for part in manifest.parts
        )
    path.chmod(0o600)
    path.write_bytes(manifest.model_copy(update={"spec": spec, **fields}).sealed().to_bytes())


@pytest.mark.parametrize(
    ("forged", "expected"),
    [
        ({"spec": {"vcpu_count": 200}}, LimitError),
        ({"spec": {"mem_size_mib": 512 << 10}}, LimitError),
        # Such a manifest is none, and what has it is not found.
        ({"generation": (1 << 32) - 1}, SnapshotNotFound),
        ({"generation": 1 << 31}, SnapshotNotFound),
    ],
    ids=["200 vCPUs", "512 GiB", "the last generation", "half of all generations"],
)
async def test_the_kernel_goes_on_and_nothing_was_loaded(forged: dict[str, Any], expected: type[Exception]) -> None:
    async with scripted_kernels(max_vcpu_count=1, max_mem_size_mib=MEM_MIB) as make:
        kernel = await make()
        await kernel.client.run("x = 41")
        name = await kernel.snapshot("mine")
        # What the kernel's next snapshot is based on is not what is forged.
        await kernel.snapshot("later")
        pid = kernel.vmm.pid
        forge(kernel, name, **forged)
        with pytest.raises(expected):
            await kernel.restore(name)
        assert kernel.vmm.pid == pid
        assert await kernel.client.value("x + 1") == "42"
        cell = await kernel.client.run(f"%restore {name}")
        assert cell.reply["status"] == "error"
        assert await kernel.client.value("x + 1") == "42"
        # A snapshot that is sound is restored as ever.
        sound = await kernel.snapshot("sound")
        await kernel.client.run("x = 0")
        await kernel.restore(sound)
        assert await kernel.client.value("x") == "41"
