"""``fc-kernel snapshot create|restore`` and ``fc-kernel fork``: on a kernel of a running Jupyter server."""

from __future__ import annotations

from traitlets import Bool, Integer, Unicode

from .remote import RemoteCommand


class SnapshotCreateCommand(RemoteCommand):
    """Take a snapshot of a running kernel's whole machine; the kernel goes on."""

    description = __doc__
    examples = """
    fc-kernel snapshot create work/analysis.ipynb before-cleaning -m "all data loaded"
    fc-kernel snapshot create 1f0c9a7e
    """
    command_word = "create"
    aliases = {**RemoteCommand.aliases, ("m", "message"): "SnapshotCreateCommand.message"}
    words = (1, 2)
    words_shown = "KERNEL [NAME]"

    message = Unicode("", help="description, shown in lists").tag(config=True)

    def run(self) -> None:
        """Ask for the snapshot and print its name, id and size."""
        kernel = self.kernel(self.extra_args[0])
        body = {"description": self.message}
        if self.extra_args[1:]:
            body["name"] = self.extra_args[1]
        made = kernel.ask("POST", "snapshots", body)
        if self.json:
            self.print_json(made)
        else:
            self.out.print(f"{made['name']}  {made['id']}  {made['size_bytes'] / (1 << 20):.1f} MiB", markup=False)


class SnapshotRestoreCommand(RemoteCommand):
    """Put a running kernel back to one of its snapshots; what it has done since is lost."""

    description = __doc__
    examples = """
    fc-kernel snapshot restore work/analysis.ipynb before-cleaning
    """
    command_word = "restore"
    flags = {
        **RemoteCommand.flags,
        "same-seed": ({"SnapshotRestoreCommand": {"same_seed": True}}, "leave Python's random generators as they were"),
    }
    words = (2, 2)
    words_shown = "KERNEL SNAPSHOT"

    same_seed = Bool(False, help="leave Python's random generators as they were").tag(config=True)

    def run(self) -> None:
        """Ask for the restore and print where the kernel stands."""
        kernel = self.kernel(self.extra_args[0])
        snapshot_id = self.snapshot_id(kernel, self.extra_args[1])
        answer = kernel.ask("POST", "restore", {"snapshot": snapshot_id, "same_seed": self.same_seed})
        if self.json:
            self.print_json(answer)
        else:
            where = " > ".join(each["name"] for each in answer["lineage"])
            self.out.print(f"restored {where} (generation {answer['generation']})", markup=False)


class ForkCommand(RemoteCommand):
    """Start new kernels that go on from where a running kernel is, or from one of its snapshots; it goes on, too."""

    description = __doc__
    examples = """
    fc-kernel fork work/analysis.ipynb -n 4
    fc-kernel fork work/analysis.ipynb before-cleaning --copy      each with a copy of the notebook
    """
    command_word = "fork"
    aliases = {**RemoteCommand.aliases, ("n", "count"): "ForkCommand.count"}
    flags = {
        **RemoteCommand.flags,
        "copy": ({"ForkCommand": {"copy_notebook": True}}, "give each fork a copy of the kernel's notebook"),
    }
    words = (1, 2)
    words_shown = "KERNEL [SNAPSHOT]"

    count = Integer(1, min=1, help="how many forks to start").tag(config=True)
    copy_notebook = Bool(False, help="give each fork a copy of the kernel's notebook").tag(config=True)

    def run(self) -> None:
        """Ask for the forks and print what to attach to."""
        kernel = self.kernel(self.extra_args[0])
        body: dict[str, object] = {"count": self.count}
        if self.extra_args[1:]:
            body["snapshot"] = self.snapshot_id(kernel, self.extra_args[1])
        if self.copy_notebook:
            if not kernel.path:
                self.usage_error("--copy: this kernel has no notebook")
            body["path"] = kernel.path
        forks = kernel.ask("POST", "fork", body)
        if self.json:
            self.print_json(forks)
            return
        for fork in forks:
            self.out.print(f"{fork['kernel_id']}  {fork['path'] or fork['name']}", markup=False)
