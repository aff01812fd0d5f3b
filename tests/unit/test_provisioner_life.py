"""The provisioner under a real kernel manager, on the fake monitor: the order of the calls, and every way to the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio
from jupyter_client.manager import AsyncKernelManager

from fc_kernel.base.paths import runtime_dir
from fc_kernel.errors import KernelStartError, SpecError
from fc_kernel.provisioner import FcProvisioner
from fc_kernel.settings.kernelspec import Profile, install
from fc_kernel.vmm.journal import list_entries

from ..encoded_host import behind_the_wall
from ..waiting import until

DEADLINE_S = 60.0
#: In place of a minute.
LEASE_S = 1.0
CALLS = [
    "pre_launch", "launch_kernel", "post_launch", "send_signal", "shutdown_requested", "terminate", "kill", "wait", "cleanup",
]  # fmt: skip


@pytest.fixture(params=["direct", "encoded"], autouse=True)
def wall(request: pytest.FixtureRequest) -> Iterator[None]:
    """A host in this process, and one to which only bytes get through."""
    with behind_the_wall() if request.param == "encoded" else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=True)
def kernelspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(Profile(), prefix=str(tmp_path))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))
    monkeypatch.setenv("FC_KERNEL_MONITOR", "fake")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the manager calls, as it comes."""
    made: list[str] = []

    def recorded(name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(FcProvisioner, name)

        async def call(self: FcProvisioner, *words: Any, **options: Any) -> Any:
            flag = f"({options['restart']})" if name == "cleanup" else ""
            made.append(name + flag)
            return await method(self, *words, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(FcProvisioner, name, recorded(name))
    return made


@pytest.fixture
async def manager() -> AsyncIterator[AsyncKernelManager]:
    made = AsyncKernelManager(kernel_name="fc-python3")
    yield made
    if made.has_kernel:
        await made.shutdown_kernel(now=True)
    else:
        await made.cleanup_resources()


def provisioner_of(manager: AsyncKernelManager) -> FcProvisioner:
    assert isinstance(manager.provisioner, FcProvisioner)
    return manager.provisioner


def left() -> list[str]:
    return [path.name for path in runtime_dir().iterdir()]


async def test_the_order_of_the_calls(manager: AsyncKernelManager, calls: list[str]) -> None:
    await manager.start_kernel()
    assert calls == ["pre_launch", "launch_kernel", "post_launch"]
    assert await manager.is_alive()
    vm_ids = [entry.vm_id for entry in list_entries(runtime_dir())]
    assert len(vm_ids) == 1

    calls.clear()
    await manager.restart_kernel(now=True)
    ended = ["send_signal", "kill", "wait", "cleanup(True)"]
    assert [call for call in calls if call in ended] == ended
    assert calls[-3:] == ["pre_launch", "launch_kernel", "post_launch"]
    assert [entry.vm_id for entry in list_entries(runtime_dir())] == vm_ids, "a restart keeps the VM"

    calls.clear()
    await manager.shutdown_kernel()
    assert calls[:2] == ["send_signal", "shutdown_requested"]
    assert calls[-1] == "cleanup(False)"
    assert not await manager.is_alive()
    assert list_entries(runtime_dir()) == []
    assert left() == []


async def test_clients_stay_where_they_are_over_a_restart(manager: AsyncKernelManager) -> None:
    await manager.start_kernel()
    before = manager.get_connection_info()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=DEADLINE_S)
        await manager.restart_kernel(now=True)
        assert manager.get_connection_info() == before
        reply = await client.execute("6 * 7", reply=True, timeout=DEADLINE_S)
        assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
    assert before["transport"] == "ipc"
    assert Path(before["ip"]).parent.stat().st_mode & 0o777 == 0o700
    assert Path(before["ip"]).is_relative_to(runtime_dir())


async def test_what_is_told_of_a_kernel_is_json_and_no_secret(manager: AsyncKernelManager) -> None:
    manager.transport_encryption = "required"
    await manager.start_kernel()
    provisioner = provisioner_of(manager)
    assert manager.curve_publickey is not None
    assert provisioner.connection_info["curve_publickey"] == manager.curve_publickey.decode()
    info = await provisioner.get_provisioner_info()
    text = json.dumps(info)
    assert info["connection_info"]["transport"] == "ipc"
    for secret in (manager.session.key, manager.curve_secretkey):
        assert secret
        assert secret.decode() not in text
    assert "secret" not in text
    assert provisioner.connection_info["key"] == manager.session.key


async def test_a_death_is_seen_and_waited_for(manager: AsyncKernelManager) -> None:
    await manager.start_kernel()
    provisioner = provisioner_of(manager)
    assert await provisioner.poll() is None
    await provisioner.send_signal(signal.SIGKILL)
    assert await asyncio.wait_for(provisioner.wait(), DEADLINE_S) == -signal.SIGKILL
    assert not provisioner.has_process
    assert await provisioner.poll() == 0
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        await provisioner.send_signal(signum)


async def test_signals_that_there_are_not(manager: AsyncKernelManager) -> None:
    await manager.start_kernel()
    provisioner = provisioner_of(manager)
    for signum in (0, -1, 65, 10**6):
        await provisioner.send_signal(signum)
    assert await provisioner.poll() is None


async def test_a_start_that_is_refused_leaves_nothing(manager: AsyncKernelManager) -> None:
    with pytest.raises(SpecError):
        await manager.start_kernel(fc_kernel={"vcpu_count": 0})
    assert left() == []
    assert not await manager.is_alive()
    await manager.start_kernel()
    assert await manager.is_alive()


async def test_a_cancelled_launch_leaves_nothing(manager: AsyncKernelManager) -> None:
    start = asyncio.ensure_future(manager.start_kernel())
    await until(lambda: list_entries(runtime_dir()) or start.done())
    assert not start.done()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await until(lambda: left() == [])


async def test_a_start_whose_machine_dies_leaves_nothing(
    manager: AsyncKernelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise KernelStartError("no such luck", console=["last words"])

    with monkeypatch.context() as patch:
        patch.setattr("fc_kernel.sessions.session.KernelSession.start", broken)
        with pytest.raises(KernelStartError, match="last words"):
            await manager.start_kernel()
    assert left() == []


async def test_a_failed_restart_keeps_the_endpoints(
    manager: AsyncKernelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.start_kernel()
    before = manager.get_connection_info()

    async def broken(*_: Any, **__: Any) -> None:
        raise KernelStartError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr("fc_kernel.sessions.session.KernelSession.start", broken)
        with pytest.raises(KernelStartError):
            await manager.restart_kernel(now=True)
    await manager.start_kernel()
    assert manager.get_connection_info() == before
    assert await manager.is_alive()


async def test_a_kernel_that_its_manager_forgot_is_ended() -> None:
    """As a server does after five deaths: it only forgets the manager."""
    context = zmq.asyncio.Context()
    manager = AsyncKernelManager(kernel_name="fc-python3", context=context)
    await manager.start_kernel()
    assert len(list_entries(runtime_dir())) == 1
    manager._close_control_socket()
    del manager
    gc.collect()
    await until(lambda: left() == [])
    context.term()


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Awaitable[None]]]:
    """Lets the lease pass within which a manager has to make its next call."""
    monkeypatch.setattr("fc_kernel.provisioner.LEASE_S", LEASE_S)
    monkeypatch.setattr("fc_kernel.host.client.RENEW_EVERY_S", LEASE_S / 10)

    async def pass_it() -> None:
        await asyncio.sleep(2 * LEASE_S)

    # A client that has not yet chosen when it renews.
    with behind_the_wall():
        yield pass_it


async def test_a_kernel_that_its_manager_does_not_take_over_is_ended(
    manager: AsyncKernelManager, monkeypatch: pytest.MonkeyPatch, look: Callable[[], Awaitable[None]]
) -> None:
    """Whatever fails between our launch and the manager's next call, nobody calls us afterwards."""

    async def failed(*_: Any, **__: Any) -> None:
        raise RuntimeError("the manager's own")

    monkeypatch.setattr(FcProvisioner, "post_launch", failed)
    with pytest.raises(RuntimeError, match="the manager's own"):
        await manager.start_kernel()
    assert len(list_entries(runtime_dir())) == 1
    await look()
    await until(lambda: left() == [])


async def test_a_kernel_that_was_taken_over_stays(
    manager: AsyncKernelManager, look: Callable[[], Awaitable[None]]
) -> None:
    await manager.start_kernel()
    await look()
    assert await manager.is_alive()
    assert len(list_entries(runtime_dir())) == 1
