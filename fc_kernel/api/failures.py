"""Errors as data: what a browser sees of an error (status, one line, class, console's tail), and how errors cross the boundary.

:func:`crossing` and :func:`error_of` are inverse: whoever called the host catches the class that was raised there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from .. import errors
from ..base.text import without_controls
from ..errors import (
    FcKernelError,
    KernelNotFound,
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

if TYPE_CHECKING:
    from tornado.web import HTTPError

#: Characters of a dialog's line; a longer message is cut.
MAX_MESSAGE = 600
MAX_DETAILS = 50
#: What :class:`~fc_kernel.errors.LaunchError` writes between its message and the lines of the console.
CONSOLE_HEADING = "\nlast lines of the console:"

#: The first class that matches decides. An error that is not here is a failure of the host or the VM.
STATUS: tuple[tuple[type[FcKernelError], HTTPStatus], ...] = (
    (LimitError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (SpecError, HTTPStatus.BAD_REQUEST),
    (SnapshotNotFound, HTTPStatus.NOT_FOUND),
    (KernelNotFound, HTTPStatus.NOT_FOUND),
    (SnapshotExists, HTTPStatus.CONFLICT),
    (SnapshotInUse, HTTPStatus.CONFLICT),
    (QuotaExceeded, HTTPStatus.INSUFFICIENT_STORAGE),
    (SnapshotError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (UnsupportedByMonitor, HTTPStatus.UNPROCESSABLE_ENTITY),
    (StateError, HTTPStatus.CONFLICT),
)
#: Absolute paths of more than one part. They are removed: callers of the API learn nothing about the host's directories.
_HOST_PATH = re.compile(r"(?<![\w.:/-])/(?:[^\s/'\"<>:;,]+/)+([^\s/'\"<>:;,]*)")


class Refusal(Exception):
    """The extension itself refuses a request."""

    def __init__(self, status: HTTPStatus, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(message)


def unknown_kernel(kernel_id: str) -> Refusal:
    """The server has no such kernel."""
    return Refusal(HTTPStatus.NOT_FOUND, "KernelNotFound", f"there is no kernel {kernel_id[:64]!r} on this server")


def no_microvm(kernel_id: str, kernel_name: str) -> Refusal:
    """The kernel belongs to another provisioner, or its microVM is gone."""
    message = f"kernel {kernel_id[:64]!r} ({kernel_name[:64]!r}) does not run in a microVM"
    return Refusal(HTTPStatus.NOT_FOUND, "NotInMicroVM", message)


def with_gateway() -> Refusal:
    """Kernels, their microVMs and their snapshots are on the gateway's host."""
    message = "the kernels of this server run on a gateway; their microVMs and snapshots cannot be reached from here"
    return Refusal(HTTPStatus.NOT_IMPLEMENTED, "GatewayUnsupported", message)


def too_large(most: int) -> Refusal:
    """The body is longer than the route accepts."""
    message = f"the request is too large; allowed: at most {most} bytes"
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "TooLarge", message)


def failure_of(error: BaseException) -> tuple[int, Failure]:
    """HTTP status and body for an error. For an unforeseen one the body says only that the log has more."""
    if isinstance(error, Refusal):
        return error.status, _failure(str(error), error.reason)
    if isinstance(error, FcKernelError):
        status = next((status for kind, status in STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        whole = crossing(error)
        first = (whole.message.splitlines() or [""])[0]
        return status, _failure(first, whole.reason, tuple(whole.details), whole.field, whole.source)
    from tornado.web import HTTPError  # noqa: PLC0415 - slow to import, and only a server has such errors

    if isinstance(error, HTTPError):
        status_code = error.status_code
        phrase = HTTPStatus(status_code).phrase if status_code in _CODES else "Error"
        return status_code, _failure(_log_message(error) or phrase, phrase.title().replace(" ", "").replace("-", ""))
    return HTTPStatus.INTERNAL_SERVER_ERROR, _failure(
        "the request failed unexpectedly; see the server's log", "InternalError"
    )


_CODES = {status.value for status in HTTPStatus}


def _log_message(error: HTTPError) -> str:
    """The message of an HTTPError, with its arguments filled in."""
    message = error.log_message or ""
    if error.args:
        args = error.args[0] if len(error.args) == 1 and isinstance(error.args[0], Mapping) else error.args
        try:
            message %= args
        except (TypeError, ValueError, KeyError):
            return ""
    return message


def crossing(error: FcKernelError) -> Failure:
    """An error for a host's own client, complete: with paths, and with all lines of its message."""
    details: tuple[str, ...] = ()
    message = str(error)
    if isinstance(error, LaunchError):
        # The message ends with the console, which has a field of its own here.
        details, message = error.console, message.partition(CONSOLE_HEADING)[0]
    spec = error if isinstance(error, SpecError) else None
    return Failure(
        message=message,
        reason=type(error).__name__,
        details=list(details),
        field=spec.field if spec else None,
        source=spec.source if spec else None,
    )


def error_of(failure: Failure) -> FcKernelError:
    """The error that a failure describes, of the same class; an unknown class becomes a plain FcKernelError.

    The message is the same. Of the error's attributes only ``console``, ``field`` and ``source`` are kept.
    """
    kind = getattr(errors, failure.reason, FcKernelError)
    if not (isinstance(kind, type) and issubclass(kind, FcKernelError)):
        kind = FcKernelError
    if issubclass(kind, LaunchError):
        launch = cast("type[LaunchError]", kind)
        return launch(failure.message, console=failure.details)
    message = "\n  | ".join([failure.message, *failure.details])
    # Not by the constructor, which would make the message from parts: this is already the whole message.
    error = kind.__new__(kind, message)
    error.__dict__.update(dict.fromkeys(_PARTS.get(kind, ())))
    if isinstance(error, SpecError):
        error.__dict__.update(field=failure.field or "", source=failure.source, value=None, allowed="")
    return error


#: Attributes of errors that do not cross.
_PARTS: Mapping[type[FcKernelError], tuple[str, ...]] = {
    errors.UnsupportedByMonitor: ("what", "needs", "found"),
    errors.SnapshotCorrupt: ("part",),
    errors.SnapshotIncompatible: ("field", "have", "want"),
    errors.MonitorExited: ("returncode",),
    errors.MonitorApiError: ("status",),
    errors.AgentError: ("code",),
}


def _failure(
    message: str, reason: str, details: tuple[str, ...] = (), field: str | None = None, source: str | None = None
) -> Failure:
    first = (message.splitlines() or [""])[0]
    shown = without_host_paths(without_controls(first))
    return Failure(
        message=shown if len(shown) <= MAX_MESSAGE else shown[: MAX_MESSAGE - 1] + "…",
        reason=reason,
        details=[without_host_paths(without_controls(line)) for line in details[-MAX_DETAILS:]],
        field=field,
        source=source,
    )


def without_host_paths(text: str) -> str:
    """The text, with every absolute path cut to its last part."""
    return _HOST_PATH.sub(r"…/\1", text)
