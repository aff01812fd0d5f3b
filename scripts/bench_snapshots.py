"""Snapshots, restores and forks: how long a user waits, and how much disk and memory they take."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import psutil
from bench_kernels import DEADLINE_S, alone, alternately, attached, execute, kernel, reply_ms, start_ms, summary

from fc_kernel.base.paths import runtime_dir
from fc_kernel.host.engine import Engine
from fc_kernel.vmm.journal import list_entries

MIB = 1 << 20
#: As in the project's aims.
MEM_SIZE_MIB = 512
FORKS = 8
HELD_MIB = 200

#: A thread that reads the clock every millisecond and records the time between two readings.
HEARTBEAT = """
import threading, time
gaps, beating = [], threading.Event()
def beat():
    last = time.monotonic()
    while not beating.is_set():
        time.sleep(0.001)
        now = time.monotonic()
        gaps.append(now - last)
        last = now
heart = threading.Thread(target=beat, daemon=True)
heart.start()
time.sleep(0.2)
"""


def text_of(messages: list[dict[str, Any]]) -> str:
    """A cell's output, and its result."""
    parts = [m["content"].get("text", "") for m in messages if m["msg_type"] == "stream"]
    parts += [m["content"]["data"].get("text/plain", "") for m in messages if m["msg_type"] == "execute_result"]
    return "".join(parts)


def measure_starts(ours: str, plain: str, monitor: str, samples: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Starts from a template and from the pool, beside those of a plain kernel."""
    metrics = {}
    start_ms(ours, monitor, mem_size_mib=MEM_SIZE_MIB)  # makes the template, if there is none
    start_ms(plain)
    say("start_template")
    metrics["start_template"] = summary(
        *alternately(samples, lambda: start_ms(ours, monitor, mem_size_mib=MEM_SIZE_MIB), lambda: start_ms(plain)), "ms"
    )
    say("start_pool")
    pool = {"mem_size_mib": MEM_SIZE_MIB, "pool_size": 1, "pool_mem_size_mib": 4 * MEM_SIZE_MIB}

    def from_pool() -> float:
        wait_for_pool()
        return start_ms(ours, monitor, **pool)

    start_ms(ours, monitor, **pool)
    metrics["start_pool"] = summary(*alternately(samples, from_pool, lambda: start_ms(plain)), "ms")
    return metrics


def wait_for_pool() -> None:
    """Wait until a VM is ready; making it is not measured."""
    end = time.monotonic() + DEADLINE_S
    while not any("pool" in entry.labels and is_quiet(entry.pid) for entry in list_entries(runtime_dir())):
        if time.monotonic() > end:
            raise TimeoutError("no VM came into the pool")
        time.sleep(0.05)


def is_quiet(pid: int) -> bool:
    """Whether a monitor is idle: its VM has been loaded, and is paused."""
    process = psutil.Process(pid)
    process.cpu_percent()
    time.sleep(0.1)
    return process.cpu_percent() < 5.0


def measure_snapshots(ours: str, monitor: str, samples: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Stall and total of a snapshot, and a restore; the bytes of a small change to much data."""
    stalls, totals, restores = [], [], []
    with kernel(ours, monitor, mem_size_mib=MEM_SIZE_MIB) as client:
        say("snapshot_stall, snapshot_total")
        execute(client, HEARTBEAT)
        for number in range(samples):
            execute(client, "gaps.clear()")
            begun = time.perf_counter()
            said = text_of(execute(client, f"%snapshot b{number}"))
            totals.append((time.perf_counter() - begun) * 1e3)
            paused = re.search(r"paused for ([0-9.]+) s", said)
            if paused is None:
                raise RuntimeError(said)
            inside = float(text_of(execute(client, "max(gaps)")))
            stalls.append(max(inside, float(paused[1])) * 1e3)
        execute(client, "beating.set()")
        say("restore")
        execute(client, "x = 1")
        execute(client, "%snapshot r")
        for number in range(samples):
            execute(client, f"x = {number + 2}")
            begun = time.perf_counter()
            client.execute("%restore r")
            took = reply_ms(client, "assert x == 1")
            restores.append((time.perf_counter() - begun) * 1e3)
            if took > restores[-1]:
                raise RuntimeError("the clock went back")
        clean_up()
    return {
        "snapshot_stall": alone(stalls, "ms"),
        "snapshot_total": alone(totals, "ms"),
        "restore": alone(restores, "ms"),
        **measure_bytes(ours, monitor, max(3, samples // 3), say),
    }


def measure_bytes(ours: str, monitor: str, samples: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The size of a snapshot of a kernel that holds 200 MB and has changed 1 MB since the last one."""
    say("snapshot_bytes")
    sizes = []
    with kernel(ours, monitor, mem_size_mib=MEM_SIZE_MIB) as client:
        execute(client, f"import fc_kernel, os\nheld = bytearray({HELD_MIB} << 20)")
        # In pieces: the guest has no room for two copies.
        execute(client, f"for at in range({HELD_MIB}): held[at << 20:at + 1 << 20] = os.urandom(1 << 20)")
        execute(client, "%snapshot held")
        for number in range(samples):
            execute(client, f"held[{number} << 20:{number + 1} << 20] = os.urandom(1 << 20)")
            execute(client, f"%snapshot changed{number}")
            sizes.append(float(text_of(execute(client, "fc_kernel.snapshots()[-1].size_bytes"))))
        clean_up()
    return {"snapshot_bytes": alone(sizes, "bytes")}


def clean_up() -> None:
    """Remove what the measurement has left in the user's store; all sessions of this process are its own."""
    for session in Engine.shared().sessions():
        store = session.store
        for snapshot in store.list(scope=session.scope):
            store.delete(snapshot, force=True)


def measure_forks(ours: str, monitor: str, samples: int, say: Callable[[str], None]) -> dict[str, Any]:
    """``%fork`` to the first cell's reply in the fork, in one and in eight; and the memory of a further one."""
    firsts: list[float] = []
    eights: list[float] = []
    marginal: list[float] = []
    with_one = 0.0
    with kernel(ours, monitor, mem_size_mib=MEM_SIZE_MIB) as client:
        execute(client, "x = 41")
        for count, taken, how_often in ((1, firsts, samples), (FORKS, eights, max(3, samples // 3))):
            say(f"fork_first_cell of {count}")
            for _ in range(how_often):
                begun = time.perf_counter()
                files = re.findall(r"--existing (\S+)", text_of(execute(client, f"%fork -n {count}")))
                clients = [attached(file) for file in files]
                if len(clients) != count:
                    raise RuntimeError(f"{len(clients)} forks of {count}")
                asked = [(each, each.execute("assert x == 41")) for each in clients]
                for each, msg_id in asked:
                    while each.get_shell_msg(timeout=DEADLINE_S)["parent_header"].get("msg_id") != msg_id:
                        pass
                taken.append((time.perf_counter() - begun) * 1e3)
                if count == 1:
                    with_one = pss_mib()
                else:
                    marginal.append((pss_mib() - with_one) / (FORKS - 1))
                for each in clients:
                    each.shutdown()
                    each.stop_channels()
                wait_until_alone()
        clean_up()
    return {
        "fork_first_cell": alone(firsts, "ms"),
        "fork_8": alone(eights, "ms"),
        "fork_marginal_pss": alone(marginal, "MiB"),
    }


def forks() -> list[int]:
    """The monitors of running forks."""
    return [entry.pid for entry in list_entries(runtime_dir()) if "fork_of" in entry.labels]


def pss_mib() -> float:
    """Proportional set size of all our VMs together: what they share counts once."""
    return sum(psutil.Process(entry.pid).memory_full_info().pss for entry in list_entries(runtime_dir())) / MIB


def wait_until_alone() -> None:
    """Wait until the forks of the last round are gone."""
    end = time.monotonic() + DEADLINE_S
    while forks():
        if time.monotonic() > end:
            raise TimeoutError("forks do not end")
        time.sleep(0.05)
