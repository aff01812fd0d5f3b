"""JSON-RPC 2.0 over a stream to the guest agent: one object a line. What comes from the guest is untrusted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

from ..base.text import without_controls
from ..errors import AgentError, AgentUnreachable, RemoteProtocolError
from ..wire.methods import MAX_LINE_BYTES

#: How much is read and parsed before other kernels get their turn on the loop.
READ_BYTES = 1 << 14
#: The limit on messages that no call waits for: a kernel's end, and a cell's requests, each of which is answered. Restarts
#: by hand stay far below it.
MAX_UNAWAITED = 64
PER_S = 10.0
MAX_ERROR_CHARS = 4000


class RpcCodec:
    """Sans-io: lines in, responses and notifications out."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._next_id = 0

    def request(self, method: str, params: dict[str, Any]) -> tuple[int, bytes]:
        """The id and the bytes of a request."""
        self._next_id += 1
        message = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}
        return self._next_id, json.dumps(message).encode() + b"\n"

    def asked(self, number: object) -> bool:
        """Whether a request had this id."""
        return isinstance(number, int) and 0 < number <= self._next_id

    def receive_data(self, data: bytes) -> list[dict[str, Any]]:
        """The objects in ``data``; raises :class:`~fc_kernel.errors.RemoteProtocolError` and nothing else."""
        self._line += data
        if b"\n" not in data and len(self._line) <= MAX_LINE_BYTES:
            return []
        *lines, rest = self._line.split(b"\n")
        if len(rest) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise RemoteProtocolError(f"the guest agent sent a line of more than {MAX_LINE_BYTES} bytes")
        self._line = bytearray(rest)
        return [self._message(line) for line in lines]

    @staticmethod
    def _message(line: bytearray) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError(f"the guest agent sent no JSON: {error}") from None
        if not isinstance(message, dict) or ("id" in message) == ("method" in message):
            raise RemoteProtocolError("the guest agent sent neither a response nor a notification")
        return message


class RpcConnection:
    """One connection. ``on_notification(method, params)`` and ``on_lost(reason, fatal)`` run on the loop.

    A loss is fatal, and dialling again useless, when the guest broke the protocol.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_notification: Callable[[str, dict[str, Any]], None],
        on_lost: Callable[[str, bool], None],
    ) -> None:
        self._sock = sock
        self._codec = RpcCodec()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._on_notification = on_notification
        self._on_lost = on_lost
        self._unawaited = 0
        self._counted_since = 0.0
        self._write_lock = asyncio.Lock()
        self._reader = asyncio.get_running_loop().create_task(self._read(), name="agent-control")

    @property
    def alive(self) -> bool:
        """Whether the connection is up."""
        return not self._reader.done()

    def answering(self) -> None:
        """The next call answers a notification, so that notification does not count as unasked."""
        self._unawaited = max(0, self._unawaited - 1)

    async def call(self, method: str, params: dict[str, Any], *, timeout_s: float) -> Any:
        """The result of a call, as the guest sent it.

        Raises :class:`~fc_kernel.errors.AgentError` when the agent refuses, and
        :class:`~fc_kernel.errors.AgentUnreachable` when it does not answer in time or the connection breaks.
        """
        number, data = self._codec.request(method, params)
        if self._reader.done():
            raise AgentUnreachable(f"{method}: the connection to the guest agent is gone")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(timeout_s):
                async with self._write_lock:
                    await asyncio.get_running_loop().sock_sendall(self._sock, data)
                return await answer
        except TimeoutError:
            raise AgentUnreachable(f"{method}: the guest agent did not answer within {timeout_s:g} s") from None
        except OSError as error:
            raise AgentUnreachable(f"{method}: the connection to the guest agent broke: {error}") from error
        finally:
            self._waiting.pop(number, None)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        reason, fatal = "closed by the guest", False
        try:
            while data := await loop.sock_recv(self._sock, READ_BYTES):
                for message in self._codec.receive_data(data):
                    self._dispatch(message)
                # Receiving does not yield while there is something to receive: a flood would occupy the loop.
                await asyncio.sleep(0)
        except (OSError, RemoteProtocolError) as error:
            reason, fatal = str(error), isinstance(error, RemoteProtocolError)
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(AgentUnreachable(f"the connection to the guest agent is gone: {reason}"))
        self._on_lost(reason, fatal)

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "method" in message:
            self._count_unawaited()
            params = message.get("params", {})
            if isinstance(message["method"], str) and isinstance(params, dict):
                self._on_notification(message["method"], params)
            return
        answer = self._waiting.get(message["id"]) if isinstance(message["id"], int) else None
        if answer is None or answer.done():
            if self._codec.asked(message["id"]):
                self._count_unawaited()
                return  # the answer to a call whose caller has given up
            raise RemoteProtocolError(f"the guest agent answered a call that nobody made: {message['id']!r:.40}")
        error = message.get("error")
        if error is None:
            answer.set_result(message.get("result"))
        elif isinstance(error, dict):
            code = error.get("code")
            text = without_controls(str(error.get("message", ""))[:MAX_ERROR_CHARS])
            answer.set_exception(AgentError(text, code=code if isinstance(code, int) else 0))
        else:
            raise RemoteProtocolError("the guest agent sent an error that is no object")

    def _count_unawaited(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._counted_since > PER_S:
            self._unawaited, self._counted_since = 0, now
        self._unawaited += 1
        if self._unawaited > MAX_UNAWAITED:
            raise RemoteProtocolError(f"the guest agent sent over {MAX_UNAWAITED} unasked messages in {PER_S:g} s")

    async def aclose(self) -> None:
        """End the reader and close the socket."""
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        self._sock.close()
