"""What a hostile guest can do to the multiplexer: one error, whole or byte at a time, and bounded memory."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fc_kernel.errors import RemoteProtocolError
from fc_kernel.wire import mux
from fc_kernel.wire.mux import DataReceived, Mux


def frame(kind: int, flags: int = 0, stream: int = 0, length: int = 0, version: int = 0) -> bytes:
    return mux.HEADER.pack(version, kind, flags, stream, length)


def host() -> Mux:
    """The host's end with the streams 1, 3 and 5."""
    end = Mux(client=True)
    for _ in range(3):
        end.open_stream()
    return end


def guest() -> Mux:
    """The guest's end with the same streams."""
    end = Mux(client=False)
    for stream in (1, 3, 5):
        end.receive_data(frame(mux.WINDOW_UPDATE, mux.SYN, stream, mux.WINDOW_BYTES - mux.INITIAL_WINDOW_BYTES))
    return end


FULL = frame(mux.DATA, 0, 1, mux.WINDOW_BYTES) + bytes(mux.WINDOW_BYTES)
HOSTILE = {
    "garbage": (b"SSH-2.0-OpenSSH", "not a yamux frame: version 83"),
    "another version": (frame(mux.DATA, version=1), "not a yamux frame: version 1"),
    "another type": (frame(4), "not a yamux frame: version 0, type 4"),
    "a frame of 4 GiB": (frame(mux.DATA, 0, 1, 0xFFFFFFFF), "a data frame of 4294967295 bytes"),
    "a frame of 4 GiB for nobody": (frame(mux.DATA, 0, 99, 0xFFFFFFFF), "a data frame of 4294967295 bytes"),
    "more than the window": (FULL + frame(mux.DATA, 0, 1, 1), "its window has 0"),
    "bytes after the end": (
        frame(mux.WINDOW_UPDATE, mux.FIN, 1) + frame(mux.DATA, 0, 1, 1),
        "1 bytes on stream 1 after its end",
    ),
    "a window without bounds": (
        frame(mux.WINDOW_UPDATE, 0, 1, mux.WINDOW_BYTES - mux.INITIAL_WINDOW_BYTES + 1),
        "a window of 1048577 bytes on stream 1; at most 1048576",
    ),
    "a flood of pings": (frame(mux.PING, mux.SYN) * 1000, "a flood"),
    "a flood of streams": (b"".join(frame(mux.WINDOW_UPDATE, mux.SYN, n) for n in range(2, 2002, 2)), "a flood"),
    "a rest that nobody asked for": (frame(mux.GO_AWAY, length=mux.HELD), "nobody asked for GO_AWAY with code 0x101"),
    "a rest that the guest asks for": (frame(mux.GO_AWAY, length=mux.HOLD), "nobody asked for GO_AWAY with code 0x100"),
    "a release by the guest": (frame(mux.GO_AWAY, length=mux.RELEASE), "nobody asked for GO_AWAY with code 0x102"),
    "a new session by the guest": (
        frame(mux.GO_AWAY, length=mux.NEW_SESSION),
        "nobody asked for GO_AWAY with code 0x103",
    ),
    "an unknown farewell": (frame(mux.GO_AWAY, length=99), "nobody asked for GO_AWAY with code 0x63"),
    "a stream opened again": (frame(mux.WINDOW_UPDATE, mux.SYN, 1), "stream 1 is open already"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_breach_by_the_guest_is_named(data: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        host().receive_data(data)


@pytest.mark.parametrize("stream", [2, 4, 1, 3], ids=["even", "another even", "open", "open too"])
def test_a_host_opens_odd_streams_once(stream: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"stream {stream} cannot be opened"):
        guest().receive_data(frame(mux.DATA, mux.SYN, stream))


def test_a_stream_that_the_guest_opens_is_reset() -> None:
    end = Mux(client=True)
    data = frame(mux.DATA, mux.SYN, 2, 3) + b"abc"
    assert end.receive_data(data) == []
    assert end.data_to_send() == [frame(mux.WINDOW_UPDATE, mux.RST, 2)]


def test_a_flood_is_a_flood_only_while_nothing_is_sent() -> None:
    """A peer that pings often is answered, as long as the answers leave."""
    end = host()
    for _ in range(5000):
        end.receive_data(frame(mux.PING, mux.SYN))
        end.data_sent(sum(map(len, end.data_to_send())))
    assert not end.wants_to_send


def test_what_is_not_passed_on_gives_no_room() -> None:
    """The receiver of a stream that stands still holds one window of it, whatever the peer does."""
    end = host()
    assert sum(len(event.data) for event in end.receive_data(FULL) if isinstance(event, DataReceived)) == 1 << 20
    end.consumed(1, 100)
    with pytest.raises(RemoteProtocolError):
        end.receive_data(frame(mux.DATA, 0, 1, 1))


def outcome(make: Callable[[], Mux], pieces: list[bytes]) -> tuple[list[object], dict[int, bytes]]:
    """Events but for those of data, and the bytes of each stream."""
    end = make()
    seen: list[object] = []
    received: dict[int, bytes] = {}
    try:
        for piece in pieces:
            for event in end.receive_data(piece):
                if isinstance(event, DataReceived):
                    received[event.stream] = received.get(event.stream, b"") + bytes(event.data)
                else:
                    seen.append((type(event).__name__, event.stream))
    except RemoteProtocolError as error:
        return [str(error)], {}
    return seen, received


def assert_whole_is_bytewise(make: Callable[[], Mux], data: bytes) -> None:
    assert outcome(make, [data]) == outcome(make, [data[i : i + 1] for i in range(len(data))])


FRAMES = st.tuples(
    st.integers(0, 3),
    st.integers(0, 15),
    st.sampled_from([0, 1, 2, 3, 5, 7, 9, 0xFFFFFFFF]),
    st.one_of(st.integers(0, 40), st.sampled_from([1 << 18, 1 << 20, 0xFFFFFFFF])),
    st.binary(max_size=40),
).map(lambda drawn: frame(*drawn[:4]) + drawn[4])


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.binary(max_size=120), st.lists(FRAMES, max_size=12).map(b"".join)))
def test_any_bytes_parse_or_are_a_breach_whole_or_bytewise(data: bytes) -> None:
    assert_whole_is_bytewise(host, data)
    assert_whole_is_bytewise(guest, data)


def session(rng: random.Random) -> bytes:
    """What a guest sends in a valid session."""
    end = guest()
    data = b""
    for _ in range(rng.randrange(3, 15)):
        stream = rng.choice([1, 3, 5])
        if rng.random() < 0.8:
            end.send(stream, rng.randbytes(rng.randrange(60)))
        elif rng.random() < 0.5:
            end.end(stream)
        else:
            end.reset(stream)
        while pieces := end.data_to_send():
            data += b"".join(pieces)
            end.data_sent(sum(map(len, pieces)))
    return data


def test_mutated_sessions_parse_or_are_a_breach() -> None:
    rng = random.Random(20)
    breaches = 0
    for _ in range(1500):
        data = bytearray(session(rng))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        assert_whole_is_bytewise(host, bytes(data))
        seen, _ = outcome(host, [bytes(data)])
        breaches += seen[-1:] != [] and isinstance(seen[-1], str)
    assert breaches > 300, "mutations that break nothing prove nothing"


@pytest.mark.parametrize("more", [frame(mux.PING, mux.SYN), b"\0", frame(mux.GO_AWAY, length=mux.HELD)])
def test_a_guest_that_rests_sends_nothing(more: bytes) -> None:
    for data in (b"", frame(mux.DATA, 0, 1, 3) + b"abc"):
        end = host()
        end.hold()
        end.receive_data(data)
        end.data_sent(sum(map(len, end.data_to_send())))
        rested = frame(mux.GO_AWAY, length=mux.HELD)
        with pytest.raises(RemoteProtocolError, match="although it said that it would rest"):
            end.receive_data(rested + more)
    loaded = Mux(client=True, loaded=True)
    with pytest.raises(RemoteProtocolError, match="although it said that it would rest"):
        loaded.receive_data(more)


def test_a_host_that_says_what_only_a_guest_says() -> None:
    for code in (mux.HELD, 99):
        with pytest.raises(RemoteProtocolError, match="GO_AWAY with code"):
            guest().receive_data(frame(mux.GO_AWAY, length=code))
