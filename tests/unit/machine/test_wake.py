"""Which key a woken kernel has: our own takes a new one, a kernel of another language has but one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fc_kernel.machine.load import Waking, wake
from fc_kernel.machine.machine import GuestKernel, Origin
from fc_kernel.vmm.base import VmmState


class Agent:
    """Answers ``restored`` with whatever it was given."""

    def __init__(self, said: object) -> None:
        self.said = said
        self.told: dict[str, Any] = {}

    async def call(self, method: str, **params: Any) -> object:
        assert method == "restored"
        self.told = params
        return self.said


class Attached:
    """Links that stand."""

    async def attach(self, generation: int | None = None) -> None:
        """There is nothing to do."""


def asleep(agent: Agent) -> Any:
    vmm = SimpleNamespace(state=VmmState.RUNNING, plan=SimpleNamespace(vm_id="abc"), console_tail=list)
    origin = Origin("snapshot", kernel=GuestKernel(3, b"the snapshot's", 7, "cell"))
    return SimpleNamespace(vmm=vmm, origin=origin, agent=agent, links=Attached(), asleep=True, environment=dict)


@pytest.mark.parametrize(
    "said", [{"hook_errors": []}, {"rekeyed": True}, {"rekeyed": None}, {"rekeyed": 0}, {}, [], None, "no", 5]
)
async def test_the_key_is_a_new_one_unless_the_guest_says_otherwise(said: object) -> None:
    agent = Agent(said)
    machine = asleep(agent)
    await wake(machine, Waking(role="restored", generation=2))
    assert machine.origin.kernel == GuestKernel(3, agent.told["key"].encode(), 7, "cell")
    assert not machine.asleep


async def test_a_kernel_that_cannot_take_one_keeps_its_own() -> None:
    machine = asleep(Agent({"instance": 3, "hook_errors": ["x"], "rekeyed": False}))
    assert await wake(machine, Waking(role="restored", generation=2)) == ["x"]
    assert machine.origin.kernel == GuestKernel(3, b"the snapshot's", 7, "cell")
    assert not machine.asleep
