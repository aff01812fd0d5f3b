"""Kernels: their machines, and snapshots, restores and forks of them."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import nbformat
from jupyter_server.auth.decorator import authorized
from nbformat.validator import iter_validate
from tornado import web

from ..api.models import Console, CreateSnapshot, Fork, Restore
from ..errors import SpecError
from .base import Handler
from .hosting import in_thread
from .views import kernel_answer, snapshot_answer, snapshot_answers

#: A notebook with its outputs; the contents API takes as much.
MAX_NOTEBOOK_BYTES = 128 << 20
CONSOLE_LINES = 200


class KernelsHandler(Handler):
    """All microVM kernels of this server."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them."""
        host = self.host
        found = [(each, self.extension.session_of(each)) for each in self.kernel_manager.list_kernel_ids()]
        self.answer([await kernel_answer(host, each, session) for each, session in found if session is not None])


class KernelHandler(Handler):
    """One kernel."""

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """What its machine is and does."""
        self.answer(await kernel_answer(self.host, kernel_id, self.session(kernel_id)))


class KernelSnapshotsHandler(Handler):
    """Snapshots of a kernel's scope."""

    max_body_bytes = MAX_NOTEBOOK_BYTES

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """List them, oldest first."""
        kernel = await kernel_answer(self.host, kernel_id, self.session(kernel_id))
        self.answer(await snapshot_answers(self.host, kernel.scope, {kernel.current or ""}))

    @web.authenticated
    @authorized
    async def post(self, kernel_id: str) -> None:
        """Take one."""
        session = self.session(kernel_id)
        wanted = self.read(CreateSnapshot)
        notebook = None if wanted.notebook is None else await in_thread(checked_notebook, wanted.notebook)
        taken = await self.host.run(session.take_snapshot(wanted.name, wanted.description, notebook=notebook))
        snapshot = taken.snapshot
        self.answer(await snapshot_answer(self.host, snapshot, {snapshot.id}), HTTPStatus.CREATED)


class RestoreHandler(Handler):
    """The way back."""

    @web.authenticated
    @authorized
    async def post(self, kernel_id: str) -> None:
        """Put the kernel back to a snapshot; answered when it runs again."""
        session = self.session(kernel_id)
        wanted = self.read(Restore)
        await self.snapshot(wanted.snapshot)
        await self.host.run(session.restore(wanted.snapshot, same_seed=wanted.same_seed))
        self.answer(await kernel_answer(self.host, kernel_id, session))


class ForkHandler(Handler):
    """New kernels that start where this one is, or was."""

    @web.authenticated
    @authorized
    async def post(self, kernel_id: str) -> None:
        """Make them; all or none."""
        session = self.session(kernel_id)
        wanted = self.read(Fork)
        await self.allowed("write", "kernels")
        path = None
        if wanted.path is not None:
            await self.allowed("write", "contents")
            await self.allowed("write", "sessions")
            path = await self.extension.forks.check_notebook(wanted.path)
        if wanted.snapshot is not None:
            await self.snapshot(wanted.snapshot)
        forks = await self.extension.forks.fork(session, wanted.count, ref=wanted.snapshot, path=path)
        self.answer(forks, HTTPStatus.CREATED)


class ConsoleHandler(Handler):
    """What the guest printed outside of any cell."""

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """The last lines."""
        session = self.session(kernel_id)

        async def ask() -> list[str]:
            return list(session.machine.vmm.console_tail(CONSOLE_LINES)) if session.machine is not None else []

        self.answer(Console(lines=await self.host.run(ask())))


def checked_notebook(document: dict[str, Any]) -> bytes:
    """A notebook document as a file; raises :class:`~fc_kernel.errors.SpecError` for what is none."""
    if document.get("nbformat") != nbformat.v4.nbformat:
        raise SpecError("notebook.nbformat", document.get("nbformat"), "4", source="request")
    # Not nbformat.validate: that repairs first, and then warns of it.
    for error in iter_validate(nbformat.from_dict(document), relax_add_props=True):
        first = str(error).partition("\n")[0]
        raise SpecError("notebook", "a document", f"an nbformat 4 notebook: {first}", source="request")
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
