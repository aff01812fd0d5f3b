"""The read-only file system of an image, and root file systems that others have made."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..errors import ImageBuildError

#: Fixed values for what would be random or the current time, so that the same inputs give the same bytes.
EPOCH = "1700000000"
FILE_SYSTEM_UUID = "6f0c6b1e-3d7a-4f0e-9f0a-fc0000000001"
#: Left out, because the initramfs makes them. In a build they may be mounts, whose owner depends on the builder.
MOUNT_POINTS = ("proc", "sys", "dev", "run")
#: How many links Linux follows in one path.
MAX_LINKS = 40
#: ``man 5 elf``: the header's class and ``e_machine``.
ELF_HEAD_BYTES, EM_X86_64 = 20, 62


def mkfs_command(image: Path, root: str) -> str:
    """Shell command that makes the file system from the directory that the shell word ``root`` expands to.

    Without extended attributes: reading them fails on proc and devpts, and root needs no file capabilities.
    Uncompressed: decompression costs an emulated guest more than the page cache gains.
    """
    exclude = f"^({'|'.join(MOUNT_POINTS)})(/.*)?$|^tmp/.+"
    return (
        f"mkfs.erofs --quiet -x-1 -T{EPOCH} -U{FILE_SYSTEM_UUID} {shlex.quote(f'--exclude-regex={exclude}')} "
        f"{shlex.quote(str(image))} {root}"
    )


def tar_command(tar: Path, root: Path) -> list[str]:
    """The command that unpacks a hostile tar file into ``root``, and nowhere else.

    GNU tar strips leading slashes, refuses ``..`` and makes links last, so no member is written through a link. What
    the guest makes itself, such as device nodes, is left out.
    """
    words = ["tar", "--extract", "--numeric-owner", "--force-local", "--anchored", "--wildcards"]
    for directory in (*MOUNT_POINTS, "tmp"):
        words += [f"--exclude={directory}/*", f"--exclude=./{directory}/*", f"--exclude=/{directory}/*"]
    return [*words, f"--directory={root}", f"--file={tar}"]


def find_python(root: Path) -> str:
    """The interpreter that has ipykernel and pyzmq; raises :class:`~fc_kernel.errors.ImageBuildError` when none has.

    The places are those where the guest agent looks for pyzmq.
    """
    for python, places in (
        ("/usr/local/bin/python3", "usr/local/lib/python3*/site-packages"),
        ("/usr/bin/python3", "usr/local/lib/python3*/dist-packages"),
        ("/usr/bin/python3", "usr/lib/python3*/site-packages"),
        ("/usr/bin/python3", "usr/lib/python3/dist-packages"),
        ("/opt/conda/bin/python3", "opt/conda/lib/python3*/site-packages"),
        ("/opt/venv/bin/python3", "opt/venv/lib/python3*/site-packages"),
    ):
        found = any((place / "ipykernel").is_dir() and (place / "zmq").is_dir() for place in root.glob(places))
        if found and (program := resolve_in(root, python)) is not None:
            _check_program(program, python)
            return python
    raise ImageBuildError(
        "no Python 3 with ipykernel and pyzmq in the root file system (looked in /usr/local, /usr, /opt/conda and "
        "/opt/venv); install ipykernel in it first"
    )


def resolve_in(root: Path, path: str) -> Path | None:
    """The file at an absolute path when ``root`` is the root directory; links never lead out of it."""
    waiting = path.strip("/").split("/")
    found: list[str] = []
    for _ in range(MAX_LINKS):
        while waiting:
            part = waiting.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                found = found[:-1]
                continue
            found.append(part)
            here = root.joinpath(*found)
            if here.is_symlink():
                target = str(here.readlink())
                found = [] if target.startswith("/") else found[:-1]
                waiting = [*target.split("/"), *waiting]
                break
        else:
            file = root.joinpath(*found)
            return file if file.is_file() else None
    return None


def _check_program(program: Path, shown: str) -> None:
    with program.open("rb") as file:
        head = file.read(ELF_HEAD_BYTES)
    if head[:5] != b"\x7fELF\x02" or int.from_bytes(head[18:20], "little") != EM_X86_64:
        raise ImageBuildError(f"{shown} in the root file system is no program for x86_64")
