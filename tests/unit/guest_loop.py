"""The guest agent's event loop, running in a thread beside a test."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from fc_kernel.guest.loop import POLLIN, Loop

T = TypeVar("T")
DEADLINE_S = 30.0


class GuestLoop:
    """A running loop; what belongs to it is made and asked through :meth:`call`, on its thread."""

    def __init__(self) -> None:
        self.loop = Loop()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waker, self._woken = socket.socketpair()
        self.loop.watch(self._woken.fileno(), POLLIN, self._called)
        self._thread = threading.Thread(target=self.loop.run, name="guest-loop")
        self._thread.start()

    def _called(self, _events: int) -> None:
        for _ in self._woken.recv(4096):
            self._calls.get()()

    def call(self, function: Callable[[], T]) -> T:
        """Run on the loop's thread and return the result."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self._calls.put(run)
        self._waker.send(b"x")
        return done.result(DEADLINE_S)

    def close(self) -> None:
        self.call(self.loop.stop)
        self._thread.join()
        self._waker.close()
        self._woken.close()


@contextmanager
def running_loop() -> Iterator[GuestLoop]:
    guest = GuestLoop()
    yield guest
    guest.close()
