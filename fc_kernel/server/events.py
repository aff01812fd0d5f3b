"""What happens to kernels and snapshots, for everybody who subscribed to the server's events."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jupyter_events import EventLogger

from ..api.events import EVENT, SCHEMA_ID, event_schema
from ..api.failures import without_host_paths
from ..errors import FcKernelError
from .hosting import Session, Snapshot
from .views import snapshot_answer, state_of

if TYPE_CHECKING:
    from .extension import Extension

#: jupyter_server's own, by which we learn that a kernel was started.
KERNEL_ACTIONS = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"
ACTIONS = ("state", "snapshot", "restore", "fork", "rename", "delete")
SHOWN_OF_A_FORK = ("kernel_id", "name", "path", "session_id")
MAX_MESSAGE = 600


class Events:
    """From the sessions' observers, on the engine's thread, to the server's event logger, on its loop."""

    def __init__(self, extension: Extension) -> None:
        self._extension = extension
        logger = extension.serverapp.event_logger
        assert logger is not None  # noqa: S101 - a server has one before it loads extensions
        self._logger: EventLogger = logger
        self._watched: dict[str, Session] = {}
        self._pending: deque[tuple[str, str, dict[str, Any]]] = deque()
        self._teller: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Register the schema and watch every kernel that starts from now on."""
        if SCHEMA_ID not in self._logger.schemas:
            self._logger.register_event_schema(event_schema())
        self._logger.add_listener(schema_id=KERNEL_ACTIONS, listener=self._kernel_acted)

    async def _kernel_acted(self, logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
        kernel_id = data.get("kernel_id")
        if data.get("status") != "success" or kernel_id is None:
            return
        if data.get("action") == "shutdown":
            self.forget(kernel_id)
            return
        session = self._extension.session_of(kernel_id)
        if session is not None:
            self.watch(kernel_id, session)

    def watch(self, kernel_id: str, session: Session) -> None:
        """Pass on what happens to a session, once."""
        if self._watched.get(kernel_id) is session:
            return
        self._watched[kernel_id] = session
        loop = asyncio.get_running_loop()

        def observed(kind: str, payload: Mapping[str, Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the server's loop has ended before the engine
                loop.call_soon_threadsafe(self._observed, kernel_id, kind, dict(payload))

        self._extension.host.observe(kernel_id, observed)

    def forget(self, kernel_id: str) -> None:
        """The kernel is gone, and its session with it."""
        self._watched.pop(kernel_id, None)

    def _observed(self, kernel_id: str, kind: str, payload: dict[str, Any]) -> None:
        if kind not in ACTIONS:
            return
        self._pending.append((kernel_id, kind, payload))
        if self._teller is None or self._teller.done():
            self._teller = asyncio.get_running_loop().create_task(self._tell_all(), name="fc-kernel-events")

    async def _tell_all(self) -> None:
        """One after the other, as they happened, though some need a look into the store."""
        while self._pending:
            kernel_id, kind, payload = self._pending.popleft()
            try:
                if kind == "state":
                    state = state_of(payload.get("state"))
                    self.emit(kernel_id, "state", state=state, message=payload.get("message"))
                else:
                    await self._with_snapshot(kernel_id, kind, payload)
            except Exception as error:  # noqa: BLE001 - the next one is to be told all the same
                self._extension.serverapp.log.error("fc-kernel: an event was lost: %s", error)

    async def _with_snapshot(self, kernel_id: str, kind: str, payload: Mapping[str, Any]) -> None:
        snapshot: Snapshot | None = None
        if (snapshot_id := payload.get("snapshot")) is not None:
            with contextlib.suppress(FcKernelError):  # it is deleted already
                snapshot = await self._extension.snapshot(self._extension.host, str(snapshot_id))
        forks = None
        if (made := payload.get("forks")) is not None:
            # Not what is the host's own business, such as the connection file; and not those that did not start.
            forks = [{name: fork.get(name) for name in SHOWN_OF_A_FORK} for fork in made if fork.get("kernel_id")]
        await self.changed(kernel_id, kind, snapshot, forks=forks, message=payload.get("message"))

    async def changed(self, kernel_id: str, action: str, snapshot: Snapshot | None, **more: Any) -> None:
        """Emit an event with a snapshot in it."""
        model = None
        if snapshot is not None:
            model = await snapshot_answer(self._extension.host, snapshot, await self._extension.current())
        self.emit(kernel_id, action, snapshot=model.model_dump() if model else None, **more)

    def emit(self, kernel_id: str, action: str, *, message: object = None, **more: Any) -> None:
        """Emit an event; what is ``None`` has its default."""
        given = {name: value for name, value in more.items() if value is not None}
        shown = without_host_paths(str(message or "").partition("\n")[0])[:MAX_MESSAGE]
        try:
            event = EVENT.validate_python(
                {"kernel_id": kernel_id, "action": action, **given, **({"message": shown} if shown else {})}
            )
            self._logger.emit(schema_id=SCHEMA_ID, data=event.model_dump(mode="json"))
        except Exception as error:  # noqa: BLE001 - a subscriber's fault is no reason to fail who made the change
            self._extension.serverapp.log.error("fc-kernel: an event was lost: %s", error)
