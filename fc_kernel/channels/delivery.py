"""Sending to clients that may not read: wait a while for a slow one, cut off a dead one, use bounded memory for both."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq

from ..wire.frames import Buffer
from .eviction import evict_stalled

log = logging.getLogger(__name__)

#: A client that takes nothing for this long loses messages; until then they are kept, so that a browser that is busy
#: drawing loses nothing. A subscriber is cut off, because ZeroMQ cannot skip just one.
PATIENCE_S = 5.0
#: A dead client is soon full again, even after its ZeroMQ has reconnected: each time the wait is halved, down to this.
LEAST_PATIENCE_S = 0.25
#: ZeroMQ's own queues count messages. The bytes of messages of the first size or more are counted here, up to the second.
COUNTED_BYTES = 64 << 10
MAX_QUEUED_BYTES = 32 << 20
#: When this much waits for the clients of a ROUTER, the guest is not read any more; below it, others get their replies.
MAX_WAITING_MESSAGES = 64
MAX_WAITING_BYTES = 16 << 20


@dataclass
class _Queue:
    """What one client of a ROUTER, or all subscribers together, have not taken yet."""

    patience_s: float
    waiting: deque[tuple[Sequence[Any], int]] = field(default_factory=deque)
    since: float = 0.0
    cut_off: bool = False
    #: Large messages in ZeroMQ's hands, oldest first.
    counted: deque[tuple[zmq.MessageTracker, int]] = field(default_factory=deque)
    counted_bytes: int = 0

    def forget_taken(self) -> None:
        """Stop counting what ZeroMQ has released."""
        while self.counted and self.counted[0][0].done:
            self.counted_bytes -= self.counted.popleft()[1]

    def full(self, size: int) -> bool:
        """Whether ZeroMQ holds too much to be given ``size`` bytes more; one large message is always taken."""
        self.forget_taken()
        return bool(self.counted) and self.counted_bytes + size > MAX_QUEUED_BYTES


class Delivery:
    """One bound ROUTER or XPUB. While :attr:`blocked` the caller should bring no more; :meth:`retry` tries again."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._socket = socket
        self._publishes = bool(socket.type == zmq.XPUB)
        #: By the client's identity; only those for whom something is counted or waits.
        self._queues: dict[bytes, _Queue] = {}
        self._waiting_messages = 0
        self._waiting_bytes = 0

    @property
    def waiting(self) -> bool:
        """Whether :meth:`retry` has something to do."""
        return self._waiting_messages > 0

    @property
    def blocked(self) -> bool:
        """Whether so much waits that no more should come. Of a publisher's subscribers the slowest decides."""
        if self._publishes:
            return self.waiting
        return self._waiting_messages >= MAX_WAITING_MESSAGES or self._waiting_bytes >= MAX_WAITING_BYTES

    def send(self, frames: Sequence[Buffer]) -> None:
        """Send, or keep until there is room. For a ROUTER the first frame is the client's identity."""
        key = b"" if self._publishes else bytes(frames[0])
        size = sum(map(len, frames))
        queue = self._queues.get(key)
        if queue is None and size >= COUNTED_BYTES:
            queue = self._new_queue(key)
        if queue is None or not queue.waiting:
            if self._try(queue, frames, size):
                return
            queue = queue or self._new_queue(key)
            queue.since = time.monotonic()
        queue.waiting.append((frames, size))
        self._waiting_messages += 1
        self._waiting_bytes += size

    def retry(self) -> None:
        """Send what waits; a client that took nothing for :data:`PATIENCE_S` loses it."""
        if self._waiting_messages:
            for queue in list(self._queues.values()):
                if queue.waiting:
                    self._retry(queue)

    def _new_queue(self, key: bytes) -> _Queue:
        for other, queue in list(self._queues.items()):
            queue.forget_taken()
            if not (queue.counted or queue.waiting) and queue.patience_s == PATIENCE_S:
                del self._queues[other]
        queue = self._queues[key] = _Queue(PATIENCE_S)
        return queue

    def _retry(self, queue: _Queue) -> None:
        now = time.monotonic()
        while queue.waiting and self._try(queue, *queue.waiting[0]):
            self._taken(queue)
            queue.since = now
        if not queue.waiting:
            if not queue.cut_off:
                queue.patience_s = PATIENCE_S
            queue.cut_off = False
        elif now - queue.since > queue.patience_s:
            self._lose_patience(queue)
            queue.since = now

    def _lose_patience(self, queue: _Queue) -> None:
        log.warning("a client of the kernel did not read for %.3g s; it loses messages", queue.patience_s)
        queue.patience_s = max(queue.patience_s / 2, LEAST_PATIENCE_S)
        queue.cut_off = self._publishes and bool(evict_stalled(self._socket.getsockopt_string(zmq.LAST_ENDPOINT)))
        while queue.waiting and not queue.cut_off:
            self._taken(queue)

    def _taken(self, queue: _Queue) -> None:
        self._waiting_bytes -= queue.waiting.popleft()[1]
        self._waiting_messages -= 1

    def _try(self, queue: _Queue | None, frames: Sequence[Buffer], size: int) -> bool:
        tracker = None
        parts: Sequence[Any] = frames
        if queue is not None and size >= COUNTED_BYTES:
            if queue.full(size):
                return False
            # The largest part stands for all: they leave together.
            largest = max(range(len(frames)), key=lambda index: len(frames[index]))
            frame = zmq.Frame(frames[largest], copy=False, track=True)
            tracker = frame.tracker
            parts = [*frames[:largest], frame, *frames[largest + 1 :]]
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            # The client of a reply is gone (EHOSTUNREACH): nobody waits for it.
            log.debug("a message could not be sent: %s", error)
            return True
        if queue is not None and tracker is not None:
            queue.counted.append((tracker, size))
            queue.counted_bytes += size
        return True
