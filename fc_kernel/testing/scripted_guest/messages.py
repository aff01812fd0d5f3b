"""Jupyter messages as a scripted kernel keeps them: bytes with a signature that is checked late, requests that can be saved."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...channels.signing import FIXED_PARTS, Signer, split
from ...errors import RemoteProtocolError

Raw = list[bytes]


@dataclass
class Request:
    """A client's message, whose signature was right."""

    identities: list[bytes]
    header: dict[str, Any]
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its ``msg_type``."""
        return str(self.header.get("msg_type"))

    @property
    def msg_id(self) -> str:
        """Its id."""
        return str(self.header.get("msg_id"))

    @classmethod
    def of(cls, raw: Raw, signer: Signer) -> Request:
        """Check a message; raises :class:`~fc_kernel.errors.RemoteProtocolError`."""
        at = split(raw)
        signed = raw[at + 2 : at + 1 + FIXED_PARTS]
        if not signer.valid(raw[at + 1], signed):
            raise RemoteProtocolError("a wrong signature")
        try:
            header, content = json.loads(signed[0]), json.loads(signed[3])
        except (ValueError, RecursionError):
            raise RemoteProtocolError("not JSON") from None
        if not isinstance(header, dict) or not isinstance(content, dict):
            raise RemoteProtocolError("header and content are no objects")
        return cls(raw[:at], header, content)

    def state(self) -> dict[str, Any]:
        """The state, to be saved."""
        return {"identities": packed(self.identities), "header": self.header, "content": self.content}

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Request:
        """A request from a saved state."""
        return cls(unpacked(state["identities"]), state["header"], state["content"])


def packed(parts: Sequence[bytes]) -> list[str]:
    """Bytes for JSON."""
    return [base64.b64encode(part).decode() for part in parts]


def unpacked(parts: Sequence[str]) -> Raw:
    """The bytes again."""
    return [base64.b64decode(part) for part in parts]
