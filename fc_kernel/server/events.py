"""Passes what happens to kernels and snapshots on to the subscribers of the server's events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jupyter_events import EventLogger
from jupyter_server.serverapp import ServerApp

from ..api.events import SCHEMA_ID, Event, ForkWanted, StateChanged, event_schema
from ..api.failures import MAX_DETAILS, MAX_MESSAGE, without_host_paths
from ..errors import FcKernelError
from .forking import Forks

if TYPE_CHECKING:
    from ..host.client import HostClient

#: jupyter_server's own event, which tells us that a kernel was started.
KERNEL_ACTIONS = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"


class Events:
    """Passes the host's events, which come on another thread, to the server's event logger, on its loop."""

    def __init__(
        self,
        serverapp: ServerApp,
        forks: Forks,
        is_ours: Callable[[str], bool],
        client: Callable[[], HostClient],
    ) -> None:
        """``client`` returns the user's host; it is made when it is first needed."""
        logger = serverapp.event_logger
        assert logger is not None  # noqa: S101 - a server has one before it loads extensions
        self._logger: EventLogger = logger
        self._log = serverapp.log
        self._forks = forks
        self._is_ours = is_ours
        self._client = client
        self._stop: Callable[[], object] | None = None
        self._answers: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Register the schema; follow the host once the first kernel in a microVM has started."""
        if SCHEMA_ID not in self._logger.schemas:
            self._logger.register_event_schema(event_schema())
        self._logger.add_listener(schema_id=KERNEL_ACTIONS, listener=self._kernel_acted)

    async def _kernel_acted(self, logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
        kernel_id = data.get("kernel_id")
        if data.get("status") == "success" and kernel_id is not None and self._is_ours(kernel_id):
            with contextlib.suppress(FcKernelError):  # a wrong configuration, which the next request reports
                self.follow()

    def follow(self) -> None:
        """Pass on what happens from now on; a second call changes nothing."""
        if self._stop is not None:
            return
        loop = asyncio.get_running_loop()

        def heard(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the server's loop has ended before the host
                loop.call_soon_threadsafe(self._heard, event)

        self._stop = self._client().listen(heard)

    def stop(self) -> None:
        """Stop passing events on."""
        if self._stop is not None:
            self._stop()

    def _heard(self, event: Event) -> None:
        if isinstance(event, ForkWanted):
            task = asyncio.ensure_future(self._answer(event))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
            return
        try:
            self._logger.emit(schema_id=SCHEMA_ID, data=_shown(event).model_dump(mode="json"))
        except Exception as error:  # noqa: BLE001 - later events must still be passed on
            self._log.error("fc-kernel: an event was lost: %s", error)

    async def _answer(self, wanted: ForkWanted) -> None:
        try:
            await self._forks.answer(wanted)
        except FcKernelError as error:
            self._log.error("fc-kernel: a fork was not reported: %s", error)


def _shown(event: Event) -> Event:
    """The event without paths of the host, cut to a length that fits a dialog."""
    if not isinstance(event, StateChanged):
        return event
    return event.model_copy(
        update={
            "message": without_host_paths(event.message.partition("\n")[0])[:MAX_MESSAGE],
            "console": [without_host_paths(line) for line in event.console[-MAX_DETAILS:]],
        }
    )
