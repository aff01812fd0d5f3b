"""One kernel's snapshots: take one, go back to one, go on from one elsewhere."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..channels.synthesized import Rollback
from ..errors import LimitError, SnapshotError, SnapshotNotFound, StateError
from ..machine import capture
from ..machine.load import Waking, wake
from ..settings.spec import SnapshotRef
from ..snapshots.manifest import ManifestDraft
from ..snapshots.snapshot import Snapshot
from ..supply.templates import manifest_of
from .forks import ForkInfo, ForkRequest, standalone

if TYPE_CHECKING:
    from ..supply.supply import Supply
    from .session import KernelSession


T = TypeVar("T")


class Branches:
    """Works on the engine's loop, within the session's lock."""

    def __init__(self, session: KernelSession, supply: Supply) -> None:
        self._session = session
        self._supply = supply
        self.store = supply.snapshots

    async def find(self, ref: str) -> Snapshot:
        """A snapshot by its name in this kernel's scope, or by its id."""
        get = functools.partial(self.store.get, ref, scope=self._session.scope)
        return await _off_loop(get)

    async def take(
        self, name: str | None, description: str, *, notebook: bytes | None, going_on: Callable[[], Awaitable[None]]
    ) -> capture.Taken:
        """Save the machine as it is now; raises :class:`~fc_kernel.errors.FcKernelError`, and then nothing has changed."""
        session = self._session
        machine = session.running_machine()
        if machine.keeps_data:
            raise SnapshotError("this VM writes to a drive of its own, which a snapshot cannot hold; make it read-only")
        begin = functools.partial(
            self.store.begin,
            name=name,
            scope=session.scope,
            expected_bytes=capture.expected_bytes(machine),
        )
        with await _off_loop(begin) as draft:
            machine = session.running_machine()
            key, generation = session.guest_key, session.generation

            def describe(frozen: capture.Frozen) -> ManifestDraft:
                base, current = machine.origin.base, machine.origin.current
                return manifest_of(machine).model_copy(
                    update={
                        "description": description,
                        "parent": None if current is None else current.id,
                        "notebook": session.labels.get("notebook"),
                        "kernel_id": session.labels.get("kernel_id", ""),
                        "generation": generation,
                        "template_key": "" if base is None else base.manifest.template_key,
                        "kernel": capture.kernel_state(frozen, key),
                    }
                )

            taken = await capture.take(machine, draft, describe, notebook=notebook, on_going_on=going_on)
        session.standing.emit("snapshot", {"snapshot": taken.snapshot.id})
        return taken

    async def restore(self, ref: str, *, same_seed: bool, asker: str | None) -> Snapshot:
        """Put the session where a snapshot was taken; the old machine goes on until the new one has taken its place."""
        session = self._session
        session.running_machine()
        snapshot = await self.find(ref)
        assert session.resolved is not None  # noqa: S101 - it runs
        machine = await self._supply.from_snapshot(snapshot, session.resolved, labels=session.labels)
        try:
            kernel = machine.origin.kernel
            if kernel is None:
                raise SnapshotError(f"the snapshot {snapshot.name!r} holds no kernel that could go on")
            generation = max(session.generation, machine.origin.generation) + 1
            errors = await wake(
                machine,
                Waking(
                    role="restored", generation=generation, name=snapshot.name, reseed=not same_seed, env=session.env
                ),
            )
        except BaseException:
            await machine.aclose()
            raise
        text = f"restored {snapshot.name}\n" + "".join(f"on_restore: {error}\n" for error in errors)
        rollback = Rollback(
            reason=f"the kernel was put back to the snapshot {snapshot.name!r}",
            text=text,
            asker=asker,
            execution_count=kernel.execution_count,
            silenced=kernel.cell,
            rekeyed=machine.origin.kernel != kernel,
        )
        await session.replace_machine(machine, generation, rollback)
        session.standing.emit("restore", {"snapshot": snapshot.id})
        return snapshot

    async def fork(self, count: int, name: str | None, *, ref: str | None = None) -> list[ForkInfo]:
        """Kernels of their own from this instant, or from an earlier snapshot; one that fails says so in its ``error``."""
        session, config = self._session, self._supply.config
        if not 1 <= count <= config.max_forks:
            raise LimitError("count", count, f"1 to {config.max_forks} (FcKernelConfig.max_forks)")
        snapshot = await self.find(ref) if ref is not None else (await session.take_snapshot(name)).snapshot
        resolved = session.resolved
        if resolved is None:
            raise StateError("the kernel was never started")
        restore_from = SnapshotRef(vm_id=snapshot.manifest.vm_id, snapshot_id=snapshot.id)
        request = ForkRequest(
            snapshot=snapshot,
            resolved=replace(resolved, spec=resolved.spec.model_copy(update={"restore_from": restore_from})),
            env=session.env,
            parent_kernel_id=session.labels.get("kernel_id", ""),
            scope=session.scope,
        )
        engine = session.engine
        forker = engine.forker or functools.partial(standalone, engine, self._supply, type(session))
        made = await asyncio.gather(*(forker(request) for _ in range(count)), return_exceptions=True)
        if all(isinstance(each, BaseException) for each in made):
            raise next(each for each in made if isinstance(each, BaseException))
        forks = [
            ForkInfo(kernel_id="", name=snapshot.name, error=str(each)) if isinstance(each, BaseException) else each
            for each in made
        ]
        session.standing.emit("fork", {"snapshot": snapshot.id, "forks": [fork.to_dict() for fork in forks]})
        return forks

    async def shown(self, snapshot: Snapshot) -> dict[str, Any]:
        """A snapshot as a cell's table has it."""

        def show() -> dict[str, Any]:
            return self._shown(snapshot, {each.id: each.name for each in self.store.lineage(snapshot)})

        return await _off_loop(show)

    def _shown(self, snapshot: Snapshot, names: Mapping[str, str]) -> dict[str, Any]:
        machine = self._session.machine
        current = machine.origin.current if machine is not None else None
        parent = snapshot.parent
        return {
            "id": snapshot.id,
            "name": snapshot.name,
            "description": snapshot.description,
            "created": snapshot.created,
            "size_bytes": snapshot.added_bytes,
            "parent": None if parent is None else names.get(parent, parent),
            "current": current is not None and current.id == snapshot.id,
        }

    async def shown_all(self) -> list[dict[str, Any]]:
        """All snapshots of this kernel's scope, oldest first."""

        def show() -> list[dict[str, Any]]:
            snapshots = self.store.list(scope=self._session.scope)
            names = {snapshot.id: snapshot.name for snapshot in snapshots}
            return [self._shown(snapshot, names) for snapshot in snapshots]

        return await _off_loop(show)

    def info(self) -> dict[str, Any]:
        """The machine as it is shown to its user."""
        session = self._session
        machine = session.machine
        if machine is None:
            return {"kernel_id": session.labels.get("kernel_id", ""), "state": session.state, "scope": session.scope}
        plan, origin = machine.vmm.plan, machine.origin
        lineage: list[Snapshot] = []
        if origin.current is not None:
            try:
                lineage = self.store.lineage(origin.current)
            except SnapshotNotFound:
                lineage = [origin.current]
        return {
            "kernel_id": session.labels.get("kernel_id", ""),
            "state": session.state,
            "scope": session.scope,
            "tier": str(machine.vmm.tier) if machine.vmm.pid is not None else None,
            "monitor": machine.vmm.name,
            "monitor_version": machine.vmm.version,
            "vcpu_count": plan.spec.vcpu_count,
            "mem_size_mib": plan.spec.mem_size_mib,
            "uptime_s": round(time.monotonic() - machine.started_at, 1),
            "generation": session.generation,
            "lineage": [snapshot.name for snapshot in lineage],
            "current": None if origin.current is None else origin.current.id,
            "disk_bytes": sum(snapshot.added_bytes for snapshot in lineage),
            "image": None if machine.host.image is None else machine.host.image.name,
            "vm_id": plan.vm_id,
            "started": origin.started,
        }


async def _off_loop(call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, call)
