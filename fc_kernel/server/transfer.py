"""Snapshots as files: export to the browser, import from it. The files may be larger than memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado import web
from tornado.iostream import StreamClosedError

from ..api.models import ImportQuery, Snapshot
from ..errors import QuotaExceeded
from ..settings.spec import parse
from .base import Handler

#: How much of a refused body is still read; a longer body breaks the connection.
DRAINED_BYTES = 64 << 20
#: The size of a piece for the host, and how many pieces may wait for it.
CHUNK_BYTES = 1 << 20
CHUNKS_WAITING = 4
MEDIA_TYPE = "application/x-tar"


class ExportHandler(Handler):
    """A snapshot as one file."""

    @web.authenticated
    @authorized
    async def get(self, snapshot_id: str) -> None:
        """Send the file, which a browser saves."""
        self.check_xsrf_cookie()
        snapshot = await self.snapshot(snapshot_id)
        size, content = await self.host.export_snapshot(snapshot_id)
        try:
            self.set_header("Content-Type", MEDIA_TYPE)
            self.set_header("Content-Length", str(size))
            self.set_header("Cache-Control", "no-store")
            self.set_attachment_header(f"{snapshot.name}.fcsnapshot.tar")
            async for data in content:
                self.write(data)
                await self.flush()
        except StreamClosedError:
            return
        finally:
            await content.aclose()
        self.finish()


@web.stream_request_body
class ImportHandler(Handler):
    """A file that an export made."""

    def initialize(self, extension: object) -> None:
        """Nothing has been received yet."""
        super().initialize(extension)  # type: ignore[arg-type]
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(CHUNKS_WAITING)
        self._importing: asyncio.Task[Snapshot] | None = None
        self._pending = bytearray()
        self._received = self._room = 0
        self._refusal: Exception | None = None

    async def prepare(self) -> None:  # type: ignore[override]
        """Check permission and size before anything is written.

        A refusal while the body is still coming would break the connection, and a browser would show a network error instead.
        So a body that is not too long is read and dropped, and :meth:`post` refuses it.
        """
        length = self.request.headers.get("Content-Length", "")
        announced = int(length) if length.isascii() and length.isdigit() else DRAINED_BYTES
        try:
            await super().prepare()
            scope = await self._look(announced)
        except Exception as error:
            if announced > DRAINED_BYTES:
                raise
            self._refusal = error
        else:
            self._importing = asyncio.ensure_future(self.host.import_snapshot(self._content(), scope=scope))

    async def _look(self, announced: int) -> str:
        await self.allowed("write", self.auth_resource)
        scope = parse(ImportQuery, {"scope": self.get_query_argument("scope", None)}, source="query").scope
        self._room = (await self.host.disk_use()).room_bytes
        if announced > self._room:
            raise self._no_room(announced)
        connection: Any = self.request.connection
        connection.set_max_body_size(self._room + DRAINED_BYTES)
        return scope

    def _no_room(self, size: int) -> QuotaExceeded:
        return QuotaExceeded(
            f"the file has at least {size >> 20} MiB; there is room for {max(0, self._room) >> 20} MiB"
        )

    async def _content(self) -> AsyncGenerator[bytes, None]:
        """The body for the host; an empty piece ends it."""
        while data := await self._chunks.get():
            yield data

    async def data_received(self, chunk: bytes) -> None:
        """Pass pieces on to the host; what exceeds the room is dropped, and refused at the end."""
        self._received += len(chunk)
        if self._refusal is None and self._received > self._room:
            self._refusal = self._no_room(self._received)
            self._stop()
        if self._importing is None:
            return
        self._pending += chunk
        if len(self._pending) >= CHUNK_BYTES:
            data, self._pending = bytes(self._pending), bytearray()
            await self._hand_on(data)

    async def _hand_on(self, data: bytes) -> None:
        """Pass a piece to the host, unless the import has already ended."""
        importing = self._importing
        if importing is None:
            return
        putting = asyncio.ensure_future(self._chunks.put(data))
        await asyncio.wait({putting, importing}, return_when=asyncio.FIRST_COMPLETED)
        putting.cancel()

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Import it into the store, checked."""
        if self._refusal is not None:
            raise self._refusal
        if self._importing is None:
            return  # the client is gone
        if self._pending:
            await self._hand_on(bytes(self._pending))
        await self._hand_on(b"")
        self.answer(await self._importing, HTTPStatus.CREATED)

    def on_finish(self) -> None:
        """End an import that still runs."""
        self._stop()
        super().on_finish()

    def on_connection_close(self) -> None:
        """End the import, because the client went away."""
        self._stop()
        super().on_connection_close()

    def _stop(self) -> None:
        importing, self._importing = self._importing, None
        if importing is not None and not importing.done():
            importing.add_done_callback(lambda done: done.cancelled() or done.exception())
            importing.cancel()
