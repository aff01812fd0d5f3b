"""What all measurements share: kernels, cells, alternating samples, and their figures."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from traitlets.config import Config

DEADLINE_S = 300


@contextlib.contextmanager
def kernel(
    name: str, monitor: str | None = None, *, ready: bool = True, **settings: Any
) -> Iterator[BlockingKernelClient]:
    """A started kernel and a client of it, after waiting for ``ready``; ``settings`` are those of ``FcKernelConfig``."""
    if monitor:
        os.environ["FC_KERNEL_MONITOR"] = monitor
    manager = KernelManager(kernel_name=name, config=Config({"FcKernelConfig": settings}) if settings else Config())
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        if ready:
            client.wait_for_ready(timeout=DEADLINE_S)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        os.environ.pop("FC_KERNEL_MONITOR", None)


def attached(connection_file: str | Path) -> BlockingKernelClient:
    """A client of a kernel by its connection file."""
    client = BlockingKernelClient(connection_file=str(connection_file))
    client.load_connection_file()
    client.start_channels()
    return client


def start_ms(name: str, monitor: str | None = None, **settings: Any) -> float:
    """``start_kernel`` to the first cell's reply; the request is sent as soon as ``start_kernel`` returns."""
    begun = time.perf_counter()
    with kernel(name, monitor, ready=False, **settings) as client:
        reply_ms(client, "1")
        return (time.perf_counter() - begun) * 1e3


def reply_ms(client: BlockingKernelClient, code: str) -> float:
    """The time from request to reply, whatever is published meanwhile."""
    begun = time.perf_counter()
    msg_id = client.execute(code)
    while True:
        reply = client.get_shell_msg(timeout=DEADLINE_S)
        if reply["parent_header"].get("msg_id") == msg_id:
            break
    if reply["content"]["status"] != "ok":
        raise RuntimeError(reply["content"])
    return (time.perf_counter() - begun) * 1e3


def execute(client: BlockingKernelClient, code: str) -> list[dict[str, Any]]:
    """Execute and return the iopub messages, up to idle."""
    messages: list[dict[str, Any]] = []
    reply = client.execute_interactive(code, timeout=DEADLINE_S, output_hook=messages.append, allow_stdin=False)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(reply["content"])
    return messages


def summary(ours: list[float], baseline: list[float], unit: str) -> dict[str, Any]:
    """The metric's figures."""
    median, plain = statistics.median(ours), statistics.median(baseline)
    return {
        "median": round(median, 3),
        "min": round(min(ours), 3),
        "max": round(max(ours), 3),
        "unit": unit,
        "baseline_median": round(plain, 3),
        "ratio": round(median / plain, 3),
        "samples": len(ours),
    }


def alone(samples: list[float], unit: str) -> dict[str, Any]:
    """The figures of a metric that a plain kernel does not have."""
    return {
        "median": round(statistics.median(samples), 3),
        "min": round(min(samples), 3),
        "max": round(max(samples), 3),
        "unit": unit,
        "baseline_median": None,
        "ratio": None,
        "samples": len(samples),
    }


def alternately(
    samples: int, ours: Callable[[], float], baseline: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Take samples in turn, so that a drift of the machine's speed affects both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(samples):
        taken[0].append(ours())
        taken[1].append(baseline())
    return taken
