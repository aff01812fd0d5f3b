"""The command line, called in this process; the guest agent's event loop, in a thread beside the test."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from traitlets.config import SingletonConfigurable

from fc_kernel.cli import FcKernelApp
from fc_kernel.guest.loop import POLLIN, Loop

T = TypeVar("T")
DEADLINE_S = 30.0


@dataclass(frozen=True)
class Called:
    """What a command did: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Call ``fc-kernel`` with these words, as its entry point does."""

    def call(*words: str) -> Called:
        capsys.readouterr()
        app = FcKernelApp()
        try:
            with pytest.raises(SystemExit) as caught:
                app.initialize(list(words))
                app.start()
        finally:
            app_or_command: Any = app
            while app_or_command is not None:
                # Applications are singletons of their process; the next call gets one of its own.
                if isinstance(app_or_command, SingletonConfigurable):
                    type(app_or_command).clear_instance()
                app_or_command = getattr(app_or_command, "subapp", None)
        code = caught.value.code
        out, err = capsys.readouterr()
        return Called(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    return call


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


@pytest.fixture
def guest_loop() -> Iterator[GuestLoop]:
    guest = GuestLoop()
    yield guest
    guest.close()
