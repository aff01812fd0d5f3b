"""The application and its subcommands."""

from __future__ import annotations

from .command import CommandGroup


class FcKernelApp(CommandGroup):
    """Jupyter kernels in microVMs of their own."""

    description = __doc__
    examples = """
    fc-kernel doctor                          tell what this host can do, and what to do where it cannot
    fc-kernel image build                     build the default guest image
    fc-kernel install                         add the kernel to Jupyter
    fc-kernel execute notebook.ipynb          run a notebook in a microVM
    fc-kernel ps                              list the running microVMs
    """
    # By name, so that a command imports what it needs and no more.
    subcommands = {
        "doctor": ("fc_kernel.cli.doctor.DoctorCommand", "Tell what this host can do, and what to do where it cannot."),
        "image": ("fc_kernel.cli.image.ImageGroup", "Build, list, show and remove guest images."),
        "install": ("fc_kernel.cli.install.InstallCommand", "Install the kernelspec, or a profile of it."),
        "uninstall": ("fc_kernel.cli.install.UninstallCommand", "Remove an installed kernelspec."),
        "execute": (
            "fc_kernel.cli.execute.ExecuteCommand",
            "Execute a notebook in a microVM with the settings in its metadata.",
        ),
        "snapshot": (
            "fc_kernel.cli.snapshot.SnapshotGroup",
            "List, show, remove, rename, export and import snapshots; take one, restore one.",
        ),
        "fork": ("fc_kernel.cli.fork.ForkCommand", "Start new kernels that go on from a running one."),
        "ps": ("fc_kernel.cli.vms.PsCommand", "List the microVMs of this user."),
        "gc": ("fc_kernel.cli.vms.GcCommand", "End the microVMs that a dead server left behind."),
        "schema": ("fc_kernel.cli.schema.SchemaCommand", "Print the JSON Schema of metadata.fc_kernel."),
        "firecracker": ("fc_kernel.cli.firecracker.FirecrackerGroup", "Install a verified Firecracker release."),
    }
