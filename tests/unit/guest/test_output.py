"""The kernel's streams in the guest: an interrupt in the middle of one comes out of it, once, and leaves it whole."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ipykernel.iostream import IOPubThread, OutStream
from jupyter_client.session import Session

from fc_kernel.guest.in_kernel.output import GuardedOutStream, guard

from ...waiting import eventually


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def handler() -> Iterator[None]:
    """The guard is this process's SIGINT handler."""
    before = guard.install()
    yield
    signal.signal(signal.SIGINT, before)
    assert not guard.pending


class Sender(IOPubThread):
    """The thread that sends, without a socket."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.io_loop: Any = SimpleNamespace(call_later=lambda _delay_s, _callback: None)
        self.thread = threading.Thread(target=self._work, name="sender")
        self.thread.start()

    def schedule(self, f: Callable[[], object] | None) -> None:
        self._todo.put(f)

    def send_multipart(self, *args: object, **kwargs: object) -> None:
        pass

    def _work(self) -> None:
        while (todo := self._todo.get()) is not None:
            todo()


@pytest.fixture
def stream(handler: None) -> Iterator[GuardedOutStream]:
    sender = Sender()
    make: Any = GuardedOutStream
    stream = make(Session(key=b"k"), sender, "stdout", watchfd=False)
    yield stream
    sender.schedule(None)
    sender.thread.join()


def written(stream: OutStream) -> str:
    return "".join(text for _, text in stream._flush_buffers())


def test_an_interrupt_within_a_write_comes_after_it(stream: GuardedOutStream, monkeypatch: pytest.MonkeyPatch) -> None:
    def scheduling(_self: OutStream) -> None:
        for _ in range(3):
            interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(OutStream, "_schedule_flush", scheduling)
        with pytest.raises(KeyboardInterrupt):
            stream.write("one")
    stream.write("two")
    assert written(stream) == "onetwo", "three signals within the write were one interrupt, and none is left"


def test_an_interrupt_ends_the_wait_for_a_slow_reader(stream: GuardedOutStream) -> None:
    stream.flush_timeout = 600
    gate, waits = threading.Event(), threading.Event()

    def waiting() -> None:
        waits.set()
        gate.wait()

    stream.pub_thread.schedule(waiting)
    main = threading.get_ident()

    def signalling() -> None:
        waits.wait()
        eventually(lambda: guard._depth, "the main thread is in flush()")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=signalling, name="signalling")
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            stream.flush()
    finally:
        gate.set()
        thread.join()
    stream.flush()


def test_outside_of_a_stream_it_comes_at_once(handler: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_an_error_of_the_stream_does_not_hide_the_interrupt(handler: None) -> None:
    def broken() -> None:
        with guard:
            interrupt()
            raise ValueError("in the stream")

    with pytest.raises(KeyboardInterrupt) as caught:
        broken()
    assert isinstance(caught.value.__context__, ValueError)


def test_nested_code_is_left_first(handler: None) -> None:
    seen = []

    def nested() -> None:
        with guard:
            with guard:
                interrupt()
            seen.append("after the inner one")

    with pytest.raises(KeyboardInterrupt):
        nested()
    assert seen == ["after the inner one"]


@pytest.mark.parametrize("use", [lambda stream: stream.write("x"), lambda stream: stream.flush()])
def test_another_thread_is_not_the_main_one(stream: GuardedOutStream, use: Callable[[OutStream], object]) -> None:
    depths = []

    def using() -> None:
        use(stream)
        depths.append(guard._depth)

    thread = threading.Thread(target=using, name="other")
    thread.start()
    thread.join()
    assert depths == [0]
