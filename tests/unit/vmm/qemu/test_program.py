"""Finding QEMU: programs that say what QEMU says, or something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fc_kernel.errors import MonitorUnavailable, UnsupportedByMonitor
from fc_kernel.vmm.qemu import program as qemu_program
from fc_kernel.vmm.qemu.program import find_qemu

DEBIAN = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022 Fabrice Bellard"
MACHINES = "Supported machines are:\nmicrovm              microvm (i386)\npc                   Standard PC\n"


@pytest.fixture(autouse=True)
def nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FC_KERNEL_QEMU", raising=False)


def program(path: Path, version: str = DEBIAN, machines: str = MACHINES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!/bin/sh\ncase \"$*\" in\n-version) cat <<'END'\n{version}\nEND\n;;\n"
        f"'-machine help') cat <<'END'\n{machines}\nEND\n;;\n*) exit 2;;\nesac\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (DEBIAN, "7.2.22"),
        ("QEMU emulator version 10.0.8 (Debian 1:10.0.8+ds-0+deb13u1)", "10.0.8"),
        ("QEMU emulator version 8.2", "8.2"),
        ("QEMU emulator version 7.2.0", "7.2.0"),
    ],
)
def test_versions(tmp_path: Path, said: str, version: str) -> None:
    found = find_qemu(str(program(tmp_path / "qemu", said)))
    assert found.version == version
    assert found.path == tmp_path / "qemu"


@pytest.mark.parametrize(("said", "version"), [("6.2.0", "6.2.0"), ("7.1.9", "7.1.9"), ("2.11.1", "2.11.1")])
def test_too_old(tmp_path: Path, said: str, version: str) -> None:
    with pytest.raises(UnsupportedByMonitor, match=rf"needs QEMU 7\.2; found QEMU {version}"):
        find_qemu(str(program(tmp_path / "qemu", f"QEMU emulator version {said}")))


def test_without_the_machine(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedByMonitor, match="QEMU's machine 'microvm'"):
        find_qemu(str(program(tmp_path / "qemu", machines="Supported machines are:\npc   Standard PC\nxmicrovm  no\n")))


@pytest.mark.parametrize("said", ["", "Firecracker v1.16.1", "QEMU emulator version unknown", "x" * 100_000])
def test_what_is_no_qemu(tmp_path: Path, said: str) -> None:
    with pytest.raises(MonitorUnavailable, match="does not say its version") as caught:
        find_qemu(str(program(tmp_path / "qemu", said)))
    assert len(str(caught.value)) < 300


def test_what_cannot_be_run(tmp_path: Path) -> None:
    path = tmp_path / "qemu"
    path.write_bytes(b"\x7fELF not really")
    path.chmod(0o755)
    with pytest.raises(MonitorUnavailable, match="cannot be run"):
        find_qemu(str(path))


def test_what_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "qemu"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    monkeypatch.setattr(qemu_program, "ASK_DEADLINE_S", 0.2)
    with pytest.raises(MonitorUnavailable, match="cannot be run"):
        find_qemu(str(path))


def test_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(MonitorUnavailable, match="/no/such/qemu is not installed"):
        find_qemu("/no/such/qemu")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MonitorUnavailable, match="qemu-system-x86_64 is not installed; apt-get install qemu-system-x86"
    ):
        find_qemu()


def test_the_given_one_comes_before_the_environment_and_that_before_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = program(tmp_path / "given", "QEMU emulator version 9.0.0")
    chosen = program(tmp_path / "chosen", "QEMU emulator version 9.1.0")
    on_path = program(tmp_path / "bin/qemu-system-x86_64", "QEMU emulator version 9.2.0")
    monkeypatch.setenv("PATH", f"{on_path.parent}{os.pathsep}/usr/bin:/bin")
    assert find_qemu().version == "9.2.0"
    monkeypatch.setenv("FC_KERNEL_QEMU", str(chosen))
    assert find_qemu().version == "9.1.0"
    assert find_qemu(str(given)).version == "9.0.0"


def test_an_upgrade_is_noticed(tmp_path: Path) -> None:
    path = program(tmp_path / "qemu")
    assert find_qemu(str(path)).version == "7.2.22"
    program(path, "QEMU emulator version 10.0.8")
    os.utime(path, ns=(1, 1))
    assert find_qemu(str(path)).version == "10.0.8"
