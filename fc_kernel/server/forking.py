"""Forks as kernels of the server: started by its kernel manager and, where wanted, with a notebook and a session each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async
from jupyter_server.utils import url_path_join

from ..api.failures import Refusal
from ..api.models import ForkedKernel
from ..errors import FcKernelError, LaunchError, StateError
from .hosting import Fork, ForkWish, Session

if TYPE_CHECKING:
    from .extension import Extension

#: So many names are tried for a copy; who has more forks of one notebook should tidy up.
MAX_COPIES = 1000


class Forks:
    """Used on the server's loop, but for :meth:`from_the_engine`."""

    def __init__(self, extension: Extension) -> None:
        self._extension = extension
        # Their methods have annotations in part.
        self._manager: Any = extension.serverapp.kernel_manager
        self._sessions: Any = extension.serverapp.session_manager
        self._contents: Any = extension.serverapp.contents_manager
        self._server = extension.serverapp
        # Looking for a free name and taking it are two calls of the contents manager.
        self._naming = asyncio.Lock()

    async def from_the_engine(self, wish: ForkWish) -> Any:
        """The engine's forker: called on its loop, works on the server's."""
        making = self._make(wish)
        try:
            future = asyncio.run_coroutine_threadsafe(making, self._server.io_loop.asyncio_loop)  # type: ignore[attr-defined]
        except RuntimeError:
            making.close()
            raise StateError("the server has ended") from None
        try:
            return await asyncio.wrap_future(future)
        except FcKernelError:
            raise
        except Exception as error:
            # Whatever the server's managers raise: a cell waits for the answer.
            raise LaunchError(f"the fork did not start: {str(error).partition(chr(10))[0]}") from error

    async def _make(self, wish: ForkWish) -> Any:
        """A kernel of this server, of its parent's kernelspec, where its parent is."""
        parent, reference = wish.parent_kernel_id, wish.resolved.spec.restore_from
        if parent not in self._manager:
            raise StateError(f"kernel {parent!r} is none of this server's, which therefore cannot have its forks")
        start: dict[str, Any] = {
            "kernel_name": self._manager.get_kernel(parent).kernel_name,
            "fc_kernel": {"restore_from": {"vm_id": reference.vm_id, "snapshot_id": reference.snapshot_id}},
            "fc_kernel_scope": wish.scope,
        }
        if (session := await self._session_of(parent)) is not None:
            # As the server starts it for the parent: the same directory, the same notebook's settings at a restart.
            path = session["path"]
            start["env"] = self._sessions.get_kernel_env(path, session["name"] or None)
            start["path"] = await ensure_async(self._contents.get_kernel_path(path=path))
        kernel_id: str = await ensure_async(self._manager.start_kernel(**start))
        return self._extension.host.made(
            kernel_id=kernel_id,
            name=wish.snapshot.name,
            connection_file=str(self._manager.get_kernel(kernel_id).connection_file),
            url=url_path_join(self._server.connection_url, "api/kernels", kernel_id),
        )

    async def fork(self, session: Session, count: int, *, ref: str | None, path: str | None) -> list[ForkedKernel]:
        """``count`` kernels, all or none; with ``path`` each with a copy of that notebook, and a session on it."""
        forks = await self._extension.host.run(session.fork(count, None, ref=ref))
        failed = next((fork.error for fork in forks if fork.error), None)
        try:
            if failed is not None:
                raise LaunchError(failed)
            if path is not None:
                return await self._with_notebooks(forks, path)
        except BaseException:
            await self._end([fork.kernel_id for fork in forks if fork.kernel_id])
            raise
        return [ForkedKernel(kernel_id=fork.kernel_id, name=fork.name, path=None, session_id=None) for fork in forks]

    async def _end(self, kernel_ids: Sequence[str]) -> None:
        """Shut down what a failed fork has started."""
        for kernel_id in kernel_ids:
            if kernel_id not in self._manager:
                continue  # it went with its session
            try:
                await ensure_async(self._manager.shutdown_kernel(kernel_id, now=True))
            except Exception as error:  # noqa: BLE001 - the others are to be ended, too
                self._server.log.error("fc-kernel: fork %s was not ended: %s", kernel_id, error)

    async def check_notebook(self, path: str) -> str:
        """The path without slashes around it; refused unless it is a notebook's that may be read."""
        path = path.strip("/")
        if PurePosixPath(path).suffix != ".ipynb":
            raise Refusal(HTTPStatus.BAD_REQUEST, "SpecError", f"path is {path[:80]!r}; allowed: a notebook (.ipynb)")
        await ensure_async(self._contents.get(path, content=False))
        return path

    async def _with_notebooks(self, forks: Sequence[Fork], path: str) -> list[ForkedKernel]:
        """Give each fork a copy of the notebook and a session on it; on an error none has one."""
        made: list[ForkedKernel] = []
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
                made.append(ForkedKernel(kernel_id=kernel_id, name=name, path=copy, session_id=session["id"]))
            undo.pop_all()
        return made

    async def _copy(self, path: str) -> str:
        """Copy a notebook to the first free name beside it; never over another file."""
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
