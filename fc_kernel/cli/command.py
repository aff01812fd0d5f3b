"""What every subcommand shares: options, output, and one clear line for an error."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from textwrap import dedent
from types import FrameType
from typing import Any, ClassVar, NoReturn

from jupyter_core.application import JupyterApp, NoStart, base_aliases, base_flags
from rich.console import Console
from traitlets import Bool

from .. import __version__
from ..errors import FcKernelError
from ..host.current import host_for
from ..host.service import KernelHost
from ..settings.config import FcKernelConfig, load_config
from ..settings.tenant import Tenant

#: Exit status for a call with wrong arguments, as argparse has it.
USAGE_STATUS = 2
#: By the shell's convention, the exit status of a call that a signal ended is this plus the signal's number.
SIGNAL_STATUS = 128

#: The width where there is no terminal: a table's lines are for a script, and are not broken.
PIPE_COLUMNS = 1000

JSON_FLAG = {"json": ({"Command": {"json": True}}, "print one JSON document on standard output, for scripts")}


class _Application(JupyterApp):
    """The base of commands and of groups of them."""

    name = "jupyter-fc-kernel"
    version = __version__

    #: The word by which it is called; each class sets its own.
    command_word: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # The framework would print all lines but the first with the indentation of the source.
        cls.examples = dedent(str(cls.__dict__.get("examples", ""))).strip()


class Command(_Application):
    """A subcommand that runs :meth:`run` and turns the package's errors into one line and exit status 1."""

    flags = dict(base_flags)
    aliases = dict(base_aliases)
    classes = [FcKernelConfig]

    json = Bool(False, help="print JSON").tag(config=True)

    #: How many positional arguments the command takes: (least, most or None).
    words: ClassVar[tuple[int, int | None]] = (0, 0)
    #: What the usage error calls them.
    words_shown: ClassVar[str] = ""

    @property
    def settings(self) -> FcKernelConfig:
        """The configuration, read from the same files as the provisioner reads; raises ``ConfigError``."""
        return load_config(self.config)

    @property
    def tenant(self) -> Tenant:
        """The user of this process; raises ``ConfigError``."""
        return Tenant.of_this_process(self.settings)

    @property
    def out(self) -> Console:
        """Standard output: results."""
        return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)

    @property
    def err(self) -> Console:
        """Standard error: progress and errors, so that a script can read the results alone."""
        return Console(stderr=True, soft_wrap=True, highlight=False)

    def run(self) -> int | None:
        """Do the work; the number returned is the exit status, ``None`` is 0."""
        raise NotImplementedError

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """Refuse unknown options; the framework would warn and go on without them."""
        known = {"help", "help-all", "version"}
        for names in (*self.aliases, *self.flags):
            known.update((names,) if isinstance(names, str) else names)
        for word in argv or ():
            if word == "--":
                break
            name = word.removeprefix("--").partition("=")[0]
            if word.startswith("--") and "." not in name and name not in known:
                self.usage_error(f"there is no option --{name}")
        super().parse_command_line(argv)

    def exit(self, exit_status: int | str | None = 0) -> NoReturn:
        """End with the framework's status, but with 2 for its 1: that is a bad value of an option, a usage error."""
        raise SystemExit(USAGE_STATUS if exit_status == 1 else exit_status)

    def usage_error(self, message: str) -> NoReturn:
        """Say what is wrong with the call and exit with 2."""
        self.err.print(f"{called(self)}: {message} (see --help)", style="red", markup=False)
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
            self.usage_error(f"expected {self.words_shown or 'no arguments'}, got {self.extra_args!r}")
        self.log.addFilter(_not_reported_anyway)
        # So that what a command has begun is undone also when it is terminated, not only when it is interrupted.
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
            self.err.print(f"{called(self)}: {error}", style="red", markup=False)
        raise SystemExit(1) from error


class HostCommand(Command):
    """A command that does its work through the host of this user's kernels alone."""

    def run(self) -> int | None:
        """Act on the host."""
        return asyncio.run(self.act(host_for(self.tenant)))

    async def act(self, host: KernelHost) -> int | None:
        """Do the work; the number returned is the exit status, ``None`` is 0."""
        raise NotImplementedError


def _not_reported_anyway(record: logging.LogRecord) -> bool:
    """Whether a log record is kept: not a traceback, which libraries log, of an error that becomes one clear line anyway."""
    return record.exc_info is None or not isinstance(record.exc_info[1], FcKernelError)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(SIGNAL_STATUS + number)


class CommandGroup(_Application):
    """A word that only leads to subcommands (``image``, ``firecracker``)."""

    def start(self) -> None:
        """Run the subcommand, or print what there is and exit with 2."""
        try:
            super().start()
        except NoStart:
            return
        if self.subapp is None:
            if self.extra_args:
                there_are = ", ".join(self.subcommands)
                sys.stderr.write(
                    f"{called(self)}: there is no command {self.extra_args[0]!r}; there are: {there_are}\n"
                )
            else:
                self.print_help()
            raise SystemExit(USAGE_STATUS)


def called(app: Any) -> str:
    """The words by which a command was called."""
    words: list[str] = []
    while isinstance(app, JupyterApp):
        words.insert(0, getattr(app, "command_word", ""))
        app = app.parent
    return " ".join(["fc-kernel", *filter(None, words)])
