"""User namespaces, in which a user other than root can be root over a root file system."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import tempfile

from ..errors import ImageBuildError

#: Making namespaces takes milliseconds, where it is allowed.
DEADLINE_S = 20.0
#: The range that Debian's ``adduser`` gives to the first user.
RANGE = "100000-165535"


def namespace_command() -> list[str]:
    """The prefix for a command that must be root over the files that it makes, in its own namespaces.

    Nobody else sees its mounts, and all its processes die with the first. A user other than root is root there, with the ids
    of ``/etc/subuid``.
    """
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    if os.geteuid() != 0:
        words += ["--user", "--map-root-user", "--map-auto"]
    return [*words, "--"]


def refusal() -> str | None:
    """Why this host refuses such namespaces, in one line; ``None`` where it allows them."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [*namespace_command(), "true"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            return str(error)
        try:
            status = process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            # Even a failed unshare leaves a process behind, which waits for ever to write the map of ids.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if status == 0:
            return None
        output.seek(0)
        lines = output.read().decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:200] if said else f"unshare did not end within {DEADLINE_S:g} s"


def remedy() -> str:
    """What to do so that this user may have them."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    return (
        f"build images as root; or allow user namespaces (sysctl kernel.unprivileged_userns_clone), apt-get install uidmap, "
        f"and give {name} ids: usermod --add-subuids {RANGE} --add-subgids {RANGE} {name}"
    )


def root_namespaces() -> list[str]:
    """:func:`namespace_command`, after a test that it works.

    Raises :class:`~fc_kernel.errors.ImageBuildError` where a user other than root cannot have them. Root without that right
    (in a container, say) does without.
    """
    said = refusal()
    if said is None:
        return namespace_command()
    if os.geteuid() == 0:
        return []
    raise ImageBuildError(f"an image is built in user namespaces, which are refused here ({said}): {remedy()}")
