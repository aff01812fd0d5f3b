"""Starting a kernel process in a machine: waking the one in the loaded snapshot, or starting a new one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..settings.resolve import Resolved
from ..wire.methods import ROLE_FORK, ROLE_STARTED
from .agent_client import Role
from .machine import Machine
from .wake import WakeRequest, wake


@dataclass(frozen=True, kw_only=True)
class KernelRequest:
    """The kernel process to start in the guest; without ``argv`` it is the guest's own ipykernel."""

    resolved: Resolved
    argv: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StartedKernel:
    """A running kernel process: its number in the guest, its key, and what the user's hooks raised."""

    instance: int
    key: bytes
    hook_errors: Sequence[str] = ()


async def start_kernel(machine: Machine, request: KernelRequest, *, generation: int) -> StartedKernel:
    """Wake the kernel of a loaded machine, or start a process with the next number.

    Raises :class:`~fc_kernel.errors.AgentError` or :class:`~fc_kernel.errors.LaunchError`.
    """
    errors: Sequence[str] = ()
    if machine.needs_wake:
        current = machine.origin.current
        role: Role = ROLE_STARTED if current is None else ROLE_FORK
        wake_request = WakeRequest(
            role=role,
            generation=generation,
            name="" if current is None else current.name,
            env=request.env,
        )
        errors = await wake(machine, wake_request, timeout_s=request.resolved.start_timeout_s)
        if (kernel := machine.origin.kernel) is not None:
            machine.last_instance = kernel.instance
            return StartedKernel(kernel.instance, kernel.key, errors)
    instance = machine.last_instance + 1
    key = secrets.token_hex(16)
    await machine.agent.start_kernel(
        argv=request.argv or None,
        env={**request.env, **machine.environment()},
        key=key,
        instance=instance,
        timeout_s=request.resolved.start_timeout_s,
    )
    machine.last_instance = instance
    return StartedKernel(instance, key.encode(), errors)
