"""Finding Firecracker, and what each version can do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fc_kernel.errors import MonitorUnavailable, UnsupportedByMonitor
from fc_kernel.settings.spec import VmSpec
from fc_kernel.vmm.base import BootPlan, Capability
from fc_kernel.vmm.firecracker.driver import FirecrackerVmm
from fc_kernel.vmm.firecracker.program import FirecrackerProgram, find_firecracker, installed_path
from fc_kernel.vmm.firecracker.versions import features_of, parse_version

from ....firecracker_double.program import Double


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FC_KERNEL_FIRECRACKER", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Firecracker v1.16.1\n\n2026-01-01 [anonymous-instance:main] exiting", (1, 16, 1)),
        ("1.12.1", (1, 12, 1)),
        ("Firecracker v1.17.0-dev", (1, 17, 0)),
    ],
)
def test_versions_are_parsed(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "Firecracker", "v1.16", "one.two.three", "x" * 10_000])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(MonitorUnavailable, match="not a Firecracker version") as caught:
        parse_version(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("version", [(1, 11, 9), (0, 25, 0), (2, 0, 0)])
def test_versions_out_of_range_name_what_is_needed_and_found(version: tuple[int, int, int]) -> None:
    with pytest.raises(UnsupportedByMonitor) as caught:
        features_of(version)
    assert "needs Firecracker 1.12 or later, below 2; found Firecracker " + ".".join(map(str, version)) in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("version", "override", "tracks", "hangs"),
    [
        ((1, 12, 0), False, False, False),
        ((1, 12, 1), False, False, False),
        ((1, 13, 0), False, True, False),
        ((1, 15, 2), False, True, False),
        ((1, 16, 0), True, True, True),
        ((1, 16, 1), True, True, True),
        ((1, 16, 2), True, True, False),
        ((1, 99, 0), True, True, False),
    ],
)
def test_table(version: tuple[int, int, int], override: bool, tracks: bool, hangs: bool) -> None:
    features = features_of(version)
    assert (features.vsock_override, features.load_tracks_dirty_pages, features.bare_resume_hangs) == (
        override,
        tracks,
        hangs,
    )
    number = ".".join(map(str, version))
    plan = BootPlan(vm_id="v", spec=VmSpec(), run_dir=Path("/nonexistent"))
    capabilities = FirecrackerVmm(plan, FirecrackerProgram(Path("/fc"), number, features)).capabilities
    assert (Capability.VSOCK_OVERRIDE in capabilities) is override
    assert (Capability.PAUSE_KEEPS_CONNECTIONS in capabilities) is not hangs
    assert {Capability.SNAPSHOT, Capability.DIFF_SNAPSHOT, Capability.NETWORK_OVERRIDES} <= capabilities


def test_found_by_its_path(tmp_path: Path) -> None:
    double = Double.make(tmp_path, "1.12.1")
    assert find_firecracker(str(tmp_path / "firecracker")) == double.program
    assert double.program.version == "1.12.1"


def test_the_environment_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = program(tmp_path / "chosen/fc", "Firecracker v1.13.0")
    program(tmp_path / "bin/firecracker", "Firecracker v1.14.0")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}/usr/bin:/bin")
    assert find_firecracker().version == "1.14.0"
    monkeypatch.setenv("FC_KERNEL_FIRECRACKER", f"{tmp_path}/missing{os.pathsep}{chosen}")
    assert find_firecracker().version == "1.13.0"


def test_the_newest_of_ours_is_taken_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.9.0", "1.12.1", "1.16.1"):
        program(installed_path(tmp_path / "data", version), f"Firecracker v{version}")
    assert find_firecracker(data_dir=tmp_path / "data").version == "1.16.1"
    with pytest.raises(MonitorUnavailable, match="firecracker is not installed"):
        find_firecracker(data_dir=tmp_path / "another tenant's")
    with pytest.raises(MonitorUnavailable, match="firecracker is not installed"):
        find_firecracker()
    program(tmp_path / "bin/firecracker", "Firecracker v1.14.0")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}/usr/bin:/bin")
    assert find_firecracker(data_dir=tmp_path / "data").version == "1.14.0"


def test_a_program_that_was_replaced_is_asked_again(tmp_path: Path) -> None:
    path = program(tmp_path / "fc", "Firecracker v1.12.0")
    assert find_firecracker(str(path)).version == "1.12.0"
    program(path, "Firecracker v1.16.1")
    os.utime(path, ns=(1, 1))
    assert find_firecracker(str(path)).version == "1.16.1"


def test_missing_is_told() -> None:
    with pytest.raises(MonitorUnavailable, match="firecracker is not installed"):
        find_firecracker()
    with pytest.raises(MonitorUnavailable, match="/no/such/fc is not installed"):
        find_firecracker("/no/such/fc")


@pytest.mark.parametrize("says", ["", "command not found", "QEMU emulator version 7.2.22"])
def test_what_is_no_firecracker_is_refused(tmp_path: Path, says: str) -> None:
    with pytest.raises(MonitorUnavailable):
        find_firecracker(str(program(tmp_path / "fc", says)))


def test_too_old_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedByMonitor, match=r"found Firecracker 1\.4\.1"):
        find_firecracker(str(program(tmp_path / "fc", "Firecracker v1.4.1")))


def test_what_cannot_be_run_is_told(tmp_path: Path) -> None:
    path = tmp_path / "fc"
    path.write_bytes(b"\x7fELF not really")
    path.chmod(0o755)
    with pytest.raises(MonitorUnavailable, match="cannot be run"):
        find_firecracker(str(path))
