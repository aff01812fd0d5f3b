"""The KVM probe: what is concluded from each outcome, what this host answers, and that it never waits for long."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.vmm import kvm
from fc_kernel.vmm.kvm import LEAST_INSTRUCTIONS_PER_S, KvmReport, is_pvm, judge, probe_kvm

#: Without the cache.
probe = probe_kvm.__wrapped__

FPU = {"stage": "fpu", "ok": True}
CMPXCHG = {"stage": "cmpxchg16b", "ok": True}


def loop(rate: float, count: int = 50_000_000) -> dict[str, Any]:
    return {"stage": "loop", "ok": True, "instructions": count, "instructions_per_s": rate}


def failed(stage: str, detail: str) -> dict[str, Any]:
    return {"stage": stage, "ok": False, "detail": detail}


FAST, SLOW = 3e9, 2e6
OUTCOMES: dict[str, tuple[list[dict[str, Any]], str, bool, str, str]] = {
    "hardware": ([FPU, CMPXCHG, loop(FAST, 10**6), loop(FAST)], "", False, "usable", "3000 million"),
    "just enough": (
        [FPU, CMPXCHG, loop(FAST), loop(LEAST_INSTRUCTIONS_PER_S)], "", False, "usable", "50 million",
    ),
    "not quite enough": (
        [FPU, CMPXCHG, loop(FAST), loop(LEAST_INSTRUCTIONS_PER_S - 1)], "", False, "emulated", "needs 50",
    ),
    "emulating": ([FPU, CMPXCHG, loop(SLOW, 10**6)], "", False, "emulated", "2.0 million instructions a second"),
    "emulating, cut off": ([FPU, CMPXCHG, loop(SLOW)], "not done within 5 s", False, "emulated", "2.0 million"),
    "cut off in the long loop": ([FPU, CMPXCHG, loop(FAST)], "not done within 5 s", False, "failed", "not done within"),
    "silent after the short loop": ([FPU, CMPXCHG, loop(FAST)], "", False, "failed", "said nothing"),
    "no vCPU": ([failed("open", "[Errno 16] Device busy")], "", False, "failed", "failed at open: [Errno 16]"),
    "no FPU": ([failed("fpu", "KVM_EXIT_INTERNAL_ERROR")], "", False, "failed", "failed at fpu: KVM_EXIT_INTERNAL"),
    "no cmpxchg16b": ([FPU, failed("cmpxchg16b", "exit reason 8")], "", False, "failed", "failed at cmpxchg16b"),
    "a loop that ends early": ([FPU, CMPXCHG, failed("loop", "KVM_EXIT_SHUTDOWN")], "", False, "failed", "at loop"),
    "long loop ends early": ([FPU, CMPXCHG, loop(FAST), failed("loop", "x")], "", False, "failed", "at loop: x"),
    "hung at once": ([], "the probe was not done within 5 s", False, "failed", "not done within 5 s"),
    "crashed": ([], "MemoryError", False, "failed", "MemoryError"),
    "silent": ([], "", False, "failed", "the probe said nothing"),
    "pvm, no cmpxchg16b": ([FPU, failed("cmpxchg16b", "x")], "", True, "pvm", "kvm_pvm, which runs only guest kernels"),
    "pvm, emulating": ([FPU, CMPXCHG, loop(SLOW)], "", True, "pvm", "CONFIG_PVM_GUEST; it runs 2.0 million"),
    "pvm, hung": ([], "not done within 5 s", True, "pvm", "not done within 5 s"),
    "pvm that runs all": ([FPU, CMPXCHG, loop(FAST), loop(FAST)], "", True, "usable", "3000 million"),
}  # fmt: skip


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_follows_from_it(outcome: str) -> None:
    stages, note, pvm, verdict, detail = OUTCOMES[outcome]
    report = judge(stages, note, pvm=pvm)
    assert report.verdict == verdict
    assert report.usable == (verdict == "usable")
    assert detail in report.detail
    assert (report.remedy is None) == report.usable
    rates = [stage["instructions_per_s"] for stage in stages if "instructions_per_s" in stage]
    assert report.instructions_per_s == (rates[-1] if rates else None)


def test_this_host() -> None:
    report = probe()
    if is_pvm():
        assert report.verdict == "pvm" or report.usable
        assert "kvm_pvm" in report.detail or report.usable
    elif not Path("/dev/kvm").exists():
        assert report.verdict == "absent"
    elif not os.access("/dev/kvm", os.R_OK | os.W_OK):
        assert report.verdict == "denied"
    else:
        assert report.verdict in ("usable", "emulated", "failed")
    assert report.usable == (report.remedy is None)
    assert report.detail


def test_once_per_process() -> None:
    assert probe_kvm() is probe_kvm()


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of ``/dev/kvm``; and this host has no kvm_pvm."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(kvm, "DEVICE", path)
    monkeypatch.setattr(kvm, "is_pvm", lambda: False)
    return path


def program(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in place of the interpreter that runs the probe's guest."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_probe_that_hangs_is_cut_off(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "probe", "exec sleep 600", monkeypatch)
    report = probe(deadline_s=0.2)
    assert report == KvmReport("failed", "the probe was not done within 0.2 s", "look at dmesg for messages of kvm")


def test_what_it_said_before_it_hung_counts(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(json.dumps(stage) for stage in (FPU, CMPXCHG, loop(SLOW)))
    program(tmp_path / "probe", f"echo '{lines}'; printf '{{\"stage\"'; exec sleep 600", monkeypatch)
    report = probe(deadline_s=2.0)
    assert (report.verdict, report.instructions_per_s) == ("emulated", SLOW)


def test_a_probe_that_crashes(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "probe", "echo one >&2; echo 'OSError: two' >&2; exit 1", monkeypatch)
    assert probe().detail == "OSError: two"


def test_a_probe_that_says_something_odd(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "probe", "echo '{not json}'", monkeypatch)
    assert probe().detail == "the probe said nothing"


def test_a_probe_that_cannot_be_run(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    report = probe()
    assert report.verdict == "failed"
    assert "missing" in report.detail


def test_no_device(device: Path) -> None:
    device.unlink()
    report = probe()
    assert report.verdict == "absent"
    assert "kvm_intel" in (report.remedy or "")


def test_a_device_of_others(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    report = probe()
    assert report.verdict == "denied"
    assert "group kvm" in (report.remedy or "")


def test_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    report = probe()
    assert (report.verdict, report.detail) == ("absent", "not supported on aarch64")
