"""The host's client of the guest agent: one method for each call of the protocol; answers are checked first.

Every call raises :class:`~fc_kernel.errors.AgentError` when the agent refuses it, and
:class:`~fc_kernel.errors.AgentUnreachable` when no answer comes in time. An answer is an unproven claim of the
guest: it is validated here, and a malformed field counts as missing.
"""

from __future__ import annotations

import base64
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..base.text import without_controls
from ..errors import AgentUnreachable
from ..wire import methods
from ..wire.ports import PROTOCOL_VERSION
from .rpc import RpcConnection

#: A healthy agent answers in milliseconds, also in an emulated guest; it never waits for the kernel.
AGENT_TIMEOUT_S = 10.0
#: The longest message id that is taken from a guest.
MAX_ID_CHARS = 128
MAX_LANGUAGE_CHARS = 32

Role = Literal["started", "restored", "fork"]


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What the agent says about its machine."""

    protocol: int
    python: str
    kernel_release: str
    vcpu_count: int
    mem_total_mib: int

    @classmethod
    def of(cls, said: Any) -> Greeting:
        """Validate an untrusted answer; raises :class:`~fc_kernel.errors.AgentUnreachable` if it is no greeting."""
        try:
            return cls(
                protocol=int(said["protocol"]),
                python=without_controls(str(said["python"])[:32]),
                kernel_release=without_controls(str(said["kernel_release"])[:64]),
                vcpu_count=int(said["vcpu_count"]),
                mem_total_mib=int(said["mem_total_mib"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise AgentUnreachable(f"the guest agent's greeting is malformed: {error!r}") from error


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What the agent says about the kernel that it froze."""

    instance: int | None = None
    language: str | None = None
    execution_count: int | None = None
    #: The id of the request whose cell runs, or has asked for the snapshot.
    cell: str | None = None
    hook_errors: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: object) -> Frozen:
        """From an answer that may be anything."""
        told = _object(said)
        return cls(
            instance=_count(told.get("instance")),
            language=_text(told.get("language"), MAX_LANGUAGE_CHARS),
            execution_count=_count(told.get("execution_count")),
            cell=_text(told.get("cell"), MAX_ID_CHARS),
            hook_errors=hook_errors(said),
        )


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """The new identity that a restored machine is given."""

    role: Role
    generation: int
    #: The name of the snapshot that it comes from.
    name: str
    hostname: str
    machine_id: str
    #: The key that signs the kernel's messages from now on.
    key: str
    env: Mapping[str, str] = field(default_factory=dict)
    #: Whether Python's random number generators are reseeded.
    reseed: bool = True


@dataclass(frozen=True, kw_only=True)
class Renewed:
    """What the agent says about a machine that it renewed."""

    #: Whether the kernel takes the new key; a kernel of another language keeps its own.
    rekeyed: bool

    @classmethod
    def of(cls, said: object) -> Renewed:
        """From an answer that may be anything."""
        return cls(rekeyed=_object(said).get("rekeyed") is not False)


def hook_errors(said: object) -> tuple[str, ...]:
    """What the user's hooks raised, from an untrusted answer."""
    errors = _object(said).get("hook_errors")
    if not isinstance(errors, list):
        return ()
    return tuple(str(each)[: methods.MAX_HOOK_ERROR_CHARS] for each in errors[: methods.MAX_HOOK_ERRORS])


def _object(said: object) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 31 else None


def _text(value: object, most: int) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= most and value.isprintable() else None


class AgentClient:
    """A client of the agent over one control connection. ``timeout_s`` is how long an answer may take."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_notification: Callable[[str, dict[str, Any]], None],
        on_lost: Callable[[str, bool], None],
    ) -> None:
        """Take over the socket. The callbacks are those of :class:`~fc_kernel.machine.rpc.RpcConnection`."""
        self._rpc = RpcConnection(sock, on_notification=on_notification, on_lost=on_lost)

    @property
    def alive(self) -> bool:
        """Whether the connection is up."""
        return self._rpc.alive

    async def _call(self, method: str, *, within_s: float | None = None, **params: Any) -> Any:
        return await self._rpc.call(method, params, timeout_s=AGENT_TIMEOUT_S if within_s is None else within_s)

    async def hello(self) -> Greeting:
        """Greet; raises :class:`~fc_kernel.errors.AgentUnreachable` for an agent that speaks another protocol version."""
        said = await self._call(methods.HELLO, protocol=PROTOCOL_VERSION, time=time.time(), entropy_b64=_entropy())
        greeting = Greeting.of(said)
        if greeting.protocol != PROTOCOL_VERSION:
            raise AgentUnreachable(
                f"the guest agent speaks protocol {greeting.protocol}; this host speaks {PROTOCOL_VERSION}"
            )
        return greeting

    async def ping(self) -> None:
        """Return when the agent has answered."""
        await self._call(methods.PING)

    async def start_kernel(
        self, *, argv: Sequence[str] | None, env: Mapping[str, str], key: str, instance: int, timeout_s: float
    ) -> None:
        """Start a kernel process, and return when it takes requests. Without ``argv`` it is the guest's own ipykernel."""
        await self._call(
            methods.KERNEL_START,
            within_s=timeout_s,
            argv=None if argv is None else list(argv),
            env=dict(env),
            cwd=None,
            key=key,
            instance=instance,
        )

    async def signal_kernel(self, signum: int) -> None:
        """Send a signal to the kernel's process group; nothing happens when none runs."""
        await self._call(methods.KERNEL_SIGNAL, signum=signum)

    async def kill_kernel(self) -> None:
        """Kill the kernel's process group; a notification of its end follows."""
        await self._call(methods.KERNEL_KILL)

    async def freeze(self, *, hooks: bool, hooks_timeout_s: float, timeout_s: float) -> Frozen:
        """Stop the kernel and all that it has started, after the user's hooks if they are to run.

        The agent gives hooks and kernel ``hooks_timeout_s`` and then stops what still runs. It refuses with the code
        :data:`~fc_kernel.wire.methods.KERNEL_BUSY` when a kernel of another language is busy.
        """
        return Frozen.of(await self._call(methods.FREEZE, within_s=timeout_s, hooks=hooks, timeout_s=hooks_timeout_s))

    async def renew(self, renewal: Renewal, *, timeout_s: float) -> Renewed:
        """Give a restored machine an identity, entropy and a clock of its own; its kernel stays frozen.

        The agent refuses with the code :data:`~fc_kernel.wire.methods.ENTROPY_REFUSED` when its Linux refuses the entropy:
        such a machine must be ended.
        """
        said = await self._call(
            methods.RENEW,
            within_s=timeout_s,
            time=time.time(),
            entropy_b64=_entropy(),
            cwd=None,
            role=renewal.role,
            generation=renewal.generation,
            name=renewal.name,
            hostname=renewal.hostname,
            machine_id=renewal.machine_id,
            key=renewal.key,
            env=dict(renewal.env),
            reseed=renewal.reseed,
        )
        return Renewed.of(said)

    async def thaw(self, *, timeout_s: float) -> tuple[str, ...]:
        """Let the kernel run again; in a renewed machine it is renewed first. Returns what the user's hooks raised."""
        return hook_errors(await self._call(methods.THAW, within_s=timeout_s, time=time.time()))

    async def rehearse(self, *, rehearsal_timeout_s: float, timeout_s: float) -> None:
        """Let the kernel run once what its first cell will need, without a trace, within ``rehearsal_timeout_s``."""
        await self._call(methods.REHEARSE, within_s=timeout_s, timeout_s=rehearsal_timeout_s)

    async def answer(self, number: int, answer: Mapping[str, Any]) -> None:
        """Answer a cell's request with a ``result`` or with an ``error`` (text)."""
        self._rpc.answering()
        await self._call(methods.ANSWER, id=number, **answer)

    async def shut_down(self) -> None:
        """Make the guest flush its caches and end its machine."""
        await self._call(methods.SYSTEM_SHUTDOWN)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._rpc.aclose()


def _entropy() -> str:
    return base64.b64encode(os.urandom(methods.SEED_BYTES)).decode()
