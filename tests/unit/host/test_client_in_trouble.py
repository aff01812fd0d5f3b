"""This process's side of a host: it renews and follows, whatever goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.api.calls import Endpoints, OpenKernel, Settings, Started, StartKernel
from fc_kernel.api.events import Event, ForkWanted, StateChanged
from fc_kernel.api.models import ForkTicket
from fc_kernel.host import client as client_module
from fc_kernel.host.client import HostClient
from fc_kernel.host.standalone import StandaloneForks
from fc_kernel.host.stream import EventStream

from ...waiting import until

REQUEST = OpenKernel(kernel_id="k", key=b"", lease_s=60.0)
SETTINGS = Settings(
    image="i",
    monitor="m",
    minimum_tier="none",
    network="none",
    vcpu_count=1,
    mem_size_mib=1,
    start_timeout_s=1,
    argv=None,
)
TICKET = ForkTicket(ticket="t", kernel_id="p", snapshot_id="s", vm_id="v", name="n", scope="a.ipynb")


class Host:
    """As much of a host as a client needs; ``trouble`` is raised once by each of events and renewals."""

    def __init__(self, *trouble: Exception) -> None:
        self.stream = EventStream()
        self.of_events, self.of_renewals = list(trouble), list(trouble)
        self.renewed = 0
        self.closed: list[str] = []

    async def open(self, request: OpenKernel) -> Endpoints:
        return Endpoints(transport="ipc", ip="/nowhere", ports={"shell": 1})

    async def start(self, kernel_id: str, request: StartKernel) -> Started:
        self.stream.publish(StateChanged(kernel_id=kernel_id, state="running"))
        return Started(seq=self.stream.seq, settings=SETTINGS)

    async def close(self, kernel_id: str) -> None:
        self.closed.append(kernel_id)

    async def kernels(self) -> list[Any]:
        return []

    async def renew_lease(self, kernel_id: str) -> None:
        if self.of_renewals:
            raise self.of_renewals.pop()
        self.renewed += 1

    @asynccontextmanager
    async def events(self, *, forks: str = "none") -> AsyncIterator[AsyncIterator[Event]]:
        async with self.stream.subscribe("fallback") as events:
            if self.of_events:
                raise self.of_events.pop()
            yield events


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RENEW_EVERY_S", 0.01)
    monkeypatch.setattr(client_module, "FOLLOW_AGAIN_S", 0.01)


def client_of(host: Host) -> HostClient:
    serving: Any = host
    return HostClient(serving)


async def test_it_goes_on_after_what_nobody_expects() -> None:
    host = Host(ValueError("a mistake"))
    client = client_of(host)
    held = await client.open(REQUEST)
    held.keep()
    await held.start(StartKernel())
    await until(lambda: host.renewed > 1)
    assert not held.dead
    host.stream.publish(StateChanged(kernel_id="k", state="dead", returncode=3))
    await until(lambda: held.dead)
    assert held.returncode == 3
    await held.close()


async def test_a_death_that_nobody_heard_of() -> None:
    """Its events ended meanwhile; the host has no such kernel any more."""
    host = Host()
    client = client_of(host)
    held = await client.open(REQUEST)
    await held.start(StartKernel())
    await client._background().run(client._look_again())
    assert held.dead
    assert held.returncode == -signal.SIGKILL
    await held.close()


async def test_an_owner_that_is_collected_in_the_middle_of_an_opening() -> None:
    """The collector runs where it likes, and so in a thread that has the lock."""
    host = Host()
    client = client_of(host)

    def collected() -> None:
        with HostClient._lock:
            client.release("k", os.getpid())

    thread = threading.Thread(target=collected, name="Thread-collector", daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()
    await until(lambda: host.closed == ["k"])


async def test_a_fork_that_ends_before_it_is_known_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    host = Host()
    client = client_of(host)

    async def started(kernel_id: str, request: StartKernel) -> Started:
        seq = host.stream.seq
        held = client._kernels[kernel_id]
        host.stream.publish(StateChanged(kernel_id=kernel_id, state="dead", returncode=1))
        await until(lambda: held._death is not None)
        return Started(seq=seq, settings=SETTINGS)

    monkeypatch.setattr(host, "start", started)
    forks = StandaloneForks(client.open, lease_s=60.0)
    [made] = await forks.make(ForkWanted(kernel_id="p", request="r", tickets=[TICKET]))
    assert made.error == "the fork ended as soon as it had started"
    assert len(host.closed) == 1
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - a coroutine is not to use Path for this


async def test_a_start_overtakes_the_question_what_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is of a time at which nothing ran yet."""
    host = Host()
    client = client_of(host)
    held = await client.open(REQUEST)

    async def kernels() -> list[Any]:
        await held.start(StartKernel())
        return []

    monkeypatch.setattr(host, "kernels", kernels)
    await client._background().run(client._look_again())
    assert not held.dead
    await held.close()


async def test_what_is_cancelled_before_it_opens_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a kernel of that id, which is somebody else's."""
    host = Host()
    client = client_of(host)

    async def never() -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as waiting:
        waiting.setattr(client, "_follow", never)
        opening = asyncio.ensure_future(client.open(REQUEST))
        await asyncio.sleep(0.05)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    held = await client.open(REQUEST)
    await held.start(StartKernel())
    assert host.closed == []
    await held.close()
