"""From an exception to what the client sees: a status, one line, a class and, where there is one, the console's tail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from tornado.web import HTTPError

from ..base.text import without_controls
from ..errors import (
    FcKernelError,
    LaunchError,
    LimitError,
    QuotaExceeded,
    SnapshotError,
    SnapshotExists,
    SnapshotInUse,
    SnapshotNotFound,
    SpecError,
    StateError,
    UnsupportedByMonitor,
)
from .models import Failure

#: A dialog's line; what is longer is cut.
MAX_MESSAGE = 600
MAX_DETAILS = 50

#: The first class that fits decides. What is not here is the host's or the VM's own failure.
STATUS: tuple[tuple[type[FcKernelError], HTTPStatus], ...] = (
    (LimitError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (SpecError, HTTPStatus.BAD_REQUEST),
    (SnapshotNotFound, HTTPStatus.NOT_FOUND),
    (SnapshotExists, HTTPStatus.CONFLICT),
    (SnapshotInUse, HTTPStatus.CONFLICT),
    (QuotaExceeded, HTTPStatus.INSUFFICIENT_STORAGE),
    (SnapshotError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (UnsupportedByMonitor, HTTPStatus.UNPROCESSABLE_ENTITY),
    (StateError, HTTPStatus.CONFLICT),
)
#: Absolute paths of more than one part; whoever calls the API learns nothing about the host's directories.
_HOST_PATH = re.compile(r"(?<![\w.:/-])/(?:[^\s/'\"<>:;,]+/)+([^\s/'\"<>:;,]*)")


class Refusal(Exception):
    """A request that the extension itself turns down."""

    def __init__(self, status: HTTPStatus, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(message)


def unknown_kernel(kernel_id: str) -> Refusal:
    """The server has no such kernel."""
    return Refusal(HTTPStatus.NOT_FOUND, "KernelNotFound", f"there is no kernel {kernel_id[:64]!r} on this server")


def no_microvm(kernel_id: str, kernel_name: str) -> Refusal:
    """The kernel is another provisioner's, or its microVM is gone."""
    message = f"kernel {kernel_id[:64]!r} ({kernel_name[:64]!r}) runs in no microVM"
    return Refusal(HTTPStatus.NOT_FOUND, "NotInMicroVM", message)


def with_gateway() -> Refusal:
    """Kernels, their machines and their snapshots are on the gateway's host."""
    message = "the kernels of this server run on a gateway, whose machines and snapshots cannot be reached from here"
    return Refusal(HTTPStatus.NOT_IMPLEMENTED, "GatewayUnsupported", message)


def too_large(most: int) -> Refusal:
    """The body is longer than the route takes."""
    message = f"the request is too large; allowed: at most {most} bytes"
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "TooLarge", message)


def failure_of(error: BaseException) -> tuple[int, Failure]:
    """Status and body for an error; an unforeseen one says only that the log has more."""
    if isinstance(error, Refusal):
        return error.status, _failure(str(error), error.reason)
    if isinstance(error, FcKernelError):
        status = next((status for kind, status in STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        details = error.console if isinstance(error, LaunchError) else ()
        field = error.field if isinstance(error, SpecError) else None
        return status, _failure(str(error), type(error).__name__, details, field)
    if isinstance(error, HTTPError):
        status_code = error.status_code
        phrase = HTTPStatus(status_code).phrase if status_code in _CODES else "Error"
        return status_code, _failure(_log_message(error) or phrase, phrase.title().replace(" ", "").replace("-", ""))
    return HTTPStatus.INTERNAL_SERVER_ERROR, _failure(
        "the request failed for an unforeseen reason; the server's log says more", "InternalError"
    )


_CODES = {status.value for status in HTTPStatus}


def _log_message(error: HTTPError) -> str:
    """What the raiser of an HTTPError meant to be read."""
    message = error.log_message or ""
    if error.args:
        args = error.args[0] if len(error.args) == 1 and isinstance(error.args[0], Mapping) else error.args
        try:
            message %= args
        except (TypeError, ValueError, KeyError):
            return ""
    return message


def _failure(message: str, reason: str, details: tuple[str, ...] = (), field: str | None = None) -> Failure:
    first = (message.splitlines() or [""])[0]
    shown = without_host_paths(without_controls(first))
    return Failure(
        message=shown if len(shown) <= MAX_MESSAGE else shown[: MAX_MESSAGE - 1] + "…",
        reason=reason,
        details=[without_host_paths(without_controls(line)) for line in details[-MAX_DETAILS:]],
        field=field,
    )


def without_host_paths(text: str) -> str:
    """The text with only the last part of every absolute path."""
    return _HOST_PATH.sub(r"…/\1", text)
