"""``%snapshot``, ``%snapshots``, ``%restore``, ``%fork`` and ``%vm``."""

from __future__ import annotations

import shlex
from typing import Any, Callable, Optional, TypeVar

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments

from . import api
from .answers import MicroVm, Snapshots, plain, size
from .requests import RequestError

#: A completion that takes longer is of no use to whoever pressed Tab.
COMPLETION_TIMEOUT_S = 2.0

Method = TypeVar("Method", bound=Callable[..., Any])


def _option(*names: str, **options: Any) -> Callable[[Any], Any]:
    decorator: Callable[[Any], Any] = argument(*names, **options)  # type: ignore[no-untyped-call]
    return decorator


def _takes(*options: Callable[[Any], Any]) -> Callable[[Method], Method]:
    """One typed decorator for ``line_magic``, ``magic_arguments`` and the options."""

    def decorate(method: Method) -> Method:
        for option in reversed(options):
            method = option(method)
        mark: Any = line_magic
        whole: Method = mark(magic_arguments()(method))  # type: ignore[no-untyped-call]
        return whole

    return decorate


def _parsed(magic: Any, line: str) -> Any:
    """The arguments; ``None`` for ``--help``, whose text is printed here."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()  # an unclosed quote is an apostrophe
    if "--help" in words or "-h" in words:
        print(magic.parser.format_help())
        return None
    return magic.parser.parse_args(words)


def _asked(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RequestError as error:
        raise UsageError(str(error)) from None


@magics_class
class MicroVmMagics(Magics):
    """Magics for the microVM that the kernel runs in."""

    @_takes(
        _option("name", nargs="?", help="letters, digits, '.', '_', '-'; the default is s1, s2, …"),
        _option("-m", "--message", nargs="+", default=[], metavar="TEXT", help="a description: the rest of the line"),
    )
    def snapshot(self, line: str) -> None:
        """Save the whole microVM at this line, and continue.

        After %restore the session is back here; the rest of this cell does not run again.
        """
        given = _parsed(self.snapshot, line)
        if given is None:
            return
        taken = _asked(lambda: api.snapshot(given.name, " ".join(given.message)))
        print(f"Snapshot {plain(taken.name)}: {size(taken.size_bytes)}, paused for {taken.paused_s:.2f} s")
        for error in taken.hook_errors:
            print(plain(error))

    @_takes()
    def snapshots(self, line: str) -> Optional[Snapshots]:
        """List the snapshots that can be restored here; the current one is marked."""
        if _parsed(self.snapshots, line) is None:
            return None
        found: Snapshots = _asked(api.snapshots)
        return found

    @_takes(
        _option("name", help="name or ID of the snapshot"),
        _option("--same-seed", action="store_true", help="repeat the random numbers that followed the snapshot"),
    )
    def restore(self, line: str) -> None:
        """Return to a snapshot: this session is then as it was there. Whatever happened since is lost."""
        given = _parsed(self.restore, line)
        if given is not None:
            _asked(lambda: api.restore(given.name, same_seed=given.same_seed))

    @_takes(
        _option("name", nargs="?", help="name for the snapshot that the new kernels start from"),
        _option("-n", "--count", type=int, default=1, metavar="N", help="number of kernels (default: 1)"),
    )
    def fork(self, line: str) -> None:
        """Start new kernels from this line; this kernel continues."""
        given = _parsed(self.fork, line)
        if given is not None:
            print(_asked(lambda: api.fork(given.name, given.count)))

    @_takes()
    def vm(self, line: str) -> Optional[MicroVm]:
        """Show the microVM of this kernel: isolation, size, uptime, snapshots."""
        if _parsed(self.vm, line) is None:
            return None
        facts: MicroVm = _asked(api.vm)
        return facts


def _snapshot_names(_shell: Any, _event: Any) -> list[str]:
    try:
        return [each.name for each in api.snapshots(COMPLETION_TIMEOUT_S)]
    except RequestError:
        return []


def load_ipython_extension(shell: Any) -> None:
    """Add the magics and their completion to a shell."""
    shell.register_magics(MicroVmMagics)
    for word in ("%restore", "restore"):
        shell.set_hook("complete_command", _snapshot_names, str_key=word)
