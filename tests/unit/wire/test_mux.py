"""The multiplexer, as the yamux specification has it: two real ends joined by their bytes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fc_kernel.errors import LocalProtocolError
from fc_kernel.wire import mux
from fc_kernel.wire.mux import DataReceived, Mux, StreamEnded, StreamReset

HOST, GUEST = 0, 1


class Pair:
    """A host's and a guest's end. What an end receives is consumed at once unless ``consuming`` is false."""

    def __init__(self, *, consuming: bool = True) -> None:
        self.ends = (Mux(client=True), Mux(client=False))
        self.consuming = consuming
        self.log: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
        self.received: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})

    def open(self) -> int:
        stream = self.ends[HOST].open_stream()
        self.settle()
        return stream

    def move(self, side: int, most: int = 1 << 30) -> int:
        """What one end has to send now, up to so many bytes, into the other."""
        end, peer = self.ends[side], self.ends[1 - side]
        data = b"".join(end.data_to_send())[:most]
        end.data_sent(len(data))
        for event in peer.receive_data(data):
            if isinstance(event, DataReceived):
                received = self.received[1 - side]
                received[event.stream] = received.get(event.stream, b"") + bytes(event.data)
                if self.consuming:
                    peer.consumed(event.stream, len(event.data))
            self.log[1 - side].append((type(event).__name__, event.stream))
        return len(data)

    def settle(self) -> None:
        while self.move(HOST) + self.move(GUEST):
            pass


def test_a_stream_is_opened_by_the_host_and_carries_bytes_both_ways() -> None:
    pair = Pair()
    stream = pair.open()
    assert stream % 2 == 1, "a client's streams are odd"
    assert ("StreamOpened", stream) in pair.log[GUEST]
    assert pair.ends[HOST].send(stream, b"CONNECT 1000\n") == 13
    assert pair.ends[GUEST].send(stream, b"OK 1000\n") == 8
    pair.settle()
    assert pair.received == ({stream: b"OK 1000\n"}, {stream: b"CONNECT 1000\n"})


def test_both_ends_have_the_large_window_after_the_opening() -> None:
    pair = Pair()
    stream = pair.open()
    assert [end.send_room(stream) for end in pair.ends] == [mux.WINDOW_BYTES] * 2


def test_the_opening_is_as_the_specification_has_it() -> None:
    host = Mux(client=True)
    host.open_stream()
    [frame] = host.data_to_send()
    version, kind, flags, stream, length = mux.HEADER.unpack(frame)
    assert (version, kind, flags, stream) == (0, mux.WINDOW_UPDATE, mux.SYN, 1)
    assert length == mux.WINDOW_BYTES - mux.INITIAL_WINDOW_BYTES


@pytest.mark.parametrize("side", [HOST, GUEST])
def test_a_sender_stops_at_the_window_and_goes_on_when_it_opens(side: int) -> None:
    pair = Pair(consuming=False)
    stream = pair.open()
    sender, receiver = pair.ends[side], pair.ends[1 - side]
    assert sender.send(stream, bytes(2 * mux.WINDOW_BYTES)) == mux.WINDOW_BYTES
    assert sender.send_room(stream) == 0
    assert sender.send(stream, b"more") == 0
    pair.settle()
    assert len(pair.received[1 - side][stream]) == mux.WINDOW_BYTES
    receiver.consumed(stream, mux.WINDOW_BYTES // 4 - 1)
    assert not receiver.wants_to_send, "small pieces are not worth a frame each"
    receiver.consumed(stream, 1)
    pair.settle()
    assert pair.log[side][-1] == ("StreamWritable", stream)
    assert sender.send_room(stream) == mux.WINDOW_BYTES // 4


@pytest.mark.parametrize("side", [HOST, GUEST])
def test_a_flooded_stream_does_not_delay_another(side: int) -> None:
    """However much of one stream waits, of another at most one chunk of it comes before."""
    pair = Pair()
    flooded, other = pair.open(), pair.open()
    sender = pair.ends[side]
    sender.send(flooded, bytes(mux.WINDOW_BYTES))
    pair.move(side)
    for _ in range(5):
        before = len(pair.received[1 - side][flooded])
        had = len(pair.received[1 - side].get(other, b""))
        sender.send(other, b"x")
        while len(pair.received[1 - side].get(other, b"")) == had:
            assert pair.move(side)
            sender.send(flooded, bytes(sender.send_room(flooded)))
        assert len(pair.received[1 - side][flooded]) - before <= mux.CHUNK_BYTES


def test_a_stream_whose_receiver_stands_still_does_not_stop_another() -> None:
    pair = Pair(consuming=False)
    stuck, other = pair.open(), pair.open()
    pair.ends[GUEST].send(stuck, bytes(mux.WINDOW_BYTES))
    pair.settle()
    assert pair.ends[GUEST].send_room(stuck) == 0
    for _ in range(50):
        piece = mux.WINDOW_BYTES // 4
        assert pair.ends[GUEST].send(other, bytes(piece)) == piece
        pair.settle()
        pair.ends[HOST].consumed(other, piece)
    assert len(pair.received[HOST][other]) == 50 * mux.WINDOW_BYTES // 4


@pytest.mark.parametrize("size", [0, 1, mux.CHUNK_BYTES, mux.CHUNK_BYTES + 1, 3 * mux.CHUNK_BYTES])
def test_the_end_comes_after_what_was_sent(size: int) -> None:
    pair = Pair()
    stream, other = pair.open(), pair.open()
    host = pair.ends[HOST]
    host.send(stream, bytes(size))
    host.send(other, b"meanwhile")
    host.end(stream)
    assert host.send(stream, b"too late") == 0
    pair.settle()
    assert len(pair.received[GUEST].get(stream, b"")) == size
    assert pair.received[GUEST][other] == b"meanwhile"
    seen = [name for name, number in pair.log[GUEST] if number == stream]
    assert seen[-1] == "StreamEnded"


def test_a_half_closed_stream_still_receives_and_is_forgotten_when_both_have_ended() -> None:
    pair = Pair()
    stream = pair.open()
    host, guest = pair.ends
    host.end(stream)
    pair.settle()
    guest.send(stream, b"the rest")
    pair.settle()
    assert pair.received[HOST][stream] == b"the rest"
    guest.end(stream)
    pair.settle()
    assert pair.log[HOST][-1] == ("StreamEnded", stream)
    assert not host._streams
    assert not guest._streams


def test_data_that_crosses_a_reset_is_skipped() -> None:
    pair = Pair()
    stream, other = pair.open(), pair.open()
    host, guest = pair.ends
    guest.send(stream, bytes(100_000))
    host.reset(stream)
    guest.send(other, b"unharmed")
    pair.settle()
    assert stream not in pair.received[HOST]
    assert pair.received[HOST][other] == b"unharmed"
    assert ("StreamReset", stream) in pair.log[GUEST]
    assert guest.send(stream, b"x") == 0


def test_a_reset_in_the_middle_of_a_frame() -> None:
    pair = Pair()
    stream, other = pair.open(), pair.open()
    pair.ends[GUEST].send(stream, bytes(1000))
    pair.move(GUEST, 500)
    pair.ends[HOST].reset(stream)
    pair.ends[GUEST].send(other, b"unharmed")
    pair.settle()
    assert len(pair.received[HOST][stream]) == 500 - mux.HEADER.size
    assert pair.received[HOST][other] == b"unharmed"


def test_there_are_so_many_streams_and_no_more() -> None:
    pair = Pair()
    streams = [pair.open() for _ in range(mux.MAX_STREAMS)]
    with pytest.raises(LocalProtocolError, match=f"{mux.MAX_STREAMS} streams are open"):
        pair.ends[HOST].open_stream()
    pair.ends[HOST].reset(streams[0])
    pair.settle()
    assert pair.open() not in streams, "a stream's number is never used again"


def test_a_ping_is_answered_with_its_own_number() -> None:
    host = Mux(client=True)
    assert host.receive_data(mux.HEADER.pack(0, mux.PING, mux.SYN, 0, 77)) == []
    assert host.data_to_send() == [mux.HEADER.pack(0, mux.PING, mux.ACK, 0, 77)]
    assert host.receive_data(mux.HEADER.pack(0, mux.PING, mux.ACK, 0, 77)) == []


def test_going_away_ends_all_streams() -> None:
    pair = Pair()
    streams = [pair.open(), pair.open()]
    events = pair.ends[HOST].receive_data(mux.HEADER.pack(0, mux.GO_AWAY, 0, 0, 1))
    assert [(type(event), event.stream) for event in events] == [(StreamReset, stream) for stream in streams]


def test_many_small_pieces_go_out_in_several_calls() -> None:
    pair = Pair()
    stream = pair.open()
    for _ in range(5000):
        pair.ends[GUEST].send(stream, b"small")
    assert len(pair.ends[GUEST].data_to_send()) == mux.MAX_IOV
    pair.settle()
    assert pair.received[HOST][stream] == b"small" * 5000


@pytest.mark.parametrize("flags", [mux.FIN, mux.RST])
def test_the_flags_of_a_data_frame(flags: int) -> None:
    """A peer may put them there: its end comes after the bytes, its reset takes them along."""
    pair = Pair()
    stream = pair.open()
    host = pair.ends[HOST]
    data = mux.HEADER.pack(0, mux.DATA, flags, stream, 5) + b"bytes" + mux.HEADER.pack(0, mux.PING, mux.SYN, 0, 1)
    events = host.receive_data(data)
    kinds = [type(event) for event in events]
    assert kinds == ([DataReceived, StreamEnded] if flags == mux.FIN else [StreamReset])
    assert host.wants_to_send, "the ping behind it was understood"


OPERATIONS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from([HOST, GUEST]), st.integers(0, 3), st.integers(0, 300_000)),
    st.tuples(st.just("move"), st.sampled_from([HOST, GUEST]), st.just(0), st.integers(1, 100_000)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(OPERATIONS, max_size=40), st.integers(0, 1000))
def test_what_is_taken_arrives_in_order_on_every_stream(operations: list[tuple[str, int, int, int]], seed: int) -> None:
    pair = Pair()
    streams = [pair.open() for _ in range(4)]
    rng = random.Random(seed)
    sent: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
    for operation, side, number, size in operations:
        if operation == "send":
            data = rng.randbytes(size)
            taken = pair.ends[side].send(streams[number], data)
            sent[side][streams[number]] = sent[side].get(streams[number], b"") + data[:taken]
        else:
            pair.move(side, size)
    pair.settle()
    for side in (HOST, GUEST):
        assert pair.received[1 - side] == {stream: data for stream, data in sent[side].items() if data}


def test_a_session_comes_to_rest_between_two_frames_and_goes_on() -> None:
    pair = Pair()
    stream = pair.open()
    pair.ends[HOST].send(stream, b"begun")
    pair.ends[GUEST].send(stream, b"there")
    begun = pair.ends[HOST].data_to_send()
    assert begun
    pair.ends[HOST].hold()
    assert not pair.ends[HOST].at_rest
    pair.settle()
    assert pair.ends[HOST].at_rest
    assert pair.log[HOST][-1] == ("Rested", 0)
    # What was a frame already has come, in both directions.
    assert pair.received[GUEST] == {stream: b"begun"}
    pair.ends[HOST].send(stream, b" host")
    pair.ends[GUEST].send(stream, b" guest")
    pair.ends[HOST].end(stream)
    other = pair.ends[HOST].open_stream()
    pair.settle()
    assert not pair.ends[HOST].wants_to_send
    assert not pair.ends[GUEST].wants_to_send
    assert pair.received[GUEST] == {stream: b"begun"}
    pair.ends[HOST].release()
    assert not pair.ends[HOST].at_rest
    pair.settle()
    assert pair.received == ({stream: b"there guest"}, {stream: b"begun host"})
    assert ("StreamEnded", stream) in pair.log[GUEST]
    assert ("StreamOpened", other) in pair.log[GUEST]


def test_a_release_need_not_wait_for_the_answer() -> None:
    """And the next rest is one only when the guest has answered both."""
    pair = Pair()
    stream = pair.open()
    pair.ends[HOST].hold()
    pair.move(HOST)
    pair.ends[HOST].release()
    pair.ends[HOST].send(stream, b"on")
    while pair.move(HOST):
        pass
    assert pair.received[GUEST] == {stream: b"on"}
    pair.ends[HOST].hold()
    pair.ends[GUEST].send(stream, b"answer")
    pair.move(GUEST, mux.HEADER.size)
    assert not pair.ends[HOST].at_rest
    pair.settle()
    assert pair.ends[HOST].at_rest
    assert pair.log[HOST].count(("Rested", 0)) == 1
    pair.ends[HOST].release()
    pair.settle()
    assert pair.received[HOST] == {stream: b"answer"}


def test_a_loaded_machine_begins_a_new_session() -> None:
    pair = Pair()
    streams = [pair.open() for _ in range(3)]
    pair.ends[HOST].hold()
    pair.settle()
    pair.ends[GUEST].send(streams[0], b"of the past")
    pair.ends = (Mux(client=True, loaded=True), pair.ends[GUEST])
    assert pair.ends[HOST].at_rest
    stream = pair.ends[HOST].open_stream()
    assert stream == streams[0]
    pair.ends[HOST].send(stream, b"CONNECT 1000\n")
    assert not pair.ends[HOST].wants_to_send
    pair.log[GUEST].clear()
    pair.ends[HOST].release()
    pair.settle()
    assert pair.log[GUEST] == [("SessionStarted", 0), ("StreamOpened", stream), ("DataReceived", stream)]
    assert pair.received == ({}, {stream: b"CONNECT 1000\n"})
    assert pair.ends[GUEST].send(stream, b"OK 1000\n") == 8
    pair.settle()
    assert pair.received[HOST] == {stream: b"OK 1000\n"}
    # From then on it rests and goes on as any other.
    pair.ends[HOST].hold()
    pair.settle()
    assert pair.ends[HOST].at_rest
    pair.ends[HOST].release()
    pair.settle()
    assert ("SessionStarted", 0) not in pair.log[GUEST][1:]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_on_its_way_a_rest_loses_nothing(seed: int) -> None:
    """Bytes move in pieces of any size, rests come at any moment; all that was sent arrives, once and in order."""
    rng = random.Random(seed)
    pair = Pair()
    streams = [pair.open() for _ in range(4)]
    sent: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
    rests = 0
    for _ in range(2000):
        side = rng.randrange(2)
        action = rng.randrange(10)
        end = pair.ends[side]
        if action < 4:
            stream, data = rng.choice(streams), rng.randbytes(rng.randrange(1, 3000))
            taken = end.send(stream, data)
            sent[side][stream] = sent[side].get(stream, b"") + data[:taken]
        elif action < 8:
            pair.move(side, rng.randrange(1, 5000))
        elif action == 8:
            pair.ends[HOST].hold()
        elif pair.ends[HOST].at_rest or rng.random() < 0.2:
            rests += pair.ends[HOST].at_rest
            assert not (pair.ends[HOST].at_rest and pair.ends[GUEST].wants_to_send)
            pair.ends[HOST].release()
    pair.ends[HOST].release()
    pair.settle()
    assert rests
    assert pair.received == (sent[GUEST], sent[HOST])
