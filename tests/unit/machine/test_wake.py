"""Which key a woken kernel has: our own takes a new one, a kernel of another language has but one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fc_kernel.machine.agent_client import Renewal, Renewed, hook_errors
from fc_kernel.machine.machine import GuestKernel, Origin
from fc_kernel.machine.wake import WakeRequest, wake
from fc_kernel.vmm.base import VmmState


class Agent:
    """Answers :meth:`renew` and :meth:`thaw` with whatever it was given, and notes what was done in which order."""

    def __init__(self, said: object, thawed: object = None) -> None:
        self.said, self.thawed = said, thawed
        self.key = ""
        self.done: list[str] = []

    async def renew(self, renewal: Renewal, *, timeout_s: float) -> Renewed:
        assert timeout_s > 0
        self.key = renewal.key
        self.done.append(f"renew as {renewal.role} {renewal.generation}")
        return Renewed.of(self.said)

    async def thaw(self, *, timeout_s: float) -> tuple[str, ...]:
        assert timeout_s > 0
        self.done.append("thaw")
        return hook_errors(self.thawed)


class Attached:
    """Links to that agent."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    async def attach(self, generation: int | None = None) -> None:
        self.agent.done.append(f"attach {generation}")


def loaded_machine(agent: Agent) -> Any:
    vmm = SimpleNamespace(state=VmmState.RUNNING, plan=SimpleNamespace(vm_id="abc"), console_tail=list)
    origin = Origin("snapshot", kernel=GuestKernel(3, b"the snapshot's", 7, "cell"))
    return SimpleNamespace(
        vmm=vmm, origin=origin, agent=agent, links=Attached(agent), needs_wake=True, environment=dict
    )


@pytest.mark.parametrize(
    "said", [{"hook_errors": []}, {"rekeyed": True}, {"rekeyed": None}, {"rekeyed": 0}, {}, [], None, "no", 5]
)
async def test_the_key_is_a_new_one_unless_the_guest_says_otherwise(said: object) -> None:
    agent = Agent(said)
    machine = loaded_machine(agent)
    await wake(machine, WakeRequest(role="restored", generation=2))
    assert machine.origin.kernel == GuestKernel(3, agent.key.encode(), 7, "cell")
    assert not machine.needs_wake


async def test_a_kernel_that_cannot_take_one_keeps_its_own() -> None:
    agent = Agent({"instance": 3, "rekeyed": False}, {"hook_errors": ["x"]})
    machine = loaded_machine(agent)
    assert await wake(machine, WakeRequest(role="restored", generation=2)) == ("x",)
    assert agent.done == ["attach None", "renew as restored 2", "attach 2", "thaw"]
    assert machine.origin.kernel == GuestKernel(3, b"the snapshot's", 7, "cell")
    assert not machine.needs_wake
