"""Connects a session on the engine's loop to its switchboard, which has a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ..channels.endpoints import ClientEndpoints
from ..channels.switchboard import Switchboard
from ..channels.synthesized import Rollback
from ..errors import AgentUnreachable, FcKernelError, StateError
from ..machine.links import Links

T = TypeVar("T")

#: Ample: the switchboard takes commands between two messages, and a guest's greeting takes one round trip.
ANSWER_TIMEOUT_S = 10.0


class Wiring:
    """The switchboard of one kernel, with methods to be awaited.

    ``on_lost(reason, fatal)`` runs on the loop when the tunnels break; after a fatal break dialling again is of no use.
    """

    def __init__(
        self,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        signature_scheme: str,
        on_lost: Callable[[str, bool], None],
    ) -> None:
        loop = asyncio.get_running_loop()

        def lost(reason: str, fatal: bool) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(on_lost, reason, fatal)

        self._switchboard = Switchboard(endpoints, key=key, signature_scheme=signature_scheme, on_tunnel_lost=lost)
        #: The port of each channel, as clients see it.
        self.ports = self._switchboard.start()
        self._closed = False

    async def attach(
        self, links: Links, *, guest_key: bytes, generation: int, rollback: Rollback | None = None
    ) -> None:
        """Connect all channels to the guest; raises :class:`~fc_kernel.errors.FcKernelError`."""
        self._check()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await links.attach(generation)
        except TimeoutError:
            raise AgentUnreachable(f"the guest took no connection within {ANSWER_TIMEOUT_S:g} s") from None
        self._check()
        sockets = links.take_channels()
        attached = self._switchboard.attach(sockets, guest_key=guest_key, generation=generation, rollback=rollback)
        await self._answer("attach", attached)

    async def detach(self, reason: str | None = None) -> None:
        """Disconnect the guest; with a reason, the requests that wait are answered with it as an error."""
        if not self._closed and self._switchboard.failure is None:
            await self._answer("detach", self._switchboard.detach(reason=reason))

    async def link(self) -> None:
        """Give ``ipc`` sockets their public names again."""
        self._check()
        await self._answer("link", self._switchboard.link())

    def _check(self) -> None:
        if self._closed:
            raise StateError("the kernel's endpoints are closed")
        if self._switchboard.failure is not None:
            raise StateError(f"the switchboard failed: {self._switchboard.failure}")

    async def _answer(self, what: str, future: Future[T]) -> T:
        """Wait for the switchboard's answer. Never cancels ``future``, because the switchboard sets it in any case."""
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await asyncio.shield(waiting)
        except TimeoutError:
            raise AgentUnreachable(f"{what}: no answer within {ANSWER_TIMEOUT_S:g} s") from None
        except FcKernelError as error:
            raise AgentUnreachable(f"{what}: {error}") from error

    async def aclose(self) -> None:
        """Close the clients' sockets; may be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._switchboard.close)
        except RuntimeError:
            # The interpreter is ending and starts no threads any more; then blocking the loop harms nobody.
            self._switchboard.close()
