"""The stream of events: in order, to all, over threads; who claims forks; and who is too slow."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fc_kernel.api.events import Event, ForkWanted, StateChanged
from fc_kernel.errors import StateError
from fc_kernel.host import stream as stream_module
from fc_kernel.host.stream import EventStream

WANTED = ForkWanted(kernel_id="k", request="r", tickets=[])


def changed(number: int) -> StateChanged:
    return StateChanged(kernel_id=str(number), state="running")


async def test_all_get_all_in_order_and_numbered() -> None:
    stream = EventStream()
    stream.publish(changed(0))
    async with stream.subscribe() as first, stream.subscribe() as second:
        threads = [threading.Thread(target=lambda: [stream.publish(changed(1)) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        got = [[(await anext(events)).seq for _ in range(200)] for events in (first, second)]
        for thread in threads:
            thread.join()
    assert got == [list(range(2, 202))] * 2
    assert stream.seq == 201


async def test_a_subscriber_of_another_loop() -> None:
    stream, seen, ready = EventStream(), list[Event](), threading.Event()

    async def follow() -> None:
        async with stream.subscribe() as events:
            ready.set()
            seen.append(await anext(events))

    thread = threading.Thread(target=lambda: asyncio.run(follow()))
    thread.start()
    assert await asyncio.to_thread(ready.wait, 20)
    assert stream.publish(changed(1))
    await asyncio.to_thread(thread.join)
    assert [event.kernel_id for event in seen] == ["1"]
    assert not stream.publish(changed(2)), "nobody is there any more"


async def test_who_is_asked_for_a_fork() -> None:
    """The newest who claims them; else the newest who would; and never somebody who only listens."""
    stream = EventStream()
    async with stream.subscribe():
        assert not stream.publish(WANTED)
        async with stream.subscribe("fallback") as fallback:
            assert stream.publish(WANTED)
            async with stream.subscribe("claim") as old, stream.subscribe("claim") as new:
                assert stream.publish(WANTED)
                stream.publish(changed(1))
                assert isinstance(await anext(new), ForkWanted)
                assert isinstance(await anext(old), StateChanged)
            assert [type(await anext(fallback)) for _ in range(2)] == [ForkWanted, StateChanged]


async def test_who_is_too_slow_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_PENDING", 3)
    stream = EventStream()
    async with stream.subscribe() as events:
        for number in range(10):
            stream.publish(changed(number))
        await asyncio.sleep(0)
        assert [(await anext(events)).seq for _ in range(3)] == [1, 2, 3]
        with pytest.raises(StateError, match="dropped"):
            await anext(events)
