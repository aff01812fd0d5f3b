"""Snapshots by themselves: list, look at, rename, remove, and the notebook that was saved with one."""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path

from jupyter_server.auth.decorator import authorized
from tornado import web

from ..api.failures import Refusal
from ..api.models import ChangeSnapshot, ScopeQuery
from ..errors import SnapshotCorrupt
from ..settings.spec import parse
from .base import Handler
from .hosting import in_thread
from .kernels import MAX_NOTEBOOK_BYTES
from .views import snapshot_answer, snapshot_answers


class SnapshotsHandler(Handler):
    """All snapshots of the user."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them, or those of ``?scope=``, oldest first."""
        scope = parse(ScopeQuery, {"scope": self.get_query_argument("scope", None)}, source="query").scope
        self.answer(await snapshot_answers(self.host, scope, await self.extension.current()))


class SnapshotHandler(Handler):
    """One snapshot."""

    @web.authenticated
    @authorized
    async def get(self, snapshot_id: str) -> None:
        """What it is."""
        snapshot = await self.snapshot(snapshot_id)
        self.answer(await snapshot_answer(self.host, snapshot, await self.extension.current()))

    @web.authenticated
    @authorized
    async def patch(self, snapshot_id: str) -> None:
        """Rename it, describe it."""
        snapshot = await self.snapshot(snapshot_id)
        wanted = self.read(ChangeSnapshot)
        store = self.host.store
        if wanted.name is not None:
            snapshot = await in_thread(store.rename, snapshot, wanted.name)
        if wanted.description is not None:
            snapshot = await in_thread(store.describe, snapshot, wanted.description)
        answer = await snapshot_answer(self.host, snapshot, await self.extension.current())
        self.extension.events.emit(answer.kernel_id or "", "rename", snapshot=answer.model_dump())
        self.answer(answer)

    @web.authenticated
    @authorized
    async def delete(self, snapshot_id: str) -> None:
        """Remove it; 409 while a VM has it."""
        snapshot = await self.snapshot(snapshot_id)
        gone = await snapshot_answer(self.host, snapshot, ())
        await in_thread(self.host.store.delete, snapshot)
        self.extension.events.emit(gone.kernel_id or "", "delete", snapshot=gone.model_dump())
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


class SnapshotNotebookHandler(Handler):
    """The notebook that was saved with a snapshot."""

    @web.authenticated
    @authorized
    async def get(self, snapshot_id: str) -> None:
        """The document, as nbformat has it."""
        self.check_xsrf_cookie()
        path = (await self.snapshot(snapshot_id)).notebook
        if path is None:
            message = "no notebook was saved with this snapshot"
            raise Refusal(HTTPStatus.NOT_FOUND, "NoNotebook", message)
        document = await in_thread(_contents, path)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(document)


def _contents(path: Path) -> bytes:
    """A file of the store; what somebody put in its place is not followed."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            content = file.read(MAX_NOTEBOOK_BYTES + 1)
    except OSError as error:
        raise SnapshotCorrupt("notebook.ipynb", error.strerror or "it cannot be read") from error
    if len(content) > MAX_NOTEBOOK_BYTES:
        raise SnapshotCorrupt("notebook.ipynb", "it is too large")
    return content
