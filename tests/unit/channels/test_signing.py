"""Jupyter's wire format: what a message is, whose signature it has, and what is neither."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jupyter_client.session import Session

from fc_kernel.channels.signing import (
    DELIMITER,
    MAX_HEADER_BYTES,
    MAX_IDENTITIES,
    SIGNATURE_BYTES,
    Composer,
    Signer,
    header_of,
    split,
)
from fc_kernel.errors import ConfigError, RemoteProtocolError

EXAMPLES = settings(max_examples=500, deadline=None)
PARTS = [b'{"msg_id": "1"}', b"{}", b"{}", b'{"code": "1"}']


def session(key: bytes) -> Session:
    return Session(key=key)


def test_signatures_are_jupyters() -> None:
    message = session(b"key").serialize(session(b"key").msg("execute_request", {"code": "1"}))
    assert split(message) == 0
    assert message[1] == Signer(b"key").sign(message[2:6])
    assert len(message[1]) == SIGNATURE_BYTES
    assert Signer(b"key").valid(message[1], message[2:6])
    assert not Signer(b"other key").valid(message[1], message[2:6])


@pytest.mark.parametrize("at", range(4))
def test_a_signature_covers_each_part(at: int) -> None:
    signer = Signer(b"key")
    changed = [part + b" " if index == at else part for index, part in enumerate(PARTS)]
    assert signer.sign(changed) != signer.sign(PARTS)
    assert not signer.valid(signer.sign(PARTS), changed)


def test_an_empty_key_signs_nothing_and_takes_everything() -> None:
    assert Signer(b"").sign(PARTS) == b""
    assert Signer(b"").valid(b"anything", PARTS)


@pytest.mark.parametrize("scheme", ["hmac-md6", "rsa-sha256", "hmac", "", "hmac-", "hmac-shake_128"])
def test_a_scheme_that_there_is_not(scheme: str) -> None:
    with pytest.raises(ConfigError, match="signature_scheme"):
        Signer(b"key", scheme)


@pytest.mark.parametrize("identities", range(MAX_IDENTITIES + 1))
def test_the_delimiter_ends_the_identities(identities: int) -> None:
    assert split([b"id"] * identities + [DELIMITER, b"", *PARTS, b"buffer"]) == identities


HOSTILE: dict[str, list[bytes]] = {
    "nothing": [],
    "no delimiter": [b"a", b"b", b"c", b"d", b"e", b"f", b"g"],
    "too many identities": [b"id"] * (MAX_IDENTITIES + 1) + [DELIMITER, b"", *PARTS],
    "no signature": [DELIMITER],
    "no content": [DELIMITER, b"", *PARTS[:3]],
    "a delimiter with more": [DELIMITER + b"x", b"", *PARTS],
}


@pytest.mark.parametrize("frames", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_message(frames: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        split(frames)


@EXAMPLES
@given(st.lists(st.one_of(st.binary(max_size=12), st.just(DELIMITER)), max_size=30))
def test_any_frames_are_a_message_or_refused(frames: list[bytes]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        at = split(frames)
        assert frames[at] == DELIMITER
        assert len(frames) >= at + 6


HEADERS: dict[str, bytes] = {
    "no JSON": b"x",
    "nothing": b"",
    "no object": b"[]",
    "a string": b'"header"',
    "no text": b"\xff\xfe\xfd",
    "too deep": b"[" * 60_000,
    "a number of many digits": b'{"msg_id": ' + b"9" * 10_000 + b"}",
    "too long": b'{"msg_id": "' + b"x" * MAX_HEADER_BYTES + b'"}',
}


@pytest.mark.parametrize("part", HEADERS.values(), ids=HEADERS)
def test_what_is_no_header(part: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="a header"):
        header_of(part)


@EXAMPLES
@given(
    st.one_of(st.binary(max_size=60), st.text(alphabet='{}[]":,\\u0123456789eE+-.ntrue ', max_size=60).map(str.encode))
)
def test_any_bytes_are_a_header_or_refused(part: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert isinstance(header_of(part), dict)


@EXAMPLES
@given(st.dictionaries(st.text(max_size=5), st.recursive(st.integers() | st.text(max_size=5), st.lists, max_leaves=5)))
def test_a_header_is_read_as_it_was_written(header: dict[str, Any]) -> None:
    assert header_of(memoryview(json.dumps(header).encode())) == header


def test_what_the_host_says_itself_is_read_by_jupyter() -> None:
    parent = json.dumps({"msg_id": "7", "msg_type": "execute_request"}).encode()
    frames = Composer(Signer(b"key")).message("status", {"execution_state": "idle"}, parent, [b"topic"])
    reader = session(b"key")
    identities, parts = reader.feed_identities([bytes(frame) for frame in frames])
    message = reader.deserialize(parts)
    assert identities == [b"topic"]
    assert message["msg_type"] == "status"
    assert message["content"] == {"execution_state": "idle"}
    assert message["parent_header"]["msg_id"] == "7"
