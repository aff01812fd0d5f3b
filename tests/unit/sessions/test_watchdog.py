"""Whose connections break, and which of them are dialled again, when a machine has just been replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fc_kernel.base.tasks import TaskSet
from fc_kernel.sessions.guest_requests import serve
from fc_kernel.sessions.incarnation import Incarnation
from fc_kernel.sessions.watchdog import Watchdog

from ...waiting import until


class Vmm:
    """Runs until the test ends."""

    pid = 1
    plan = SimpleNamespace(vm_id="abc")

    async def wait(self) -> Any:
        await asyncio.Event().wait()

    async def kill(self) -> None:
        self.pid = 0


class Machine:
    def __init__(self) -> None:
        self.vmm: Any = Vmm()
        self.on_agent_lost: Callable[[str, bool], None]


def incarnation(generation: int) -> Incarnation:
    machine: Any = Machine()
    return Incarnation(machine=machine, generation=generation)


class Session:
    """Notes what is dialled and what is given up."""

    running = True

    def __init__(self) -> None:
        self.incarnation: Incarnation | None = incarnation(1)
        self.attached: list[int] = []
        self.ended: list[str] = []

    async def attach(self, incarnation: Incarnation) -> None:
        self.attached.append(incarnation.generation)

    def machine_ended(self, returncode: int, reason: str) -> None:
        self.ended.append(reason)


async def test_what_waits_to_dial_a_machine_that_was_replaced_does_not_keep_the_new_one_from_it() -> None:
    session, lock, tasks = Session(), asyncio.Lock(), TaskSet(lambda _name, error: pytest.fail(str(error)))
    watchdog = Watchdog(session, lock, tasks)
    async with lock:  # a restore
        watchdog.tunnel_lost("the old machine's")
        await asyncio.sleep(0)
        session.incarnation = incarnation(2)
        watchdog.tunnel_lost("the new machine took no connection")
    await until(lambda: session.attached == [2])
    await tasks.wait()
    assert session.attached == [2]


async def test_the_end_of_an_old_machine_is_not_that_of_the_new_one() -> None:
    session, tasks = Session(), TaskSet(lambda _name, error: pytest.fail(str(error)))
    watchdog = Watchdog(session, asyncio.Lock(), tasks)
    old, new = session.incarnation, incarnation(2)
    assert old is not None
    watchdog.watch(old.machine)
    session.incarnation = new
    watchdog.watch(new.machine)
    old.machine.on_agent_lost("it breaks the protocol", True)
    assert len(tasks) == 2, "nothing but what watches both"
    new.machine.on_agent_lost("it breaks the protocol", True)
    await until(lambda: session.ended != [])
    assert session.ended == ["the microVM was ended: the control connection broke: it breaks the protocol"]
    tasks.close()
    await tasks.wait()


class Asked:
    """A session in which whatever is asked for fails as nobody has foreseen."""

    scope = "a.ipynb"
    store: Any = None

    def __init__(self) -> None:
        self.incarnation: Incarnation | None = incarnation(1)
        self.answers: list[tuple[int, dict[str, Any]]] = []
        machine: Any = self.incarnation.machine if self.incarnation else None
        machine.agent = self

    async def answer(self, request: int, answer: dict[str, Any]) -> None:
        self.answers.append((request, answer))

    async def take_snapshot(self, name: str | None, description: str) -> Any:
        raise OSError(5, "Input/output error", "/a/path/of/the/host")

    async def restore(self, ref: str, *, same_seed: bool, asker: str | None) -> Any:
        raise NotImplementedError

    async def fork(self, count: int, name: str | None) -> Any:
        raise NotImplementedError

    def info(self) -> dict[str, Any]:
        raise NotImplementedError


async def test_a_cell_is_answered_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked()
    assert asked.incarnation is not None
    await serve(asked, asked.incarnation, {"id": 7, "instance": 1, "op": "snapshot"})
    assert asked.answers == [(7, {"error": "the host failed: OSError"})]
    assert [(each.levelno, each.exc_info is not None) for each in caplog.records] == [(logging.ERROR, True)]
