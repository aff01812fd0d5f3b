"""Jupyter's wire format: split, check, sign (the *messaging* specification, "The wire protocol")."""

from __future__ import annotations

import hmac
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ..errors import ConfigError, RemoteProtocolError

DELIMITER = b"<IDS|MSG>"
#: Signature, header, parent header, metadata, content.
FIXED_PARTS = 5
#: The length of a guest's signature, ``hmac-sha256`` in hexadecimal digits.
SIGNATURE_BYTES = 64
#: A client's identity stack has one entry; proxies add one each.
MAX_IDENTITIES = 16
PROTOCOL_VERSION = "5.4"
#: A header has some 200 bytes. What is parsed as JSON takes up to twenty times its size.
MAX_HEADER_BYTES = 64 << 10

Buffer = bytes | memoryview


class Signer:
    """HMAC over the four JSON parts; an empty key means no signature, as in Jupyter."""

    def __init__(self, key: bytes, scheme: str = "hmac-sha256") -> None:
        kind, _, digest = scheme.partition("-")
        try:
            if kind != "hmac" or not digest:
                raise ValueError(scheme)
            self._base = hmac.new(key, digestmod=digest) if key else None
        except ValueError as error:
            raise ConfigError(f"signature_scheme is {scheme!r}; allowed: hmac- and a hash of hashlib") from error

    def sign(self, parts: Sequence[Buffer]) -> bytes:
        """The signature of header, parent header, metadata and content."""
        if self._base is None:
            return b""
        mac = self._base.copy()
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode()

    def valid(self, signature: Buffer, parts: Sequence[Buffer]) -> bool:
        """Whether the signature is right; compares in constant time."""
        return self._base is None or hmac.compare_digest(bytes(signature), self.sign(parts))


def split(frames: Sequence[Buffer]) -> int:
    """Index of the delimiter; raises :class:`~fc_kernel.errors.RemoteProtocolError` when it is not a Jupyter message."""
    for index, frame in enumerate(frames[: MAX_IDENTITIES + 1]):
        if len(frame) == len(DELIMITER) and bytes(frame) == DELIMITER:
            if len(frames) < index + 1 + FIXED_PARTS:
                raise RemoteProtocolError(
                    f"a Jupyter message with {len(frames)} parts; it needs at least {index + 1 + FIXED_PARTS}"
                )
            return index
    raise RemoteProtocolError("not a Jupyter message: no delimiter")


def header_of(part: Buffer) -> dict[str, Any]:
    """A header part as an object; raises :class:`~fc_kernel.errors.RemoteProtocolError`."""
    if len(part) > MAX_HEADER_BYTES:
        raise RemoteProtocolError(f"a header of {len(part)} bytes; at most {MAX_HEADER_BYTES}")
    try:
        header = json.loads(bytes(part))
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"a header that is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise RemoteProtocolError("a header that is not an object")
    return header


class Composer:
    """Composes the host's own messages, signed for the clients."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._session = uuid.uuid4().hex

    def message(
        self, kind: str, content: dict[str, Any], parent: bytes = b"{}", identities: Sequence[Buffer] = ()
    ) -> list[Buffer]:
        """A whole message: identities, delimiter, signature and the four parts; ``parent`` is the parent's header."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "username": "fc-kernel",
            "session": self._session,
            "date": datetime.now(UTC).isoformat(),
            "version": PROTOCOL_VERSION,
        }
        parts = [json.dumps(header).encode(), parent, b"{}", json.dumps(content).encode()]
        return [*identities, DELIMITER, self._signer.sign(parts), *parts]
