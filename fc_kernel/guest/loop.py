"""The agent's event loop: one thread, ZeroMQ's poller over sockets and descriptors, timers. No asyncio.

Importing asyncio alone costs a third of a second in an emulated guest. Python 3.9, pyzmq.
"""

from __future__ import annotations

import heapq
import itertools
import time
from typing import Any, Callable, Union

import zmq

#: Plain numbers, because operations on the enumeration's members are slow.
POLLIN = int(zmq.POLLIN)
POLLOUT = int(zmq.POLLOUT)

Source = Union[int, "zmq.Socket[Any]"]


class Loop:
    """Calls back when a source is ready or a time has come."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._callbacks: dict[Source, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = True

    def watch(self, source: Source, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` when ``source`` (a descriptor or a ZeroMQ socket) is ready; replaces its earlier watch."""
        self._poller.register(source, events)
        self._callbacks[source] = callback

    def unwatch(self, source: Source) -> None:
        """Forget a source; nothing happens if it is not watched."""
        if self._callbacks.pop(source, None) is not None:
            self._poller.unregister(source)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back once, after the delay."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), callback))

    def stop(self) -> None:
        """Make :meth:`run` return after the current round."""
        self._running = False

    def run(self) -> None:
        """Run until :meth:`stop`."""
        callbacks = self._callbacks
        while self._running:
            timeout_ms = -1
            if self._timers:
                timeout_ms = max(0, int((self._timers[0][0] - time.monotonic()) * 1000) + 1)
            for source, events in self._poller.poll(timeout_ms):
                callback = callbacks.get(source)
                if callback is not None:
                    callback(events)
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()
