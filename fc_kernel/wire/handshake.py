r"""The hybrid-vsock handshake: ``CONNECT <port>\n`` is answered with ``OK <number>\n``, or by closing.

It is Firecracker's (its ``docs/vsock.md``). Sans-io; shipped into the guest: standard library only, Python 3.9.
"""

from __future__ import annotations

from typing import Optional

from ..errors import RemoteProtocolError

#: ``CONNECT 4294967295\n`` has 19 bytes; a longer line is no handshake.
MAX_LINE_BYTES = 32
MAX_PORT = 0xFFFFFFFF


def connect_request(port: int) -> bytes:
    """What the host sends."""
    return b"CONNECT %d\n" % port


def connect_answer(number: int) -> bytes:
    """What a listener answers; ``number`` is the port on its side, which nobody uses."""
    return b"OK %d\n" % number


class _Line:
    def __init__(self) -> None:
        self._seen = bytearray()
        #: Bytes that came after the line and belong to the stream.
        self.rest = b""

    def _receive(self, data: bytes) -> Optional[list[bytes]]:
        self._seen += data
        end = self._seen.find(b"\n")
        if end < 0 and len(self._seen) <= MAX_LINE_BYTES:
            return None
        if end < 0 or end > MAX_LINE_BYTES:
            raise RemoteProtocolError(f"not a vsock handshake: {bytes(self._seen[:MAX_LINE_BYTES])!r}")
        line = bytes(self._seen[:end])
        self.rest = bytes(self._seen[end + 1 :])
        return line.split(b" ")


def _number(word: bytes, line: list[bytes]) -> int:
    if not (word.isdigit() and len(word) <= 10 and int(word) <= MAX_PORT):
        raise RemoteProtocolError(f"not a vsock handshake: {b' '.join(line)!r}")
    return int(word)


class HandshakeClient(_Line):
    """The host's side: feed it bytes until it returns the number in the answer."""

    def receive_data(self, data: bytes) -> Optional[int]:
        """``None`` while the line is not whole; raises :class:`~fc_kernel.errors.RemoteProtocolError`."""
        line = self._receive(data)
        if line is None:
            return None
        if len(line) != 2 or line[0] != b"OK":
            raise RemoteProtocolError(f"not a vsock handshake: {b' '.join(line)!r}")
        return _number(line[1], line)


class HandshakeServer(_Line):
    """The listener's side: feed it bytes until it returns the requested port."""

    def receive_data(self, data: bytes) -> Optional[int]:
        """``None`` while the line is not whole; raises :class:`~fc_kernel.errors.RemoteProtocolError`."""
        line = self._receive(data)
        if line is None:
            return None
        if len(line) != 2 or line[0] != b"CONNECT":
            raise RemoteProtocolError(f"not a vsock handshake: {b' '.join(line)!r}")
        return _number(line[1], line)
