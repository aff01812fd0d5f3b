"""What every subcommand shares: options, output, and one clear line for an error."""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType
from typing import Any, ClassVar, NoReturn

from jupyter_core.application import JupyterApp, NoStart, base_aliases, base_flags
from rich.console import Console
from traitlets import Bool

from .. import __version__
from ..config import FcKernelConfig
from ..errors import FcKernelError

#: Exit status for a call whose words are off, as argparse has it.
USAGE_STATUS = 2
#: To which the shell's convention adds the number of the signal that ended the call.
SIGNAL_STATUS = 128

JSON_FLAG = {"json": ({"Command": {"json": True}}, "print one JSON document on standard output, for scripts")}


class Command(JupyterApp):
    """A subcommand that runs :meth:`run` and turns the package's errors into one line and exit status 1."""

    name = "jupyter-fc-kernel"
    version = __version__
    flags = dict(base_flags)
    aliases = dict(base_aliases)
    classes = [FcKernelConfig]

    json = Bool(False, help="print JSON").tag(config=True)

    #: How many positional words the command takes, for the usage error: (least, most or None).
    words: ClassVar[tuple[int, int | None]] = (0, 0)
    #: What the words are called in the usage line.
    words_shown: ClassVar[str] = ""

    @property
    def settings(self) -> FcKernelConfig:
        """The configuration, read from the same files as the provisioner reads."""
        return FcKernelConfig(parent=self)

    @property
    def out(self) -> Console:
        """Standard output: results."""
        return Console(soft_wrap=True, highlight=False)

    @property
    def err(self) -> Console:
        """Standard error: progress and errors, so that a script can read the results alone."""
        return Console(stderr=True, soft_wrap=True, highlight=False)

    def run(self) -> int | None:
        """Do the work; the number returned is the exit status, ``None`` is 0."""
        raise NotImplementedError

    def usage_error(self, message: str) -> NoReturn:
        """Say what is wrong with the call and exit with 2."""
        self.err.print(f"{self._called()}: {message} (see --help)", style="red", markup=False)
        raise SystemExit(USAGE_STATUS)

    def print_json(self, value: object) -> None:
        """Print one JSON document."""
        sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")

    def start(self) -> None:
        """Called by the application framework."""
        try:
            super().start()
        except NoStart:
            return
        least, most = self.words
        if len(self.extra_args) < least or (most is not None and len(self.extra_args) > most):
            self.usage_error(f"expected {self.words_shown or 'no further words'}, got {self.extra_args!r}")
        # So that what a command has begun is undone when it is told to end, and not only when it is interrupted.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _end)
        try:
            status = self.run()
        except FcKernelError as error:
            self.fail(error)
        except KeyboardInterrupt:
            self.err.print("interrupted", style="red")
            raise SystemExit(SIGNAL_STATUS + signal.SIGINT) from None
        raise SystemExit(status or 0)

    def fail(self, error: FcKernelError) -> NoReturn:
        """Report the error and exit with 1."""
        if self.json:
            self.print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        else:
            self.err.print(f"{self._called()}: {error}", style="red", markup=False)
        raise SystemExit(1) from error

    def _called(self) -> str:
        words = []
        app: Any = self
        while isinstance(app, JupyterApp):
            word = getattr(app, "command_word", "")
            words.append(word)
            app = app.parent
        return " ".join(["fc-kernel", *(word for word in reversed(words) if word)])

    #: The word by which the command is called; set by its class.
    command_word: ClassVar[str] = ""


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(SIGNAL_STATUS + number)


class CommandGroup(JupyterApp):
    """A word that only leads to subcommands (``image``, ``firecracker``)."""

    name = "jupyter-fc-kernel"
    version = __version__
    command_word: ClassVar[str] = ""

    def start(self) -> None:
        """Run the subcommand, or print what there is and exit with 2."""
        try:
            super().start()
        except NoStart:
            return
        if self.subapp is None:
            self.print_help()
            raise SystemExit(USAGE_STATUS)
