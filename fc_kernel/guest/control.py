"""The control connection: JSON-RPC 2.0, one object per line. Python 3.9, standard library."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Callable, Optional

from ..errors import RemoteProtocolError
from ..wire.methods import BAD_PARAMETERS, MAX_LINE_BYTES, NOT_A_REQUEST

if TYPE_CHECKING:
    from .interfaces import Params, Reply, Stream

BUFFER_BYTES = 1 << 16


class RpcError(Exception):
    """Is sent as an error response; ``code`` is JSON-RPC 2.0's, or one of :mod:`fc_kernel.wire.methods`."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


class Control:
    """Handler of the control connection. ``call(method, params, reply)`` carries out a call; ``reply`` may be called later."""

    def __init__(self, call: Callable[[str, Params, Reply], None]) -> None:
        self._call = call
        self._buffer = bytearray(BUFFER_BYTES)
        self._line = bytearray()
        self._out: deque[memoryview] = deque()
        self._stream: Optional[Stream] = None

    def connected(self, stream: Stream) -> None:
        """A new connection replaces an older one."""
        if self._stream is not None:
            self._stream.close("replaced by a new connection")
        self._stream = stream
        self._line.clear()

    def lost(self, _reason: str) -> None:
        """The connection is gone, with everything that was not sent."""
        self._stream = None
        self._out.clear()

    def get_buffer(self) -> memoryview:
        """The buffer that the stream receives into."""
        return memoryview(self._buffer)

    def buffer_updated(self, count: int) -> None:
        """The stream received ``count`` bytes."""
        self._line += self._buffer[:count]
        while True:
            line, newline, rest = self._line.partition(b"\n")
            if not newline:
                if len(self._line) > MAX_LINE_BYTES:
                    raise RemoteProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")
                return
            self._line = rest
            self._request(bytes(line))

    def notify(self, method: str, params: Params) -> bool:
        """Notify the host if it is connected; returns whether it is."""
        self._send({"jsonrpc": "2.0", "method": method, "params": params})
        return self._stream is not None

    def writable(self) -> None:
        """Send as much as the stream takes."""
        while self._stream is not None and self._out:
            sent = self._stream.send([self._out[0]])
            if self._stream is None or not self._out:
                return
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
                return
            self._out.popleft()

    def _request(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            number, method, params = request["id"], request["method"], request.get("params", {})
            if not (isinstance(method, str) and isinstance(params, dict) and isinstance(number, (int, str))):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            self._send({"jsonrpc": "2.0", "id": None, "error": {"code": NOT_A_REQUEST, "message": "not a request"}})
            return
        stream = self._stream

        def reply(result: object) -> None:
            if self._stream is not stream:
                return
            if isinstance(result, RpcError):
                self._send({"jsonrpc": "2.0", "id": number, "error": {"code": result.code, "message": str(result)}})
            else:
                self._send({"jsonrpc": "2.0", "id": number, "result": result})

        try:
            self._call(method, params, reply)
        except RpcError as error:
            reply(error)
        except (KeyError, TypeError, ValueError, OSError) as error:
            reply(RpcError(BAD_PARAMETERS, f"{method}: {type(error).__name__}: {error}"))

    def _send(self, message: Params) -> None:
        if self._stream is not None:
            self._out.append(memoryview(json.dumps(message).encode() + b"\n"))
            self.writable()
