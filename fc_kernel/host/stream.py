"""One ordered stream of events for any number of subscribers, each on an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

from ..api.calls import ForkClaim
from ..api.events import Event, ForkWanted
from ..errors import StateError

#: How many events may wait for a subscriber; from then on it loses events, and is told so.
MAX_PENDING = 1000


class Subscription:
    """An iterator over events, on the loop on which it was made."""

    def __init__(self, forks: ForkClaim) -> None:
        self.forks = forks
        self._loop = asyncio.get_running_loop()
        # One more place, for the mark that events were dropped.
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(MAX_PENDING + 1)

    def push(self, event: Event) -> bool:
        """Give an event to the subscriber, from any thread; false when its loop has ended."""
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:
            return False
        return True

    def _put(self, event: Event) -> None:
        if self._queue.qsize() < MAX_PENDING:
            self._queue.put_nowait(event)
        elif not self._queue.full():
            self._queue.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[Event]:
        """Itself."""
        return self

    async def __anext__(self) -> Event:
        """The next event; raises :class:`~fc_kernel.errors.StateError` at the place where events were dropped."""
        event = await self._queue.get()
        if event is None:
            raise StateError(f"this subscriber has fallen more than {MAX_PENDING} events behind; some were dropped")
        return event


class EventStream:
    """Numbers events and passes them to all subscribers; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: list[Subscription] = []
        self._seq = 0

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self._seq

    def publish(self, event: Event) -> bool:
        """Number an event and pass it on; returns whether anybody gets it."""
        with self._lock:
            self._seq += 1
            numbered = event.model_copy(update={"seq": self._seq})
            meant = [self._claimer()] if isinstance(event, ForkWanted) else list(self._subscribers)
            reached = [each for each in meant if each is not None and each.push(numbered)]
            return bool(reached)

    def _claimer(self) -> Subscription | None:
        for claim in ("claim", "fallback"):
            found = [each for each in self._subscribers if each.forks == claim]
            if found:
                return found[-1]
        return None

    @contextlib.asynccontextmanager
    async def subscribe(self, forks: ForkClaim = "none") -> AsyncIterator[AsyncIterator[Event]]:
        """All events from now on until the end of the context."""
        subscription = Subscription(forks)
        with self._lock:
            self._subscribers.append(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscribers.remove(subscription)
