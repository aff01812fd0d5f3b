"""The frames of the tunnel: how the parts of a message are laid out on a byte stream.

A frame is a header of 24 bytes, one u32 length for each part, and the parts. All numbers are big-endian. The format is
this project's own and is spoken by host and guest agent only::

    u8  magic "F"   u8 type   u16 parts   u32 generation   u64 seq   u64 ack

``HELLO`` opens every connection: ``seq`` is unused and ``ack`` is the last sequence number its sender has received in
that generation. ``DATA`` carries one message; ``ACK`` carries none. This file is shipped into the guest: standard
library only, Python 3.9.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Union

from ..errors import LocalProtocolError, RemoteProtocolError

Buffer = Union[bytes, bytearray, memoryview]

MAGIC = 0x46
HELLO = 1
DATA = 2
ACK = 3

HEADER = struct.Struct("!BBHIQQ")

#: A Jupyter message has an identity stack of a few parts, six fixed ones and its buffers; ipywidgets' largest models
#: have some dozens of buffers.
MAX_PARTS = 1024
#: Enough for one print of 100 MB, JSON-escaped; a header that claims more is refused.
MAX_MESSAGE_BYTES = 128 << 20


def oversize(parts: Sequence[Buffer]) -> str:
    """Which limit a message of these parts exceeds, as text; empty if none."""
    if len(parts) > MAX_PARTS:
        return f"a message of {len(parts)} parts; at most {MAX_PARTS}"
    size = sum(map(len, parts))
    return f"a message of {size} bytes; at most {MAX_MESSAGE_BYTES}" if size > MAX_MESSAGE_BYTES else ""


def encode(kind: int, generation: int, seq: int, ack: int, parts: Sequence[Buffer]) -> list[Buffer]:
    """The buffers to send for one frame; ``parts`` are bytes-like and are not copied.

    Raises :class:`~fc_kernel.errors.LocalProtocolError` when the message is over the limits.
    """
    if problem := oversize(parts):
        raise LocalProtocolError(problem)
    sizes = [len(part) for part in parts]
    head = HEADER.pack(MAGIC, kind, len(parts), generation, seq, ack) + struct.pack(f"!{len(sizes)}I", *sizes)
    return [head, *parts]


def decode_header(data: memoryview) -> tuple[int, int, int, int, int]:
    """(type, parts, generation, seq, ack) of a header; raises :class:`~fc_kernel.errors.RemoteProtocolError`."""
    magic, kind, count, generation, seq, ack = HEADER.unpack(data)
    if magic != MAGIC or kind not in (HELLO, DATA, ACK):
        raise RemoteProtocolError(f"not a frame: starts with {bytes(data[:2])!r}")
    if count > MAX_PARTS:
        raise RemoteProtocolError(f"a message of {count} parts; at most {MAX_PARTS}")
    if (kind == DATA) != (count > 0):
        raise RemoteProtocolError(f"a frame of type {kind} with {count} parts")
    return kind, count, generation, seq, ack


def decode_sizes(data: memoryview, count: int) -> tuple[int, ...]:
    """The lengths of the parts; raises :class:`~fc_kernel.errors.RemoteProtocolError` if their sum is over the limit."""
    sizes = struct.unpack(f"!{count}I", data)
    if sum(sizes) > MAX_MESSAGE_BYTES:
        raise RemoteProtocolError(f"a message of {sum(sizes)} bytes; at most {MAX_MESSAGE_BYTES}")
    return sizes
