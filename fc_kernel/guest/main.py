"""Entry point in the guest: started by the initramfs as PID 1, or by the fake monitor as a host process.

    python3 -S -B main.py                                                  (PID 1; options come from /proc/cmdline)
    python3 -B main.py --transport hybrid --uds PATH --run-dir DIR      (host process)

In the guest ``-S`` saves the import of ``site``; the directories with pyzmq are put on the path here. Python 3.9.
"""

from __future__ import annotations

import glob
import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fc_kernel.guest.interfaces import Service

PORT_NAME = "fc_kernel.mux.0"


def find_modules() -> None:
    """Put these files and the interpreter's package directories on the path, as ``site`` would, but without ``.pth`` files."""
    here = os.path.dirname(os.path.abspath(__file__))
    root = here if os.path.isdir(f"{here}/fc_kernel") else os.path.dirname(os.path.dirname(here))
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    # The script's directory must not be on the path: our modules would hide the standard library's.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here or here == root]
    if root not in sys.path:
        sys.path.insert(0, root)
    for entry in (
        f"{sys.prefix}/lib/{version}/site-packages",
        f"/usr/local/lib/{version}/dist-packages",
        "/usr/lib/python3/dist-packages",
        *glob.glob(f"/opt/*/lib/{version}/site-packages"),
    ):
        if os.path.isdir(entry) and entry not in sys.path:
            sys.path.append(entry)


def options() -> dict[str, str]:
    """The options: as PID 1 those named ``fc.*`` on Linux's command line, else the arguments."""
    if os.getpid() == 1:
        with open("/proc/cmdline") as file:
            words = file.read().split()
        pairs = (word[3:].partition("=") for word in words if word.startswith("fc."))
        return {name: value for name, _, value in pairs}
    words = sys.argv[1:]
    return {name.lstrip("-").replace("-", "_"): value for name, value in zip(words[::2], words[1::2])}


def mux_device() -> str:
    """The character device of the virtio port that carries the multiplexer."""
    for directory in glob.glob("/sys/class/virtio-ports/*"):
        with open(f"{directory}/name") as file:
            if file.read().strip() == PORT_NAME:
                return f"/dev/{os.path.basename(directory)}"
    raise RuntimeError(f"no virtio port is called {PORT_NAME}")


def main() -> None:
    """Serve until the machine ends."""
    find_modules()
    given = options()
    is_init = os.getpid() == 1
    from fc_kernel.guest import system

    if is_init:
        os.environ.clear()
        os.environ.update(HOME="/root", PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        system.set_up(given.get("hostname", "microvm"))
    from fc_kernel.guest.loop import Loop

    loop = Loop()
    transport = given.get("transport", "vsock")
    service: Service
    if given.get("service"):
        # Another service than the agent, as MODULE:CLASS, for tests of a monitor.
        module, _, name = given["service"].partition(":")
        service = getattr(importlib.import_module(module), name)(loop)
    else:
        from fc_kernel.guest.agent import Agent

        service = Agent(loop, run_dir=given.get("run_dir", "/run/fc"), transport=transport, is_init=is_init)
    if transport == "mux":
        from fc_kernel.guest.mux_transport import MuxTransport, open_port

        MuxTransport(loop, open_port(mux_device()), service.accept)
    else:
        from fc_kernel.guest import transport as sockets

        if transport == "vsock":
            sockets.listen_vsock(loop, service.ports, service.accept)
        else:
            sockets.listen_hybrid(loop, given["uds"], service.accept)
    print(f"agent: ready, transport {transport}", flush=True)
    loop.run()


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        raise
