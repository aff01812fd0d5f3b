"""Who dials a guest, and when: what is missing, what was dropped, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from fc_kernel.errors import AgentUnreachable, MonitorExited, StateError
from fc_kernel.machine.links import Links
from fc_kernel.vmm.base import Capability
from fc_kernel.wire.ports import CHANNEL_PORTS, CONTROL_PORT

CHANNELS = Counter(CHANNEL_PORTS.values())
ALL = CHANNELS + Counter([CONTROL_PORT])


class Guest:
    """A hybrid-vsock listener that takes every connection, and a monitor that runs until it is told to end."""

    def __init__(self, directory: Path) -> None:
        self.uds_path = directory / "v.sock"
        self.capabilities = frozenset({Capability.SNAPSHOT_KEEPS_CONNECTIONS})
        self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.dialled: Counter[int] = Counter()
        self.streams: list[tuple[int, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.lost: list[tuple[str, bool]] = []

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._connected, self.uds_path)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int((await reader.readline()).split()[1])
        self.streams.append((port, reader, writer))
        await self.answers.wait()
        writer.write(b"OK 1\n")
        self.dialled[port] += 1

    async def wait(self) -> Any:
        return await asyncio.shield(self.ended)

    def links(self) -> Links:
        vmm: Any = self
        return Links(vmm, on_notification=lambda *_: None, on_lost=lambda *how: self.lost.append(how))

    async def is_closed(self, port: int) -> bool:
        """Whether the host has closed its first connection to a port."""
        reader = next(reader for each, reader, _ in self.streams if each == port)
        async with asyncio.timeout(2):
            return await reader.read(1) == b""


@pytest_asyncio.fixture
async def guest(tmp_path: Path) -> AsyncIterator[Guest]:
    guest = Guest(tmp_path)
    server = await guest.serve()
    yield guest
    guest.answers.set()
    await asyncio.sleep(0.01)
    server.close()
    for *_, writer in guest.streams:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    await server.wait_closed()
    guest.ended.cancel()


def close(sockets: dict[str, socket.socket]) -> None:
    for sock in sockets.values():
        sock.close()


async def test_without_a_generation_only_the_agent_is_dialled(guest: Guest) -> None:
    links = guest.links()
    with pytest.raises(StateError, match="not connected"):
        _ = links.agent
    assert not links.connected
    await links.attach()
    await links.attach()
    assert links.connected
    assert links.agent.alive
    assert guest.dialled == Counter([CONTROL_PORT])
    with pytest.raises(StateError, match="channels"):
        links.take_channels()
    await links.drop()
    assert not links.connected


async def test_a_generation_brings_channels_to_take_once(guest: Guest) -> None:
    links = guest.links()
    await links.attach(1)
    await links.attach(1)
    assert guest.dialled == ALL, "what stands is left as it is"
    taken = links.take_channels()
    assert set(taken) == set(CHANNEL_PORTS)
    with pytest.raises(StateError, match="channels"):
        links.take_channels()
    await links.attach()
    assert guest.dialled == ALL, "whoever has taken them still has them"
    await links.attach(1)
    assert guest.dialled == ALL + CHANNELS, "whoever names a generation wants to take them again"
    close(taken)
    close(links.take_channels())
    await links.drop()


async def test_another_generation_drops_what_nobody_has_taken(guest: Guest) -> None:
    links = guest.links()
    await links.attach(1)
    await links.attach(2)
    assert links.generation == 2
    assert guest.dialled == ALL + CHANNELS, "the control connection belongs to the machine"
    assert await guest.is_closed(CHANNEL_PORTS["shell"])
    await links.drop()
    await links.drop()


async def test_a_pause_that_keeps_connections_is_no_reason_to_dial(guest: Guest) -> None:
    links = guest.links()
    await links.attach(1)
    taken = links.take_channels()
    await links.rest()
    assert links.connected
    await links.attach()
    assert guest.dialled == ALL
    close(taken)
    await links.drop()


async def test_after_a_pause_that_breaks_them_all_are_made_again(guest: Guest) -> None:
    guest.capabilities = frozenset()
    links = guest.links()
    await links.attach(1)
    close(links.take_channels())
    await links.rest()
    assert not links.connected
    assert await guest.is_closed(CONTROL_PORT)
    assert guest.lost == [], "nobody is told of what was intended"
    await links.attach()
    assert links.connected
    assert guest.dialled == ALL + ALL
    close(links.take_channels())
    await links.drop()


async def test_what_is_dropped_while_it_is_dialled_is_not_kept(guest: Guest) -> None:
    guest.answers.clear()
    links = guest.links()
    attaching = asyncio.ensure_future(links.attach(1))
    await asyncio.sleep(0.05)
    await links.drop()
    guest.answers.set()
    with pytest.raises(AgentUnreachable, match="dropped"):
        await attaching
    assert not links.connected
    assert await guest.is_closed(CONTROL_PORT)


async def test_the_end_of_the_monitor_ends_the_dialling(tmp_path: Path) -> None:
    guest = Guest(tmp_path)  # which nobody has started to serve
    attaching = asyncio.ensure_future(guest.links().attach(1))
    await asyncio.sleep(0.05)
    guest.ended.set_result(SimpleNamespace(returncode=1))
    with pytest.raises(MonitorExited):
        await attaching


async def test_channels_that_are_not_taken_in_time_are_an_error(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fc_kernel.machine.links.CHANNELS_TIMEOUT_S", 0.05)
    links = guest.links()
    await links.attach()
    guest.answers.clear()
    with pytest.raises(AgentUnreachable, match=r"took no connection within 0\.05 s"):
        await links.attach(1)
    await links.drop()


async def test_an_agent_that_hangs_up_is_news_and_is_dialled_again(guest: Guest) -> None:
    links = guest.links()
    await links.attach()
    guest.streams[0][2].close()
    async with asyncio.timeout(2):
        while links.connected:
            await asyncio.sleep(0.01)
    assert guest.lost == [("closed by the guest", False)]
    await links.attach()
    assert links.connected
    await links.drop()
