"""Checks of network interfaces, on TAP devices; needs the right to make some."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...errors import LaunchError
from ...settings.spec import NetworkInterface
from ...vmm.base import Capability, SnapshotLoad, VmmState
from .bench import Bench, nothing_runs_in
from .check import check
from .devices import GENEROUS
from .expecting import NotPossibleHere, expect, refused

TUN = Path("/dev/net/tun")
# linux/if_tun.h
TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
MAC = "06:00:ac:10:00:02"


@contextmanager
def tap_device(name: str) -> Iterator[str]:
    """A TAP device that lasts for the block; raises :class:`NotPossibleHere`."""
    request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    try:
        device = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, TUNSETIFF, request)
            fcntl.ioctl(device, TUNSETPERSIST, 1)
        finally:
            os.close(device)
    except OSError as error:
        raise NotPossibleHere(f"no TAP device can be made: {TUN}: {error.strerror} (needs CAP_NET_ADMIN)") from error
    try:
        yield name
    finally:
        device = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, TUNSETIFF, request)
            fcntl.ioctl(device, TUNSETPERSIST, 0)
        finally:
            os.close(device)


def _taps(stack: ExitStack, count: int) -> list[str]:
    return [stack.enter_context(tap_device(f"fcconf{os.getpid() % 10**6}n{number}")) for number in range(count)]


@check(Capability.NETWORK)
async def network_interface_is_attached(bench: Bench) -> None:
    """A VM with a network interface holds its TAP device."""
    with ExitStack() as stack:
        [tap] = _taps(stack, 1)
        interface = NetworkInterface(iface_id="eth0", host_dev_name=tap, guest_mac=MAC)
        async with bench.vmm(network_interfaces=(interface,)) as vmm:
            await vmm.start()
            expect(vmm.state is VmmState.RUNNING, f"the state is {vmm.state}")
            with refused(LaunchError, "a second VM on the same TAP device"):
                async with bench.vmm(network_interfaces=(interface,)) as second:
                    await second.start()


@check(Capability.NETWORK, Capability.NETWORK_RATE_LIMITERS)
async def network_takes_rate_limiters(bench: Bench) -> None:
    """A network interface with limits in both directions works."""
    with ExitStack() as stack:
        [tap] = _taps(stack, 1)
        interface = NetworkInterface(
            iface_id="eth0", host_dev_name=tap, rx_rate_limiter=GENEROUS, tx_rate_limiter=GENEROUS
        )
        async with bench.vmm(network_interfaces=(interface,)) as vmm:
            await vmm.start()
            expect(vmm.state is VmmState.RUNNING, f"the state is {vmm.state}")


@check(Capability.NETWORK)
async def missing_tap_is_refused(bench: Bench) -> None:
    """A network interface on a device that is no TAP device is one LaunchError, and nothing is left."""
    interface = NetworkInterface(iface_id="eth0", host_dev_name="lo")
    async with bench.vmm(network_interfaces=(interface,)) as vmm:
        with refused(LaunchError, "a start on the device lo"):
            await vmm.start()
        expect(vmm.pid is None, "a monitor runs after its start failed")
        nothing_runs_in(vmm.plan.run_dir)


@check(Capability.SNAPSHOT, Capability.NETWORK_OVERRIDES)
async def network_is_overridden_at_a_load(bench: Bench) -> None:
    """network_overrides puts a loaded VM on another TAP device, while the source keeps its own.

    Without it, or for an interface that the snapshot lacks, the load is one LaunchError.
    """
    with ExitStack() as stack:
        first, second = _taps(stack, 2)
        interface = NetworkInterface(iface_id="eth0", host_dev_name=first, guest_mac=MAC)
        files = bench.new_files("network")
        async with bench.guest(network_interfaces=(interface,)) as source:
            await bench.save(source, files)
            overrides = (NetworkInterface(iface_id="eth0", host_dev_name=second),)
            async with bench.loaded(files, network_overrides=overrides) as copy:
                await copy.echoes()
                await source.echoes()
            unknown = (NetworkInterface(iface_id="eth7", host_dev_name=second),)
            for what, wrong in {"without an override": (), "with an override for eth7": unknown}.items():
                async with bench.loading(files) as vmm:
                    with refused(LaunchError, f"a load {what}"):
                        await vmm.load(SnapshotLoad(files=files, network_overrides=wrong))
                    expect(vmm.pid is None, f"a monitor runs after its load {what} failed")
            await source.echoes()
