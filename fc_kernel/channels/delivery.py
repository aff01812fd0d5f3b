"""Sending to clients that may not read: wait a while for a slow one, never for a dead one."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq

log = logging.getLogger(__name__)

#: A client that makes no room for so long loses messages, as it does with a plain kernel; until then the kernel waits,
#: so that a browser that is busy drawing loses nothing.
PATIENCE_S = 5.0


class Delivery:
    """One bound socket. While :attr:`blocked` the caller should bring no more; :meth:`retry` tries again."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._socket = socket
        self._waiting: deque[Sequence[Any]] = deque()
        self._since = 0.0
        self._patient = True
        self._drops = bool(socket.type == zmq.XPUB)

    @property
    def blocked(self) -> bool:
        """Whether a client's queue is full."""
        return bool(self._waiting)

    def send(self, frames: Sequence[Any]) -> None:
        """Send, or keep until there is room."""
        if self._waiting or not self._try(frames):
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append(frames)
            if not self._patient:
                self._force()

    def retry(self) -> None:
        """Send what waits; after :data:`PATIENCE_S` without room, without the clients that do not read."""
        while self._waiting:
            if not self._try(self._waiting[0]):
                if time.monotonic() - self._since > PATIENCE_S:
                    if self._patient:
                        log.warning("a client does not read; it loses messages until it does")
                    self._patient = False
                    self._force()
                return
            self._waiting.popleft()
            self._since = time.monotonic()

    def _try(self, frames: Sequence[Any]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            # The client of a reply is gone (EHOSTUNREACH): nobody waits for it.
            log.debug("a message could not be sent: %s", error)
        else:
            self._patient = True
        return True

    def _force(self) -> None:
        if self._drops:
            self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            while self._waiting:
                frames = self._waiting.popleft()
                if self._drops:
                    self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        finally:
            if self._drops:
                self._socket.setsockopt(zmq.XPUB_NODROP, 1)
