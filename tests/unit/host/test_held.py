"""A kernel as its opener knows it: when it is dead, with which status, and who closes it."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import pytest

from fc_kernel.api.calls import Endpoints, Settings, Started, StartKernel
from fc_kernel.api.events import StateChanged
from fc_kernel.errors import KernelNotFound
from fc_kernel.host.held import HeldKernel

ENDPOINTS = Endpoints(transport="ipc", ip="/k", ports={"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5})
SETTINGS = Settings(
    image="default", monitor="fake", minimum_tier="none", network="none", vcpu_count=1, mem_size_mib=16,
    start_timeout_s=60.0, argv=None,
)  # fmt: skip


class Host:
    """Remembers what was asked; ``gone`` is a host that has closed the kernel meanwhile."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.gone = False
        self.seq = 0

    async def start(self, kernel_id: str, request: StartKernel) -> Started:
        self.asked.append(("start", kernel_id, request))
        return Started(seq=self.seq, settings=SETTINGS)

    async def signal(self, kernel_id: str, signum: int) -> None:
        self.asked.append(("signal", kernel_id, signum))

    async def kill(self, kernel_id: str) -> None:
        self.asked.append(("kill", kernel_id))
        if self.gone:
            raise KernelNotFound(f"there is no kernel {kernel_id!r} here")

    async def wait(self, kernel_id: str) -> int:
        if self.gone:
            raise KernelNotFound(f"there is no kernel {kernel_id!r} here")
        return 3

    async def close(self, kernel_id: str) -> None:
        self.asked.append(("close", kernel_id))


class Released:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, kernel_id: str, pid: int) -> None:
        self.calls.append((kernel_id, pid))


def held_on(host: Any, released: Released | None = None) -> HeldKernel:
    return HeldKernel(host, "k", ENDPOINTS, release=released or Released())


def death(seq: int, returncode: int | None) -> StateChanged:
    return StateChanged(kernel_id="k", seq=seq, state="dead", returncode=returncode)


def seen(held: HeldKernel) -> tuple[bool, int | None]:
    return held.dead, held.returncode


async def test_a_death_is_of_the_kernel_process_that_ran_then() -> None:
    """What is heard late of the process before the restart is no death of the one that runs."""
    host = Host()
    held = held_on(host)
    assert seen(held) == (False, None)
    host.seq = 4
    assert await held.start(StartKernel()) == SETTINGS
    held.saw(death(3, 1))
    assert seen(held) == (False, None)
    held.saw(StateChanged(kernel_id="k", seq=5, state="pausing"))
    assert seen(held) == (False, None)
    held.saw(death(6, 7))
    assert seen(held) == (True, 7)
    host.seq = 6
    await held.start(StartKernel())
    assert seen(held) == (False, None)


@pytest.mark.parametrize("lost", [False, True], ids=["without a status", "not heard of"])
async def test_a_death_that_is_not_explained_is_as_a_kill(lost: bool) -> None:
    held = held_on(Host())
    await held.start(StartKernel())
    held.lost() if lost else held.saw(death(1, None))
    assert held.dead
    assert held.returncode == -signal.SIGKILL


async def test_a_kernel_that_is_gone_is_dead() -> None:
    host = Host()
    held = held_on(host)
    assert await held.wait() == 3
    host.gone = True
    await held.kill()
    assert await held.wait() == -signal.SIGKILL
    held.saw(death(1, 5))
    assert await held.wait() == 5
    assert host.asked == [("kill", "k")]


async def test_who_forgets_a_kernel_has_it_closed() -> None:
    host, released = Host(), Released()
    held = held_on(host, released)
    del held
    gc.collect()
    assert released.calls == [("k", os.getpid())]
    assert host.asked == []


async def test_one_that_was_closed_is_not_closed_again() -> None:
    host, released = Host(), Released()
    held = held_on(host, released)
    held.keep()
    assert held.kept
    await held.close()
    assert not held.kept
    del held
    gc.collect()
    assert released.calls == []
    assert host.asked == [("close", "k")]
