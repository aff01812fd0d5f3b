"""The switchboard: clients' sockets on one side, the tunnel to the guest on the other, whole messages between them.

One per kernel, in a thread of its own with ZeroMQ's poller, because a caller's event loop may run only now and then (a
blocking ``KernelManager`` runs one only during its own calls). Clients never see a reconnect, whatever happens behind it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import zmq

from ..errors import RemoteProtocolError, StateError
from ..wire.frames import oversize
from ..wire.ports import CHANNEL_PORTS
from .delivery import Delivery
from .endpoints import BoundSockets, ClientEndpoints
from .inflight import InFlight, request_of
from .signing import SIGNATURE_BYTES, Composer, Signer, header_of, split
from .synthesized import Answers, Rollback
from .tunnel import POLLIN, Tunnel

log = logging.getLogger(__name__)

#: How many messages of one socket are passed on before the others get their turn.
BURST = 64
#: How long a poll lasts while a client's queue is full: ZeroMQ does not say when there is room again.
RETRY_MS = 2

Frames = list[Any]


class Switchboard:
    """Stable endpoints for clients; :meth:`attach` puts a guest behind them, :meth:`detach` takes it away."""

    def __init__(
        self,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        signature_scheme: str = "hmac-sha256",
        on_tunnel_lost: Callable[[str, bool], None] | None = None,
    ) -> None:
        """``on_tunnel_lost(reason, fatal)`` is called on the switchboard's thread when a connection to the guest breaks.

        It is fatal, and dialling again of no use, when the guest broke the protocol.
        """
        self._endpoints = endpoints
        self._clients = Signer(key, signature_scheme)
        self._guest = Signer(b"")
        self._composer = Composer(self._clients)
        self._generation = 0
        #: The id of a request whose cell was cut off by a restore.
        self._silenced: str | None = None
        #: Whether the restored kernel has a new key: what is signed with another is from before the restore.
        self._rekeyed = False
        self._on_tunnel_lost = on_tunnel_lost
        #: Error name and reason of the kernel's end, until the next guest is attached.
        self._ended: tuple[str, str] | None = None
        self._in_flight = InFlight()
        self._malformed = 0
        self._tunnels = {channel: Tunnel(channel) for channel in CHANNEL_PORTS}
        self._attached: Future[None] | None = None
        self._context: zmq.Context[Any] = zmq.Context()
        self._bound: BoundSockets | None = None
        self._delivery: dict[str, Delivery] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._running = False
        self.failure: BaseException | None = None

    def start(self) -> dict[str, int]:
        """Bind all sockets and serve; returns the port of each channel. Raises :class:`~fc_kernel.errors.ConfigError`."""
        if self._thread is not None:
            raise StateError("the switchboard was started before")
        try:
            self._bound = BoundSockets(self._context, self._endpoints)
        except BaseException:
            self._context.term()
            raise
        self._delivery = {channel: Delivery(self._bound.sockets[channel]) for channel in CHANNEL_PORTS}
        self._answers = Answers(self._composer, self._delivery)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._running = True
        self._thread = threading.Thread(target=self._serve, name="fc-kernel-switchboard", daemon=True)
        self._thread.start()
        return self._bound.ports

    def attach(
        self,
        sockets: Mapping[str, socket.socket],
        *,
        guest_key: bytes,
        generation: int,
        rollback: Rollback | None = None,
    ) -> Future[None]:
        """Take over connected sockets, one for each channel; the future is done when all tunnels are up.

        The same generation as before goes on where it was: messages that were not acknowledged are sent again. A new one
        starts from zero. With a ``rollback`` the waiting requests are answered in the same step: whatever clients send
        afterwards goes to the new guest, and nothing from the old one reaches them any more.
        """
        done: Future[None] = Future()

        def command() -> None:
            joined = [(tunnel, sockets[channel]) for channel, tunnel in self._tunnels.items()]
            self._drop_tunnels("the connection was replaced")
            self._attached, self._ended = done, None
            self._guest = Signer(guest_key)
            if generation != self._generation:
                self._generation, self._silenced = generation, rollback.silenced if rollback is not None else None
                self._rekeyed = rollback is not None and rollback.rekeyed
            again = self._answers.roll_back(self._in_flight, rollback) if rollback is not None else []
            for tunnel, sock in joined:
                if rollback is not None:
                    tunnel.forget()
                tunnel.attach(sock, generation)
            for request in again:
                self._in_flight.sent(request, request.frames, request.delimiter)
                self._tunnels[request.channel].send(request.frames, request.delimiter, self._guest)
            for tunnel, _sock in joined:
                tunnel.release(self._guest)

        def commanded(submitted: Future[None]) -> None:
            error = None if submitted.cancelled() else submitted.exception()
            if submitted.cancelled() or error is not None:
                for sock in sockets.values():
                    sock.close()
                if not done.done():
                    done.set_exception(error or StateError("the kernel's endpoints are closed"))

        self._submit(command).add_done_callback(commanded)
        return done

    def detach(self, *, ename: str = "KernelDied", reason: str | None = None) -> Future[None]:
        """Disconnect the guest. With a reason every request in flight is answered with that error and goes idle.

        What clients send afterwards waits for the next guest, except requests to shut down, which are answered at once.
        """
        return self._submit(lambda: self._detach(ename, reason))

    def link(self) -> Future[None]:
        """Give ``ipc`` sockets their public names again."""
        bound = self._bound
        return self._submit(lambda: bound.link() if bound is not None and self._endpoints.transport == "ipc" else None)

    def close(self) -> None:
        """Stop serving and release everything; may be called twice."""
        if self._thread is None:
            self._context.term()
            return
        if self._thread.is_alive():

            def stop() -> None:
                self._running = False

            self._submit(stop)
            self._thread.join()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def _submit(self, command: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()

        def run() -> None:
            try:
                command()
                done.set_result(None)
            except Exception as error:  # noqa: BLE001 - handed to the caller
                done.set_exception(error)

        self._commands.append(run)
        try:
            os.eventfd_write(self._wake, 1)
        except (OSError, ValueError):  # closed: the descriptor is gone, or its number is -1
            done.cancel()
        return done

    def _serve(self) -> None:
        assert self._bound is not None  # noqa: S101 - start has bound
        try:
            while self._running:
                self._round(self._bound.sockets)
        except BaseException as error:
            log.exception("the switchboard failed")
            self.failure = error
            if self._on_tunnel_lost is not None:
                self._on_tunnel_lost(f"the switchboard failed: {error}", True)
        finally:
            self._drop_tunnels("the kernel's endpoints are closed")
            self._bound.close()
            self._context.term()

    def _round(self, sockets: dict[str, zmq.Socket[Any]]) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, POLLIN)
        poller.register(sockets["hb"], POLLIN)
        poller.register(sockets["iopub"], POLLIN)
        waiting = False
        for channel, tunnel in self._tunnels.items():
            delivery = self._delivery[channel]
            waiting = waiting or delivery.waiting
            if channel != "iopub" and tunnel.takes_more:
                poller.register(sockets[channel], POLLIN)
            if events := tunnel.events(reading=not delivery.blocked):
                poller.register(tunnel.fileno(), events)
        ready: dict[Any, int] = dict(poller.poll(RETRY_MS if waiting else None))
        if self._wake in ready:
            os.eventfd_read(self._wake)
            while self._commands:
                self._commands.popleft()()
            return
        if sockets["hb"] in ready:
            sockets["hb"].send_multipart(sockets["hb"].recv_multipart())
        if sockets["iopub"] in ready:
            self._subscriptions(sockets["iopub"])
        # Control first: an interrupt or a debugger's pause does not wait behind a flood.
        for channel in ("control", "stdin", "shell", "iopub"):
            tunnel = self._tunnels[channel]
            self._delivery[channel].retry()
            if channel != "iopub" and sockets[channel] in ready:
                self._from_clients(channel, sockets[channel])
            if tunnel.connected and (events := ready.get(tunnel.fileno(), 0)):
                self._tunnel_ready(tunnel, events)

    def _tunnel_ready(self, tunnel: Tunnel, events: int) -> None:
        try:
            for message in tunnel.ready(events):
                self._from_guest(tunnel.channel, message)
        except (OSError, RemoteProtocolError) as error:
            self._tunnel_lost(tunnel, error)
            return
        if self._attached is not None and all(tunnel.established for tunnel in self._tunnels.values()):
            attached, self._attached = self._attached, None
            attached.set_result(None)

    def _tunnel_lost(self, tunnel: Tunnel, error: Exception) -> None:
        fatal = isinstance(error, RemoteProtocolError)
        reason = f"the {tunnel.channel} connection to the guest broke: {error}"
        self._drop_tunnels(reason)
        if self._on_tunnel_lost is not None:
            self._on_tunnel_lost(reason, fatal)

    def _drop_tunnels(self, reason: str) -> None:
        for tunnel in self._tunnels.values():
            tunnel.drop()
        if self._attached is not None:
            attached, self._attached = self._attached, None
            attached.set_exception(RemoteProtocolError(f"the guest did not greet: {reason}"))

    def _from_clients(self, channel: str, source: zmq.Socket[Any]) -> None:
        tunnel = self._tunnels[channel]
        for _ in range(BURST):
            if not tunnel.takes_more:
                return
            try:
                frames: Frames = [frame.buffer for frame in source.recv_multipart(zmq.NOBLOCK, copy=False)]
            except zmq.Again:
                return
            try:
                at = split(frames)
                signed = frames[at + 2 : at + 6]
                if not self._clients.valid(frames[at + 1], signed):
                    raise RemoteProtocolError("a wrong signature")
                header = header_of(frames[at + 2])
            except RemoteProtocolError as error:
                log.warning("a client's message on %s was dropped: %s", channel, error)
                continue
            request = request_of(channel, frames[:at], header, frames[at + 2]) if channel != "stdin" else None
            # The guest's signature, which has this length, replaces the client's.
            frames[at + 1] = bytes(SIGNATURE_BYTES)
            if problem := oversize(frames):
                log.warning("a client's message on %s was refused: %s", channel, problem)
                if request is not None:
                    self._answers.error(request, "MessageTooLarge", problem)
                continue
            if self._ended is not None and request is not None and request.kind == "shutdown":
                # A manager that restarts a dead kernel asks it to shut down first. If held, this would end the next kernel.
                self._answers.error(request, *self._ended)
                continue
            if request is not None:
                self._in_flight.sent(request, frames, at)
            tunnel.send(frames, at, self._guest)

    def _from_guest(self, channel: str, frames: Frames) -> None:
        """Pass on a guest's message; a malformed one is dropped, as a client of an ordinary kernel would do."""
        try:
            at = split(frames)
            signed = frames[at + 2 : at + 6]
            if not self._takes(channel, signed):
                return
            if self._rekeyed and channel == "iopub" and not self._guest.valid(frames[at + 1], signed):
                return
        except RemoteProtocolError as error:
            self._malformed += 1
            if self._malformed & (self._malformed - 1) == 0:
                log.warning(
                    "%d messages of the guest were dropped, the last on %s: %s", self._malformed, channel, error
                )
            return
        frames[at + 1] = self._clients.sign(signed)
        self._delivery[channel].send(frames)

    def _takes(self, channel: str, signed: Frames) -> bool:
        """Note what a message means for its request; returns whether clients should get it."""
        if channel == "iopub":
            # The kernel welcomes its subscriber in the guest; our clients are welcomed from here.
            kind = bytes(signed[0][:4096])
            if b'"iopub_welcome"' in kind:
                return False
            if self._silenced is not None and header_of(signed[1]).get("msg_id") == self._silenced:
                return False
            if b'"status"' in kind:
                if self._rekeyed and self._in_flight.ended(header_of(signed[1])):
                    # The restored kernel finishes a request that was ended before the restore.
                    return False
                state = bytes(signed[3][:256])
                if b'"idle"' in state:
                    self._in_flight.idle(header_of(signed[1]))
                elif b'"busy"' in state:
                    self._in_flight.busy(header_of(signed[1]))
        elif channel != "stdin":
            # A reply that nobody waits for is from before a restore, or a kernel's mistake.
            return self._in_flight.replied(header_of(signed[1]))
        return True

    def _subscriptions(self, iopub: zmq.Socket[Any]) -> None:
        for _ in range(BURST):
            try:
                request = iopub.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if request[:1] == b"\x01":
                topic = request[1:]
                content = {"subscription": topic.decode("utf-8", "replace")}
                self._delivery["iopub"].send(self._composer.message("iopub_welcome", content, identities=[topic]))

    def _detach(self, ename: str, reason: str | None) -> None:
        self._drop_tunnels(reason or "it was disconnected")
        if reason is None:
            return
        self._ended = ename, reason
        for tunnel in self._tunnels.values():
            tunnel.forget()
        for request in self._in_flight.take_all():
            self._answers.error(request, ename, reason)
