"""Tickets of forks: good once, for a while, and never too many of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from traitlets.config import Config

from fc_kernel.errors import LimitError, StateError
from fc_kernel.sessions.tickets import MAX_TICKETS, TICKET_LIFE_S, ForkParent, TicketBook
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.resolve import resolve
from fc_kernel.snapshots.snapshot import Snapshot

from ...snapshots_made import store_in
from ..server_site import publish


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> TicketBook:
    return TicketBook(clock)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return publish(store_in(tmp_path), scope="n.ipynb", name="here")


@pytest.fixture
def parent() -> ForkParent:
    config = FcKernelConfig(config=Config({"FcKernelConfig": {"monitor": "fake"}}))
    return ForkParent(
        kernel_id="k", scope="n.ipynb", resolved=resolve([config.as_source()], config.limits()), env={"A": "1"}
    )


def test_each_is_good_once(book: TicketBook, snapshot: Snapshot, parent: ForkParent) -> None:
    one, other = book.issue(2, snapshot, parent)
    assert one.ticket != other.ticket
    assert (one.snapshot_id, one.vm_id, one.name, one.scope, one.kernel_id) == (
        snapshot.id, snapshot.manifest.vm_id, "here", "n.ipynb", "k",
    )  # fmt: skip
    issued = book.take(one.ticket)
    assert (issued.ticket, issued.parent) == (one, parent)
    with pytest.raises(StateError, match="void"):
        book.take(one.ticket)
    assert book.take(other.ticket).ticket == other


def test_one_that_was_never_issued_is_void(book: TicketBook) -> None:
    with pytest.raises(StateError, match="void"):
        book.take("")


def test_each_is_good_for_a_while(book: TicketBook, clock: Clock, snapshot: Snapshot, parent: ForkParent) -> None:
    [old] = book.issue(1, snapshot, parent)
    clock.now += TICKET_LIFE_S / 2
    [young] = book.issue(1, snapshot, parent)
    clock.now += TICKET_LIFE_S / 2
    with pytest.raises(StateError, match="too old"):
        book.take(old.ticket)
    assert book.take(young.ticket).ticket == young


def test_there_are_never_too_many(book: TicketBook, clock: Clock, snapshot: Snapshot, parent: ForkParent) -> None:
    issued = book.issue(MAX_TICKETS - 1, snapshot, parent)
    with pytest.raises(LimitError, match="at most 1 now"):
        book.issue(2, snapshot, parent)
    book.take(issued[0].ticket)
    book.revoke(issued[1:3])
    assert len(book.issue(4, snapshot, parent)) == 4
    clock.now += TICKET_LIFE_S
    assert len(book.issue(MAX_TICKETS, snapshot, parent)) == MAX_TICKETS


def test_nobody_guesses_one(book: TicketBook, snapshot: Snapshot, parent: ForkParent) -> None:
    [ticket] = book.issue(1, snapshot, parent)
    assert len(bytes.fromhex(ticket.ticket)) == 16
