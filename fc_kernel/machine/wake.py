"""Waking a loaded machine: it is renewed, its connections are made, and then its kernel runs.

    renew                  generation, entropy, clock, names and key; the kernel is still frozen
    links.attach           what the kernel's code needs
    thaw                   random generators, the user's hooks, then the user's code

So no byte of user code runs before the machine knows that it was restored and has its connections.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import AgentError, AgentUnreachable, NotReseeded
from ..vmm.base import VmmState
from ..wire import methods
from .agent_client import Renewal, Renewed, Role
from .boot import up_within
from .machine import GuestKernel, Machine

log = logging.getLogger(__name__)

#: For reseeding and the user's hooks; a hook may be slow, but not endless.
WAKE_TIMEOUT_S = 60.0
REHEARSAL_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class WakeRequest:
    """What a loaded machine is to become."""

    role: Role
    generation: int
    #: The name of the snapshot that it comes from.
    name: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    reseed: bool = True


async def wake(machine: Machine, request: WakeRequest, *, timeout_s: float = WAKE_TIMEOUT_S) -> Sequence[str]:
    """Renew a loaded machine, attach its connections and thaw its kernel. Returns what the user's hooks raised.

    Raises :class:`~fc_kernel.errors.NotReseeded` when the guest does not take fresh entropy, and
    :class:`~fc_kernel.errors.LaunchError` for any other failure within ``timeout_s``; the caller must then end the machine.
    """
    async with up_within(machine.vmm, timeout_s):
        await _renew(machine, request, timeout_s)
        await machine.links.attach(request.generation)
        return await _thaw(machine, timeout_s)


async def rehearse(machine: Machine) -> None:
    """Let a loaded machine run once, without a trace, what its first user will need, and freeze it again.

    An emulator translates code when it first runs, which takes several times as long as running it. A guest that cannot
    rehearse stays as it is. Raises as :func:`wake` does.
    """
    generation = machine.origin.generation + 1
    async with up_within(machine.vmm, WAKE_TIMEOUT_S):
        await _renew(machine, WakeRequest(role=methods.ROLE_STARTED, generation=generation), WAKE_TIMEOUT_S)
        await _thaw(machine, WAKE_TIMEOUT_S)
    machine.origin.generation = generation
    try:
        await machine.agent.rehearse(rehearsal_timeout_s=REHEARSAL_TIMEOUT_S, timeout_s=WAKE_TIMEOUT_S)
    except AgentError as error:
        log.debug("VM %s does not rehearse: %s", machine.vmm.plan.vm_id, error)
    await machine.agent.freeze(hooks=False, hooks_timeout_s=REHEARSAL_TIMEOUT_S, timeout_s=WAKE_TIMEOUT_S)
    machine.needs_wake = True


async def _renew(machine: Machine, request: WakeRequest, timeout_s: float) -> None:
    vmm = machine.vmm
    if vmm.state is VmmState.PAUSED:
        await vmm.resume()
    await machine.links.attach()
    renewal = Renewal(
        role=request.role,
        generation=request.generation,
        name=request.name,
        hostname=f"vm-{vmm.plan.vm_id}",
        machine_id=secrets.token_hex(16),
        key=secrets.token_hex(16),
        env={**request.env, **machine.environment()},
        reseed=request.reseed,
    )
    try:
        renewed = await _renewed(machine, renewal, timeout_s)
    except AgentUnreachable:
        # A guest drops its old connections when it notices the restore; one made just then is dropped too. One retry is enough.
        await machine.links.drop()
        await machine.links.attach()
        renewed = await _renewed(machine, renewal, timeout_s)
    # A kernel of another language keeps its key; that is safe, as it was saved with no request waiting.
    if machine.origin.kernel is not None and renewed.rekeyed:
        old = machine.origin.kernel
        machine.origin.kernel = GuestKernel(old.instance, renewal.key.encode(), old.execution_count, old.cell)


async def _renewed(machine: Machine, renewal: Renewal, timeout_s: float) -> Renewed:
    try:
        return await machine.agent.renew(renewal, timeout_s=timeout_s)
    except AgentError as error:
        if error.code == methods.ENTROPY_REFUSED:
            raise NotReseeded(
                f"the restored guest did not take fresh randomness and was ended: {error}",
                console=machine.vmm.console_tail(),
            ) from error
        raise


async def _thaw(machine: Machine, timeout_s: float) -> Sequence[str]:
    errors = await machine.agent.thaw(timeout_s=timeout_s)
    machine.needs_wake = False
    return errors
