"""Snapshots as files: export to the browser, import from it. Either may be larger than memory."""

from __future__ import annotations

import tempfile
from http import HTTPStatus
from typing import Any, BinaryIO, cast

from jupyter_server.auth.decorator import authorized
from tornado import web
from tornado.iostream import StreamClosedError

from ..api.models import ImportQuery
from ..errors import QuotaExceeded
from ..settings.spec import parse
from .base import Handler
from .hosting import Host, in_thread
from .views import snapshot_answer

#: Of a body that is refused; more than this breaks the connection.
DRAINED_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
MEDIA_TYPE = "application/x-tar"


def spool(host: Host) -> BinaryIO:
    """A file without a name on the store's file system: gone with its descriptor, whatever happens to the server."""
    host.store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    return cast("BinaryIO", tempfile.TemporaryFile(dir=host.store.root))


class ExportHandler(Handler):
    """A snapshot as one file."""

    @web.authenticated
    @authorized
    async def get(self, snapshot_id: str) -> None:
        """Send it; a browser saves it."""
        self.check_xsrf_cookie()
        host = self.host
        snapshot = await self.snapshot(snapshot_id)
        with await in_thread(spool, host) as file:
            await in_thread(host.export, snapshot, file)
            size = file.tell()
            file.seek(0)
            self.set_header("Content-Type", MEDIA_TYPE)
            self.set_header("Content-Length", str(size))
            self.set_header("Cache-Control", "no-store")
            self.set_attachment_header(f"{snapshot.name}.fcsnapshot.tar")
            try:
                while data := await in_thread(file.read, CHUNK_BYTES):
                    self.write(data)
                    await self.flush()
            except StreamClosedError:
                return
        self.finish()


@web.stream_request_body
class ImportHandler(Handler):
    """A file that an export made."""

    def initialize(self, extension: object) -> None:
        """Nothing is received yet."""
        super().initialize(extension)  # type: ignore[arg-type]
        self._file: BinaryIO | None = None
        self._pending = bytearray()
        self._received = self._room = 0
        self._scope = ""
        self._refusal: Exception | None = None

    async def prepare(self) -> None:  # type: ignore[override]
        """Who may not, or sends too much, is refused before anything is written.

        A refusal while the body is still coming breaks the connection, and a browser then shows a network error in place of
        it; so the rest of a body that is not too long is taken, dropped, and refused in :meth:`post`.
        """
        length = self.request.headers.get("Content-Length", "")
        announced = int(length) if length.isascii() and length.isdigit() else DRAINED_BYTES
        try:
            await super().prepare()
            await self._look(announced)
        except Exception as error:
            if announced > DRAINED_BYTES:
                raise
            self._refusal = error
        else:
            self._file = await in_thread(spool, self.host)

    async def _look(self, announced: int) -> None:
        await self.allowed("write", self.auth_resource)
        self._scope = parse(ImportQuery, {"scope": self.get_query_argument("scope", None)}, source="query").scope
        self._room = await in_thread(self.host.room_bytes)
        if announced > self._room:
            raise self._no_room(announced)
        connection: Any = self.request.connection
        connection.set_max_body_size(self._room + DRAINED_BYTES)

    def _no_room(self, size: int) -> QuotaExceeded:
        return QuotaExceeded(f"the file has {size >> 20} MiB or more; there is room for {max(0, self._room) >> 20} MiB")

    async def data_received(self, chunk: bytes) -> None:
        """Write what comes to the disk; more than there is room for is dropped, and refused at the end."""
        self._received += len(chunk)
        if self._refusal is None and self._received > self._room:
            self._refusal = self._no_room(self._received)
            self._close()
        if self._file is None:
            return
        self._pending += chunk
        if len(self._pending) >= CHUNK_BYTES:
            await self._write()

    async def _write(self) -> None:
        data, self._pending = bytes(self._pending), bytearray()
        if self._file is not None:
            await in_thread(self._file.write, data)

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Take it into the store, checked."""
        if self._refusal is not None:
            raise self._refusal
        if self._file is None:
            return  # the client is gone
        await self._write()
        self._file.seek(0)
        snapshot = await in_thread(self.host.import_, self._file, self._scope)
        answer = await snapshot_answer(self.host, snapshot, ())
        self.extension.events.emit(answer.kernel_id or "", "snapshot", snapshot=answer.model_dump())
        self.answer(answer, HTTPStatus.CREATED)

    def on_finish(self) -> None:
        """The file goes, whether it was taken or not."""
        self._close()
        super().on_finish()

    def on_connection_close(self) -> None:
        """The client went away in the middle."""
        self._close()
        super().on_connection_close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
