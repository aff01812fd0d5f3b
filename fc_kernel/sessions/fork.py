"""Forking a kernel in two steps: tickets are issued, and the kernel's owner starts an ordinary kernel with each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..api.calls import ForkResult
from ..api.models import ForkTicket
from ..errors import LaunchError, StateError
from ..machine.start import KernelRequest
from ..snapshots.snapshot import Snapshot
from .tickets import ForkParent, TicketBook

#: Has the owner of the kernel with this id start a kernel with each ticket, and returns the results; on the engine's loop.
StartForks = Callable[[str, list[ForkTicket]], Awaitable[list[ForkResult]]]


def issue(
    book: TicketBook, count: int, snapshot: Snapshot, last: KernelRequest | None, *, kernel_id: str, scope: str
) -> list[ForkTicket]:
    """Issue tickets for kernels that start from a snapshot with the settings and environment of the forked kernel.

    ``last`` is the request of its last start. Raises :class:`~fc_kernel.errors.StateError` when it was never started, and
    :class:`~fc_kernel.errors.LimitError` when too many tickets are open.
    """
    if last is None:
        raise StateError("the kernel was never started")
    parent = ForkParent(kernel_id=kernel_id, scope=scope, resolved=last.resolved, env=last.env)
    return book.issue(count, snapshot, parent)


async def have_started(
    book: TicketBook, kernel_id: str, tickets: list[ForkTicket], start: StartForks
) -> list[ForkResult]:
    """Have a kernel started with each ticket; returns a result for each, with an ``error`` where no kernel was started.

    Raises :class:`~fc_kernel.errors.LaunchError` with the first error when no kernel was started at all.
    """
    try:
        by_ticket = {each.ticket: each for each in await start(kernel_id, tickets)}
    finally:
        # Nobody waits any more for a ticket that was not used by now.
        book.revoke(tickets)
    silent = "the result of this fork was not reported"
    results = [by_ticket.get(each.ticket, ForkResult(ticket=each.ticket, error=silent)) for each in tickets]
    if all(each.error for each in results):
        raise LaunchError(results[0].error)
    names = {each.ticket: each.name for each in tickets}
    return [each if each.name else each.model_copy(update={"name": names[each.ticket]}) for each in results]
