"""The duties of the guest's first process: mounts, loopback, clock, entropy, names, shutdown.

Python 3.9, standard library; only Linux, only as PID 1.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import time

# linux/random.h: _IOW('R', 0x03, int[2]) and _IO('R', 0x07)
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
# linux/sockios.h and linux/if.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
# linux/reboot.h
RB_AUTOBOOT = 0x01234567

# sys/mount.h
MS_BIND = 4096

CGROUP_ROOT = "/sys/fs/cgroup"
#: The file that is mounted over ``/etc/machine-id`` where the root is read-only.
MACHINE_ID_COPY = "/run/machine-id"
#: A clock that differs less than this from the host's is not changed.
CLOCK_SLACK_S = 0.1
#: As systemd sets it for services.
OPEN_FILES = 524288


def set_up(hostname: str) -> None:
    """Mount what programs expect, bring up the loopback interface, name the machine, and protect this process."""
    for kind, target, options in (
        ("devpts", "/dev/pts", "mode=0620,ptmxmode=0666"),
        ("tmpfs", "/dev/shm", "mode=1777"),
        ("tmpfs", "/tmp", "mode=1777"),
    ):
        os.makedirs(target, exist_ok=True)
        _mount(kind, target, options)
    for link, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
                         ("stderr", "/proc/self/fd/2")):  # fmt: skip
        if not os.path.lexists(f"/dev/{link}"):
            os.symlink(target, f"/dev/{link}")
    socket.sethostname(hostname)
    _loopback_up()
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, hard), hard))
    # Ctrl-Alt-Del from the monitor asks for a clean shutdown.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _mount(kind: str, target: str, options: str, flags: int = 0) -> None:
    """Mount a file system of a kind, or with :data:`MS_BIND` the file whose path ``kind`` is."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()) != 0:
        error = ctypes.get_errno()
        print(f"agent: cannot mount {target}: {os.strerror(error)}", flush=True)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = bytearray(struct.pack("16sH14x", b"lo", 0))
        fcntl.ioctl(sock, SIOCGIFFLAGS, request)
        flags = struct.unpack_from("H", request, 16)[0]
        struct.pack_into("H", request, 16, flags | IFF_UP)
        fcntl.ioctl(sock, SIOCSIFFLAGS, request)


def set_clock(now: float) -> None:
    """Step the wall clock to the host's if it differs."""
    if abs(time.time() - now) > CLOCK_SLACK_S:
        time.clock_settime(time.CLOCK_REALTIME, now)


def add_entropy(seed: bytes) -> None:
    """Credit the host's random bytes to Linux's entropy pool and reseed it; raises :class:`OSError`."""
    with open("/dev/urandom", "wb", buffering=0) as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", 8 * len(seed), len(seed)) + seed)
        fcntl.ioctl(device, RNDRESEEDCRNG)


def cgroup_root() -> str:
    """Where cgroup v2 is mounted; mounts it if necessary. Raises :class:`OSError`."""
    if not os.path.exists(f"{CGROUP_ROOT}/cgroup.procs"):
        os.makedirs(CGROUP_ROOT, exist_ok=True)
        _mount("cgroup2", CGROUP_ROOT, "")
    return CGROUP_ROOT


def set_names(hostname: str, machine_id: str) -> None:
    """Set host name and machine id; on a read-only root the id is mounted over the old one."""
    socket.sethostname(hostname)
    line = f"{machine_id}\n"
    try:
        _write_id("/etc/machine-id", line)
    except OSError:
        _write_id(MACHINE_ID_COPY, line)
        if not os.path.exists("/etc/machine-id"):
            return  # nobody would read it
        if not os.path.ismount("/etc/machine-id"):
            _mount(MACHINE_ID_COPY, "/etc/machine-id", "", flags=MS_BIND)


def _write_id(path: str, line: str) -> None:
    # Written, not replaced: a mount point cannot be the target of a rename.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


class OwnMachine:
    """The machine whose first process this is."""

    add_entropy = staticmethod(add_entropy)
    set_clock = staticmethod(set_clock)
    set_names = staticmethod(set_names)


class NoMachine:
    """For a host process, which has no machine of its own: does nothing."""

    def add_entropy(self, seed: bytes) -> None:
        """Do nothing: the host needs no entropy."""

    def set_clock(self, now: float) -> None:
        """Do nothing: the host's clock is right."""

    def set_names(self, hostname: str, machine_id: str) -> None:
        """Do nothing: the host keeps its name."""


def end_machine() -> None:
    """Flush the caches and reboot; every monitor ends the VM at a reboot."""
    os.sync()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(ctypes.c_int(RB_AUTOBOOT))
    raise OSError(ctypes.get_errno(), "reboot")


def memory_total_mib() -> int:
    """The memory that the guest's Linux manages."""
    with open("/proc/meminfo") as file:
        return int(file.readline().split()[1]) // 1024


def oom_kills() -> int:
    """How many processes the guest's Linux has killed for lack of memory since boot; 0 where it does not tell."""
    try:
        with open("/proc/vmstat") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
