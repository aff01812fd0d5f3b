"""The tier that is computed from a running process: against made-up contents of /proc, and against real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.settings.tier import Tier
from fc_kernel.vmm import isolation
from fc_kernel.vmm.isolation import (
    KVM_VM,
    Isolation,
    OwnProcess,
    ProcessFacts,
    ThreadFacts,
    count_programs,
    isolation_of,
    judge,
    parse_status,
    read_facts,
)

DEADLINE_S = 30.0
#: As Linux 6.12 writes it, for a Firecracker behind its jailer; cut to what is read, and some around it.
STATUS = """Name:\tfc_vcpu 0
Umask:\t0022
State:\tS (sleeping)
Tgid:\t412
Pid:\t414
TracerPid:\t0
Uid:\t30001\t30001\t30001\t30001
Gid:\t30002\t30002\t30002\t30002
FDSize:\t64
Groups:\t
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t1
"""
MAPS = """7f1c6d1f7000-7f1c6d200000 r--p 00000000 08:01 3670165                    /firecracker
7f1c6d200000-7f1c6d400000 r-xp 00009000 08:01 3670165                    /firecracker
7f1c6d400000-7f1c6d401000 rw-p 00000000 00:00 0
7ffd3b5f8000-7ffd3b5fa000 r-xp 00000000 00:00 0                          [vdso]
"""
LIBRARY = "7f1c6d600000-7f1c6d700000 r-xp 00026000 08:01 1835018                    /lib/x86_64-linux-gnu/libc.so.6\n"
OURS = OwnProcess(uid=1000, root=(1, 2))
THREAD = ThreadFacts(uids=frozenset({30001}), gids=frozenset({30002}), capabilities=0, seccomp=2, no_new_privs=True)
JAILED = ProcessFacts(threads=(THREAD, THREAD), root=(1, 99), runs_kvm=True, programs=1)


def test_parsing_a_thread() -> None:
    assert parse_status(STATUS) == THREAD
    assert parse_status(STATUS.replace("Groups:\t", "Groups:\t0 30002 ")).gids == {0, 30002}
    assert (
        parse_status(STATUS.replace("CapInh:\t0000000000000000", "CapInh:\t0000000000000400")).capabilities == 1 << 10
    )


@pytest.mark.parametrize(
    "name", ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Seccomp"]
)
def test_a_missing_line_is_no_zero(name: str) -> None:
    text = "\n".join(line for line in STATUS.splitlines() if not line.startswith(f"{name}:"))
    with pytest.raises(ValueError, match=name):
        parse_status(text)


def test_a_name_that_looks_like_a_line() -> None:
    """The kernel escapes a newline in a name, and the first line is not read at all."""
    assert parse_status(STATUS.replace("Name:\tfc_vcpu 0", "Seccomp:\t0")).seccomp == 2


def test_programs() -> None:
    assert count_programs(MAPS) == 1
    assert count_programs(MAPS + LIBRARY) == 2
    assert count_programs("") == 0


def test_all_of_it_is_jailed() -> None:
    assert judge(JAILED, OURS) == Isolation(Tier.JAILED)


def thread(**changes: Any) -> ProcessFacts:
    """One thread differs; that is enough."""
    return replace(JAILED, threads=(THREAD, replace(THREAD, **changes)))


@pytest.mark.parametrize(
    ("facts", "missing"),
    [
        (thread(uids=frozenset({30001, 1000})), "a uid of ours"),
        (thread(uids=frozenset({30001, 0})), "a uid of ours or of root's"),
        (thread(gids=frozenset({30002, 0})), "root's group"),
        (thread(capabilities=1), "capabilities"),
        (thread(seccomp=0), "seccomp"),
        (thread(seccomp=1), "seccomp"),
        (thread(no_new_privs=False), "gain privileges"),
        (replace(JAILED, root=OURS.root), "root directory"),
        (replace(JAILED, root=None), "root directory"),
        (replace(JAILED, programs=7), "linked dynamically"),
        (replace(JAILED, programs=0), "linked dynamically"),
        (replace(JAILED, threads=()), "no thread"),
    ],
)
def test_one_thing_less_is_not_jailed(facts: ProcessFacts, missing: str) -> None:
    found = judge(facts, OURS)
    assert found.tier is Tier.KVM
    [reason] = found.missing
    assert missing in reason


@pytest.mark.parametrize("otherwise", [Tier.NONE, Tier.EMULATED])
def test_a_jail_without_kvm_is_no_more_than_its_monitor(otherwise: Tier) -> None:
    found = judge(replace(JAILED, runs_kvm=False), OURS, without_kvm=otherwise)
    assert found == Isolation(otherwise, ("it runs no VM of KVM's",))


class Made:
    """A directory as /proc has one for each process."""

    def __init__(self, path: Path) -> None:
        self.path = path / "412"
        for name in ("412", "414"):
            (self.path / "task" / name).mkdir(parents=True)
            (self.path / "task" / name / "status").write_text(STATUS)
        (self.path / "maps").write_text(MAPS)
        (self.path / "jail").mkdir()
        (self.path / "root").symlink_to(self.path / "jail")
        (self.path / "fd").mkdir()
        for number, target in enumerate(("/dev/null", "/dev/kvm", KVM_VM, "socket:[4711]")):
            (self.path / "fd" / str(number)).symlink_to(target)

    def tier(self) -> Tier:
        return isolation_of(412, proc=self.path.parent).tier


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_a_made_up_jail(made: Made) -> None:
    assert made.tier() is Tier.JAILED
    inode = (made.path / "jail").stat()
    assert read_facts(made.path) == replace(JAILED, root=(inode.st_dev, inode.st_ino))


def test_the_roots_link_says_nothing_its_inode_does(made: Made) -> None:
    (made.path / "root").unlink()
    (made.path / "root").symlink_to("/")
    assert made.tier() is Tier.KVM


def test_an_open_device_runs_nothing(made: Made) -> None:
    (made.path / "fd/2").unlink()
    assert made.tier() is Tier.NONE
    (made.path / "fd/2").symlink_to(f"/tmp/{KVM_VM}")
    assert made.tier() is Tier.NONE


@pytest.mark.parametrize("name", ["task/414/status", "maps", "root"])
def test_what_cannot_be_read_counts_against_it(made: Made, name: str) -> None:
    (made.path / name).unlink()
    assert made.tier() is Tier.KVM


def test_a_thread_that_says_nothing_sensible(made: Made) -> None:
    (made.path / "task/414/status").write_bytes(b"\xff\xfe\0" * 100)
    assert made.tier() is Tier.KVM


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    assert isolation_of(412, proc=tmp_path) == isolation_of(412, proc=tmp_path, without_kvm=Tier.NONE)
    assert isolation_of(412, proc=tmp_path).tier is Tier.NONE
    assert isolation_of(412, proc=tmp_path, without_kvm=Tier.EMULATED).tier is Tier.EMULATED


def test_a_real_process_of_ours() -> None:
    """A Python under our own uid, in our own root: all that the kernel says of it can be read, and none of it is a jail."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        facts = read_facts(isolation.PROC / str(process.pid))
        found = isolation_of(process.pid)
        process.communicate(b"\n")
    assert facts.root == OwnProcess.now().root
    assert facts.threads
    assert all(thread.uids == {os.geteuid()} for thread in facts.threads)
    assert not facts.runs_kvm
    assert found.tier is Tier.NONE
    assert {"it runs no VM of KVM's", "its root directory is ours, or cannot be seen"} <= set(found.missing)
    assert any("uid" in reason for reason in found.missing)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can put a process into another root directory, under another uid"
)
def test_a_real_process_in_a_jail_of_sorts(tmp_path: Path) -> None:
    """What it has of a jail is seen, and so is what it lacks."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    tmp_path.chmod(0o755)
    jail = tmp_path / "jail"
    jail.mkdir()
    shutil.copy(busybox, jail / "busybox")
    words = ["setpriv", "--no-new-privs", "--", "chroot", "--userspec=30001:30002", "--groups=", str(jail)]
    with subprocess.Popen([*words, "/busybox", "sleep", "600"]) as process:
        try:
            end = time.monotonic() + DEADLINE_S
            while read_facts(isolation.PROC / str(process.pid)).programs != 1:
                assert time.monotonic() < end
                time.sleep(0.01)
            facts = read_facts(isolation.PROC / str(process.pid))
            found = isolation_of(process.pid)
        finally:
            process.kill()
    [thread] = facts.threads
    assert thread == replace(THREAD, seccomp=0)
    assert facts.root == (jail.stat().st_dev, jail.stat().st_ino)
    assert found == Isolation(Tier.NONE, ("it runs no VM of KVM's", "not every thread has a seccomp filter"))
