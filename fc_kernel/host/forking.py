"""Forks in two steps: tickets are issued, and whoever owns kernels starts an ordinary kernel with each and reports."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..api.calls import ForkOrder, ForkResult
from ..api.events import ForkWanted, KernelForked
from ..api.models import ForkedKernel, ForkTicket, Snapshot
from ..errors import LaunchError, LimitError, StateError
from ..sessions.fork import ForkInfo, ForkRequest
from ..settings.resolve import Resolved
from .stream import EventStream

#: A fork's start takes as long as any; a ticket that nobody used until then is void.
TICKET_LIFE_S = 600.0
#: Of tickets that are neither used nor void; a page of a browser cannot fill the memory with them.
MAX_TICKETS = 256


@dataclass(frozen=True)
class Issued:
    """What a ticket stands for."""

    ticket: ForkTicket
    #: The parent's settings, with ``restore_from`` naming the snapshot, and its environment.
    resolved: Resolved
    env: Mapping[str, str]


@dataclass
class _Order:
    kernel_id: str
    snapshot: Snapshot | None
    results: asyncio.Future[list[ForkResult]] | None = None
    tickets: list[str] = field(default_factory=list)


class ForkBook:
    """The tickets and orders of one tenant, on the engine's loop."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._issued: dict[str, Issued] = {}
        self._orders: dict[str, _Order] = {}

    def take(self, token: str) -> Issued:
        """What a ticket stands for, once; raises :class:`~fc_kernel.errors.StateError` for one that is used or void."""
        issued = self._issued.pop(token, None)
        if issued is None:
            raise StateError("this ticket of a fork is void: it was used already, or it is too old")
        return issued

    def issue(
        self, count: int, *, snapshot_id: str, vm_id: str, name: str, parent: str, scope: str, resolved: Resolved,
        env: Mapping[str, str],
    ) -> list[ForkTicket]:  # fmt: skip
        """``count`` tickets; raises :class:`~fc_kernel.errors.LimitError` when too many are out."""
        if len(self._issued) + count > MAX_TICKETS:
            raise LimitError(
                "count", count, f"at most {MAX_TICKETS - len(self._issued)} now; other forks are under way"
            )
        tickets = []
        for _ in range(count):
            ticket = ForkTicket(
                ticket=secrets.token_hex(16),
                kernel_id=parent,
                snapshot_id=snapshot_id,
                vm_id=vm_id,
                name=name,
                scope=scope,
            )
            self._issued[ticket.ticket] = Issued(ticket, resolved, env)
            tickets.append(ticket)
        asyncio.get_running_loop().call_later(TICKET_LIFE_S, self._expire, [each.ticket for each in tickets])
        return tickets

    def _expire(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            self._issued.pop(token, None)

    def order(self, kernel_id: str, snapshot: Snapshot, tickets: list[ForkTicket]) -> ForkOrder:
        """Tickets for who asked for forks by himself; his report becomes an event."""
        request = secrets.token_hex(8)
        self._orders[request] = _Order(kernel_id, snapshot)
        asyncio.get_running_loop().call_later(TICKET_LIFE_S, self._orders.pop, request, None)
        return ForkOrder(request=request, snapshot=snapshot, tickets=tickets)

    def report(self, request: str, results: Sequence[ForkResult]) -> None:
        """What came of an order; one that nobody waits for any more is dropped."""
        order = self._orders.pop(request, None)
        if order is None:
            return
        if order.results is not None:
            if not order.results.done():
                order.results.set_result(list(results))
            return
        forks = [
            ForkedKernel(kernel_id=each.kernel_id, name=each.name, path=each.path, session_id=each.session_id)
            for each in results
            if not each.error
        ]
        if order.snapshot is not None and forks:
            self._stream.publish(KernelForked(kernel_id=order.kernel_id, snapshot=order.snapshot, forks=forks))

    async def fork_one(self, wanted: ForkRequest) -> ForkInfo:
        """A fork that a cell asks for: have whoever claims forks start it, and wait for the report."""
        snapshot = wanted.snapshot
        tickets = self.issue(
            1, snapshot_id=snapshot.id, vm_id=snapshot.manifest.vm_id, name=snapshot.name,
            parent=wanted.parent_kernel_id, scope=wanted.scope, resolved=wanted.resolved, env=wanted.env,
        )  # fmt: skip
        request = secrets.token_hex(8)
        order = _Order(wanted.parent_kernel_id, None, asyncio.get_running_loop().create_future())
        self._orders[request] = order
        assert order.results is not None  # noqa: S101 - it was just made
        try:
            if not self._stream.publish(
                ForkWanted(kernel_id=wanted.parent_kernel_id, request=request, tickets=tickets)
            ):
                raise StateError("nobody is there who could start a fork")
            async with asyncio.timeout(TICKET_LIFE_S):
                [result] = await order.results
        except TimeoutError:
            raise LaunchError(f"the fork did not start within {TICKET_LIFE_S:g} s") from None
        finally:
            self._orders.pop(request, None)
            self._expire([each.ticket for each in tickets])
        if result.error:
            raise LaunchError(result.error)
        return ForkInfo(
            kernel_id=result.kernel_id,
            name=result.name or snapshot.name,
            connection_file=result.connection_file,
            url=result.url,
            path=result.path,
            session_id=result.session_id,
        )
