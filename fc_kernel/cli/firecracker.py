"""``fc-kernel firecracker install``."""

from __future__ import annotations

from jupyter_core.application import base_aliases, base_flags
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from traitlets import Unicode

from ..base.paths import data_dir
from ..vmm.firecracker.install import install_firecracker
from ..vmm.firecracker.versions import RECOMMENDED_VERSION
from .command import JSON_FLAG, Command, CommandGroup


class FirecrackerInstallCommand(Command):
    """Download a Firecracker release, verify it against the release's own checksum file, and install it."""

    description = __doc__
    examples = """
    fc-kernel firecracker install
    fc-kernel firecracker install --version 1.12.1
    fc-kernel firecracker install --from ./firecracker-v1.16.1-x86_64.tgz --sha256 <digest>
    """
    command_word = "install"
    aliases = {
        **base_aliases,
        "version": "FirecrackerInstallCommand.release",
        "from": "FirecrackerInstallCommand.source",
        "sha256": "FirecrackerInstallCommand.sha256",
    }
    flags = {**base_flags, **JSON_FLAG}

    release = Unicode(RECOMMENDED_VERSION, help="the release to install").tag(config=True)
    source = Unicode("", help="a file or URL to take the archive from").tag(config=True)
    sha256 = Unicode("", help="the archive's SHA-256, instead of the release's checksum file").tag(config=True)

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """As everywhere, but ``--version`` may have a value here; without one it prints this program's own version."""
        if argv is not None and "--version" in argv[:-1]:
            at = argv.index("--version")
            argv = [*argv[:at], f"--version={argv[at + 1]}", *argv[at + 2 :]]
        super().parse_command_line(argv)

    def run(self) -> None:
        """Install with a progress bar on standard error."""
        with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=self.err) as progress:
            task = progress.add_task(f"firecracker {self.release}", total=None)

            def report(done_bytes: int, total_bytes: int | None) -> None:
                progress.update(task, completed=done_bytes, total=total_bytes)

            program = install_firecracker(
                data_dir(),
                version=self.release,
                source=self.source or None,
                sha256=self.sha256 or None,
                progress=report,
            )
        if self.json:
            self.print_json({"path": str(program.path), "version": program.version})
        else:
            self.out.print(f"installed Firecracker {program.version} as {program.path}", markup=False)


class FirecrackerGroup(CommandGroup):
    """Firecracker on this host."""

    description = __doc__
    command_word = "firecracker"
    subcommands = {
        "install": (FirecrackerInstallCommand, "Install a verified release."),
    }
