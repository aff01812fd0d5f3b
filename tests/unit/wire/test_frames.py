"""The tunnel's frames: what is written is read again, and everything else is one error."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fc_kernel.errors import LocalProtocolError, RemoteProtocolError
from fc_kernel.wire import frames

EXAMPLES = settings(max_examples=500, deadline=None)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)


@EXAMPLES
@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20), U32, U64, U64)
def test_what_is_encoded_is_decoded(parts: list[bytes], generation: int, seq: int, ack: int) -> None:
    head, *rest = frames.encode(frames.DATA, generation, seq, ack, parts)
    assert rest == parts
    header = memoryview(head)[: frames.HEADER.size]
    assert frames.decode_header(header) == (frames.DATA, len(parts), generation, seq, ack)
    sizes = frames.decode_sizes(memoryview(head)[frames.HEADER.size :], len(parts))
    assert sizes == tuple(map(len, parts))


@pytest.mark.parametrize("kind", [frames.HELLO, frames.ACK])
def test_greetings_and_acknowledgements_are_a_header_alone(kind: int) -> None:
    [head] = frames.encode(kind, 1, 2, 3, ())
    assert frames.decode_header(memoryview(head)) == (kind, 0, 1, 2, 3)


@EXAMPLES
@given(st.binary(min_size=frames.HEADER.size, max_size=frames.HEADER.size))
def test_a_header_of_any_bytes_parses_or_is_refused(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        kind, count, *_numbers = frames.decode_header(memoryview(data))
        assert kind in (frames.HELLO, frames.DATA, frames.ACK)
        assert count <= frames.MAX_PARTS


@EXAMPLES
@given(st.integers(0, frames.MAX_PARTS), st.data())
def test_sizes_of_any_bytes_parse_or_are_refused(count: int, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=4 * count, max_size=4 * count))
    with contextlib.suppress(RemoteProtocolError):
        assert sum(frames.decode_sizes(memoryview(raw), count)) <= frames.MAX_MESSAGE_BYTES


HOSTILE = {
    "another protocol": (b"HTTP/1.1 400 Bad Request", "not a frame: starts with b'HT'"),
    "another type": (frames.HEADER.pack(frames.MAGIC, 9, 0, 0, 0, 0), "not a frame"),
    "too many parts": (frames.HEADER.pack(frames.MAGIC, frames.DATA, 65535, 0, 0, 0), "65535 parts; at most 1024"),
    "a message without parts": (frames.HEADER.pack(frames.MAGIC, frames.DATA, 0, 0, 0, 0), "type 2 with 0 parts"),
    "a greeting with parts": (frames.HEADER.pack(frames.MAGIC, frames.HELLO, 1, 0, 0, 0), "type 1 with 1 parts"),
    "an acknowledgement with parts": (frames.HEADER.pack(frames.MAGIC, frames.ACK, 3, 0, 0, 0), "type 3 with 3 parts"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_named(data: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        frames.decode_header(memoryview(data))


def test_sizes_that_add_up_to_too_much_are_refused() -> None:
    most = (frames.MAX_MESSAGE_BYTES // 2).to_bytes(4, "big")
    assert sum(frames.decode_sizes(memoryview(most * 2), 2)) == frames.MAX_MESSAGE_BYTES
    with pytest.raises(RemoteProtocolError, match=f"at most {frames.MAX_MESSAGE_BYTES}"):
        frames.decode_sizes(memoryview(most * 2 + b"\0\0\0\1"), 3)
    with pytest.raises(RemoteProtocolError, match=f"{(1 << 32) - 1} bytes"):
        frames.decode_sizes(memoryview(b"\xff" * 4), 1)


def test_this_side_keeps_the_limits_too() -> None:
    with pytest.raises(LocalProtocolError, match="1025 parts"):
        frames.encode(frames.DATA, 0, 1, 0, [b""] * (frames.MAX_PARTS + 1))
    half = memoryview(bytes(frames.MAX_MESSAGE_BYTES // 2))
    assert frames.oversize([half, half]) == ""
    with pytest.raises(LocalProtocolError, match=f"{frames.MAX_MESSAGE_BYTES + 1} bytes"):
        frames.encode(frames.DATA, 0, 1, 0, [half, half, b"x"])
