"""Checks of pause and resume."""

from __future__ import annotations

import asyncio
import os
import time

from ...errors import StateError
from ...vmm.base import Capability, VmmState
from .. import guest_services as services
from .bench import Bench
from .check import check
from .expecting import expect, refused
from .guest import Guest, within

#: How far, and how long, the counter is watched while it runs.
GROWTH, WATCH_S = 50, 0.4
#: The guest is paused for so many times as long, and may have counted so many times as much when it is asked again. (It does
#: run between the resume and its answer, and on a busy host that is not at once.)
PAUSED_TIMES, COUNTED_TIMES = 6, 3
#: When a pause is cancelled, in seconds after its beginning; where nothing has begun, nothing has changed.
CANCEL_AFTER_S = (0.0, 0.0003, 0.001, 0.003, 0.01)
#: A paused guest never answers; a running one would answer within this time.
SILENCE_S = 0.3


@check(Capability.PAUSE)
async def pause_has_its_states(bench: Bench) -> None:
    """Only a running VM can be paused and only a paused one resumed; anything else is a StateError."""
    async with bench.vmm() as vmm:
        await vmm.start()
        with refused(StateError, "resume() of a running VM"):
            await vmm.resume()
        await vmm.pause()
        expect(vmm.state is VmmState.PAUSED, f"the state is {vmm.state}")
        with refused(StateError, "pause() of a paused VM"):
            await vmm.pause()
        with refused(StateError, "start() of a paused VM"):
            await vmm.start()
        expect(vmm.pid is not None, "no process runs")
        await vmm.resume()
        expect(vmm.state is VmmState.RUNNING, f"the state is {vmm.state}")


@check(Capability.PAUSE)
async def paused_vm_can_be_ended(bench: Bench) -> None:
    """A paused VM can be killed and closed like a running one."""
    async with bench.vmm() as vmm:
        await vmm.start()
        await vmm.pause()
        ended = await within(vmm.kill(), "kill() of a paused VM")
        expect(ended.returncode == -9, f"returncode is {ended.returncode}")
    async with bench.vmm() as vmm:
        await vmm.start()
        await vmm.pause()
        await within(vmm.aclose(), "aclose() of a paused VM")


async def _grown(guest: Guest, since: int) -> int:
    return (await guest.counters()).counter - since


@check(Capability.PAUSE)
async def guest_stands_still_while_paused(bench: Bench) -> None:
    """The guest counts while it runs, and not while it is paused."""
    guest = await bench.shared_guest()
    start = (await guest.counters()).counter
    began = time.monotonic()

    async def grows() -> None:
        while await _grown(guest, start) < GROWTH or time.monotonic() < began + WATCH_S:
            await asyncio.sleep(0.01)

    await within(grows(), "the counter grows")
    before = (await guest.counters()).counter
    took_s = time.monotonic() - began
    await guest.vmm.pause()
    await asyncio.sleep(PAUSED_TIMES * took_s)
    await guest.vmm.resume()
    grown, running = await _grown(guest, before), before - start
    expect(
        grown < COUNTED_TIMES * running,
        f"{running} in {took_s:.1f} s running, {grown} in {PAUSED_TIMES} times that paused",
    )


@check(Capability.PAUSE)
async def connects_after_every_resume(bench: Bench) -> None:
    """After a pause and a resume, again and again, new connections work."""
    guest = await bench.shared_guest()
    for _ in range(3):
        await guest.vmm.pause()
        await guest.vmm.resume()
        await guest.echoes(os.urandom(20_000))


@check(Capability.PAUSE, Capability.PAUSE_KEEPS_CONNECTIONS)
async def connections_outlive_a_pause(bench: Bench) -> None:
    """An open connection is silent while the guest is paused and goes on after it; what was sent meanwhile arrives."""
    guest = await bench.shared_guest()
    async with guest.connect(services.ECHO_PORT) as connection:
        await connection.echo(b"before the pause")
        await guest.vmm.pause()
        meanwhile = os.urandom(10_000)
        connection.writer.write(meanwhile)
        answer = asyncio.ensure_future(connection.reader.readexactly(len(meanwhile)))
        await asyncio.wait({answer}, timeout=SILENCE_S)
        expect(not answer.done(), "a paused guest answered")
        await guest.vmm.resume()
        expect(await within(answer, "what was sent during the pause") == meanwhile, "it came back damaged")
        await connection.echo(os.urandom(100_000))


@check(Capability.PAUSE, lacks=(Capability.PAUSE_KEEPS_CONNECTIONS,))
async def connections_end_at_a_pause(bench: Bench) -> None:
    """Where connections do not outlive a pause they end, so that nobody waits for ever on a dead one."""
    guest = await bench.shared_guest()
    async with guest.connect(services.ECHO_PORT) as connection:
        await connection.echo(b"before the pause")
        await guest.vmm.pause()
        await guest.vmm.resume()
        connection.writer.write(b"is anybody there?")
        await connection.ended()
    await guest.echoes()


@check(Capability.PAUSE)
async def cancelled_change_leaves_a_true_state(bench: Bench) -> None:
    """A cancelled pause or resume has taken effect or not, and the state says which; the VM can be used either way."""
    guest = await bench.shared_guest()
    vmm = guest.vmm
    for delay_s in CANCEL_AFTER_S:
        for call in (vmm.pause, vmm.resume):
            if (vmm.state is VmmState.RUNNING) is (call == vmm.pause):
                changing = asyncio.ensure_future(call())
                await asyncio.wait({changing}, timeout=delay_s)
                changing.cancel()
                await asyncio.wait({changing})
        expect(vmm.state in (VmmState.RUNNING, VmmState.PAUSED), f"the state is {vmm.state}")
        if vmm.state is VmmState.PAUSED:
            await vmm.resume()
        await guest.echoes()
