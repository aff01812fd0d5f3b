"""The host in this process: the engine's thread runs the VMs, and the tenant's store is called on other threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ..api.calls import (
    DiskUse,
    Endpoints,
    ForkClaim,
    ForkOrder,
    ForkResult,
    OpenKernel,
    RawSettings,
    Settings,
    Started,
    StartKernel,
    TakeSnapshot,
)
from ..api.events import Event, SnapshotChanged, SnapshotDeleted, SnapshotTaken
from ..api.inventory import BrokenSnapshot, SnapshotDetails, Swept, Vm
from ..api.models import Console, Kernel, LineageItem, Snapshot, Status
from ..errors import SnapshotInUse
from ..machine.start import KernelRequest
from ..settings.resolve import Resolved
from ..settings.schema import limited_schema
from ..settings.sources import resolve_settings
from ..settings.spec import SnapshotRef
from ..settings.tenant import Tenant
from ..snapshots.export import import_snapshot
from ..snapshots.store import SnapshotStore
from ..supply.stores import snapshot_store, template_store
from .engine import Engine
from .inventory import swept_view, vms_view
from .kernels import Kernels, OpenedKernel
from .service import ByteStream, KernelHost
from .snapshots import SnapshotFiles
from .views import facts_of, kernel_view, lineage_view, notebook_of, settings_view, snapshot_view, status_view

T = TypeVar("T")


class LocalHost(KernelHost):
    """One tenant's kernels on the engine of this process.

    ``kernels`` are all that the tenant has open here: several hosts with configurations of their own may share them.
    """

    def __init__(
        self,
        tenant: Tenant,
        kernels: Kernels | None = None,
        *,
        engine: Engine | None = None,
        store: SnapshotStore | None = None,
    ) -> None:
        """Unless given, ``engine`` is the process's own, started when first needed, and ``store`` is the tenant's."""
        self._tenant = tenant
        self._kernels = kernels or Kernels()
        self._own_engine = engine
        self._store = store or snapshot_store(tenant)
        self._files = SnapshotFiles(self._store)

    @property
    def _engine(self) -> Engine:
        return self._own_engine or Engine.shared()

    # A kernel's life.

    async def open(self, request: OpenKernel) -> Endpoints:
        """See :meth:`KernelHost.open`."""
        engine = self._engine

        async def open_it() -> Endpoints:
            return self._kernels.open(request, self._tenant, engine)

        return await engine.run(open_it())

    async def start(self, kernel_id: str, request: StartKernel) -> Started:
        """See :meth:`KernelHost.start`."""

        async def start_it() -> Started:
            kernel = self._kernels.get(kernel_id)
            resolved = await asyncio.to_thread(self._resolved_for, kernel, request.settings)
            env = request.env
            if kernel.fork is not None and not env:
                env = {**kernel.fork.parent.env}
            with kernel.lease.held():
                await kernel.session.start(KernelRequest(resolved=resolved, argv=resolved.argv, env=env))
            return Started(seq=self._kernels.stream.seq, settings=settings_view(resolved))

        return await self._engine.run(start_it())

    def _resolved_for(self, kernel: OpenedKernel, settings: RawSettings) -> Resolved:
        """The settings of a start; a fork's are its parent's unless its starter has some."""
        if kernel.fork is None:
            return self._resolve(settings)
        said = settings.profile or settings.environment or settings.notebook is not None or settings.call is not None
        resolved = self._resolve(settings) if said else kernel.fork.parent.resolved
        ticket = kernel.fork.ticket
        restore_from = SnapshotRef(vm_id=ticket.vm_id, snapshot_id=ticket.snapshot_id)
        return replace(resolved, spec=resolved.spec.model_copy(update={"restore_from": restore_from}))

    def _resolve(self, settings: RawSettings) -> Resolved:
        return resolve_settings(
            self._tenant.config,
            profile=settings.profile,
            requested=settings.environment,
            notebook=settings.notebook,
            call=settings.call,
        )

    async def signal(self, kernel_id: str, signum: int) -> None:
        """See :meth:`KernelHost.signal`."""
        await self._engine.run(self._kernels.get(kernel_id).session.signal(signum))

    async def kill(self, kernel_id: str) -> None:
        """See :meth:`KernelHost.kill`."""
        await self._engine.run(self._kernels.get(kernel_id).session.kill())

    async def wait(self, kernel_id: str) -> int:
        """See :meth:`KernelHost.wait`."""
        return await self._engine.run(self._kernels.get(kernel_id).session.wait())

    async def close(self, kernel_id: str) -> None:
        """See :meth:`KernelHost.close`."""
        engine = self._own_engine or Engine.running()
        # Looked up on the engine's loop: an opening that was cancelled a moment ago may still be queued there.
        if engine is not None:
            await engine.run(self._kernels.close(kernel_id))

    async def renew_lease(self, kernel_id: str) -> None:
        """See :meth:`KernelHost.renew_lease`."""

        async def renew() -> None:
            self._kernels.get(kernel_id).lease.renew()

        await self._engine.run(renew())

    # What there is.

    async def kernels(self) -> list[Kernel]:
        """See :meth:`KernelHost.kernels`."""
        if not self._kernels.opened:
            return []

        async def ask() -> dict[str, Any]:
            return {kernel_id: facts_of(each.session) for kernel_id, each in self._kernels.opened.items()}

        facts = await self._engine.run(ask())
        return await asyncio.to_thread(
            lambda: [kernel_view(self._store, kernel_id, each) for kernel_id, each in facts.items()]
        )

    async def kernel(self, kernel_id: str) -> Kernel:
        """See :meth:`KernelHost.kernel`."""
        session = self._kernels.get(kernel_id).session

        async def ask() -> Any:
            return facts_of(session)

        return await asyncio.to_thread(kernel_view, self._store, kernel_id, await self._engine.run(ask()))

    async def console(self, kernel_id: str, lines: int) -> Console:
        """See :meth:`KernelHost.console`."""
        session = self._kernels.get(kernel_id).session

        async def ask() -> list[str]:
            return list(session.machine.vmm.console_tail(lines)) if session.machine is not None else []

        return Console(lines=await self._engine.run(ask()))

    # Snapshots, restores and forks of a kernel.

    async def snapshot(self, kernel_id: str, request: TakeSnapshot) -> Snapshot:
        """See :meth:`KernelHost.snapshot`."""
        session = self._kernels.get(kernel_id).session
        taken = await self._engine.run(
            session.take_snapshot(request.name, request.description, notebook=request.notebook)
        )
        return await asyncio.to_thread(snapshot_view, self._store, taken.snapshot, {taken.snapshot.id})

    async def restore(self, kernel_id: str, ref: str, *, same_seed: bool = False) -> None:
        """See :meth:`KernelHost.restore`."""
        await self._engine.run(self._kernels.get(kernel_id).session.restore(ref, same_seed=same_seed))

    async def fork(self, kernel_id: str, count: int, *, ref: str | None = None) -> ForkOrder:
        """See :meth:`KernelHost.fork`."""
        session = self._kernels.get(kernel_id).session

        async def order() -> ForkOrder:
            snapshot, tickets = await session.order_forks(count, ref=ref)
            shown = await asyncio.to_thread(snapshot_view, self._store, snapshot, ())
            return self._kernels.forks.order(kernel_id, shown, tickets)

        return await self._engine.run(order())

    async def forked(self, request: str, results: Sequence[ForkResult]) -> None:
        """See :meth:`KernelHost.forked`."""

        async def report() -> None:
            self._kernels.forks.report(request, results)

        await self._engine.run(report())

    # The tenant's snapshots.

    async def snapshots(self, scope: str | None = None) -> list[Snapshot]:
        """See :meth:`KernelHost.snapshots`."""
        current = await self._current()
        return await asyncio.to_thread(
            lambda: [snapshot_view(self._store, each, current) for each in self._store.list(scope=scope)]
        )

    async def find_snapshot(self, ref: str, *, scope: str | None = None) -> Snapshot:
        """See :meth:`KernelHost.find_snapshot`."""
        return await self._shown(partial(self._store.get, ref, scope=scope))

    async def change_snapshot(
        self, snapshot_id: str, *, name: str | None = None, description: str | None = None
    ) -> Snapshot:
        """See :meth:`KernelHost.change_snapshot`."""

        def change() -> Any:
            found = self._files.get(snapshot_id)
            if name is not None:
                found = self._store.rename(found, name)
            return found if description is None else self._store.describe(found, description)

        shown = await self._shown(change)
        self._kernels.stream.publish(SnapshotChanged(kernel_id=shown.kernel_id or "", snapshot=shown))
        return shown

    async def delete_snapshot(self, snapshot_id: str, *, force: bool = False) -> None:
        """See :meth:`KernelHost.delete_snapshot`."""
        try:
            gone = await asyncio.to_thread(self._files.delete, snapshot_id, force=force)
        except SnapshotInUse as error:
            if not (users := await self._running_from(snapshot_id)):
                raise
            raise SnapshotInUse(f"{error}: {', '.join(users)}") from error
        # Nothing is known of a broken one, so there is nothing to tell.
        if gone is not None:
            self._kernels.stream.publish(SnapshotDeleted(kernel_id=gone.kernel_id or "", snapshot=gone))

    async def broken_snapshots(self) -> list[BrokenSnapshot]:
        """See :meth:`KernelHost.broken_snapshots`."""
        return await asyncio.to_thread(self._files.broken)

    async def snapshot_details(self, snapshot_ids: Sequence[str]) -> list[SnapshotDetails]:
        """See :meth:`KernelHost.snapshot_details`."""
        return await asyncio.to_thread(self._files.details, list(snapshot_ids), await self._current())

    async def verify_snapshot(self, snapshot_id: str) -> None:
        """See :meth:`KernelHost.verify_snapshot`."""
        await asyncio.to_thread(lambda: self._store.check(self._files.get(snapshot_id)))

    async def lineage(self, snapshot_id: str) -> list[LineageItem]:
        """See :meth:`KernelHost.lineage`."""
        await asyncio.to_thread(self._files.get, snapshot_id)
        return await asyncio.to_thread(lineage_view, self._store, snapshot_id)

    async def snapshot_notebook(self, snapshot_id: str) -> bytes | None:
        """See :meth:`KernelHost.snapshot_notebook`."""
        return await asyncio.to_thread(lambda: notebook_of(self._files.get(snapshot_id)))

    async def export_snapshot(self, snapshot_id: str) -> tuple[int, ByteStream]:
        """See :meth:`KernelHost.export_snapshot`."""
        return await self._files.export(snapshot_id)

    async def import_snapshot(self, content: ByteStream, *, scope: str | None, name: str | None = None) -> Snapshot:
        """See :meth:`KernelHost.import_snapshot`."""
        with await self._files.receive(content) as file:
            taken = partial(import_snapshot, self._store, file, scope=scope, name=name)
            shown = await self._shown(taken)
        self._kernels.stream.publish(SnapshotTaken(kernel_id=shown.kernel_id or "", snapshot=shown))
        return shown

    async def disk_use(self) -> DiskUse:
        """See :meth:`KernelHost.disk_use`."""
        return await asyncio.to_thread(self._files.disk_use)

    async def _shown(self, find: Callable[[], Any]) -> Snapshot:
        current = await self._current()
        return await asyncio.to_thread(lambda: snapshot_view(self._store, find(), current))

    async def _current(self) -> frozenset[str]:
        """Ids of the snapshots where kernels stand now."""
        if not self._kernels.opened:
            return frozenset()

        async def ask() -> frozenset[str]:
            machines = [each.session.machine for each in self._kernels.opened.values()]
            found = [each.origin.current for each in machines if each is not None]
            return frozenset(each.id for each in found if each is not None)

        return await self._engine.run(ask())

    async def _running_from(self, snapshot_id: str) -> list[str]:
        """The kernels here whose VMs hold a snapshot, each as its notebook where it has one."""
        if not self._kernels.opened:
            return []

        async def ask() -> list[str]:
            sessions = [each.session for each in self._kernels.opened.values()]
            bases = [(each, each.machine.origin.base) for each in sessions if each.machine is not None]
            users = [each for each, base in bases if base is not None and base.id == snapshot_id]
            return [each.labels.get("notebook") or f"kernel {each.kernel_id}" for each in users]

        return await self._engine.run(ask())

    # The host.

    def events(self, *, forks: ForkClaim = "none") -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """See :meth:`KernelHost.events`."""
        return self._kernels.stream.subscribe(forks)

    async def status(self) -> Status:
        """See :meth:`KernelHost.status`."""
        return await asyncio.to_thread(status_view, self._tenant.config, self._tenant.data_dir)

    async def schema(self) -> dict[str, Any]:
        """See :meth:`KernelHost.schema`."""
        return limited_schema(self._tenant.config)

    async def check(self, settings: RawSettings) -> Settings:
        """See :meth:`KernelHost.check`."""
        return settings_view(self._resolve(settings))

    async def prepare(self, settings: RawSettings) -> bool:
        """See :meth:`KernelHost.prepare`."""
        resolved, engine = self._resolve(settings), self._engine

        async def prepare_it() -> bool:
            return await engine.supply(self._tenant).prepare(resolved)

        return await engine.run(prepare_it())

    async def vms(self) -> list[Vm]:
        """See :meth:`KernelHost.vms`."""
        return await asyncio.to_thread(vms_view, self._tenant.run_dir)

    async def sweep(self) -> Swept:
        """See :meth:`KernelHost.sweep`."""
        return await asyncio.to_thread(swept_view, self._tenant.run_dir, self._store, template_store(self._tenant))
