"""The opener's side of a host: leases, events that break off, kernels that nobody refers to, and forks of a cell."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.api.calls import Endpoints, ForkClaim, ForkResult, OpenKernel, Settings, Started, StartKernel
from fc_kernel.api.events import Event, ForkWanted, StateChanged
from fc_kernel.api.models import ForkTicket, Kernel
from fc_kernel.errors import KernelNotFound, StateError
from fc_kernel.host import client as client_module
from fc_kernel.host.client import HostClient
from fc_kernel.host.stream import EventStream

from ...waiting import until

SHORT_S = 0.02
PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
SETTINGS = Settings(
    image="default", monitor="fake", minimum_tier="none", network="none", vcpu_count=1, mem_size_mib=16,
    start_timeout_s=60.0, argv=None,
)  # fmt: skip


class Host:
    """Kernels without processes. ``breaks`` ends a subscription with an error; ``refuses`` are tickets that do not start."""

    def __init__(self) -> None:
        self.stream = EventStream()
        self.opened: dict[str, OpenKernel] = {}
        self.closed: list[str] = []
        self.renewed: list[str] = []
        self.subscriptions = 0
        self.breaks = asyncio.Event()
        self.refuses: set[str] = set()
        self.reports: dict[str, list[ForkResult]] = {}
        self.opening_fails: BaseException | None = None

    async def open(self, request: OpenKernel) -> Endpoints:
        if self.opening_fails is not None:
            raise self.opening_fails
        self.opened[request.kernel_id] = request
        return Endpoints(transport="ipc", ip="/k", ports=PORTS)

    async def start(self, kernel_id: str, request: StartKernel) -> Started:
        if self.opened[kernel_id].ticket in self.refuses:
            raise StateError("no room")
        return Started(seq=self.stream.seq, settings=SETTINGS)

    async def close(self, kernel_id: str) -> None:
        self.opened.pop(kernel_id, None)
        self.closed.append(kernel_id)

    async def renew_lease(self, kernel_id: str) -> None:
        if kernel_id not in self.opened:
            raise KernelNotFound(f"there is no kernel {kernel_id!r} here")
        self.renewed.append(kernel_id)

    async def kernels(self) -> list[Kernel]:
        made = dict.fromkeys(Kernel.model_fields)
        shown: dict[str, Any] = {
            **made,
            "state": "running",
            "generation": 1,
            "lineage": [],
            "scope": "s",
            "disk_bytes": 0,
        }
        return [Kernel.model_validate({**shown, "kernel_id": each}) for each in self.opened]

    async def forked(self, request: str, results: Sequence[ForkResult]) -> None:
        self.reports[request] = list(results)

    @asynccontextmanager
    async def events(self, *, forks: ForkClaim = "none") -> AsyncIterator[AsyncIterator[Event]]:
        self.subscriptions += 1
        async with self.stream.subscribe(forks) as events:
            yield self._until_broken(events)

    async def _until_broken(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        broken = asyncio.ensure_future(self.breaks.wait())
        following: asyncio.Future[Event] | None = None
        try:
            while True:
                following = asyncio.ensure_future(anext(events))
                await asyncio.wait({broken, following}, return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    self.breaks = asyncio.Event()
                    raise StateError("too slow")
                yield following.result()
        finally:
            broken.cancel()
            if following is not None:
                following.cancel()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    monkeypatch.setattr(client_module, "RENEW_EVERY_S", SHORT_S)
    monkeypatch.setattr(client_module, "FOLLOW_AGAIN_S", SHORT_S)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    yield Host()
    gc.collect()


def client_of(host: Any) -> HostClient:
    return HostClient(host)


def asked(kernel_id: str = "k") -> OpenKernel:
    return OpenKernel(kernel_id=kernel_id, key=b"key", lease_s=60.0)


def on_background(client: HostClient, host: Host) -> None:
    """End the subscription, on the thread that it is on."""
    client._background().loop.call_soon_threadsafe(host.breaks.set)


async def test_a_lease_is_renewed_from_when_it_is_kept_until_the_end(host: Host) -> None:
    held = await client_of(host).open(asked())
    await asyncio.sleep(SHORT_S * 4)
    assert host.renewed == []
    held.keep()
    await until(lambda: len(host.renewed) > 3)
    await held.close()
    await asyncio.sleep(SHORT_S * 4)
    count = len(host.renewed)
    await asyncio.sleep(SHORT_S * 4)
    assert len(host.renewed) == count
    assert host.closed == ["k"]


async def test_a_lease_that_is_not_renewed_stops_no_other(host: Host) -> None:
    client = client_of(host)
    gone, held = await client.open(asked("gone")), await client.open(asked("k"))
    gone.keep()
    held.keep()
    del host.opened["gone"]
    await until(lambda: host.renewed.count("k") > 3)
    assert "gone" not in host.renewed
    await held.close()
    await gone.close()


async def test_a_kernel_that_is_forgotten_is_closed(host: Host) -> None:
    held = await client_of(host).open(asked())
    held.keep()
    del held
    gc.collect()
    await until(lambda: host.closed == ["k"])
    await until(lambda: not host.stream._subscribers)


async def test_an_opening_that_fails_leaves_nothing(host: Host) -> None:
    client = client_of(host)
    host.opening_fails = StateError("a kernel 'k' is open already")
    with pytest.raises(StateError, match="open already"):
        await client.open(asked())
    assert host.closed == []
    # Nobody knows how far this one came.
    host.opening_fails = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await client.open(asked())
    await until(lambda: host.closed == ["k"])


async def test_a_death_is_heard(host: Host) -> None:
    client = client_of(host)
    held, other = await client.open(asked("k")), await client.open(asked("other"))
    await held.start(StartKernel())
    host.stream.publish(StateChanged(kernel_id="k", state="dead", returncode=9))
    await until(lambda: held.dead)
    assert (held.returncode, other.returncode) == (9, None)
    await held.close()
    await other.close()


async def test_after_events_were_missed_the_host_is_asked(host: Host) -> None:
    """A kernel that ended meanwhile is dead, and later events are heard again."""
    client = client_of(host)
    ended, held = await client.open(asked("ended")), await client.open(asked("k"))
    del host.opened["ended"]
    on_background(client, host)
    await until(lambda: ended.dead)
    assert not held.dead
    assert host.subscriptions == 2
    host.stream.publish(StateChanged(kernel_id="k", state="dead", returncode=4))
    await until(lambda: held.dead)
    assert held.returncode == 4
    await held.close()
    await ended.close()


async def test_a_listener_hears_all_until_it_is_cancelled(host: Host) -> None:
    client, heard = client_of(host), list[Event]()
    cancel = client.listen(heard.append)
    await until(lambda: host.subscriptions == 1)
    await until(lambda: host.stream.publish(StateChanged(kernel_id="k", state="running")))
    await until(lambda: heard)
    on_background(client, host)
    await until(lambda: host.subscriptions == 2)
    # It claims the forks, so that this process makes none.
    await until(lambda: host.stream._subscribers)
    host.stream.publish(ForkWanted(kernel_id="k", request="r", tickets=[]))
    await until(lambda: isinstance(heard[-1], ForkWanted))
    cancel()
    await until(lambda: not host.stream._subscribers)
    assert host.reports == {}


def tickets(*names: str) -> list[ForkTicket]:
    return [
        ForkTicket(ticket=name, kernel_id="k", snapshot_id="0" * 16, vm_id="0a1b2c3d", name="s1", scope="s")
        for name in names
    ]


def written(path: Path) -> tuple[int, dict[str, Any]] | None:
    """A connection file's mode and content; ``None`` when it is gone."""
    return (path.stat().st_mode & 0o777, json.loads(path.read_text())) if path.exists() else None


async def test_forks_of_a_cell_are_kernels_of_this_process(host: Host, tmp_path: Path) -> None:
    """Each ticket that starts is a connection file that only its owner reads; one that does not says why."""
    client = client_of(host)
    held = await client.open(asked())
    held.keep()
    host.refuses.add("second")
    host.stream.publish(ForkWanted(kernel_id="k", request="r", tickets=tickets("first", "second")))
    await until(lambda: "r" in host.reports)
    first, second = host.reports["r"]
    assert (second.ticket, second.kernel_id, second.error) == ("second", "", "no room")
    assert (first.ticket, first.name, first.error) == ("first", "s1", "")
    opened = host.opened[first.kernel_id]
    assert opened.ticket == "first"
    assert set(host.opened) == {"k", first.kernel_id}
    file = Path(first.connection_file)
    assert file.parent == tmp_path / "runtime"
    found = written(file)
    assert found is not None
    mode, info = found
    assert mode == 0o600
    assert info["key"].encode() == opened.key
    assert (info["transport"], info["ip"], info["kernel_name"]) == ("ipc", "/k", "fc-python3")
    assert {name: info[f"{name}_port"] for name in PORTS} == PORTS
    gc.collect()
    await until(lambda: host.renewed.count(first.kernel_id) > 2)
    # It ends with its kernel process.
    host.stream.publish(StateChanged(kernel_id=first.kernel_id, state="dead", returncode=0))
    await until(lambda: first.kernel_id in host.closed)
    assert written(file) is None
    assert set(host.opened) == {"k"}
    await held.close()
