"""The hybrid-vsock handshake, both sides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fc_kernel.errors import RemoteProtocolError
from fc_kernel.wire.handshake import (
    MAX_LINE_BYTES,
    MAX_PORT,
    HandshakeClient,
    HandshakeServer,
    connect_answer,
    connect_request,
)

Side = HandshakeClient | HandshakeServer
SIDES: list[type[Side]] = [HandshakeClient, HandshakeServer]


@given(st.integers(0, MAX_PORT), st.integers(0, MAX_PORT), st.binary(max_size=20))
def test_a_port_is_asked_for_and_answered(port: int, number: int, rest: bytes) -> None:
    server, client = HandshakeServer(), HandshakeClient()
    assert server.receive_data(connect_request(port)) == port
    assert server.rest == b""
    assert client.receive_data(connect_answer(number) + rest) == number
    assert client.rest == rest


def outcome(make: type[Side], pieces: list[bytes]) -> object:
    side = make()
    for at, piece in enumerate(pieces):
        try:
            number = side.receive_data(piece)
        except RemoteProtocolError:
            return "refused"
        if number is not None:
            return number, side.rest + b"".join(pieces[at + 1 :])
    return None


@settings(max_examples=1000, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=50),
        st.tuples(st.sampled_from([b"OK ", b"CONNECT ", b"OK", b"CONNECT  "]), st.binary(max_size=12)).map(b"".join),
        st.text(alphabet="OKCNECT 0123456789\n-+", max_size=45).map(str.encode),
    ),
    st.sampled_from(SIDES),
)
def test_any_bytes_are_a_handshake_or_refused_whole_or_bytewise(data: bytes, make: type[Side]) -> None:
    assert outcome(make, [data]) == outcome(make, [data[i : i + 1] for i in range(len(data))])


HOSTILE = [
    b"OK\n", b"OK \n", b"OK 1 2\n", b"OK -1\n", b"OK +1\n", b"OK 1_0\n", b"OK 4294967296\n", b"OK 00000000001\n",
    b"ok 1\n", b"OK 1\r\n", "OK ٣\n".encode(), b"\n", b"CONNECT 1\n", b"x" * (MAX_LINE_BYTES + 1), b"OK \x001\n",
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_answers(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not a vsock handshake"):
        HandshakeClient().receive_data(data)


@pytest.mark.parametrize("make", SIDES)
def test_an_endless_line_is_refused_early(make: Callable[[], Side]) -> None:
    side = make()
    for _ in range(MAX_LINE_BYTES):
        assert side.receive_data(b"1") is None
    with pytest.raises(RemoteProtocolError):
        side.receive_data(b"1")
