"""The files that are shipped into the guest, read from this package. Runs on the host."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

#: The parts of the package that run in the guest: modules, and directories with all their modules.
SHARED = ("__init__.py", "errors.py")
DIRECTORIES = ("wire", "guest", "guest/in_kernel")
HOST_ONLY = {"interfaces.py", "payload.py"}


def guest_files(also: Sequence[str] = ()) -> dict[str, bytes]:
    """Relative path below ``/run/fc`` in the guest → content.

    ``also`` names further files of the package, which a test needs in its guest.
    """
    package = files("fc_kernel")
    shipped = {f"fc_kernel/{name}": package.joinpath(name) for name in (*SHARED, *also)}
    for directory in DIRECTORIES:
        for entry in package.joinpath(directory).iterdir():
            if entry.name.endswith(".py") and entry.name not in HOST_ONLY:
                shipped[f"fc_kernel/{directory}/{entry.name}"] = entry
    contents = {name: entry.read_bytes() for name, entry in sorted(shipped.items()) if entry.is_file()}
    contents["main.py"] = contents.pop("fc_kernel/guest/main.py")
    return contents
