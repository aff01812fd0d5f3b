"""Measure a microVM kernel beside a plain local ipykernel, in alternating samples.

Prints a table; with ``--json FILE`` also writes ``metrics.<name> = {median, min, max, unit, baseline_median, ratio,
samples}``: times in ms, memory in MiB, sizes in bytes, throughputs in MiB/s, rates in messages/s. ``ratio`` is our median
divided by the baseline's; both are null where a plain kernel has no such metric.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench_firecracker import measure_firecracker
from bench_kernels import alternately, execute, kernel, start_ms, summary
from bench_snapshots import measure_forks, measure_snapshots, measure_starts
from jupyter_client.blocking.client import BlockingKernelClient
from rich.console import Console
from rich.table import Table

from fc_kernel import __version__
from fc_kernel.settings import kernelspec

MIB = 1 << 20

PLAIN = "python3"
OURS = "fc-python3"

Sample = Callable[[BlockingKernelClient], float]


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


def measure_cold(monitor: str, samples: int, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Cold starts and round trips."""
    say(f"start_cold: {samples} starts of each")
    cold = alternately(samples, lambda: start_ms(OURS, monitor, templates=False), lambda: start_ms(PLAIN))
    with kernel(OURS, monitor) as vm, kernel(PLAIN) as plain:
        say("rtt")
        rtt_ms(vm), rtt_ms(plain)
        rtt = alternately(5 * samples, lambda: rtt_ms(vm), lambda: rtt_ms(plain))
    return {"start_cold": summary(*cold, "ms"), "rtt": summary(*rtt, "ms")}


def measure_tunnel(samples: int, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """The tunnel by itself, without a VM."""
    metrics = {}
    with kernel(OURS, "fake") as fake, kernel(PLAIN) as plain:
        say("tunnel_rtt_added")
        rtt_ms(fake), rtt_ms(plain)
        ours, direct = alternately(20 * samples, lambda: rtt_ms(fake), lambda: rtt_ms(plain))
        added = [a - b for a, b in zip(ours, direct, strict=True)]
        metrics["tunnel_rtt_added"] = {
            **summary(ours, direct, "ms"),
            "median": round(statistics.median(added), 3),
            "min": round(min(added), 3),
            "max": round(max(added), 3),
        }
        for name, sample, unit in (
            ("tunnel_throughput", throughput_mib_s, "MiB/s"),
            ("small_messages", prints_per_s, "messages/s"),
        ):
            say(name)
            sample(fake), sample(plain)
            both = alternately(samples, partial(sample, fake), partial(sample, plain))
            metrics[name] = summary(*both, unit)
    return metrics


def measure(
    monitor: str, samples: int, only: str | None, say: Callable[[str], None], failed: list[str]
) -> dict[str, dict[str, Any]]:
    """Measure all metrics, or those of one part; the names of failed parts are added to ``failed``."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "cold": lambda: measure_cold(monitor, samples, say),
        "starts": lambda: measure_starts(OURS, PLAIN, monitor, samples, say),
        "snapshots": lambda: measure_snapshots(OURS, monitor, samples, say),
        "forks": lambda: measure_forks(OURS, monitor, samples, say),
        "tunnel": lambda: measure_tunnel(samples, say),
        "firecracker": lambda: measure_firecracker(samples, say),
    }
    metrics: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        if only in (None, name):
            try:
                metrics.update(part())
            except Exception:  # noqa: BLE001 - an hour's other figures are not lost with one part
                traceback.print_exc()
                failed.append(name)
    return metrics


def main() -> int:
    """Measure, print the table, write the metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 samples instead of 10; not for the README")
    parser.add_argument("--json", metavar="FILE", help="write the metrics there")
    parser.add_argument(
        "--only", choices=["cold", "starts", "snapshots", "forks", "tunnel", "firecracker"], help="only this part"
    )
    parser.add_argument("--monitor", default="auto", help="the monitor to measure (default: the best of this host)")
    options = parser.parse_args()
    console = Console(stderr=True)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as prefix:
        kernelspec.install(kernelspec.Profile(), prefix=prefix)
        os.environ["JUPYTER_PATH"] = f"{prefix}/share/jupyter"
        samples = 3 if options.quick else 10
        metrics = measure(options.monitor, samples, options.only, lambda text: console.print(text, style="dim"), failed)
    table = Table(box=None)
    for heading in ("metric", "median", "min", "max", "plain ipykernel", "ratio", "unit"):
        table.add_column(heading)
    for name, m in metrics.items():
        cells = (m[key] for key in ("median", "min", "max", "baseline_median", "ratio"))
        table.add_row(name, *("-" if cell is None else f"{cell:.2f}" for cell in cells), m["unit"])
    Console().print(table)
    if options.json:
        host = {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
        document = {"version": __version__, "quick": options.quick, "host": host, "metrics": metrics}
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")
    if failed:
        console.print(f"not measured: {', '.join(failed)}", style="red")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
