"""Measure a microVM kernel beside a plain local ipykernel, sample by sample in turn.

Prints a table; with ``--json FILE`` also writes ``metrics.<name> = {median, min, max, unit, baseline_median, ratio,
samples}``: times in ms, memory in MiB, sizes in bytes, throughputs in MiB/s, rates in messages/s. ``ratio`` is ours by
the baseline's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from rich.console import Console
from rich.table import Table

from fc_kernel import __version__, kernelspec

DEADLINE_S = 300
MIB = 1 << 20

PLAIN = "python3"
OURS = "fc-python3"

Sample = Callable[[BlockingKernelClient], float]


@contextlib.contextmanager
def kernel(name: str, monitor: str | None = None) -> Iterator[BlockingKernelClient]:
    """A started kernel and a client of it."""
    if monitor:
        os.environ["FC_KERNEL_MONITOR"] = monitor
    manager = KernelManager(kernel_name=name)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE_S)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        os.environ.pop("FC_KERNEL_MONITOR", None)


def start_ms(name: str, monitor: str | None = None) -> float:
    """``start_kernel`` to the first cell's reply."""
    begun = time.perf_counter()
    with kernel(name, monitor) as client:
        execute(client, "1")
        return (time.perf_counter() - begun) * 1e3


def execute(client: BlockingKernelClient, code: str) -> list[dict[str, Any]]:
    """Execute and return the iopub messages, up to idle."""
    messages: list[dict[str, Any]] = []
    reply = client.execute_interactive(code, timeout=DEADLINE_S, output_hook=messages.append, allow_stdin=False)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(reply["content"])
    return messages


def rtt_ms(client: BlockingKernelClient) -> float:
    """Execute ``1``: request to reply and idle."""
    begun = time.perf_counter()
    execute(client, "1")
    return (time.perf_counter() - begun) * 1e3


LARGE = 8 * MIB
LARGE_COUNT = 12


def throughput_mib_s(client: BlockingKernelClient) -> float:
    """About 100 MB of output in 8 MiB messages, from the request to the last byte."""
    code = (
        "from IPython.display import publish_display_data as p\n"
        f"t = 'x' * {LARGE}\n"
        f"for _ in range({LARGE_COUNT}): p({{'text/plain': t}})"
    )
    begun = time.perf_counter()
    messages = execute(client, code)
    took = time.perf_counter() - begun
    received = sum(len(m["content"]["data"]["text/plain"]) for m in messages if m["msg_type"] == "display_data")
    if received != LARGE * LARGE_COUNT:
        raise RuntimeError(f"{received} bytes arrived of {LARGE * LARGE_COUNT}")
    return received / MIB / took


PRINTS = 10_000


def prints_per_s(client: BlockingKernelClient) -> float:
    """10 000 prints, each a message of its own."""
    code = f"import sys\nfor i in range({PRINTS}): print(i); sys.stdout.flush()"
    begun = time.perf_counter()
    messages = execute(client, code)
    took = time.perf_counter() - begun
    lines = "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream").splitlines()
    if lines != [str(i) for i in range(PRINTS)]:
        raise RuntimeError(f"{len(lines)} lines arrived of {PRINTS}")
    return PRINTS / took


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


def alternately(
    samples: int, ours: Callable[[], float], baseline: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Take samples in turn, so that a drift of the machine's speed falls on both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(samples):
        taken[0].append(ours())
        taken[1].append(baseline())
    return taken


def measure(monitor: str, samples: int, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """All metrics."""
    metrics = {}
    say(f"start_cold: {samples} starts of each")
    metrics["start_cold"] = summary(
        *alternately(samples, lambda: start_ms(OURS, monitor), lambda: start_ms(PLAIN)), "ms"
    )
    with kernel(OURS, monitor) as vm, kernel(PLAIN) as plain:
        say("rtt")
        rtt_ms(vm), rtt_ms(plain)
        metrics["rtt"] = summary(*alternately(5 * samples, lambda: rtt_ms(vm), lambda: rtt_ms(plain)), "ms")
    with kernel(OURS, "fake") as fake, kernel(PLAIN) as plain:
        say("tunnel_rtt_added")
        rtt_ms(fake), rtt_ms(plain)
        ours, direct = alternately(20 * samples, lambda: rtt_ms(fake), lambda: rtt_ms(plain))
        added = [a - b for a, b in zip(ours, direct, strict=True)]
        metrics["tunnel_rtt_added"] = {
            "median": round(statistics.median(added), 3),
            "min": round(min(added), 3),
            "max": round(max(added), 3),
            "unit": "ms",
            "baseline_median": round(statistics.median(direct), 3),
            "ratio": round(statistics.median(ours) / statistics.median(direct), 3),
            "samples": len(added),
        }
        for name, sample, unit in (
            ("tunnel_throughput", throughput_mib_s, "MiB/s"),
            ("small_messages", prints_per_s, "messages/s"),
        ):
            say(name)
            sample(fake), sample(plain)
            both = alternately(samples, lambda take=sample: take(fake), lambda take=sample: take(plain))
            metrics[name] = summary(*both, unit)
    return metrics


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 samples instead of 10; not for the README")
    parser.add_argument("--json", metavar="FILE", help="write the metrics there")
    parser.add_argument("--monitor", default="auto", help="the monitor to measure (default: the best of this host)")
    options = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as prefix:
        kernelspec.install(kernelspec.Profile(), prefix=prefix)
        os.environ["JUPYTER_PATH"] = f"{prefix}/share/jupyter"
        metrics = measure(options.monitor, 3 if options.quick else 10, lambda text: console.print(text, style="dim"))
    table = Table(box=None)
    for heading in ("metric", "median", "min", "max", "plain ipykernel", "ratio", "unit"):
        table.add_column(heading)
    for name, m in metrics.items():
        cells = (m[key] for key in ("median", "min", "max", "baseline_median", "ratio"))
        table.add_row(name, *(f"{cell:.2f}" for cell in cells), m["unit"])
    Console().print(table)
    if options.json:
        host = {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
        document = {"version": __version__, "quick": options.quick, "host": host, "metrics": metrics}
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
