"""A session on the fake monitor: the real agent, a real kernel, real endpoints; and everything that can go wrong."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from traitlets.config import Config

from fc_kernel.base.paths import RunDir, new_vm_id, runtime_dir
from fc_kernel.channels.endpoints import CHANNELS, ClientEndpoints
from fc_kernel.errors import AgentUnreachable, IsolationUnavailable, KernelStartError, StateError
from fc_kernel.host.engine import Engine
from fc_kernel.machine.machine import Machine
from fc_kernel.machine.start import KernelRequest
from fc_kernel.sessions.phases import Phase
from fc_kernel.sessions.session import KernelSession
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.resolve import Source, resolve
from fc_kernel.settings.tenant import Tenant
from fc_kernel.vmm.journal import list_entries

from ...waiting import until

DEADLINE_S = 60.0
KEY = b"a key of the clients"


def request(config: FcKernelConfig, **options: Any) -> KernelRequest:
    settings = options.pop("settings", {})
    resolved = resolve([config.as_source(), Source("call", settings)], config.limits())
    return KernelRequest(resolved=resolved, **options)


class Kernel:
    """A session on an engine of its own, and a client of it."""

    def __init__(self, **config: Any) -> None:
        self.config = FcKernelConfig(config=Config({"FcKernelConfig": {"monitor": "fake", **config}}))
        self.engine = Engine()
        self.session: KernelSession
        self.client: AsyncKernelClient

    async def open(self) -> Kernel:
        endpoint_dir = RunDir.create(runtime_dir(), new_vm_id())
        ip = str(endpoint_dir.path / "k")

        async def make() -> KernelSession:
            endpoints = ClientEndpoints(transport="ipc", ip=ip)
            return self.engine.open(Tenant.of_this_process(self.config), endpoints, key=KEY, endpoint_dir=endpoint_dir)

        self.session = await self.engine.run(make())
        self.client = AsyncKernelClient()
        info: Any = {f"{channel}_port": self.session.ports[channel] for channel in CHANNELS}
        info |= {"transport": "ipc", "ip": ip, "key": KEY, "signature_scheme": "hmac-sha256"}
        self.client.load_connection_info(info)
        self.client.start_channels()
        return self

    async def start(self, **options: Any) -> None:
        await self.engine.run(self.session.start(request(self.config, **options)))

    async def execute(self, code: str) -> dict[str, Any]:
        """The reply's content."""
        msg_id = self.client.execute(code)
        while True:
            reply = await self.client.get_shell_msg(timeout=DEADLINE_S)
            if reply["parent_header"].get("msg_id") == msg_id:
                return reply["content"]

    async def evaluate(self, expression: str) -> str:
        msg_id = self.client.execute("", user_expressions={"value": expression})
        while True:
            reply = await self.client.get_shell_msg(timeout=DEADLINE_S)
            if reply["parent_header"].get("msg_id") == msg_id:
                return reply["content"]["user_expressions"]["value"]["data"]["text/plain"]

    async def on_engine(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return await self.engine.run(call())

    async def ended(self) -> int:
        return await asyncio.wait_for(self.engine.run(self.session.wait()), DEADLINE_S)

    @property
    def vm_id(self) -> str:
        assert self.session.machine is not None
        return self.session.machine.vmm.plan.vm_id

    async def close(self) -> None:
        if self.engine.loop.is_closed():
            return
        self.client.stop_channels()
        await self.engine.run(self.session.aclose())
        await asyncio.to_thread(self.engine.close)


Open = Callable[..., Awaitable[Kernel]]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    kernels: list[Kernel] = []

    async def open_(**config: Any) -> Kernel:
        kernels.append(Kernel(**config))
        return await kernels[-1].open()

    yield open_
    for kernel in kernels:
        await kernel.close()


async def test_a_life(opened: Open) -> None:
    kernel = await opened()
    await kernel.start(env={"GREETING": "hello"})
    assert kernel.session.running
    assert kernel.session.returncode is None
    assert await kernel.evaluate("__import__('os').environ['GREETING']") == "'hello'"
    assert await kernel.evaluate("__import__('os').environ['FC_KERNEL_TIER']") == "'none'"
    assert len(list_entries(runtime_dir())) == 1
    await kernel.close()
    assert list_entries(runtime_dir()) == []
    assert kernel.session.returncode == -signal.SIGKILL


async def test_what_was_asked_before_the_start_is_answered_after_it(opened: Open) -> None:
    kernel = await opened()
    reply = asyncio.ensure_future(kernel.execute("x = 1"))
    await asyncio.sleep(0)
    await kernel.start()
    assert (await reply)["status"] == "ok"


async def test_interrupt(opened: Open) -> None:
    kernel = await opened()
    await kernel.start()
    reply = asyncio.ensure_future(kernel.execute("print('in', flush=True)\nwhile True: pass"))
    while (await kernel.client.get_iopub_msg(timeout=DEADLINE_S))["msg_type"] != "stream":
        pass
    await kernel.engine.run(kernel.session.signal(signal.SIGINT))
    assert (await reply)["ename"] == "KeyboardInterrupt"
    assert kernel.session.running


async def test_a_death_answers_and_a_restart_finds_the_machine(opened: Open) -> None:
    kernel = await opened()
    await kernel.start()
    before = kernel.vm_id
    assert (await kernel.execute("import os; os._exit(3)"))["ename"] == "KernelDied"
    assert await kernel.ended() == 3
    assert "status 3" in kernel.session.death
    assert not kernel.session.running
    await kernel.start()
    assert kernel.vm_id == before
    assert kernel.session.returncode is None
    assert await kernel.evaluate("6 * 7") == "42"


async def test_the_machine_of_a_dead_kernel_does_not_stay_for_ever(opened: Open) -> None:
    kernel = await opened(restart_linger_s=0.0)
    await kernel.start()
    await kernel.execute("import os; os._exit(0)")
    assert await kernel.ended() == 0
    await until(lambda: kernel.session.machine is None and list_entries(runtime_dir()) == [])
    await kernel.start()
    assert await kernel.evaluate("6 * 7") == "42"


async def test_other_settings_get_another_machine(opened: Open) -> None:
    kernel = await opened()
    await kernel.start()
    before = kernel.vm_id
    await kernel.engine.run(kernel.session.kill())
    assert await kernel.ended() == -signal.SIGKILL
    await kernel.start(settings={"vcpu_count": 2})
    assert kernel.vm_id != before
    assert await kernel.evaluate("__import__('os').environ['FC_KERNEL_VCPU_COUNT']") == "'2'"
    assert len(list_entries(runtime_dir())) == 1


async def test_the_machine_is_not_kept_where_the_administrator_says_so(opened: Open) -> None:
    kernel = await opened(keep_vm_on_restart=False)
    await kernel.start()
    before = kernel.vm_id
    await kernel.engine.run(kernel.session.kill())
    await kernel.start()
    assert kernel.vm_id != before


async def test_a_dead_monitor(opened: Open) -> None:
    kernel = await opened()
    await kernel.start()
    before = kernel.vm_id
    reply = asyncio.ensure_future(kernel.execute("import time; time.sleep(600)"))
    while (await kernel.client.get_iopub_msg(timeout=DEADLINE_S))["content"].get("execution_state") != "busy":
        pass
    assert kernel.session.machine is not None
    await kernel.engine.run(kernel.session.machine.vmm.kill())
    assert (await reply)["ename"] == "KernelDied"
    assert await kernel.ended() == -signal.SIGKILL
    assert "microVM" in kernel.session.death
    await kernel.start()
    assert kernel.vm_id != before
    assert await kernel.evaluate("6 * 7") == "42"


async def test_a_kernel_that_does_not_come_up(opened: Open) -> None:
    kernel = await opened()
    with pytest.raises(KernelStartError, match=r"(?s)status 7.*no such luck"):
        await kernel.start(argv=["sh", "-c", "echo no such luck >&2; exit 7"])
    assert kernel.session.machine is None
    assert list_entries(runtime_dir()) == []
    assert await kernel.ended() == -signal.SIGKILL
    await kernel.start()
    assert await kernel.evaluate("6 * 7") == "42"


async def test_a_kernel_that_never_comes_up(opened: Open) -> None:
    kernel = await opened(start_timeout_s=1.0)
    with pytest.raises(KernelStartError, match=r"within 1 s"):
        await kernel.start(argv=["sleep", "600"])
    assert list_entries(runtime_dir()) == []


async def test_a_program_that_is_not_there(opened: Open) -> None:
    kernel = await opened()
    with pytest.raises(KernelStartError):
        await kernel.start(argv=["/no/such/program"])
    assert list_entries(runtime_dir()) == []


async def test_two_starts_at_once(opened: Open) -> None:
    kernel = await opened()
    results = await asyncio.gather(kernel.start(), kernel.start(), return_exceptions=True)
    errors = [result for result in results if result is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], StateError)
    assert len(list_entries(runtime_dir())) == 1
    assert await kernel.evaluate("6 * 7") == "42"


async def test_a_cancelled_start_leaves_nothing(opened: Open) -> None:
    kernel = await opened()
    start = asyncio.ensure_future(kernel.start(argv=["sleep", "600"]))
    await until(lambda: list_entries(runtime_dir()) or start.done())
    assert not start.done()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await until(lambda: list_entries(runtime_dir()) == [])
    await kernel.start()
    assert await kernel.evaluate("6 * 7") == "42"


async def test_closed_while_it_starts(opened: Open) -> None:
    kernel = await opened()
    start = asyncio.ensure_future(kernel.start(argv=["sleep", "600"]))
    await until(lambda: list_entries(runtime_dir()) or start.done())
    assert not start.done()
    await kernel.engine.run(kernel.session.aclose())
    assert list_entries(runtime_dir()) == []
    with pytest.raises(StateError, match="closed while it started"):
        await start


async def test_a_cancelled_close_still_closes(opened: Open) -> None:
    kernel = await opened()
    await kernel.start()
    close = asyncio.ensure_future(kernel.engine.run(kernel.session.aclose()))
    await asyncio.sleep(0)
    close.cancel()
    with pytest.raises(asyncio.CancelledError):
        await close
    await until(lambda: list_entries(runtime_dir()) == [])
    await kernel.engine.run(kernel.session.aclose())
    assert await kernel.ended() == -signal.SIGKILL


async def test_after_the_close_nothing_hangs_and_nothing_raises(opened: Open) -> None:
    kernel = await opened()
    await kernel.start()
    reply = asyncio.ensure_future(kernel.execute("import time; time.sleep(600)"))
    while (await kernel.client.get_iopub_msg(timeout=DEADLINE_S))["content"].get("execution_state") != "busy":
        pass
    for _ in range(2):
        await kernel.engine.run(kernel.session.aclose())
    assert (await reply)["ename"] == "KernelDied"
    await kernel.engine.run(kernel.session.signal(signal.SIGINT))
    await kernel.engine.run(kernel.session.kill())
    assert await kernel.ended() == -signal.SIGKILL
    with pytest.raises(StateError):
        await kernel.start()


async def test_less_isolation_than_required_is_refused(opened: Open) -> None:
    kernel = await opened()
    with pytest.raises(IsolationUnavailable, match=r"tier none.*kvm"):
        await kernel.start(settings={"minimum_tier": "kvm"})
    assert list_entries(runtime_dir()) == []


async def test_broken_tunnels_are_dialled_again(opened: Open) -> None:
    """Connections break, the guest lives: nothing is lost, and the client notices nothing."""
    kernel = await opened()
    await kernel.start()
    await kernel.execute("kept = 1")
    vm_id = kernel.vm_id

    async def break_tunnels() -> None:
        await kernel.session._wiring.detach()
        kernel.session._watchdog.tunnel_lost("broken by a test")

    await kernel.engine.run(break_tunnels())
    assert await kernel.evaluate("kept") == "1"
    assert kernel.vm_id == vm_id
    assert kernel.session.running


@pytest.mark.parametrize(
    ("params", "returncode"),
    [
        ({"returncode": "0"}, 1),
        ({"returncode": True}, 1),
        ({"returncode": 10**9}, 1),
        ({}, 1),
        ({"returncode": -15, "oom": "yes"}, -15),
        ({"returncode": -9, "oom": True}, -9),
    ],
)
async def test_what_a_guest_says_of_its_kernels_end_is_checked(
    opened: Open, params: dict[str, Any], returncode: int
) -> None:
    kernel = await opened(restart_linger_s=0.0)
    await kernel.start()
    machine: Any = kernel.session.machine
    notify = machine.on_notification
    await kernel.on_engine(lambda: notify("kernel.exited", {**params, "instance": 99}))
    await kernel.on_engine(lambda: notify("kernel.exited", {**params, "instance": [1]}))
    await kernel.on_engine(lambda: notify("something.else", {**params, "instance": 1}))
    assert kernel.session.running
    await kernel.on_engine(lambda: notify("kernel.exited", {**params, "instance": 1}))
    assert await kernel.ended() == returncode
    assert ("memory" in kernel.session.death) == (params.get("oom") is True)
    await until(lambda: list_entries(runtime_dir()) == [])


async def test_a_guest_that_does_not_greet(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent speaks another protocol: one clear error, and no machine."""
    kernel = await opened()
    monkeypatch.setattr("fc_kernel.machine.agent_client.PROTOCOL_VERSION", 99)
    with pytest.raises(AgentUnreachable, match="speaks protocol 3; this host speaks 99"):
        await kernel.start()
    assert list_entries(runtime_dir()) == []


async def test_a_silent_guest_is_given_up(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that answers nothing cannot end its kernel: the machine is ended."""
    kernel = await opened()
    await kernel.start()
    assert isinstance(kernel.session.machine, Machine)
    await kernel.engine.run(kernel.session.machine.vmm.pause())
    monkeypatch.setattr("fc_kernel.machine.agent_client.AGENT_TIMEOUT_S", 0.2)
    await kernel.engine.run(kernel.session.kill())
    assert await kernel.ended() == -signal.SIGKILL
    await until(lambda: list_entries(runtime_dir()) == [])
    assert kernel.session.phase is Phase.EMPTY


STALL = """
import os, signal, subprocess, sys
subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {os.getppid()}"], start_new_session=True)
os.kill(os.getppid(), signal.SIGSTOP)
for number in range(5000): print(number); sys.stdout.flush()
"""


async def test_the_kernel_waits_for_an_agent_that_falls_behind(opened: Open) -> None:
    """ZeroMQ would drop what is more than a thousand messages ahead."""
    kernel = await opened()
    await kernel.start()
    msg_id = kernel.client.execute(STALL)
    printed = ""
    while True:
        message = await kernel.client.get_iopub_msg(timeout=DEADLINE_S)
        if message["parent_header"].get("msg_id") != msg_id:
            continue
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed += message["content"]["text"]
        if message["content"].get("execution_state") == "idle":
            break
    assert printed == "".join(f"{number}\n" for number in range(5000))
