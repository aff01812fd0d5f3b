"""The same times on the real Firecracker with the tests' bare-metal guest: the share of host and monitor.

The guest is not Linux, so it also runs where KVM only emulates; the figures lack what a guest's Linux and Python would add.
Firecracker is looked for in the same places as in the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from bench_kernels import alone

from fc_kernel.base.paths import data_dir
from fc_kernel.errors import FcKernelError
from fc_kernel.vmm.firecracker.program import FirecrackerProgram, find_firecracker
from fc_kernel.vmm.kvm import KvmReport

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.firecracker.client import Client
from tests.firecracker.image import put_image
from tests.firecracker.kernel import Kernel
from tests.guests.build import build_guest

FORKS = 8


def program_of_host() -> FirecrackerProgram | None:
    """The first of ``FC_KERNEL_FIRECRACKER``, or the one on the PATH; ``None`` where there is none that can run."""
    paths = os.environ.get("FC_KERNEL_FIRECRACKER", "").split(os.pathsep)
    if not Path("/dev/kvm").exists():
        return None
    try:
        return find_firecracker(paths[0] or None, data_dir=data_dir())
    except FcKernelError:
        return None


@contextlib.contextmanager
def site() -> Iterator[None]:
    """A data directory with the guest as its image; KVM counts as usable, because for this guest it is."""
    with tempfile.TemporaryDirectory() as root:
        put_image(Path(root), build_guest(Path(root)))
        dirs = {
            "FC_KERNEL_DATA_DIR": root, "FC_KERNEL_CACHE_DIR": f"{root}/cache", "JUPYTER_RUNTIME_DIR": f"{root}/runtime",
        }  # fmt: skip
        report = KvmReport("usable", "as far as the bare-metal guest goes", None, None)
        with mock.patch.dict(os.environ, dirs), mock.patch("fc_kernel.vmm.monitors.probe_kvm", return_value=report):
            yield


def measure_firecracker(samples: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The metrics; empty where there is no Firecracker."""
    program = program_of_host()
    if program is None:
        say("firecracker: none that could run; left out")
        return {}
    taken: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = call()
        taken.setdefault(name, []).append((time.perf_counter() - begun) * 1e3)
        return result

    say(f"firecracker {program.version}")
    with site():
        configs: list[dict[str, Any]] = [{"templates": False}, {}]
        for config in configs:
            with contextlib.closing(Kernel(program, **config)) as first:
                first.start()
            for _ in range(samples):
                with contextlib.closing(Kernel(program, **config)) as kernel:
                    timed("start_template" if not config else "start_cold", partial(started, kernel))
        with contextlib.closing(Kernel(program)) as kernel:
            client = kernel.start()
            for number in range(samples):
                still = kernel.run(kernel.session.take_snapshot(f"s{number}")).paused_s
                taken.setdefault("snapshot_stall", []).append(still * 1e3)
                timed("restore", partial(restored, client, number))
            for _ in range(max(3, samples // 3)):
                timed("fork_8", lambda: forked(kernel))
    return {f"firecracker_{name}": alone(values, "ms") for name, values in taken.items()}


def started(kernel: Kernel) -> None:
    """``start`` to the first cell's reply."""
    kernel.start().value("count")


def restored(client: Client, number: int) -> None:
    """The kernel is back at a snapshot and has answered a cell."""
    client.execute(f"%restore s{number}")
    client.value("count")


def forked(kernel: Kernel) -> None:
    """All eight forks have answered a cell."""
    forks = kernel.run(kernel.session.fork(FORKS))
    if any(fork.error for fork in forks):
        raise RuntimeError([fork.error for fork in forks])
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(json.loads(Path(fork.connection_file).read_text()))) for fork in forks]
        asked = [(client, client.begin("count")) for client in clients]
        for client, msg_id in asked:
            client.finish(msg_id)
    for fork in forks:
        if (session := kernel.engine.session_of(fork.kernel_id)) is not None:
            kernel.run(session.aclose())
