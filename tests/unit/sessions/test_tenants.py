"""Two tenants side by side in one process: same notebook, same names, and nothing of one reaches the other."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from fc_kernel.errors import QuotaExceeded, SnapshotNotFound
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.spec import SnapshotRef
from fc_kernel.settings.tenant import Tenant
from fc_kernel.snapshots import Snapshot, export_snapshot, import_snapshot
from fc_kernel.supply.supply import Supply
from fc_kernel.vmm.journal import list_entries
from fc_kernel.vmm.reaper import reap

from ...scripted_kernel import SCOPE, ScriptedKernel, scripted_environment, scripted_kernels


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_environment(monkeypatch, tmp_path)


@pytest.fixture
def fields(tmp_path: Path, short_private_runtime_dir: Path) -> Callable[..., dict[str, Any]]:
    """What makes a tenant; ``shared`` puts its snapshots where another's are."""

    def fields(owner: str, *, shared: bool = False, **config: Any) -> dict[str, Any]:
        given = {"monitor": "fake", "minimum_tier": "none", "min_free_bytes": 0, **config}
        return {
            "owner": owner,
            "data_dir": tmp_path / ("data" if shared else f"data-{owner}"),
            "cache_dir": tmp_path / f"cache-{owner}",
            "run_dir": short_private_runtime_dir / "tenants" / owner,
            "config": FcKernelConfig(config=Config({"FcKernelConfig": given})),
        }

    return fields


@pytest.fixture(autouse=True)
def no_run_dirs(short_private_runtime_dir: Path) -> Any:
    yield
    tenants = short_private_runtime_dir / "tenants"
    for path in (*sorted(tenants.rglob("*"), reverse=True), *([tenants] if tenants.exists() else [])):
        # Whatever a VM has left in one is a failure.
        path.rmdir()


def only(kernel: ScriptedKernel) -> Snapshot:
    [snapshot] = kernel.store.list()
    return snapshot


async def supply_of(kernel: ScriptedKernel) -> Supply:
    return kernel.engine.supply(kernel.tenant)


async def refused(kernel: ScriptedKernel, ref: str) -> str:
    with pytest.raises(SnapshotNotFound) as caught:
        await kernel.restore(ref)
    return str(caught.value)


@pytest.mark.parametrize("shared", [False, True], ids=["directories of their own", "one directory"])
async def test_nothing_of_one_is_found_by_the_other(fields: Callable[..., dict[str, Any]], shared: bool) -> None:
    async with scripted_kernels() as make:
        ann, bob = [await make(tenant=fields(owner, shared=shared)) for owner in ("ann", "bob")]
        assert ann.session.scope == bob.session.scope == SCOPE
        for kernel, value in ((ann, "1"), (bob, "2")):
            await kernel.client.run(f"x = {value}")
            assert await kernel.snapshot("base") == "base"
        anns, bobs = only(ann), only(bob)
        assert (anns.name, anns.scope, anns.owner) == ("base", SCOPE, "ann")
        assert (bobs.name, bobs.scope, bobs.owner) == ("base", SCOPE, "bob")
        # The same name means each one's own.
        for kernel, value in ((ann, "1"), (bob, "2")):
            await kernel.client.run("x = 9")
            await kernel.restore("base")
            assert await kernel.client.value("x") == value
        for ref in (bobs.id, bobs.id[:8]):
            assert bobs.id not in (await refused(ann, ref)).replace(ref, "")
            with pytest.raises(SnapshotNotFound):
                ann.store.get(ref)
        await bob.snapshot("secret")
        assert "secret" not in await refused(ann, "no-such")
        assert [each.name for each in ann.store.list()] == ["base"]
        assert await ann.client.value("x") == "1"


@pytest.mark.parametrize("shared", [False, True], ids=["directories of their own", "one directory"])
async def test_a_start_finds_only_the_tenants_own(fields: Callable[..., dict[str, Any]], shared: bool) -> None:
    async with scripted_kernels() as make:
        given = {owner: fields(owner, shared=shared) for owner in ("ann", "bob")}
        ann, bob = await make(tenant=given["ann"]), await make(tenant=given["bob"])
        await bob.client.run("x = 2")
        await bob.snapshot("base")
        found = only(bob)
        for ref in (found.id, found.id[:8], "base"):
            restore_from = SnapshotRef(vm_id=found.manifest.vm_id, snapshot_id=ref)
            with pytest.raises(SnapshotNotFound):
                await make(tenant=given["ann"], restore_from=restore_from.model_dump())
            other = await make(tenant=given["bob"], restore_from=restore_from.model_dump())
            assert await other.client.value("x") == "2"
        assert ann.store.list() == []


@pytest.mark.parametrize("shared", [False, True], ids=["directories of their own", "one directory"])
async def test_nothing_of_one_is_counted_changed_or_removed(
    fields: Callable[..., dict[str, Any]], shared: bool
) -> None:
    async with scripted_kernels() as make:
        ann = await make(tenant=fields("ann", shared=shared, max_snapshots=1))
        bob = await make(tenant=fields("bob", shared=shared, max_snapshots=2))
        await ann.snapshot("one")
        assert bob.store.disk_bytes() == 0
        with pytest.raises(QuotaExceeded, match="1 are allowed"):
            await ann.snapshot("two")
        await bob.snapshot("one")
        await bob.snapshot("two")
        with pytest.raises(QuotaExceeded, match="2 are allowed"):
            await bob.snapshot("three")
        anns = only(ann)
        changes: list[Callable[[], object]] = [
            lambda: bob.store.delete(anns),
            lambda: bob.store.delete(anns.id),
            lambda: bob.store.delete(anns.id, force=True),
            lambda: bob.store.rename(anns, "mine"),
            lambda: bob.store.describe(anns, "mine"),
            lambda: bob.store.hold(anns),
            lambda: bob.store.in_use(anns),
            lambda: bob.store.check(anns),
        ]
        for change in changes:
            with pytest.raises(SnapshotNotFound):
                change()
        assert only(ann) == anns
        assert [each.name for each in bob.store.list()] == ["one", "two"]


@pytest.mark.parametrize("shared", [False, True], ids=["directories of their own", "one directory"])
async def test_what_is_exported_belongs_to_who_imports_it(fields: Callable[..., dict[str, Any]], shared: bool) -> None:
    async with scripted_kernels() as make:
        ann, bob = [await make(tenant=fields(owner, shared=shared)) for owner in ("ann", "bob")]
        await ann.snapshot("base")
        file = io.BytesIO()
        export_snapshot(only(ann), file)
        file.seek(0)
        taken = import_snapshot(bob.store, file, scope=None)
        assert (taken.name, taken.scope, taken.owner) == ("base", SCOPE, "bob")
        assert taken.id != only(ann).id
        await asyncio.to_thread(bob.store.delete, taken)
        assert bob.store.list() == []
        assert only(ann).name == "base"


async def test_vms_pools_and_templates_are_apart(fields: Callable[..., dict[str, Any]]) -> None:
    async with scripted_kernels() as make:
        ann, bob = [await make(tenant=fields(owner)) for owner in ("ann", "bob")]
        supplies = [await each.engine.run(supply_of(each)) for each in (ann, bob)]
        assert supplies[0] is not supplies[1]
        assert supplies[0].pool is not supplies[1].pool
        roots = [supply.templates.store.root for supply in supplies]
        assert roots == [each.tenant.data_dir / "templates" for each in (ann, bob)]
        for kernel in (ann, bob):
            entries = list_entries(kernel.tenant.run_dir)
            assert [entry.vm_id for entry in entries] == [kernel.vmm.plan.vm_id]
            assert reap(kernel.tenant.run_dir) == []


def test_equal_tenants_share_a_supply_and_others_do_not(fields: Callable[..., dict[str, Any]]) -> None:
    whose = Tenant(image_dir=Path("/images"), **fields("ann"))
    assert whose == Tenant(image_dir=Path("/images"), **fields("ann"))
    assert hash(whose) == hash(Tenant(image_dir=Path("/images"), **fields("ann")))
    for other in (fields("bob"), fields("ann", max_snapshots=3), fields("ann", shared=True)):
        assert whose != Tenant(image_dir=Path("/images"), **other)
