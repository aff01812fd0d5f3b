"""The application and its subcommands."""

from __future__ import annotations

from .command import CommandGroup
from .doctor import DoctorCommand
from .execute import ExecuteCommand
from .firecracker import FirecrackerGroup
from .image import ImageGroup
from .install import InstallCommand, UninstallCommand
from .schema import SchemaCommand
from .vms import GcCommand, PsCommand


class FcKernelApp(CommandGroup):
    """Jupyter kernels in microVMs of their own."""

    description = __doc__
    examples = """
    fc-kernel doctor                          what this host can do, and what to do where it cannot
    fc-kernel image build                     build the default guest image
    fc-kernel install                         add the kernel to Jupyter
    fc-kernel execute notebook.ipynb          run a notebook in a microVM
    fc-kernel ps                              the microVMs that run now
    """
    subcommands = {
        "doctor": (DoctorCommand, "Tell what this host can do and why not."),
        "image": (ImageGroup, "Build, list, show and remove guest images."),
        "install": (InstallCommand, "Install the kernelspec, or a profile of it."),
        "uninstall": (UninstallCommand, "Remove an installed kernelspec."),
        "execute": (ExecuteCommand, "Execute a notebook, obeying its fc_kernel metadata."),
        "ps": (PsCommand, "List the microVMs of this user."),
        "gc": (GcCommand, "End what a dead server left behind."),
        "schema": (SchemaCommand, "Print the JSON Schema of metadata.fc_kernel."),
        "firecracker": (FirecrackerGroup, "Install a verified Firecracker release."),
    }
