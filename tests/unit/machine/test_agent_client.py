"""The typed client: what each call sends, and what becomes of answers that are no answers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from fc_kernel.errors import AgentUnreachable
from fc_kernel.machine.agent_client import AgentClient, Frozen, Greeting, Renewal, Renewed, hook_errors
from fc_kernel.wire import methods
from fc_kernel.wire.ports import PROTOCOL_VERSION

DEADLINE_S = 20.0
GREETING = {
    "protocol": PROTOCOL_VERSION,
    "python": "3.9",
    "kernel_release": "6.1",
    "vcpu_count": 1,
    "mem_total_mib": 64,
}
RENEWAL = Renewal(
    role="fork", generation=3, name="s1", hostname="vm-a", machine_id="0" * 32, key="k", env={"A": "1"}, reseed=False
)
ANYTHING: list[Any] = [None, True, [], [1], "text", 7, {}, {"hook_errors": "x"}, {"hook_errors": [{}, None]}]


class Agent:
    """A client, and the other end of its connection, which answers every call with ``says``."""

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        for sock in (ours, self._theirs):
            sock.setblocking(False)
        self.says: Any = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.client = AgentClient(ours, on_notification=lambda *_: None, on_lost=lambda *_: None)
        self._serving = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=self._theirs)
        while line := await reader.readline():
            request = json.loads(line)
            self.calls.append((request["method"], request["params"]))
            writer.write(json.dumps({"id": request["id"], "result": self.says}).encode() + b"\n")
        writer.close()
        await writer.wait_closed()

    async def close(self) -> None:
        await self.client.aclose()
        await self._serving


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    agent = Agent()
    yield agent
    await agent.close()


CALLS: dict[str, tuple[Callable[[AgentClient], Awaitable[Any]], set[str]]] = {
    methods.PING: (lambda client: client.ping(), set()),
    methods.KERNEL_START: (
        lambda client: client.start_kernel(argv=None, env={}, key="k", instance=1, timeout_s=DEADLINE_S),
        {"argv", "env", "cwd", "key", "instance"},
    ),
    methods.KERNEL_SIGNAL: (lambda client: client.signal_kernel(2), {"signum"}),
    methods.KERNEL_KILL: (lambda client: client.kill_kernel(), set()),
    methods.FREEZE: (
        lambda client: client.freeze(hooks=True, hooks_timeout_s=1.5, timeout_s=DEADLINE_S),
        {"hooks", "timeout_s"},
    ),
    methods.RENEW: (
        lambda client: client.renew(RENEWAL, timeout_s=DEADLINE_S),
        {
            "generation", "role", "name", "hostname", "machine_id", "key", "env", "cwd", "reseed", "time", "entropy_b64",
        },
    ),
    methods.THAW: (lambda client: client.thaw(timeout_s=DEADLINE_S), {"time"}),
    methods.REHEARSE: (
        lambda client: client.rehearse(rehearsal_timeout_s=1.5, timeout_s=DEADLINE_S),
        {"timeout_s"},
    ),
    methods.ANSWER: (lambda client: client.answer(5, {"result": {}}), {"id", "result"}),
    methods.SYSTEM_SHUTDOWN: (lambda client: client.shut_down(), set()),
}  # fmt: skip


@pytest.mark.parametrize("method", CALLS)
async def test_each_call_sends_its_method_and_parameters(agent: Agent, method: str) -> None:
    call, parameters = CALLS[method]
    await call(agent.client)
    [(called, params)] = agent.calls
    assert (called, set(params)) == (method, parameters)
    assert params.get("timeout_s", 1.5) == 1.5, "the agent is given its own time, not ours"


def test_every_method_that_a_host_needs_can_be_called() -> None:
    assert {*CALLS, methods.HELLO, methods.KERNEL_STATUS} == set(methods.METHODS)


async def test_a_greeting(agent: Agent) -> None:
    agent.says = {**GREETING, "python": "3.9\x1b[31m", "more": "is ignored"}
    assert await agent.client.hello() == Greeting(
        protocol=PROTOCOL_VERSION, python="3.9", kernel_release="6.1", vcpu_count=1, mem_total_mib=64
    )
    method, params = agent.calls[0]
    assert (method, set(params)) == (methods.HELLO, {"protocol", "time", "entropy_b64"})


@pytest.mark.parametrize("said", [*ANYTHING, {**GREETING, "vcpu_count": "many"}, {**GREETING, "mem_total_mib": None}])
async def test_what_is_no_greeting(agent: Agent, said: Any) -> None:
    agent.says = said
    with pytest.raises(AgentUnreachable, match="greeting is malformed"):
        await agent.client.hello()


async def test_another_protocol(agent: Agent) -> None:
    agent.says = {**GREETING, "protocol": PROTOCOL_VERSION + 1}
    with pytest.raises(AgentUnreachable, match=f"speaks protocol {PROTOCOL_VERSION + 1}; this host speaks"):
        await agent.client.hello()


@pytest.mark.parametrize("said", ANYTHING)
async def test_answers_that_may_be_anything(agent: Agent, said: Any) -> None:
    agent.says = said
    frozen = await agent.client.freeze(hooks=False, hooks_timeout_s=1.0, timeout_s=DEADLINE_S)
    assert frozen == Frozen(hook_errors=hook_errors(said))
    assert await agent.client.renew(RENEWAL, timeout_s=DEADLINE_S) == Renewed(rekeyed=True)
    assert all(isinstance(error, str) for error in await agent.client.thaw(timeout_s=DEADLINE_S))


def test_claims_about_the_kernel_are_brought_into_form() -> None:
    assert Frozen.of({"instance": 3, "language": "python", "execution_count": 7, "cell": "id"}) == Frozen(
        instance=3, language="python", execution_count=7, cell="id"
    )
    for wrong in (-1, 1 << 31, True, "3", 3.0, None):
        assert Frozen.of({"instance": wrong, "execution_count": wrong}) == Frozen()
    for wrong in ("", "x" * 129, "a\nb", 5, None):
        assert Frozen.of({"cell": wrong, "language": wrong}) == Frozen()


def test_hooks_say_no_more_than_anybody_wants_to_read() -> None:
    errors = hook_errors({"hook_errors": ["x" * 10_000] * 1000})
    assert len(errors) == methods.MAX_HOOK_ERRORS
    assert {len(error) for error in errors} == {methods.MAX_HOOK_ERROR_CHARS}
