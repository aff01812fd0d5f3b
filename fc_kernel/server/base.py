"""What all handlers share: authorization, reading the request, and writing an answer or an error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import APIHandler
from pydantic import BaseModel
from tornado.web import HTTPError

from ..api.failures import failure_of, no_microvm, too_large, unknown_kernel, with_gateway
from ..api.models import Snapshot
from ..errors import SnapshotNotFound
from ..host.service import KernelHost
from ..settings.spec import parse_json
from ..snapshots.naming import is_id
from .extension import Extension

Model = TypeVar("Model", bound=BaseModel)

AUTH_RESOURCE = "fc-kernel"
#: All bodies except notebooks and imported files are a few short values.
MAX_BODY_BYTES = 64 << 10


class Handler(APIHandler):
    """Base of the extension's handlers; methods are ``@web.authenticated`` and ``@authorized``, as in jupyter_server."""

    auth_resource = AUTH_RESOURCE
    #: The largest body that a request may have.
    max_body_bytes = MAX_BODY_BYTES

    def initialize(self, extension: Extension) -> None:
        """``extension`` is the extension of the handler's server."""
        self.extension = extension

    async def prepare(self) -> None:  # type: ignore[override]
        """Refuse anonymous requests and bodies that are too long, before anything else is looked at."""
        await super().prepare()
        if not self.current_user:
            raise HTTPError(HTTPStatus.FORBIDDEN)
        if len(self.request.body or b"") > self.max_body_bytes:
            raise too_large(self.max_body_bytes)

    @property
    def host(self) -> KernelHost:
        """The user's host; the request is refused if the kernels run on a gateway."""
        if self.extension.gateway:
            raise with_gateway()
        return self.extension.host

    async def allowed(self, action: str, resource: str) -> None:
        """Raise 403 unless the user may also do this: the API is no way around the server's authorizer."""
        answer = self.authorizer.is_authorized(self, self.current_user, action, resource)
        if not await ensure_async(answer):
            raise HTTPError(HTTPStatus.FORBIDDEN, f"User is not authorized to {action} on resource: {resource}.")

    def host_of(self, kernel_id: str) -> KernelHost:
        """The host of a kernel of this server; 404 when there is no such kernel, or it does not run in a microVM."""
        host = self.host
        if kernel_id not in self.kernel_manager:
            raise unknown_kernel(kernel_id)
        if not self.extension.is_ours(kernel_id):
            raise no_microvm(kernel_id, self.kernel_manager.get_kernel(kernel_id).kernel_name)
        return host

    async def snapshot(self, snapshot_id: str) -> Snapshot:
        """The snapshot with exactly this ID; 404 when there is none. Names and beginnings of IDs are not accepted."""
        host = self.host
        if not is_id(snapshot_id):
            raise SnapshotNotFound(f"there is no snapshot {snapshot_id[:64]!r}")
        return await host.find_snapshot(snapshot_id)

    def read(self, model: type[Model]) -> Model:
        """The request's body; raises :class:`~fc_kernel.errors.SpecError` if something in it is not allowed."""
        return parse_json(model, self.request.body.strip() or b"{}", source="request")

    def answer(self, value: BaseModel | Sequence[BaseModel] | Mapping[str, Any], status: int = HTTPStatus.OK) -> None:
        """Write a model, a list of models or plain JSON, and finish the request."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        if isinstance(value, BaseModel):
            self.finish(value.model_dump_json())
        elif isinstance(value, Mapping):
            self.finish(json.dumps(value))
        else:
            self.finish("[" + ",".join(item.model_dump_json() for item in value) + "]")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write any error in the documented form; a traceback goes to the log only."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else HTTPError(status_code)
        status, failure = failure_of(error)
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.log.log(30 if status < HTTPStatus.INTERNAL_SERVER_ERROR else 40, "fc-kernel: %s", error)
        self.finish(failure.model_dump_json())

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log a traceback only for unforeseen errors."""
        if value is not None and failure_of(value)[1].reason == "InternalError":
            super().log_exception(typ, value, tb)
