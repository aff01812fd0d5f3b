"""QEMU's command line for a boot plan: a pure function."""

from __future__ import annotations

from pathlib import Path

from ...errors import UnsupportedByMonitor
from ...settings.spec import NetworkInterface, RateLimiter, TokenBucket
from ..base import BootPlan
from .program import QemuProgram

MUX_PORT_NAME = "fc_kernel.mux.0"
#: Sockets in QEMU's working directory, so that a new owner of it can connect after the old one has died.
QMP_SOCKET, MUX_SOCKET = "qmp.sock", "mux.sock"
#: The character device behind the multiplexer's port.
MUX_DEVICE = "mux"
#: The number of virtio transports of the machine; entropy and the multiplexer's port take one each.
MAX_DEVICES, OWN_DEVICES = 24, 2
#: QEMU accepts no higher limit; a higher one would not limit anything.
MAX_THROTTLE = 10**15
#: What this monitor's guests need on their command line besides the image's arguments. At a reboot Linux would try the
#: firmware before a triple fault, and a loaded machine has no firmware.
BOOT_ARGS = "fc.transport=mux reboot=t"
#: All that TCG can emulate, so that wheels for any processor run; but only four levels of page tables: walks are faster.
EMULATED_CPU = "max,la57=off"
#: The output of ``xen-save-devices-state`` lacks the section about the machine with which an ordinary migration begins.
LOADS = ("-global", "migration.send-configuration=off", "-incoming", "defer")


def command_line(
    plan: BootPlan, program: QemuProgram, *, accelerated: bool, tsc_khz: int | None = None, mem: int | None = None
) -> list[str]:
    """The command line that starts a stopped VM: one to boot or, with ``mem``, one to load devices' state into.

    ``mem`` is an inherited descriptor of the snapshot's memory. Paths are as QEMU sees them. QEMU listens on two sockets in its
    working directory, on each for one connection at a time; nothing runs before we have connected to both.

    ``tsc_khz`` is the speed of the time-stamp counter that an emulated guest reads. A load needs only the memory and the
    devices' state, so everything for the boot is left out.

    Raises :class:`~fc_kernel.errors.UnsupportedByMonitor` for what QEMU's machine cannot do.
    """
    spec = plan.spec
    check_supported(plan, program)
    machine = "microvm,rtc=on,isa-serial=on"
    words = [
        str(program.path), "-S", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
        "-accel", "kvm" if accelerated else "tcg,thread=multi",
        "-cpu", "host" if accelerated else EMULATED_CPU,
        "-smp", str(spec.vcpu_count), "-m", f"{spec.mem_size_mib}M",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-serial", "stdio",
        "-chardev", _listening("qmp", QMP_SOCKET), "-mon", "chardev=qmp,mode=control",
        "-device", "virtio-rng-device",
        "-chardev", _listening(MUX_DEVICE, MUX_SOCKET),
        "-device", "virtio-serial-device", "-device", f"virtserialport,chardev={MUX_DEVICE},name={MUX_PORT_NAME}",
    ]  # fmt: skip
    if mem is None:
        words += ["-machine", machine, *_boot(plan, None if accelerated else tsc_khz)]
    else:
        # A private mapping: the file stays as it is, and VMs of one snapshot share the pages that none of them wrote.
        memory = f"memory-backend-file,id=ram,size={spec.mem_size_mib}M,mem-path=/proc/self/fd/{mem},share=off"
        words += ["-object", memory, "-machine", f"{machine},memory-backend=ram", *LOADS]
    if spec.rootfs is not None:
        words += _drive("rootfs", spec.rootfs, read_only=bool(spec.rootfs_read_only), limiter=spec.rootfs_rate_limit)
    for drive in spec.extra_drives:
        words += _drive(drive.drive_id, drive.path_on_host, read_only=drive.is_read_only, limiter=drive.rate_limiter)
    for interface in spec.network_interfaces:
        words += _network(interface)
    return words


def _listening(device: str, name: str) -> str:
    return f"socket,id={device},path={name},server=on,wait=off"


def _boot(plan: BootPlan, tsc_khz: int | None) -> list[str]:
    """Boot a kernel, with anonymous memory: with a private mapping of an empty file each page would exist twice."""
    spec = plan.spec
    assert spec.kernel is not None  # noqa: S101 - a plan is resolved
    boot_args = [spec.boot_args or "", BOOT_ARGS]
    if tsc_khz:
        boot_args.append(f"tsc_early_khz={tsc_khz}")
    words = ["-kernel", str(spec.kernel), "-append", " ".join(boot_args).strip()]
    return words if plan.initrd is None else [*words, "-initrd", str(plan.initrd)]


def check_supported(plan: BootPlan, program: QemuProgram) -> None:
    """Raise :class:`~fc_kernel.errors.UnsupportedByMonitor` for what QEMU's machine cannot do."""
    found = f"QEMU {program.version}"
    if plan.spec.restore_from is not None:
        raise UnsupportedByMonitor("restore_from", needs="Firecracker 1.12", found=found)
    if plan.spec.vsock is not None:
        raise UnsupportedByMonitor("vsock (a chosen cid)", needs="Firecracker 1.12", found=found)
    for interface in plan.spec.network_interfaces:
        if interface.rx_rate_limiter or interface.tx_rate_limiter:
            what = f"a rate limiter on the network interface {interface.iface_id!r}"
            raise UnsupportedByMonitor(what, needs="Firecracker 1.12", found=found)
    devices = OWN_DEVICES + (plan.spec.rootfs is not None)
    devices += len(plan.spec.extra_drives) + len(plan.spec.network_interfaces)
    if devices > MAX_DEVICES:
        raise UnsupportedByMonitor(
            f"a machine with {devices - OWN_DEVICES} drives and network interfaces",
            needs=f"at most {MAX_DEVICES - OWN_DEVICES} of them",
            found=found,
        )


def _drive(drive_id: str, path: Path, *, read_only: bool, limiter: RateLimiter | None) -> list[str]:
    # A prefix, because QEMU's names begin with a letter and the spec's need not.
    name = f"drive-{drive_id}"
    options = [
        f"id={name}",
        f"file={_file(path)}",
        "format=raw",
        "if=none",
        f"read-only={'on' if read_only else 'off'}",
    ]
    # A writer locks the file; a read-only image is shared by many VMs.
    options.append("file.locking=off" if read_only else "file.locking=auto")
    if limiter is not None:
        options += _throttle("bps", limiter.bandwidth) + _throttle("iops", limiter.ops)
    return ["-drive", ",".join(options), "-device", f"virtio-blk-device,drive={name}"]


def _file(path: Path) -> str:
    """A path in QEMU's option syntax, where commas are doubled and ``fat:x`` would not be a file of that name."""
    text = str(path) if path.is_absolute() else f"./{path}"
    return text.replace(",", ",,")


def _throttle(what: str, bucket: TokenBucket | None) -> list[str]:
    """A token bucket as QEMU's leaky bucket (``docs/throttle.txt``): the rate, and the size as the burst."""
    if bucket is None:
        return []
    per_second = min(max(1, bucket.size * 1000 // bucket.refill_time_ms), MAX_THROTTLE)
    burst = min(max(per_second, bucket.size + (bucket.one_time_burst or 0)), MAX_THROTTLE)
    return [f"throttling.{what}-total={per_second}", f"throttling.{what}-total-max={burst}"]


def _network(interface: NetworkInterface) -> list[str]:
    name = f"net-{interface.iface_id}"
    device = f"virtio-net-device,netdev={name}"
    if interface.guest_mac:
        device += f",mac={interface.guest_mac}"
    netdev = f"tap,id={name},ifname={interface.host_dev_name},script=no,downscript=no"
    return ["-netdev", netdev, "-device", device]
