"""What isolation a running process really has: read from ``/proc/PID``, never from configuration.

:func:`judge` and the parsers are pure; :func:`isolation_of` reads. The process may be hostile: nothing that it can write
(its command line, its name, paths inside its own root) counts, only what Linux says about it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..settings.tier import Tier

PROC = Path("/proc")
#: What ``/proc/PID/fd`` shows for a KVM VM (``virt/kvm/kvm_main.c``). An open ``/dev/kvm`` alone runs nothing, and has
#: another name in a jail.
KVM_VM = "anon_inode:kvm-vm"
#: ``Seccomp:`` in ``/proc/PID/status``: a filter is installed.
SECCOMP_FILTER = 2
#: All sets of capabilities except the bounding set, which has no effect where no program can gain capabilities.
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


@dataclass(frozen=True, kw_only=True)
class ThreadFacts:
    """One thread's credentials."""

    uids: frozenset[int]
    gids: frozenset[int]
    capabilities: int
    seccomp: int
    no_new_privs: bool


@dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """One process. ``root`` is device and inode of its root directory, ``programs`` the number of files mapped as code."""

    threads: tuple[ThreadFacts, ...]
    root: tuple[int, int] | None
    runs_kvm: bool
    programs: int


@dataclass(frozen=True, kw_only=True)
class OwnProcess:
    """Our own uid and root directory, which a jailed process must not share."""

    uid: int
    root: tuple[int, int]

    @classmethod
    def now(cls) -> OwnProcess:
        """Those of this process, now."""
        found = Path("/").stat()
        return cls(uid=os.geteuid(), root=(found.st_dev, found.st_ino))


@dataclass(frozen=True)
class Isolation:
    """A tier, and the reasons why it is not ``jailed`` (none where it is)."""

    tier: Tier
    missing: tuple[str, ...] = ()


def judge(facts: ProcessFacts, own: OwnProcess, *, without_kvm: Tier = Tier.NONE) -> Isolation:
    """The tier that follows from the facts; ``without_kvm`` is the monitor's tier when KVM does not run its guest.

    ``jailed`` requires all of: a KVM VM, a uid that is neither ours nor root's, a root directory of its own, no
    capability and no way to gain one, and an effective seccomp filter on every thread.
    """
    uids = {uid for thread in facts.threads for uid in thread.uids}
    gids = {gid for thread in facts.threads for gid in thread.gids}
    threads = facts.threads
    wanted = {
        "it runs no VM of KVM's": facts.runs_kvm,
        "it has no thread that could be looked at": bool(threads),
        "it runs under a uid of ours or of root's": not uids & {0, own.uid},
        "it runs under root's group": 0 not in gids,
        "its root directory is ours, or cannot be seen": facts.root not in (None, own.root),
        "it has capabilities": not any(thread.capabilities for thread in threads),
        "it may gain privileges": all(thread.no_new_privs for thread in threads),
        "not every thread has a seccomp filter": all(thread.seccomp == SECCOMP_FILTER for thread in threads),
        # A Firecracker that was built against glibc has filters that allow everything; the static releases have the real ones.
        "its program is linked dynamically": facts.programs == 1,
    }
    missing = tuple(what for what, holds in wanted.items() if not holds)
    if not facts.runs_kvm:
        return Isolation(without_kvm, missing)
    return Isolation(Tier.KVM if missing else Tier.JAILED, missing)


def parse_status(text: str) -> ThreadFacts:
    """A thread's facts from its ``status`` file; raises :class:`ValueError` when a line is missing or malformed."""
    # The process chooses its name, the first line; it cannot forge a later one.
    lines = dict(line.split(":", 1) for line in text.splitlines()[1:] if ":" in line)
    try:
        capabilities = 0
        for name in CAPABILITY_SETS:
            capabilities |= int(lines[name], 16)
        return ThreadFacts(
            uids=frozenset(map(int, lines["Uid"].split())),
            gids=frozenset(map(int, (lines["Gid"] + " " + lines["Groups"]).split())),
            capabilities=capabilities,
            seccomp=int(lines["Seccomp"]),
            no_new_privs=int(lines["NoNewPrivs"]) == 1,
        )
    except KeyError as error:
        raise ValueError(f"a status without {error}") from error


def count_programs(maps: str) -> int:
    """How many different files are mapped as code: 1 for a static program, more with an interpreter and libraries."""
    fields = (line.split(maxsplit=5) for line in maps.splitlines())
    # Address, permissions, offset, device, inode (0 without a file), name.
    return len({(each[3], each[4]) for each in fields if len(each) >= 5 and "x" in each[1] and each[4] != "0"})


def runs_kvm(targets: Iterable[str]) -> bool:
    """Whether a descriptor is a KVM VM; ``targets`` are where the links in ``/proc/PID/fd`` point."""
    return KVM_VM in targets


def isolation_of(pid: int, *, without_kvm: Tier = Tier.NONE, proc: Path | None = None) -> Isolation:
    """The isolation of a running process. What cannot be read counts against it.

    The caller holds a pidfd, so that ``pid`` still is the process that is meant.
    """
    return judge(read_facts((proc or PROC) / str(pid)), OwnProcess.now(), without_kvm=without_kvm)


def read_facts(directory: Path) -> ProcessFacts:
    """The facts of one ``/proc/PID``, as far as they can be read."""
    try:
        threads = [
            parse_status((thread / "status").read_text("utf-8", "replace")) for thread in _entries(directory / "task")
        ]
    except (OSError, ValueError):
        # A thread that cannot be read may be anything.
        threads = []
    try:
        found = (directory / "root/").stat()
        root = (found.st_dev, found.st_ino)
    except OSError:
        root = None
    try:
        programs = count_programs((directory / "maps").read_text("utf-8", "replace"))
    except OSError:
        programs = 0
    return ProcessFacts(
        threads=tuple(threads),
        root=root,
        runs_kvm=runs_kvm(map(_target, _entries(directory / "fd"))),
        programs=programs,
    )


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        # The descriptor was closed after it had been listed.
        return ""
