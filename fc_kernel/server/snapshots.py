"""Routes about snapshots: list, show, rename, delete, and the notebook that was saved with one."""

from __future__ import annotations

from http import HTTPStatus

from jupyter_server.auth.decorator import authorized
from tornado import web

from ..api.failures import Refusal
from ..api.models import ChangeSnapshot, ScopeQuery
from ..settings.spec import parse
from .base import Handler


class SnapshotsHandler(Handler):
    """All snapshots of the user."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them, or those of ``?scope=``, oldest first."""
        scope = parse(ScopeQuery, {"scope": self.get_query_argument("scope", None)}, source="query").scope
        self.answer(await self.host.snapshots(scope))


class SnapshotHandler(Handler):
    """One snapshot."""

    @web.authenticated
    @authorized
    async def get(self, snapshot_id: str) -> None:
        """Show it."""
        self.answer(await self.snapshot(snapshot_id))

    @web.authenticated
    @authorized
    async def patch(self, snapshot_id: str) -> None:
        """Change its name or its description."""
        snapshot = await self.snapshot(snapshot_id)
        wanted = self.read(ChangeSnapshot)
        if wanted.name is not None or wanted.description is not None:
            snapshot = await self.host.change_snapshot(snapshot_id, name=wanted.name, description=wanted.description)
        self.answer(snapshot)

    @web.authenticated
    @authorized
    async def delete(self, snapshot_id: str) -> None:
        """Delete it; 409 while a VM uses its files."""
        await self.snapshot(snapshot_id)
        await self.host.delete_snapshot(snapshot_id)
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


class SnapshotNotebookHandler(Handler):
    """The notebook that was saved with a snapshot."""

    @web.authenticated
    @authorized
    async def get(self, snapshot_id: str) -> None:
        """Return the document, in the notebook format."""
        self.check_xsrf_cookie()
        await self.snapshot(snapshot_id)
        document = await self.host.snapshot_notebook(snapshot_id)
        if document is None:
            message = "no notebook was saved with this snapshot"
            raise Refusal(HTTPStatus.NOT_FOUND, "NoNotebook", message)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(document)
