"""Every error that the package raises on purpose.

The tree is ordered by what the caller can do, not by what went wrong inside::

    FcKernelError
    ├── SpecError                 a value was refused before anything was started: correct it
    │   └── LimitError            ... because it exceeds the administrator's limit
    ├── ConfigError               the host lacks something: the message says what to do
    │   ├── ImageError            an image is missing, corrupt or could not be built
    │   │   ├── ImageNotFound
    │   │   ├── ImageCorrupt
    │   │   └── ImageBuildError
    │   ├── MonitorUnavailable    no monitor on this host can do what was asked
    │   │   ├── UnsupportedByMonitor
    │   │   └── IsolationUnavailable
    │   └── RunDirError           the private directory for sockets cannot be used
    ├── LaunchError               a start failed and was undone; carries the console's last lines
    │   ├── AgentUnreachable
    │   ├── KernelStartError
    │   └── NotReseeded           a restored guest refused fresh randomness; it was ended before it ran user code
    ├── SnapshotError             nothing was changed, and the kernel continues
    │   ├── SnapshotNotFound
    │   ├── SnapshotExists        the name is taken
    │   ├── SnapshotCorrupt       a file of it differs from what its manifest records
    │   ├── SnapshotIncompatible  this host cannot load it; the message names the field that differs
    │   ├── SnapshotInUse         a running VM uses its files
    │   └── QuotaExceeded         the quota or the disk has no room for another snapshot
    ├── MonitorError              a running monitor failed
    │   ├── MonitorExited
    │   ├── MonitorApiError       the monitor refused a request; carries its message
    │   └── OutcomeUnknown        a request was sent but no answer came: query the state
    ├── ProtocolError
    │   ├── RemoteProtocolError   the only error that bytes from the other side can cause
    │   └── LocalProtocolError    this side broke the protocol's rules
    ├── AgentError                the guest agent answered a call with an error
    ├── KernelNotFound            the host has no kernel with that ID
    └── StateError                a call that the object's state does not allow (closed, not started)
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

#: A message is shown in a browser's dialog, so names, values and what is allowed are cut to these lengths in it.
MAX_SHOWN_FIELD, MAX_SHOWN_VALUE, MAX_SHOWN_ALLOWED = 48, 80, 230


class FcKernelError(Exception):
    """Base of all errors of this package; ``str()`` is a message that can be shown in a browser."""

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own method would call the class with nothing but the message.
        return _rebuilt, (type(self), self.args, dict(self.__dict__))


def _rebuilt(kind: type[FcKernelError], args: tuple[object, ...], state: dict[str, object]) -> FcKernelError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class SpecError(FcKernelError):
    """A value was refused.

    ``field`` is a dotted path (``network_interfaces[0].guest_mac``), ``value`` what was found, ``allowed`` what is
    allowed, and ``source`` where the value came from, if that is known.
    """

    def __init__(self, field: str, value: object, allowed: str, *, source: str | None = None) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        self.source = source
        where = f" (from {source})" if source else ""
        what = _cut(_on_one_line(field), MAX_SHOWN_FIELD) or "''"
        super().__init__(f"{what}{where} is {_shown(value)}; allowed: {_cut(allowed, MAX_SHOWN_ALLOWED)}")


def _shown(value: object) -> str:
    """``repr`` of any value on one line of at most 80 characters, without making a longer one first."""
    if isinstance(value, (str, bytes)):
        # Cut first: the repr of ten megabytes is ten megabytes.
        text = repr(value[: MAX_SHOWN_VALUE + 1])
        return _cut(text, MAX_SHOWN_VALUE)
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = short.maxlong = short.maxother = MAX_SHOWN_VALUE
    short.maxstring = MAX_SHOWN_VALUE
    try:
        text = short.repr(value)
    except ValueError:
        # Python refuses to write an integer of more than 4300 digits.
        text = f"<{type(value).__name__}>"
    return _cut(_on_one_line(text), MAX_SHOWN_VALUE)


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


class LimitError(SpecError):
    """A valid value that exceeds the administrator's limit."""


class ConfigError(FcKernelError):
    """The host lacks something; the message says what to do."""


class ImageError(ConfigError):
    """Something is wrong with a guest image."""


class ImageNotFound(ImageError):
    """The store has no image with that name."""


class ImageCorrupt(ImageError):
    """A file of the image does not have the digest that its manifest records."""


class ImageBuildError(ImageError):
    """A build failed and left nothing behind."""


class MonitorUnavailable(ConfigError):
    """No monitor can be used on this host."""


class UnsupportedByMonitor(MonitorUnavailable):
    """The monitor that would run cannot do what the spec asks."""

    def __init__(self, what: str, *, needs: str, found: str) -> None:
        self.what = what
        self.needs = needs
        self.found = found
        super().__init__(f"{what} needs {needs}; found {found}")


class IsolationUnavailable(MonitorUnavailable):
    """The best tier that this host can give is below the one required."""


class RunDirError(ConfigError):
    """The private run directory cannot be made or trusted, or its path is too long for a Unix socket."""


class LaunchError(FcKernelError):
    """A start failed; everything that had been started was ended. ``console`` holds the last lines of the console."""

    def __init__(self, message: str, *, console: Sequence[str] = ()) -> None:
        self.console = tuple(console)
        tail = "".join(f"\n  | {line}" for line in self.console)
        super().__init__(message + (f"\nlast lines of the console:{tail}" if tail else ""))


class AgentUnreachable(LaunchError):
    """The guest did not answer in time."""


class KernelStartError(LaunchError):
    """The guest runs, but its kernel process did not start."""


class NotReseeded(LaunchError):
    """A restored guest refused fresh randomness, so it would repeat random numbers that others know. It was ended."""


class SnapshotError(FcKernelError):
    """A call about a snapshot failed; it changed nothing, and the kernel continues."""


class SnapshotNotFound(SnapshotError):
    """There is no snapshot with that name or ID."""


class SnapshotExists(SnapshotError):
    """The name is taken in this scope."""


class SnapshotCorrupt(SnapshotError):
    """A part of a snapshot is missing or differs from what the manifest records; ``part`` names it."""

    def __init__(self, part: str, problem: str) -> None:
        self.part = part
        super().__init__(f"the snapshot is corrupt: {part}: {problem}")


class SnapshotIncompatible(SnapshotError):
    """This host cannot load the snapshot: in ``field`` the snapshot has ``have``, the host ``want``."""

    def __init__(self, field: str, *, have: object, want: object) -> None:
        self.field = field
        self.have = have
        self.want = want
        super().__init__(
            f"the snapshot does not fit here: its {_cut(field, MAX_SHOWN_FIELD)} is {_shown(have)}, this host has "
            f"{_shown(want)}"
        )


class SnapshotInUse(SnapshotError):
    """A running VM uses the snapshot's files."""


class QuotaExceeded(SnapshotError):
    """There is no room for another snapshot: too many snapshots, too many bytes, or a full disk."""


class MonitorError(FcKernelError):
    """A running monitor failed."""


class MonitorExited(MonitorError):
    """The monitor process ended; ``returncode`` is negative for a signal, as in :mod:`subprocess`."""

    def __init__(self, message: str, *, returncode: int | None = None) -> None:
        self.returncode = returncode
        super().__init__(message)


class MonitorApiError(MonitorError):
    """The monitor refused a request; ``status`` is the HTTP status, ``None`` for QMP."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class OutcomeUnknown(MonitorError):
    """A request was sent but no answer came: the monitor may or may not have carried it out."""


class ProtocolError(FcKernelError):
    """A rule of a wire protocol was broken."""


class RemoteProtocolError(ProtocolError):
    """The other side sent something that is not allowed."""


class LocalProtocolError(ProtocolError):
    """This side tried something that is not allowed."""


class AgentError(FcKernelError):
    """The guest agent answered with a JSON-RPC error; ``code`` is its code."""

    def __init__(self, message: str, *, code: int) -> None:
        self.code = code
        super().__init__(message)


class KernelNotFound(FcKernelError):
    """The host has no kernel with that ID: it was never opened there, or it was closed."""


class StateError(FcKernelError):
    """The call is not allowed in the object's present state."""
