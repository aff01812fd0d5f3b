"""What a hostile peer can do to a link: one error, and no memory for what it only announces."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fc_kernel.errors import RemoteProtocolError
from fc_kernel.wire import frames
from fc_kernel.wire.link import LAZY_BYTES, Established, Event, Link, MessageReceived

GENERATION = 5
PAGE_BYTES = resource.getpagesize()


def frame(kind: int, seq: int = 0, ack: int = 0, parts: tuple[bytes, ...] = (), generation: int = GENERATION) -> bytes:
    return b"".join(bytes(part) for part in frames.encode(kind, generation, seq, ack, parts))


HELLO = frame(frames.HELLO)


def host() -> Link:
    """A host's link that waits for the guest's greeting."""
    link = Link("shell", generation=GENERATION, dialer=True)
    link.connection_made()
    return link


def guest() -> Link:
    """A guest's link that waits for the host's greeting."""
    link = Link("shell", dialer=False)
    link.connection_made()
    return link


HOSTILE = {
    "a message before the greeting": (frame(frames.DATA, 1, 0, (b"x",)), "before the greeting"),
    "a second greeting": (HELLO + HELLO, "after the greeting"),
    "another generation's greeting": (frame(frames.HELLO, generation=4), "generation 4; this link is in generation 5"),
    "another generation's message": (HELLO + frame(frames.DATA, 1, 0, (b"x",), generation=6), "generation 6"),
    "a gap": (HELLO + frame(frames.DATA, 2, 0, (b"x",)), "message 2 follows 0"),
    "a greeting for what was not sent": (frame(frames.HELLO, ack=1), "message 1 acknowledged; only 0 were sent"),
    "an acknowledgement of what was not sent": (HELLO + frame(frames.ACK, ack=2**63), "acknowledged; only 0"),
    "a part of 4 GiB": (HELLO + frames.HEADER.pack(0x46, 2, 1, 5, 1, 0) + b"\xff" * 4, "at most 134217728"),
    "garbage": (b"\0" * 24, "not a frame"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_breach_is_named(data: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        host().receive_data(data)


def test_what_was_received_before_is_ignored() -> None:
    """A peer that did not get our acknowledgement sends it again."""
    link = host()
    message = frame(frames.DATA, 1, 0, (b"once",))
    events = link.receive_data(HELLO + message + message)
    assert [type(event) for event in events] == [Established, MessageReceived]


def outcome(make: Callable[[], Link], pieces: list[bytes]) -> list[object]:
    """What bytes come to, in those pieces."""
    link = make()
    seen: list[object] = []
    try:
        for piece in pieces:
            seen += map(shown, link.receive_data(piece))
    except RemoteProtocolError as error:
        seen.append(str(error))
    return seen


def shown(event: Event) -> object:
    return [bytes(part) for part in event.parts] if isinstance(event, MessageReceived) else event.generation


def assert_whole_is_bytewise(make: Callable[[], Link], data: bytes) -> None:
    """The same, but that a breach in a whole piece hides what came before it in that piece."""
    bytewise = outcome(make, [data[i : i + 1] for i in range(len(data))])
    whole = outcome(make, [data])
    assert whole in (bytewise, bytewise[-1:])


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", HELLO]))
def test_any_bytes_parse_or_are_a_breach(data: bytes, before: bytes) -> None:
    assert_whole_is_bytewise(host, before + data)
    assert_whole_is_bytewise(guest, before + data)


def session(rng: random.Random) -> bytes:
    """The bytes of a valid peer."""
    data = HELLO
    for seq in range(1, rng.randrange(2, 8)):
        data += frame(frames.DATA, seq, 0, tuple(rng.randbytes(rng.randrange(30)) for _ in range(rng.randrange(1, 5))))
        if rng.random() < 0.3:
            data += frame(frames.ACK)
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
        breaches += isinstance((outcome(host, [bytes(data)]) or [None])[-1], str)
    assert breaches > 300, "mutations that break nothing prove nothing"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


@pytest.mark.parametrize("sizes", [(128 << 20,), (64 << 20, 64 << 20), (128 << 10,) * 1024], ids=["one", "two", "1024"])
def test_what_is_announced_takes_no_memory(sizes: tuple[int, ...]) -> None:
    """Twenty peers announce 128 MiB each and send a few bytes of it."""
    announced = frames.HEADER.pack(frames.MAGIC, frames.DATA, len(sizes), GENERATION, 1, 0)
    announced += b"".join(size.to_bytes(4, "big") for size in sizes)
    before = resident_bytes()
    links = [host() for _ in range(20)]
    for link in links:
        assert len(link.receive_data(HELLO + announced + b"x" * 10)) == 1
    assert resident_bytes() - before < 20 << 20


def test_of_a_part_below_the_limit_one_is_reserved_ahead() -> None:
    announced = frames.HEADER.pack(frames.MAGIC, frames.DATA, 8, GENERATION, 1, 0)
    announced += (LAZY_BYTES - 1).to_bytes(4, "big") * 8
    before = resident_bytes()
    link = host()
    link.receive_data(HELLO + announced + b"x")
    assert resident_bytes() - before < LAZY_BYTES + (1 << 20)
