"""What the extension needs of the engine and of the store, and no more; tests put something in memory in their place.

Two things between the host and the extension are agreed on here:

- **Observers.** ``session.observe(callback)`` calls ``callback(kind, payload)`` on the engine's thread and returns what ends
  that. Kinds and payloads: ``state {"state": …, "message": str|None}``, ``snapshot {"snapshot": id}``,
  ``restore {"snapshot": id}``, ``fork {"snapshot": id|None, "forks": [{"kernel_id", "name", …}]}``. They come for
  whoever asked: a cell, the REST API or a timer; so the extension makes no events of its own for these.
- **Forks.** A fork under a server has to be a kernel of that server's manager. The extension sets the engine's ``forker`` to a
  :class:`Forker`; a host without one makes kernels with connection files of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Observer = Callable[[str, Mapping[str, Any]], None]


class Snapshot(Protocol):
    """A published snapshot, as the store returns it."""

    @property
    def id(self) -> str:
        """The random id."""

    @property
    def name(self) -> str:
        """Unique within owner and scope."""

    @property
    def scope(self) -> str:
        """The notebook's path on the server, or ``kernel:<kernel_id>``."""

    @property
    def notebook(self) -> Path | None:
        """The notebook that was saved with it."""


class Session(Protocol):
    """A kernel in a microVM; used on the engine's loop."""

    def info(self) -> Mapping[str, Any]:
        """State, machine, lineage and use; see :class:`~fc_kernel.server.models.Kernel`."""

    async def take_snapshot(self, name: str | None, description: str, notebook: bytes | None = None) -> Snapshot:
        """Checkpoint the machine; the kernel goes on. ``notebook`` is stored with it."""

    async def restore(self, ref: str, same_seed: bool = False) -> None:
        """Put this very kernel back to a snapshot of its scope."""

    async def fork(self, count: int, name: str | None = None) -> Sequence[Mapping[str, Any]]:
        """New kernels from this instant, made by the engine's :class:`Forker`, whose answer is returned."""

    def observe(self, callback: Observer) -> Callable[[], None]:
        """Be told what happens, on the engine's thread, until the function returned is called."""

    def console_tail(self, lines: int = 20) -> Sequence[str]:
        """The last lines of the guest's console."""


class Forker(Protocol):
    """Makes kernels from a snapshot where a server owns the kernels; called on the engine's loop."""

    async def __call__(
        self, *, kernel_id: str, snapshot_id: str, count: int, name: str | None
    ) -> Sequence[Mapping[str, Any]]:
        """``count`` new kernels of ``kernel_id``'s kernelspec: ``{"kernel_id", "name", "connection_file", "url"}`` each."""


class Store(Protocol):
    """The snapshot store's blocking calls, which the handlers make on other threads."""

    @property
    def root(self) -> Path:
        """Its directory, which may not be there yet."""

    def list(self, *, scope: str | None = None) -> Sequence[Snapshot]:
        """Complete snapshots, oldest first."""

    def rename(self, snapshot: Any, name: str) -> Snapshot:
        """Raises :class:`~fc_kernel.errors.SnapshotExists`."""

    def describe(self, snapshot: Any, text: str) -> Snapshot:
        """Change the description."""

    def delete(self, snapshot: Any) -> None:
        """Raises :class:`~fc_kernel.errors.SnapshotInUse`."""

    def in_use(self, snapshot: Any) -> bool:
        """Whether a VM maps its files."""

    def disk_bytes(self, snapshot: Any = None) -> int:
        """What deleting it would free; what the whole store takes."""


class Host(Protocol):
    """The engine and the store of this process, used on the server's loop."""

    @property
    def store(self) -> Store:
        """The user's snapshots."""

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the engine's loop."""

    def session_of(self, kernel_id: str) -> Session | None:
        """The session of a kernel of this process; ``None`` when it is in no microVM of ours."""

    def reference(self, snapshot_id: str) -> Any:
        """``restore_from`` of a kernel that is to start from this snapshot; raises when there is none. Blocks."""

    def set_forker(self, forker: Forker | None) -> None:
        """What forks are made by from now on."""

    def export(self, snapshot: Any, target: BinaryIO) -> None:
        """Write a snapshot as one file; blocks."""

    def import_(self, source: BinaryIO, scope: str) -> Snapshot:
        """Take one file into the store; blocks."""

    def room_bytes(self) -> int:
        """How much may be written to the store's file system before its reserve is touched; blocks."""


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A blocking call of the store, on another thread."""
    return await asyncio.to_thread(function, *args, **kwargs)
