"""One snapshot of a QEMU VM, from the creation of its files until they are complete."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from ...errors import MonitorApiError, MonitorError
from ..base import SnapshotCreate
from .capture import Capture, Interrupted, Reference, Writing
from .vmstate import Machine, write_vmstate

GIVEN_UP = "the snapshot was given up before it was written"


class Saving:
    """A snapshot that is being taken. End it with :meth:`written`, or with :meth:`abandon`, which leaves no file."""

    def __init__(self, request: SnapshotCreate, machine: Machine, reference: Reference) -> None:
        """Create the files; raises :class:`~fc_kernel.errors.MonitorApiError` if that fails."""
        self._files = request.files
        self._machine = machine
        self._reference = reference
        self._capture: Capture | None = None
        self._taking: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._awaited = False
        self._given_up = False
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as on_failure:
            self._vmstate = _new_file(stack, request.files.vmstate)
            on_failure.callback(request.files.vmstate.unlink, missing_ok=True)
            self._mem = _new_file(stack, request.files.mem)
            on_failure.pop_all()
            self._close = stack.pop_all()
        self._writing = Writing(self._mem, reference, full=request.kind == "full")

    async def take(self, capture: Capture) -> None:
        """Copy the memory of the paused VM."""
        self._capture = capture
        self._taking = asyncio.get_running_loop().run_in_executor(None, capture.take, self._writing)
        try:
            await self._taking
        except OSError as error:
            raise self._failed(error) from error

    def begin(self, devices: bytes) -> None:
        """Start writing the files; memory and devices have been captured."""
        if self._given_up:
            raise MonitorError(GIVEN_UP)
        self._task = asyncio.create_task(self._write(devices))
        # written() raises the error; it is retrieved here in case nobody awaits written().
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _write(self, devices: bytes) -> None:
        capture = self._capture
        assert capture is not None  # noqa: S101 - it was taken

        def write() -> None:
            write_vmstate(self._vmstate, self._machine, devices)
            capture.write(self._writing)

        try:
            await asyncio.get_running_loop().run_in_executor(None, write)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            # Closed at once, because its buffer is as large as the copied memory.
            capture.close()

    def _failed(self, error: OSError) -> MonitorError:
        return MonitorError(f"the snapshot cannot be written into {self._files.mem.parent}: {error.strerror}")

    async def written(self) -> None:
        """Return when the files are complete; on an error raises it, and removes the files. May be cancelled."""
        assert self._task is not None  # noqa: S101 - snapshot() has returned
        self._awaited = True
        try:
            await asyncio.shield(self._task)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._remove()
            if isinstance(error, Interrupted):
                raise MonitorError(GIVEN_UP) from None
            raise
        self._close.close()
        # Only now: an abandoned snapshot is no base for the next diff.
        self._reference.digests = self._writing.digests

    async def abandon(self) -> None:
        """Give up: wait for the thread to end, and remove the files unless :meth:`written` has returned."""
        self._given_up = True
        if self._capture is not None:
            self._capture.stop()
        if self._taking is not None:
            await asyncio.wait({self._taking})
        if self._task is not None:
            await asyncio.wait({self._task})
            if self._awaited and not self._task.cancelled() and self._task.exception() is None:
                return
        self._remove()

    def _remove(self) -> None:
        self._close.close()
        for path in (self._files.vmstate, self._files.mem):
            path.unlink(missing_ok=True)


def _new_file(stack: contextlib.ExitStack, path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise MonitorApiError(f"the snapshot cannot be written: {path}: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    return descriptor
