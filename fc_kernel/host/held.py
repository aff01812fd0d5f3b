"""A kernel on a host, as seen by the process that has opened it."""

from __future__ import annotations

import logging
import os
import signal
import weakref
from collections.abc import Callable

from ..api.calls import Endpoints, Settings, StartKernel
from ..api.events import Event, StateChanged
from ..errors import KernelNotFound
from .service import KernelHost

log = logging.getLogger(__name__)


class HeldKernel:
    """A kernel that this process has opened. It is closed when nothing refers to this object any more."""

    def __init__(
        self, host: KernelHost, kernel_id: str, endpoints: Endpoints, *, release: Callable[[str, int], None]
    ) -> None:
        """``release`` is called with the kernel's id and our process id when this object is collected as garbage."""
        self._host = host
        self.kernel_id = kernel_id
        self.endpoints = endpoints
        #: Whether the lease is renewed.
        self.kept = False
        #: The number of the last event from before the kernel process was started.
        self.since = 0
        self._death: StateChanged | None = None
        self._lost = False
        # A server that gives up on a kernel after five deaths only forgets its manager.
        self._finalizer = weakref.finalize(self, release, kernel_id, os.getpid())
        self._finalizer.atexit = False  # its lease runs out, or the host ends with this process

    @property
    def dead(self) -> bool:
        """Whether the kernel process has ended since the last start."""
        return self._lost or (self._death is not None and self._death.seq > self.since)

    @property
    def returncode(self) -> int | None:
        """Exit status of the kernel process; ``None`` while one runs, or none was started."""
        if not self.dead:
            return None
        told = None if self._death is None else self._death.returncode
        return -signal.SIGKILL if told is None else told

    def saw(self, event: Event) -> None:
        """Take note of what happened to this kernel."""
        if isinstance(event, StateChanged) and event.state == "dead":
            self._death = event

    def lost(self) -> None:
        """Note that the host has this kernel process no longer, and that it is unknown how it ended."""
        self._lost = True

    async def start(self, request: StartKernel) -> Settings:
        """See :meth:`KernelHost.start`; returns the settings as the host has resolved them."""
        started = await self._host.start(self.kernel_id, request)
        self.since, self._lost = started.seq, False
        return started.settings

    def keep(self) -> None:
        """Have the lease renewed from now on, for as long as anything refers to this object."""
        self.kept = True

    async def signal(self, signum: int) -> None:
        """See :meth:`KernelHost.signal`."""
        await self._host.signal(self.kernel_id, signum)

    async def kill(self) -> None:
        """See :meth:`KernelHost.kill`; nothing happens when the kernel is gone."""
        try:
            await self._host.kill(self.kernel_id)
        except KernelNotFound:
            log.debug("kernel %s is gone already", self.kernel_id)

    async def wait(self) -> int:
        """See :meth:`KernelHost.wait`; at once when the kernel is gone."""
        try:
            return await self._host.wait(self.kernel_id)
        except KernelNotFound:
            return -signal.SIGKILL if self.returncode is None else self.returncode

    async def close(self) -> None:
        """See :meth:`KernelHost.close`."""
        self.kept = False
        self._finalizer.detach()
        await self._host.close(self.kernel_id)
