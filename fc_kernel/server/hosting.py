"""What the extension needs of the engine and of the store, and no more; tests put something in memory in their place.

Observers are told of ``snapshot``, ``restore`` and ``fork`` whoever asked: a cell, this API or a timer. So the extension makes
no events of its own for these. A fork under a server has to be a kernel of that server's manager: the extension sets the
engine's ``forker``, and a ``%fork`` in a cell goes the same way as a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Observer = Callable[[str, dict[str, Any]], None]


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


class Fork(Protocol):
    """A kernel that a fork made, or the error that kept it from running."""

    @property
    def kernel_id(self) -> str:
        """Empty where there is none."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def error(self) -> str:
        """Empty where it runs."""


class ForkWish(Protocol):
    """What the engine tells of a fork that it wants to have."""

    @property
    def snapshot(self) -> Any:
        """What it goes on from."""

    @property
    def resolved(self) -> Any:
        """The settings, with ``spec.restore_from``."""

    @property
    def parent_kernel_id(self) -> str:
        """The kernel that was forked."""

    @property
    def scope(self) -> str:
        """The parent's."""


class Session(Protocol):
    """A kernel in a microVM; used on the engine's loop."""

    @property
    def machine(self) -> Any:
        """The guest, if there is one, with its ``vmm``."""

    @property
    def resolved(self) -> Any:
        """Settings of the last start."""

    def info(self) -> dict[str, Any]:
        """State, machine and where it stands."""

    async def take_snapshot(
        self, name: str | None = None, description: str = "", *, notebook: bytes | None = None
    ) -> Any:
        """Checkpoint the machine; the kernel goes on. What is returned has the ``snapshot``."""

    async def restore(self, ref: str, *, same_seed: bool = False) -> Any:
        """Put this very kernel back to a snapshot of its scope."""

    async def fork(self, count: int = 1, name: str | None = None, *, ref: str | None = None) -> Sequence[Fork]:
        """New kernels from this instant, or from a snapshot."""


Forker = Callable[[ForkWish], Awaitable[Any]]


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

    def lineage(self, snapshot: Any) -> Sequence[Snapshot]:
        """Ancestors, oldest first, and the snapshot itself."""

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

    def observe(self, kernel_id: str, observer: Observer) -> None:
        """Be told what happens to a kernel, on the engine's thread."""

    def set_forker(self, forker: Forker | None) -> None:
        """What makes a fork from now on; called on the engine's loop."""

    def made(self, *, kernel_id: str, name: str, connection_file: str, url: str) -> Any:
        """What a forker returns."""

    def export(self, snapshot: Any, target: BinaryIO) -> None:
        """Write a snapshot as one file; blocks."""

    def import_(self, source: BinaryIO, scope: str) -> Snapshot:
        """Take one file into the store; blocks."""

    def room_bytes(self) -> int:
        """How much may be written to the store's file system before its reserve is touched; blocks."""


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A blocking call of the store, on another thread."""
    return await asyncio.to_thread(function, *args, **kwargs)
