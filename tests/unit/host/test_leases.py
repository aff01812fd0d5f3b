"""A lease runs out, is renewed, is held during a call, and forgives a process that stood still."""

from __future__ import annotations

import asyncio
import time

import pytest

from fc_kernel.host import leases
from fc_kernel.host.leases import Lease

LEASE_S = 0.2


class Ended:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_it_runs_out_once() -> None:
    ended = Ended()
    Lease(LEASE_S, ended)
    await asyncio.sleep(LEASE_S / 2)
    assert ended.count == 0
    await asyncio.sleep(LEASE_S * 2)
    assert ended.count == 1


async def test_renewed_it_goes_on() -> None:
    ended = Ended()
    lease = Lease(LEASE_S, ended)
    for _ in range(6):
        await asyncio.sleep(LEASE_S / 3)
        lease.renew()
    assert ended.count == 0
    lease.cancel()
    await asyncio.sleep(LEASE_S * 2)
    assert ended.count == 0


async def test_a_call_holds_it() -> None:
    ended = Ended()
    lease = Lease(LEASE_S, ended)
    with lease.held():
        await asyncio.sleep(LEASE_S * 3)
        assert ended.count == 0
    await asyncio.sleep(LEASE_S / 2)
    assert ended.count == 0
    await asyncio.sleep(LEASE_S)
    assert ended.count == 1


async def test_a_process_that_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner stood still, too, and could not renew."""
    monkeypatch.setattr(leases, "STOPPED_S", LEASE_S)
    ended = Ended()
    Lease(LEASE_S, ended)
    time.sleep(LEASE_S * 3)  # noqa: ASYNC251 - nothing runs, as in a process that is stopped
    await asyncio.sleep(LEASE_S / 2)
    assert ended.count == 0
    await asyncio.sleep(LEASE_S)
    assert ended.count == 1


async def test_a_renewal_that_lay_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process stood still over the lease's end, and goes on right after it: its owner's renewal comes a step later."""
    ended = Ended()
    lease = Lease(LEASE_S, ended)
    time.sleep(LEASE_S * 1.05)  # noqa: ASYNC251 - nothing runs, as in a process that is stopped
    await asyncio.sleep(LEASE_S / 20)
    lease.renew()
    await asyncio.sleep(LEASE_S / 2)
    assert ended.count == 0
    lease.cancel()
