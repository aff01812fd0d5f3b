"""``fc-kernel install`` and ``uninstall``: the kernelspec and profiles of it."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

from jupyter_core.application import base_aliases, base_flags
from traitlets import Bool, Enum, Integer, List, Unicode

from ..settings import kernelspec
from .command import Command


class InstallCommand(Command):
    """Install the kernelspec, so that every Jupyter client can choose it; options such as sizes make a profile of it.

    With ``--argv`` and ``--language`` it starts a kernel other than Python's, which the image must contain.
    """

    description = __doc__
    examples = """
    fc-kernel install --sys-prefix
    jupyter fc-kernel install --user --name fc-big --vcpus 4 --mem 8192 --display-name "Python (4 vCPU, 8 GiB)"
    fc-kernel install --user --name r --image r --language R --argv "R --slave -e IRkernel::main() --args {connection_file}"
    """
    command_word = "install"
    aliases = {
        **base_aliases,
        "name": "InstallCommand.kernel_name",
        "display-name": "InstallCommand.display_name",
        "prefix": "InstallCommand.prefix",
        "vcpus": "InstallCommand.vcpu_count",
        "mem": "InstallCommand.mem_size_mib",
        "image": "InstallCommand.image",
        "network": "InstallCommand.network",
        "argv": "InstallCommand.argv_words",
        "language": "InstallCommand.language",
        "interrupt-mode": "InstallCommand.interrupt_mode",
        "env": "InstallCommand.env",
    }
    flags = {
        **base_flags,
        "user": ({"InstallCommand": {"user": True}}, "install for this user only"),
        "sys-prefix": ({"InstallCommand": {"prefix": sys.prefix}}, "install into this Python environment"),
    }

    kernel_name = Unicode(kernelspec.DEFAULT_NAME, help="name of the kernelspec").tag(config=True)
    display_name = Unicode("", help="what menus show").tag(config=True)
    prefix = Unicode("", help="install below this prefix").tag(config=True)
    user = Bool(False, help="install for this user").tag(config=True)
    vcpu_count = Integer(None, allow_none=True, help="vCPUs of this profile").tag(config=True)
    mem_size_mib = Integer(None, allow_none=True, help="memory of this profile in MiB").tag(config=True)
    image = Unicode("", help="guest image of this profile").tag(config=True)
    network = Unicode("", help="network profile, as the administrator named it").tag(config=True)
    argv_words = Unicode(
        "", help="the kernel's command in the guest, with {connection_file}: as for a shell, or a JSON list"
    ).tag(config=True)
    language = Unicode("", help="language of that kernel").tag(config=True)
    interrupt_mode = Enum(("signal", "message"), "signal", help="how that kernel is interrupted").tag(config=True)
    env = List(Unicode(), help="NAME=VALUE for the kernel's environment in the guest").tag(config=True)

    def run(self) -> None:
        """Install and say where."""
        if self.user and self.prefix:
            self.usage_error("--user and --prefix (or --sys-prefix) exclude each other")
        env = {}
        for pair in self.env:
            name, equals, value = pair.partition("=")
            if not (equals and name):
                self.usage_error(f"--env takes NAME=VALUE, not {pair!r}")
            env[name] = value
        profile = kernelspec.Profile(
            name=self.kernel_name,
            display_name=self.display_name or None,
            config={
                "vcpu_count": self.vcpu_count,
                "mem_size_mib": self.mem_size_mib,
                "image": self.image or None,
                "network": self.network or None,
                "argv": self._command(),
            },
            env=env,
            language=self.language or None,
            interrupt_mode=self.interrupt_mode,
        )
        where = kernelspec.install(profile, user=self.user, prefix=self.prefix or None)
        self.out.print(f"installed {profile.name} in {where}", markup=False)

    def _command(self) -> Any:
        """The words of ``--argv``; the settings check what they may be."""
        text = self.argv_words.strip()
        try:
            if text.startswith("["):
                return json.loads(text)
            return shlex.split(text) or None
        except (ValueError, RecursionError) as error:
            self.usage_error(f"--argv takes words as for a shell, or a JSON list; {text!r:.80}: {error}")


class UninstallCommand(Command):
    """Remove kernelspecs that ``fc-kernel install`` made."""

    description = __doc__
    command_word = "uninstall"
    words = (0, None)
    words_shown = "kernelspec names"

    def run(self) -> None:
        """Remove each."""
        for name in self.extra_args or [kernelspec.DEFAULT_NAME]:
            self.out.print(f"removed {kernelspec.uninstall(name)}", markup=False)
