"""Forks as kernels of the server: its kernel manager starts them, if wanted each with a notebook and a session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import url_path_join

from ..api.calls import ForkResult
from ..api.events import ForkWanted
from ..api.failures import Refusal
from ..api.models import ForkedKernel, ForkTicket
from ..errors import FcKernelError, LaunchError, StateError

if TYPE_CHECKING:
    from ..host.service import KernelHost

#: How many names are tried for a copy of a notebook.
MAX_COPIES = 1000


class Forks:
    """Starts an ordinary kernel of this server for each ticket of a fork. Used on the server's loop."""

    def __init__(self, serverapp: ServerApp, host: Callable[[], KernelHost]) -> None:
        """``host`` returns the user's host; it is made when it is first needed."""
        self._host = host
        # Any: only some of their methods have annotations.
        self._manager: Any = serverapp.kernel_manager
        self._sessions: Any = serverapp.session_manager
        self._contents: Any = serverapp.contents_manager
        self._server = serverapp
        # Held from looking for a free name to taking it: these are two calls of the contents manager.
        self._naming = asyncio.Lock()

    async def answer(self, wanted: ForkWanted) -> None:
        """Start the forks that a cell asks for, independently of each other, and report the results."""
        await self._host().forked(wanted.request, await self._start_all(wanted.tickets))

    async def fork(self, kernel_id: str, count: int, *, ref: str | None, path: str | None) -> list[ForkedKernel]:
        """Start ``count`` kernels, all or none. With ``path``, each gets a copy of that notebook and a session on the copy."""
        host = self._host()
        order = await host.fork(kernel_id, count, ref=ref)
        results = await self._start_all(order.tickets)
        try:
            failed = next((each.error for each in results if each.error), None)
            if failed is not None:
                raise LaunchError(failed)
            if path is not None:
                results = await self._with_notebooks(results, path)
        except BaseException as error:
            await self._end([each.kernel_id for each in results if each.kernel_id])
            await host.forked(
                order.request, [ForkResult(ticket=each.ticket, error=str(error)) for each in order.tickets]
            )
            raise
        await host.forked(order.request, results)
        return [
            ForkedKernel(kernel_id=each.kernel_id, name=each.name, path=each.path, session_id=each.session_id)
            for each in results
        ]

    async def _start_all(self, tickets: Sequence[ForkTicket]) -> list[ForkResult]:
        return await asyncio.gather(*(self._start(ticket) for ticket in tickets))

    async def _start(self, ticket: ForkTicket) -> ForkResult:
        """Start one fork; an error is returned in the result, because the caller waits for all results."""
        try:
            return await self._started(ticket)
        except FcKernelError as error:
            return ForkResult(ticket=ticket.ticket, error=str(error))
        except Exception as error:  # noqa: BLE001 - whatever the server's managers raise
            reason = str(error).partition("\n")[0]
            return ForkResult(ticket=ticket.ticket, error=f"the fork did not start: {reason}")

    async def _started(self, ticket: ForkTicket) -> ForkResult:
        """Start a kernel of its parent's kernelspec, in its parent's directory."""
        parent = ticket.kernel_id
        if parent not in self._manager:
            raise StateError(f"kernel {parent!r} does not belong to this server, so its forks cannot be started here")
        start: dict[str, Any] = {
            "kernel_name": self._manager.get_kernel(parent).kernel_name,
            "fc_kernel_ticket": ticket.ticket,
        }
        if (session := await self._session_of(parent)) is not None:
            # As the server starts it for the parent: the same directory, the same notebook's settings at a restart.
            path = session["path"]
            start["env"] = self._sessions.get_kernel_env(path, session["name"] or None)
            start["path"] = await ensure_async(self._contents.get_kernel_path(path=path))
        kernel_id: str = await ensure_async(self._manager.start_kernel(**start))
        return ForkResult(
            ticket=ticket.ticket,
            kernel_id=kernel_id,
            name=ticket.name,
            connection_file=str(self._manager.get_kernel(kernel_id).connection_file),
            url=url_path_join(self._server.connection_url, "api/kernels", kernel_id),
        )

    async def _end(self, kernel_ids: Sequence[str]) -> None:
        """Shut down the kernels that a failed fork has started."""
        for kernel_id in kernel_ids:
            if kernel_id not in self._manager:
                continue  # it ended with its session
            try:
                await ensure_async(self._manager.shutdown_kernel(kernel_id, now=True))
            except Exception as error:  # noqa: BLE001 - the others must be ended, too
                self._server.log.error("fc-kernel: could not end the fork %s: %s", kernel_id, error)

    async def check_notebook(self, path: str) -> str:
        """The path without slashes around it; refused unless it is the path of a notebook that may be read."""
        path = path.strip("/")
        if PurePosixPath(path).suffix != ".ipynb":
            raise Refusal(HTTPStatus.BAD_REQUEST, "SpecError", f"path is {path[:80]!r}; allowed: a notebook (.ipynb)")
        await ensure_async(self._contents.get(path, content=False))
        return path

    async def _with_notebooks(self, forks: Sequence[ForkResult], path: str) -> list[ForkResult]:
        """Give each fork a copy of the notebook and a session on it; after an error, none is left with either."""
        made: list[ForkResult] = []
        async with contextlib.AsyncExitStack() as undo:
            for fork in forks:
                copy = await self._copy(path)
                undo.push_async_callback(self._remove_copy, copy)
                kernel_id, name = fork.kernel_id, PurePosixPath(copy).name
                session = await self._sessions.create_session(
                    path=copy, name=name, type="notebook", kernel_id=kernel_id
                )
                undo.push_async_callback(self._sessions.delete_session, session["id"])
                # For a restart of the fork: its settings are then those of its own notebook.
                self._manager.update_env(kernel_id=kernel_id, env=self._sessions.get_kernel_env(copy, name))
                made.append(fork.model_copy(update={"name": name, "path": copy, "session_id": session["id"]}))
            undo.pop_all()
        return made

    async def _copy(self, path: str) -> str:
        """Copy a notebook to the first free name beside it; never overwrites a file."""
        contents = self._contents
        directory, _, filename = path.rpartition("/")
        stem = filename.removesuffix(".ipynb")
        async with self._naming:
            for number in range(1, MAX_COPIES + 1):
                copy = "/".join(filter(None, (directory, f"{stem}-fork-{number}.ipynb")))
                if not await ensure_async(contents.exists(copy)):
                    await ensure_async(contents.copy(path, copy))
                    return copy
        message = f"there are {MAX_COPIES} forks of {filename[:80]!r} already; remove some"
        raise Refusal(HTTPStatus.CONFLICT, "TooManyCopies", message)

    async def _remove_copy(self, path: str) -> None:
        await ensure_async(self._contents.delete(path))

    async def _session_of(self, kernel_id: str) -> dict[str, Any] | None:
        sessions = await ensure_async(self._sessions.list_sessions())
        return next((each for each in sessions if each["kernel"] and each["kernel"]["id"] == kernel_id), None)
