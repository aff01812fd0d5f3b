"""Routes about kernels: their microVMs, and snapshots, restores and forks of them."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import nbformat
from jupyter_server.auth.decorator import authorized
from nbformat.validator import iter_validate
from tornado import web

from ..api.calls import TakeSnapshot
from ..api.models import CreateSnapshot, Fork, Restore
from ..errors import SpecError
from .base import Handler

#: A notebook with its outputs; the contents API accepts as much.
MAX_NOTEBOOK_BYTES = 128 << 20
CONSOLE_LINES = 200


class KernelsHandler(Handler):
    """All microVM kernels of this server."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them."""
        kernels = {each.kernel_id: each for each in await self.host.kernels()}
        here = [each for each in self.kernel_manager.list_kernel_ids() if self.extension.is_ours(each)]
        self.answer([kernels[each] for each in here if each in kernels])


class KernelHandler(Handler):
    """One kernel."""

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """Describe its microVM."""
        self.answer(await self.host_of(kernel_id).kernel(kernel_id))


class KernelSnapshotsHandler(Handler):
    """Snapshots of a kernel's scope."""

    max_body_bytes = MAX_NOTEBOOK_BYTES

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """List them, oldest first; ``current`` refers to this kernel."""
        host = self.host_of(kernel_id)
        kernel = await host.kernel(kernel_id)
        snapshots = await host.snapshots(kernel.scope)
        self.answer([each.model_copy(update={"current": each.id == kernel.current}) for each in snapshots])

    @web.authenticated
    @authorized
    async def post(self, kernel_id: str) -> None:
        """Take one."""
        host = self.host_of(kernel_id)
        wanted = self.read(CreateSnapshot)
        notebook = None if wanted.notebook is None else await asyncio.to_thread(checked_notebook, wanted.notebook)
        request = TakeSnapshot(name=wanted.name, description=wanted.description, notebook=notebook)
        self.answer(await host.snapshot(kernel_id, request), HTTPStatus.CREATED)


class RestoreHandler(Handler):
    """Restores of a kernel to one of its snapshots."""

    @web.authenticated
    @authorized
    async def post(self, kernel_id: str) -> None:
        """Restore the kernel to a snapshot; the answer comes when it runs again."""
        host = self.host_of(kernel_id)
        wanted = self.read(Restore)
        await self.snapshot(wanted.snapshot)
        await host.restore(kernel_id, wanted.snapshot, same_seed=wanted.same_seed)
        self.answer(await host.kernel(kernel_id))


class ForkHandler(Handler):
    """Forks of a kernel, from its present state or from a snapshot."""

    @web.authenticated
    @authorized
    async def post(self, kernel_id: str) -> None:
        """Start them, all or none."""
        self.host_of(kernel_id)
        wanted = self.read(Fork)
        await self.allowed("write", "kernels")
        path = None
        if wanted.path is not None:
            await self.allowed("write", "contents")
            await self.allowed("write", "sessions")
            path = await self.extension.forks.check_notebook(wanted.path)
        if wanted.snapshot is not None:
            await self.snapshot(wanted.snapshot)
        forks = await self.extension.forks.fork(kernel_id, wanted.count, ref=wanted.snapshot, path=path)
        self.answer(forks, HTTPStatus.CREATED)


class ConsoleHandler(Handler):
    """What the guest printed outside of any cell."""

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """The last lines."""
        self.answer(await self.host_of(kernel_id).console(kernel_id, CONSOLE_LINES))


def checked_notebook(document: dict[str, Any]) -> bytes:
    """A notebook document as a file; raises :class:`~fc_kernel.errors.SpecError` if it is not a notebook."""
    if document.get("nbformat") != nbformat.v4.nbformat:
        raise SpecError("notebook.nbformat", document.get("nbformat"), "4", source="request")
    # Not nbformat.validate, which first repairs the document and then warns about it.
    for error in iter_validate(nbformat.from_dict(document), relax_add_props=True):
        first = str(error).partition("\n")[0]
        raise SpecError("notebook", "a document", f"an nbformat 4 notebook: {first}", source="request")
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
