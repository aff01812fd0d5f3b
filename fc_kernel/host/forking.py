"""Forks in two steps: tickets are issued; the owner of kernels starts an ordinary kernel with each, and reports."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ..api.calls import ForkOrder, ForkResult
from ..api.events import ForkWanted, KernelForked
from ..api.models import ForkedKernel, ForkTicket, Snapshot
from ..errors import LaunchError, StateError
from ..sessions.tickets import TICKET_LIFE_S, TicketBook
from .stream import EventStream


@dataclass
class _Order:
    kernel_id: str
    snapshot: Snapshot | None
    results: asyncio.Future[list[ForkResult]] | None = None


class ForkBook:
    """One tenant's orders for forks and the tickets of all of them, on the engine's loop."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self.tickets = TicketBook()
        self._orders: dict[str, _Order] = {}

    def order(self, kernel_id: str, snapshot: Snapshot, tickets: list[ForkTicket]) -> ForkOrder:
        """Note an order whose forks the caller starts itself; its report becomes an event."""
        request = secrets.token_hex(8)
        self._orders[request] = _Order(kernel_id, snapshot)
        asyncio.get_running_loop().call_later(TICKET_LIFE_S, self._orders.pop, request, None)
        return ForkOrder(request=request, snapshot=snapshot, tickets=tickets)

    def report(self, request: str, results: Sequence[ForkResult]) -> None:
        """Take in the results of an order; when nobody waits for them any more they are dropped."""
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

    async def start(self, kernel_id: str, tickets: list[ForkTicket]) -> list[ForkResult]:
        """Have the subscriber that claims forks start those that a kernel's cell asks for, and wait for its report.

        Raises :class:`~fc_kernel.errors.StateError` when nobody claims them, and :class:`~fc_kernel.errors.LaunchError` when
        they take too long.
        """
        request = secrets.token_hex(8)
        results: asyncio.Future[list[ForkResult]] = asyncio.get_running_loop().create_future()
        self._orders[request] = _Order(kernel_id, None, results)
        try:
            if not self._stream.publish(ForkWanted(kernel_id=kernel_id, request=request, tickets=tickets)):
                raise StateError("no client of this host can start a fork")
            async with asyncio.timeout(TICKET_LIFE_S):
                return await results
        except TimeoutError:
            raise LaunchError(f"the fork did not start within {TICKET_LIFE_S:g} s") from None
        finally:
            self._orders.pop(request, None)
