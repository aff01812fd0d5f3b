"""The connections from the host to one guest. They are made here and nowhere else.

There is one control connection, one for each Jupyter channel, and later one for each service of the guest. All of them
belong to a *generation*: after a restore those of an older generation are useless.

    links.attach()             the control connection alone: while a guest boots, or before it is renewed
    links.attach(generation)   all that a kernel needs, before its code runs
    links.take_channels()      hands the channels' sockets to the server of the kernel's clients
    links.rest()               before a pause
    links.attach()             after it: remakes what :meth:`Links.rest` has dropped
    links.drop()               at the end, or before the guest is dialled anew
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import AgentUnreachable, MonitorExited, StateError
from ..vmm.base import Capability, Vmm
from ..wire.ports import CHANNEL_PORTS, CONTROL_PORT
from .agent_client import AgentClient
from .dial import dial_all, dial_until

T = TypeVar("T")

#: An agent that has answered on its control port accepts the other connections at once.
CHANNELS_TIMEOUT_S = 10.0


class Links:
    """All connections of one machine; nothing else dials its guest.

    ``on_notification(method, params)`` gets the agent's notifications, ``on_lost(reason, fatal)`` the end of the control
    connection unless it was dropped here. Both run on the event loop. Whoever takes the channels sees their end.
    """

    def __init__(
        self,
        vmm: Vmm,
        *,
        on_notification: Callable[[str, dict[str, Any]], None],
        on_lost: Callable[[str, bool], None],
    ) -> None:
        self._vmm = vmm
        self._on_notification = on_notification
        self._on_lost = on_lost
        self._agent: AgentClient | None = None
        #: Connected channels that nobody has taken yet.
        self._channels: dict[str, socket.socket] = {}
        #: Whether channels were taken, and not dropped since.
        self._taken = False
        #: The generation of the channels; ``None`` while only the control connection was asked for.
        self.generation: int | None = None
        self._attaching = asyncio.Lock()
        #: How often everything was dropped: a connection that was being dialled meanwhile is closed.
        self._drops = 0

    @property
    def agent(self) -> AgentClient:
        """The guest's agent; raises :class:`~fc_kernel.errors.StateError` while there is no control connection."""
        if self._agent is None:
            raise StateError("the guest's agent is not connected")
        return self._agent

    @property
    def connected(self) -> bool:
        """Whether the control connection is up."""
        return self._agent is not None and self._agent.alive

    @property
    def outlive_a_snapshot(self) -> bool:
        """Whether the monitor keeps connections open across a pause and a snapshot."""
        return Capability.SNAPSHOT_KEEPS_CONNECTIONS in self._vmm.capabilities

    async def attach(self, generation: int | None = None) -> None:
        """Make every connection that is missing: control, then channels. Those that are up stay as they are.

        With a ``generation`` channels are connected too, and those of another generation are dropped. ``None`` remakes what
        :meth:`rest` or :meth:`drop` has closed. An agent that does not listen yet is dialled until it does: the caller sets
        the deadline. Raises :class:`~fc_kernel.errors.MonitorExited` as soon as the monitor ends, and
        :class:`~fc_kernel.errors.AgentUnreachable` when the guest accepts no channels or :meth:`drop` was called meanwhile.
        """
        async with self._attaching:
            if generation is not None:
                self._taken = False
                if generation != self.generation:
                    self._close_channels()
                    self.generation = generation
            drops = self._drops
            if not self.connected:
                await self._hang_up()
                sock = await self._unless_exited(dial_until(self._vmm.uds_path, CONTROL_PORT))
                self._unless_dropped(drops, sock)
                self._agent = AgentClient(sock, on_notification=self._on_notification, on_lost=self._on_lost)
            if self.generation is not None and not self._channels and not self._taken:
                sockets = await self._unless_exited(self._dial_channels())
                self._unless_dropped(drops, *sockets.values())
                self._channels = sockets

    def take_channels(self) -> dict[str, socket.socket]:
        """The connected sockets, by channel. The caller owns them from now on, and the next :meth:`attach` makes new ones.

        Raises :class:`~fc_kernel.errors.StateError` if there are none.
        """
        if not self._channels:
            raise StateError("the guest's channels are not connected")
        channels, self._channels, self._taken = self._channels, {}, True
        return channels

    async def rest(self) -> None:
        """Drop the connections that a pause would break, so that this is not taken for a fault; :meth:`attach` remakes them."""
        if not self.outlive_a_snapshot:
            await self.drop()

    async def drop(self) -> None:
        """Close every connection except those that were taken; may be called twice."""
        self._drops += 1
        self._taken = False
        self._close_channels()
        await self._hang_up()

    def _close_channels(self) -> None:
        channels, self._channels = self._channels, {}
        for sock in channels.values():
            sock.close()

    async def _hang_up(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            await agent.aclose()

    async def _dial_channels(self) -> dict[str, socket.socket]:
        async with asyncio.timeout(CHANNELS_TIMEOUT_S) as deadline:
            try:
                return await dial_all(self._vmm.uds_path, CHANNEL_PORTS)
            except asyncio.CancelledError:
                if deadline.expired():
                    raise AgentUnreachable(f"the guest took no connection within {CHANNELS_TIMEOUT_S:g} s") from None
                raise

    def _unless_dropped(self, drops: int, *sockets: socket.socket) -> None:
        if drops != self._drops:
            for sock in sockets:
                sock.close()
            raise AgentUnreachable("the connections to the guest were dropped")

    async def _unless_exited(self, waiting_for: Coroutine[Any, Any, T]) -> T:
        """Await, but raise :class:`~fc_kernel.errors.MonitorExited` as soon as the monitor ends."""
        task = asyncio.ensure_future(waiting_for)
        exited = asyncio.ensure_future(self._vmm.wait())
        try:
            await asyncio.wait({task, exited}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise MonitorExited(str(exited.result()), returncode=exited.result().returncode)
        except asyncio.CancelledError:
            # The dial ended just as the caller was cancelled: nobody gets the result.
            if task.done() and not task.cancelled() and task.exception() is None:
                _close_all(task.result())
            raise
        finally:
            for each in (task, exited):
                if not each.done():
                    each.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await each


def _close_all(dialled: object) -> None:
    """Close one socket, or all sockets of a dictionary."""
    for each in dialled.values() if isinstance(dialled, dict) else (dialled,):
        if isinstance(each, socket.socket):
            each.close()
