"""A kernel's session: its life, and snapshots, restores and forks of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..api.calls import ForkResult
from ..api.events import Event, KernelForked, SnapshotRestored, SnapshotTaken
from ..api.from_store import snapshot_model
from ..api.models import ForkedKernel, ForkTicket
from ..api.models import Snapshot as SnapshotModel
from ..base.paths import RunDir
from ..base.tasks import off_loop
from ..channels.endpoints import ClientEndpoints
from ..channels.synthesized import Rollback
from ..errors import FcKernelError, LimitError, StateError
from ..machine.capture import TakenSnapshot
from ..settings.resolve import Resolved
from ..snapshots.snapshot import Snapshot
from ..supply.supply import Supply
from . import guest_requests
from .display import machine_info
from .fork import StartForks, have_started, issue
from .incarnation import Incarnation
from .life import KernelLife
from .phases import Cause
from .restore import load_and_wake
from .snapshot import take
from .tickets import TicketBook

#: How many requests of one guest may be unanswered at a time.
MAX_GUEST_REQUESTS = 4


class KernelSession(KernelLife):
    """Used on the engine's loop. ``returncode``, ``death`` and ``ports`` may be read from any thread."""

    def __init__(
        self,
        supply: Supply,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        signature_scheme: str = "hmac-sha256",
        labels: Mapping[str, str] | None = None,
        endpoint_dir: RunDir | None = None,
        emit: Callable[[Event], None],
        on_closed: Callable[[], None],
        tickets: TicketBook,
        start_forks: StartForks,
    ) -> None:
        """As :class:`~fc_kernel.sessions.life.KernelLife`; ``start_forks`` has kernels started with ``tickets``."""
        super().__init__(
            supply,
            endpoints,
            key=key,
            signature_scheme=signature_scheme,
            labels=labels,
            endpoint_dir=endpoint_dir,
            emit=emit,
            on_closed=on_closed,
        )
        self._tickets = tickets
        self._start_forks = start_forks
        self.store = supply.snapshots

    @property
    def resolved(self) -> Resolved | None:
        """The settings of the last start; ``None`` before it."""
        return None if self._request is None else self._request.resolved

    @property
    def env(self) -> Mapping[str, str]:
        """The environment variables that the last start gave to the guest."""
        return {} if self._request is None else self._request.env

    def info(self) -> dict[str, Any]:
        """What ``%vm`` shows; on the loop."""
        shown = {"kernel_id": self.kernel_id, "state": self.state, "scope": self.scope}
        return shown if self.incarnation is None else {**shown, **machine_info(self.incarnation, self.store)}

    async def take_snapshot(
        self, name: str | None = None, description: str = "", *, notebook: bytes | None = None
    ) -> TakenSnapshot:
        """Save the VM as a snapshot; the kernel goes on. Raises :class:`~fc_kernel.errors.FcKernelError`."""
        async with self._lock:
            return await self._take(name, description, notebook)

    async def _take(self, name: str | None, description: str = "", notebook: bytes | None = None) -> TakenSnapshot:
        """Take a snapshot; the caller holds the lock."""
        self._running_incarnation()
        with self._held(Cause.PAUSE):
            taken = await take(
                self._running_incarnation,
                self.store,
                name=name,
                description=description,
                notebook=notebook,
                scope=self.scope,
                labels=self.labels,
                on_resumed=self._resumed,
            )
        self._tell(SnapshotTaken(kernel_id=self.kernel_id, snapshot=await _model(taken.snapshot)))
        return taken

    @contextlib.contextmanager
    def _held(self, cause: Cause) -> Iterator[None]:
        self._enter(cause)
        try:
            yield
        finally:
            self._enter(Cause.RESUMED)

    async def _resumed(self) -> None:
        """The kernel runs again, though its snapshot is still to be written."""
        self._enter(Cause.RESUMED)
        incarnation = self.incarnation
        if incarnation is None or incarnation.machine.vmm.pid is None or incarnation.machine.links.outlive_a_snapshot:
            return
        await self.attach(incarnation)

    async def restore(self, ref: str, *, same_seed: bool = False, asker: str | None = None) -> Snapshot:
        """Restore the kernel; ``asker`` is the id of the request whose cell asks. On an error the kernel goes on as it was."""
        async with self._lock:
            now, request = self._running_incarnation(), self._request
            assert request is not None  # noqa: S101 - it runs
            with self._held(Cause.RESTORE):
                snapshot = await self._find(ref)
                restored, rollback = await load_and_wake(
                    snapshot,
                    now,
                    self._supply,
                    resolved=request.resolved,
                    labels=self.labels,
                    env=request.env,
                    same_seed=same_seed,
                    asker=asker,
                )
                await self._replace(now, restored, rollback)
                self._tell(SnapshotRestored(kernel_id=self.kernel_id, snapshot=await _model(snapshot)))
            return snapshot

    async def _replace(self, old: Incarnation, new: Incarnation, rollback: Rollback) -> None:
        """Replace the present VM, which is ended, by one whose kernel is awake."""
        if not self.running:
            await new.machine.aclose()
            raise StateError("the kernel ended while it was being restored")
        self._inhabit(new)
        self._watchdog.watch(new.machine)
        try:
            await self.attach(new, rollback)
        except BaseException:
            # The old VM is given up, so whatever waits for it is told; the new one lives, and is dialled again.
            with contextlib.suppress(FcKernelError):
                await self._wiring.detach(rollback.reason)
            self._watchdog.tunnel_lost("the restored guest took no connection")
            raise
        finally:
            self._finishing.start(old.machine.aclose(), "old-machine")

    async def order_forks(
        self, count: int = 1, name: str | None = None, *, ref: str | None = None
    ) -> tuple[Snapshot, list[ForkTicket]]:
        """Issue ``count`` fork tickets for the snapshot ``ref``, or for one taken now as ``name``; returns both.

        Raises :class:`~fc_kernel.errors.LimitError` and what :meth:`take_snapshot` raises.
        """
        if not 1 <= count <= self._config.max_forks:
            raise LimitError("count", count, f"1 to {self._config.max_forks} (FcKernelConfig.max_forks)")
        async with self._lock:
            snapshot = await self._find(ref) if ref is not None else (await self._take(name)).snapshot
            tickets = issue(self._tickets, count, snapshot, self._request, kernel_id=self.kernel_id, scope=self.scope)
        return snapshot, tickets

    async def fork(self, count: int = 1, name: str | None = None, *, ref: str | None = None) -> list[ForkResult]:
        """:meth:`order_forks`, then have the kernel's owner start the forks; returns a result for each, with its ``error``.

        Raises :class:`~fc_kernel.errors.LaunchError` when no fork was started.
        """
        snapshot, tickets = await self.order_forks(count, name, ref=ref)
        # Not within the lock: the kernel can do other things while its forks start.
        results = await have_started(self._tickets, self.kernel_id, tickets, self._start_forks)
        forks = [
            ForkedKernel(kernel_id=each.kernel_id, name=each.name, path=each.path, session_id=each.session_id)
            for each in results
            if not each.error
        ]
        self._tell(KernelForked(kernel_id=self.kernel_id, snapshot=await _model(snapshot), forks=forks))
        return results

    async def _find(self, ref: str) -> Snapshot:
        """A snapshot by its name in this kernel's scope, or by its id."""
        return await off_loop(functools.partial(self.store.get, ref, scope=self.scope))

    def _asked(self, incarnation: Incarnation, params: dict[str, Any]) -> None:
        # A cell waits for its answer, so an honest guest has at most two open: one that is ending, and the next.
        if len(self._guest_requests) < MAX_GUEST_REQUESTS:
            self._guest_requests.start(guest_requests.serve(self, incarnation, params), "guest-request")


async def _model(snapshot: Snapshot) -> SnapshotModel:
    """The API's model of a snapshot that a kernel here has just taken, or stands at."""
    return await off_loop(functools.partial(snapshot_model, snapshot, in_use=True, current=True))
