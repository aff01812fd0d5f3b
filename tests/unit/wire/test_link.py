"""Two links joined by a wire that is cut: every message arrives once and in order, whatever was on its way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fc_kernel.errors import LocalProtocolError
from fc_kernel.wire import frames
from fc_kernel.wire import link as link_module
from fc_kernel.wire.link import Established, Link, MessageReceived

HOST, GUEST = 0, 1


class Wire:
    """A host's and a guest's link that have greeted each other once, the bytes between them, and what arrived."""

    def __init__(self, generation: int = 1) -> None:
        self.links = (Link("shell", generation=generation, dialer=True), Link("shell", dialer=False))
        self.sent: tuple[list[list[bytes]], list[list[bytes]]] = ([], [])
        self.arrived: tuple[list[list[bytes]], list[list[bytes]]] = ([], [])
        self.established: list[tuple[int, bool]] = []
        self.connected = False
        self.settle()
        self.cut()

    def connect(self) -> None:
        self.connected = True
        for link in self.links:
            link.connection_made()

    def cut(self) -> None:
        """What an end has handed over and the other has not received is lost."""
        self.connected = False
        for link in self.links:
            link.connection_lost()

    def send(self, side: int, parts: list[bytes]) -> None:
        self.links[side].send(parts)
        self.sent[side].append(parts)

    def move(self, side: int, most: int) -> int:
        """Up to so many bytes from one end into the other, through its own buffer, as a socket does it."""
        link, peer = self.links[side], self.links[1 - side]
        moved = 0
        while moved < most and link.wants_to_send:
            data = b"".join(link.data_to_send())[: most - moved]
            while data:
                room = peer.get_buffer()[: len(data)]
                room[:] = data[: len(room)]
                link.data_sent(len(room))
                self._happened(1 - side, peer.buffer_updated(len(room)))
                data = data[len(room) :]
                moved += len(room)
        return moved

    def _happened(self, side: int, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, MessageReceived):
                self.arrived[side].append([bytes(part) for part in event.parts])
            elif side == GUEST:
                self.established.append((event.generation, event.resumed))

    def settle(self) -> None:
        """Move all there is, both ways."""
        if not self.connected:
            self.connect()
        while self.move(HOST, 1 << 30) + self.move(GUEST, 1 << 30):
            pass

    def assert_all_arrived(self) -> None:
        assert self.arrived[GUEST] == self.sent[HOST]
        assert self.arrived[HOST] == self.sent[GUEST]


PARTS = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"x" * 70_000, b"y" * 140_001])), min_size=1, max_size=4
)
SIDES = st.sampled_from([HOST, GUEST])
OPERATIONS = st.one_of(
    st.tuples(st.just("send"), SIDES, PARTS),
    st.tuples(st.just("move"), SIDES, st.one_of(st.integers(1, 200), st.integers(1, 200_000))),
    st.tuples(st.just("cut"), st.just(HOST), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(OPERATIONS, max_size=40))
def test_everything_arrives_once_and_in_order_over_any_cuts(operations: list[tuple[str, int, Any]]) -> None:
    wire = Wire()
    for operation, side, argument in operations:
        if operation == "send":
            wire.send(side, argument)
        elif operation == "cut" and wire.connected:
            wire.cut()
        elif operation == "move":
            if not wire.connected:
                wire.connect()
            wire.move(side, argument)
    wire.settle()
    wire.assert_all_arrived()
    assert [resumed for _, resumed in wire.established] == [False, *[True] * (len(wire.established) - 1)]


def conversation(wire: Wire, bytes_before_cut: int) -> bool:
    """A few messages each way with one cut after so many bytes; whether the cut came before the end."""
    wire.connect()
    left = bytes_before_cut
    for number in range(3):
        wire.send(HOST, [b"id", b"request", b"%d" % number])
        wire.send(GUEST, [b"", b"output of %d" % number])
        for side in (HOST, GUEST, HOST):
            moved = wire.move(side, left)
            left -= moved
            if not left:
                wire.cut()
                return True
    return False


def test_a_cut_at_every_byte() -> None:
    at = 0
    while True:
        at += 1
        wire = Wire()
        was_cut = conversation(wire, at)
        wire.send(HOST, [b"after"])
        wire.send(GUEST, [b"after"])
        wire.settle()
        wire.assert_all_arrived()
        if not was_cut:
            break
    assert at > 300, "the conversation has this many bytes; fewer would mean that it was not cut everywhere"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(OPERATIONS, st.tuples(st.just("generation"), SIDES, st.none())), max_size=40))
def test_a_new_generation_starts_from_zero(operations: list[tuple[str, int, Any]]) -> None:
    """What was on its way in the old one never arrives in the new one, and what is sent in the new one all does."""
    wire, generation = Wire(), 1
    for operation, side, argument in operations:
        if operation == "send":
            wire.send(side, argument)
        elif operation == "move":
            if not wire.connected:
                wire.connect()
            wire.move(side, argument)
        elif wire.connected:
            wire.cut()
        if operation == "generation":
            generation += 1
            wire.links[HOST].new_generation(generation)
            for sent, arrived in zip(wire.sent, reversed(wire.arrived), strict=True):
                assert arrived == sent[: len(arrived)]
                sent.clear()
                arrived.clear()
            # A guest's relay sends nothing before the greeting, with which it learns of the generation.
            wire.settle()
            wire.sent[GUEST].clear()
    wire.settle()
    wire.assert_all_arrived()
    assert [number for number, resumed in wire.established if not resumed] == list(range(1, generation + 1))


def test_a_restored_guest_forgets_what_it_owed() -> None:
    wire = Wire(generation=7)
    wire.settle()
    wire.send(GUEST, [b"of the past"])
    wire.cut()
    wire.links[HOST].new_generation(8)
    wire.sent[GUEST].clear()
    wire.settle()
    wire.send(GUEST, [b"of the present"])
    wire.settle()
    wire.assert_all_arrived()
    assert wire.established == [(7, False), (7, True), (8, False)]


def test_a_generation_begins_only_between_connections() -> None:
    wire = Wire()
    wire.connect()
    with pytest.raises(LocalProtocolError, match="between connections"):
        wire.links[HOST].new_generation(2)


def test_a_message_has_a_part() -> None:
    with pytest.raises(LocalProtocolError, match="at least one part"):
        Link("shell", dialer=True).send([])


@pytest.mark.parametrize("size", [0, 1, 100_000, 1 << 20, 3 << 20])
def test_a_sender_is_never_stuck(size: int) -> None:
    """A receiver acknowledges before the sender's window is full, whatever the size of the messages."""
    wire = Wire()
    wire.settle()
    limit = 2 * link_module.WINDOW_BYTES // max(size, link_module.PART_OVERHEAD_BYTES)
    for number in range(limit):
        assert wire.links[HOST].writable, f"stuck after {number} messages of {size} bytes"
        wire.links[HOST].send([b"x" * size])
        wire.move(HOST, 1 << 30)
        wire.move(GUEST, 1 << 30)
    assert len(wire.arrived[GUEST]) == limit


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_a_peer_that_acknowledges_nothing_makes_the_sender_hold_a_window_and_no_more(size: int) -> None:
    wire = Wire()
    wire.settle()
    link = wire.links[HOST]
    count = 0
    while link.writable:
        link.send([b"x" * size])
        link.data_sent(sum(map(len, link.data_to_send())))
        count += 1
        assert count * size <= link_module.WINDOW_BYTES + size
        assert count * link_module.PART_OVERHEAD_BYTES <= link_module.WINDOW_BYTES + link_module.PART_OVERHEAD_BYTES


def test_an_acknowledgement_rides_on_a_message() -> None:
    wire = Wire()
    wire.settle()
    wire.send(HOST, [b"request"])
    wire.settle()
    wire.send(GUEST, [b"reply"])
    wire.settle()
    assert wire.links[HOST]._unacked_bytes == 0


def test_many_small_parts_go_out_in_pieces() -> None:
    wire = Wire()
    wire.settle()
    wire.send(HOST, [b"x"] * frames.MAX_PARTS)
    assert len(wire.links[HOST].data_to_send()) == link_module.MAX_IOV
    wire.settle()
    wire.assert_all_arrived()


def test_a_large_part_is_received_in_place() -> None:
    """Through the link's own buffer, not copied through the scratch."""
    wire = Wire()
    wire.settle()
    large = b"z" * (link_module.LAZY_BYTES + 5)
    wire.send(HOST, [b"small", large, b"small"])
    wire.move(HOST, frames.HEADER.size + 12 + 5 + 10)
    assert len(wire.links[GUEST].get_buffer()) == len(large) - 10
    wire.settle()
    wire.assert_all_arrived()


def test_both_ends_are_established_after_one_round_trip() -> None:
    host, guest = Link("shell", generation=3, dialer=True), Link("shell", dialer=False)
    host.connection_made()
    guest.connection_made()
    assert not guest.wants_to_send, "the dialer speaks first"
    [event] = guest.receive_data(b"".join(host.data_to_send()))
    assert isinstance(event, Established)
    assert (event.generation, event.resumed) == (3, False)
    [event] = host.receive_data(b"".join(guest.data_to_send()))
    assert isinstance(event, Established)
    assert host.established
    assert guest.established
