"""Whether KVM can run an ordinary Linux at a usable speed. That ``/dev/kvm`` opens or an instruction runs proves nothing."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

DEVICE = Path("/dev/kvm")
#: Hardware virtualisation does thousands of millions of instructions a second, an emulating KVM about two.
LEAST_INSTRUCTIONS_PER_S = 50_000_000
#: The probe's loop takes 20 ms at native speed; the whole probe takes a tenth of a second on a healthy host.
DEADLINE_S = 5.0

Verdict = Literal["usable", "absent", "denied", "emulated", "pvm", "failed"]


@dataclass(frozen=True)
class KvmReport:
    """What the probe found; ``instructions_per_s`` is ``None`` when no loop ran."""

    verdict: Verdict
    detail: str
    remedy: str | None = None
    instructions_per_s: float | None = None

    @property
    def usable(self) -> bool:
        """Whether an ordinary Linux will run as a guest."""
        return self.verdict == "usable"


@functools.cache
def probe_kvm(deadline_s: float = DEADLINE_S) -> KvmReport:
    """Probe KVM, once per process; takes at most ``deadline_s``."""
    early = _device()
    if early is not None:
        return early
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("kvm_guest.py")), str(LEAST_INSTRUCTIONS_PER_S)],
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        output, note = done.stdout, done.stderr.strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        note = f"the probe was not done within {deadline_s:g} s"
    except OSError as error:
        output, note = "", str(error)
    return judge(_stages(output), note, pvm=is_pvm())


def is_pvm() -> bool:
    """Whether KVM is the ``kvm_pvm`` module: virtualisation without hardware support, for its own guest kernels only."""
    if Path("/sys/module/kvm_pvm").exists():
        return True
    try:
        return "kvm_pvm " in Path("/proc/modules").read_text()
    except OSError:
        return False


def judge(stages: list[dict[str, Any]], note: str, *, pvm: bool) -> KvmReport:
    """The report that follows from the probe's stages (pure)."""
    loops = [stage for stage in stages if stage.get("stage") == "loop" and stage.get("ok")]
    rate = loops[-1]["instructions_per_s"] if loops else None
    failed = next((stage for stage in stages if not stage.get("ok")), None)
    if rate is not None and rate >= LEAST_INSTRUCTIONS_PER_S and len(loops) > 1 and failed is None:
        return KvmReport("usable", f"{rate / 1e6:.0f} million instructions a second", None, rate)
    if failed is not None:
        what = f"a guest failed at {failed['stage']}: {failed.get('detail', '')}"
    elif rate is not None and rate < LEAST_INSTRUCTIONS_PER_S:
        needed = LEAST_INSTRUCTIONS_PER_S // 10**6
        what = f"it runs {rate / 1e6:.1f} million instructions a second; an ordinary kernel needs {needed}"
    else:
        what = note or "the probe said nothing"
    if pvm:
        detail = f"kvm_pvm, which runs only guest kernels built with CONFIG_PVM_GUEST; {what}"
        return KvmReport("pvm", detail, "use a host with hardware virtualisation (vmx or svm in /proc/cpuinfo)", rate)
    if rate is not None and rate < LEAST_INSTRUCTIONS_PER_S and failed is None:
        return KvmReport(
            "emulated", f"it emulates instead of virtualising: {what}", "enable VT-x or AMD-V on the host", rate
        )
    return KvmReport("failed", what, "look at dmesg for messages of kvm", rate)


def _stages(output: str) -> list[dict[str, Any]]:
    """The probe's lines; the last one may be cut off."""
    stages = []
    for line in output.splitlines():
        try:
            stages.append(json.loads(line))
        except ValueError:
            break
    return stages


def _device() -> KvmReport | None:
    if platform.machine() != "x86_64":
        return KvmReport("absent", f"not supported on {platform.machine()}")
    if not DEVICE.exists():
        remedy = "load kvm_intel or kvm_amd; in a VM or cloud, enable nested virtualisation"
        return KvmReport("absent", f"{DEVICE} does not exist", remedy)
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return KvmReport("denied", f"{DEVICE} may not be opened by this user", "add the user to the group kvm")
    return None
