"""Bad ``metadata.fc_kernel`` in a notebook: each is one error that a browser can show, and nothing is started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from fc_kernel.base.paths import runtime_dir
from fc_kernel.errors import FcKernelError, LimitError, SpecError
from fc_kernel.host.engine import Engine
from fc_kernel.provisioner import FcProvisioner
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.kernel_settings import KernelSettings
from fc_kernel.settings.resolve import Source, resolve
from fc_kernel.vmm.journal import list_entries

from ...resolving import resolve_settings

NIC = {"iface_id": "eth0", "host_dev_name": "tap0"}
DRIVE = {"drive_id": "data", "path_on_host": "/data.img", "is_read_only": True}
SNAPSHOT = {"vm_id": "vm", "snapshot_id": "one"}
NAME = "1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
IDENTIFIER = "1 to 64 of A-Z a-z 0-9 _"
PATH = "a path of at most 4095 bytes without '..' and NUL"
WHOLE = "a whole number"
OBJECT = "an object of names and values"
NAMES = "one of: argv, boot_args, extra_drives, image, kernel, mem_size_mib"
NIC_NAMES = "one of: guest_mac, host_dev_name, iface_id, rx_rate_limiter, tx_rate_limiter"
COMMAND = "at most 64 words, with {connection_file} in them once"
WORDS = "words of 1 to 4096 printable ASCII characters"
UNICODE = "a string of Unicode characters"
HOST = "nothing; the administrator has not allowed this source to reach for the host (allow_host_paths_from)"
LIMITS: dict[str, Any] = {
    "max_vcpu_count": 8,
    "max_mem_size_mib": 4096,
    "max_start_timeout_s": 300.0,
    "allowed_images": ["default", "geo"],
    "networks": {"nat": [NIC]},
}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"image": value}
    return value


def drive(**changes: Any) -> dict[str, Any]:
    return {"extra_drives": [{**DRIVE, **changes}]}


def nic(**changes: Any) -> dict[str, Any]:
    return {"network_interfaces": [{**NIC, **changes}]}


def bucket(**changes: Any) -> dict[str, Any]:
    return {"rootfs_rate_limit": {"ops": {"size": 1, "refill_time_ms": 1, **changes}}}


def snapshot(**changes: Any) -> dict[str, Any]:
    return {"restore_from": {**SNAPSHOT, **changes}}


def vsock(**changes: Any) -> dict[str, Any]:
    return {"vsock": {"cid": 3, "uds_path": "/v", **changes}}


#: What the notebook says → the field and value that the message names, and how what is allowed begins.
SPEC_ERRORS: dict[str, tuple[Any, str, str, str]] = {
    "text for a number": ({"vcpu_count": "2"}, "vcpu_count", "'2'", WHOLE),
    "bool for a number": ({"vcpu_count": True}, "vcpu_count", "True", WHOLE),
    "fraction": ({"vcpu_count": 2.5}, "vcpu_count", "2.5", WHOLE),
    "whole float": ({"mem_size_mib": 1024.0}, "mem_size_mib", "1024.0", WHOLE),
    "nan for an integer": ({"vcpu_count": float("nan")}, "vcpu_count", "nan", WHOLE),
    "inf for an integer": ({"mem_size_mib": float("inf")}, "mem_size_mib", "inf", WHOLE),
    "list for a number": ({"vcpu_count": [1]}, "vcpu_count", "[1]", WHOLE),
    "object for a number": ({"vcpu_count": {"a": 1}}, "vcpu_count", "{'a': 1}", WHOLE),
    "no vCPU": ({"vcpu_count": 0}, "vcpu_count", "0", "at least 1"),
    "negative vCPUs": ({"vcpu_count": -1}, "vcpu_count", "-1", "at least 1"),
    "more than a byte": ({"vcpu_count": 256}, "vcpu_count", "256", "at most 255"),
    "no memory": ({"mem_size_mib": 0}, "mem_size_mib", "0", "at least 1"),
    "negative memory": ({"mem_size_mib": -512}, "mem_size_mib", "-512", "at least 1"),
    "more than 32 bits": ({"mem_size_mib": 2**32}, "mem_size_mib", "4294967296", "at most 4294967295"),
    "huge integer": ({"mem_size_mib": 10**60}, "mem_size_mib", "1" + "0" * 60, "at most 4294967295"),
    "integer that Python does not write": ({"mem_size_mib": 10**5000}, "mem_size_mib", "<int>", "at most 4294967295"),
    "nan timeout": ({"start_timeout_s": float("nan")}, "start_timeout_s", "nan", "a finite number"),
    "endless timeout": ({"start_timeout_s": float("inf")}, "start_timeout_s", "inf", "a finite number"),
    "no time": ({"start_timeout_s": 0}, "start_timeout_s", "0", "more than 0"),
    "negative time": ({"start_timeout_s": -1.5}, "start_timeout_s", "-1.5", "more than 0"),
    "more than an hour": ({"start_timeout_s": 3601}, "start_timeout_s", "3601", "at most 3600"),
    "bool for a timeout": ({"start_timeout_s": True}, "start_timeout_s", "True", "a number"),
    "text for a timeout": ({"start_timeout_s": "60"}, "start_timeout_s", "'60'", "a number"),
    "number for a flag": ({"track_dirty_pages": 1}, "track_dirty_pages", "1", "true or false"),
    "text for a flag": ({"rootfs_read_only": "yes"}, "rootfs_read_only", "'yes'", "true or false"),
    "unknown name": ({"vcpus": 2}, "vcpus", "2", NAMES),
    "name in capitals": ({"VCPU_COUNT": 2}, "VCPU_COUNT", "2", NAMES),
    "name with a homoglyph": ({"vсpu_count": 2}, "vсpu_count", "2", NAMES),  # noqa: RUF001
    "empty name": ({"": 2}, "''", "2", NAMES),
    "name of two lines": ({"vcpu\ncount": 2}, "vcpu\\ncount", "2", NAMES),
    "name of 60 KB": ({"x" * 60_000: 2}, "x" * 47 + "…", "2", NAMES),
    "name with brackets": ({"a[0](b)": 2}, "a[0](b)", "2", NAMES),
    "name of an attribute": ({"__class__": 2}, "__class__", "2", NAMES),
    "unknown name in an interface": (nic(mac="x"), "network_interfaces[0].mac", "'x'", NIC_NAMES),
    "unknown name in a drive": (drive(cache="w"), "extra_drives[0].cache", "'w'", "one of: drive_id, is_read_only"),
    "unknown name in a bucket": (bucket(rate=1), "rootfs_rate_limit.ops.rate", "1", "one of: one_time_burst"),
    "unknown name in a limiter": ({"rootfs_rate_limit": {"iops": 1}}, "rootfs_rate_limit.iops", "1", "one of: bandwidth"),
    "unknown name in a vsock": (vsock(port=1), "vsock.port", "1", "one of: cid, uds_path"),
    "unknown name in a snapshot": (snapshot(mem="/m"), "restore_from.mem", "'/m'", "one of: network_overrides"),
    "empty image": ({"image": ""}, "image", "''", NAME),
    "image above": ({"image": "../other"}, "image", "'../other'", NAME),
    "image's absolute path": ({"image": "/etc/passwd"}, "image", "'/etc/passwd'", NAME),
    "image with NUL": ({"image": "default\0"}, "image", "'default\\x00'", NAME),
    "image with a newline": ({"image": "default\n"}, "image", "'default\\n'", NAME),
    "image with a homoglyph": ({"image": "dеfault"}, "image", "'dеfault'", NAME),  # noqa: RUF001
    "image of 65 characters": ({"image": "a" * 65}, "image", repr("a" * 65), NAME),
    "image of 60 KB": ({"image": "a" * 60_000}, "image", "'" + "a" * 78 + "…", NAME),
    "number for an image": ({"image": 1}, "image", "1", "a string"),
    "half a surrogate pair": ({"image": "\ud800"}, "image", "'\\ud800'", UNICODE),
    "text right to left": ({"image": "\u202edefault"}, "image", "'\\u202edefault'", NAME),
    "markup": ({"image": "<script>"}, "image", "'<script>'", NAME),
    "hidden image": ({"image": ".hidden"}, "image", "'.hidden'", NAME),
    "network with a blank": ({"network": "my net"}, "network", "'my net'", NAME),
    "unknown monitor": ({"monitor": "xen"}, "monitor", "'xen'", "'auto', 'firecracker', 'qemu' or 'fake'"),
    "list for a monitor": ({"monitor": ["qemu"]}, "monitor", "['qemu']", "'auto', 'firecracker'"),
    "unknown tier": ({"minimum_tier": "high"}, "minimum_tier", "'high'", "'jailed', 'kvm', 'emulated' or 'none'"),
    "empty path": ({"kernel": ""}, "kernel", "''", PATH),
    "path above": ({"kernel": "/images/../etc/shadow"}, "kernel", "'/images/../etc/shadow'", PATH),
    "path with NUL": ({"rootfs": "/a\0b"}, "rootfs", "'/a\\x00b'", PATH),
    "path of 4096 bytes": ({"rootfs": "/" + "a" * 4095}, "rootfs", "'/" + "a" * 77 + "…", PATH),
    "number for a path": ({"kernel": 5}, "kernel", "5", "a path as a string"),
    "command as one text": ({"argv": "R {connection_file}"}, "argv", "'R {connection_file}'", "a list"),
    "empty command": ({"argv": []}, "argv", "[]", COMMAND),
    "command without its file": ({"argv": ["R"]}, "argv", "['R']", COMMAND),
    "file twice": ({"argv": ["R", "{connection_file}", "{connection_file}"]}, "argv", "['R', ", COMMAND),
    "file twice in a word": ({"argv": ["R", "{connection_file}{connection_file}"]}, "argv", "['R', ", COMMAND),
    "65 words": ({"argv": ["R"] * 64 + ["{connection_file}"]}, "argv", "['R', 'R'", COMMAND),
    "empty word": ({"argv": ["", "{connection_file}"]}, "argv[0]", "''", WORDS),
    "word of 4097 characters": ({"argv": ["a" * 4097, "{connection_file}"]}, "argv[0]", "'aaa", WORDS),
    "word of two lines": ({"argv": ["R", "a\nb", "{connection_file}"]}, "argv[1]", "'a\\nb'", WORDS),
    "word with NUL": ({"argv": ["R\0", "{connection_file}"]}, "argv[0]", "'R\\x00'", WORDS),
    "word with an escape": ({"argv": ["R", "\x1b[2J", "{connection_file}"]}, "argv[1]", "'\\x1b[2J'", WORDS),
    "word with a letter of Unicode": ({"argv": ["Я", "{connection_file}"]}, "argv[0]", "'Я'", WORDS),
    "number for a word": ({"argv": ["R", 5, "{connection_file}"]}, "argv[1]", "5", "a string"),
    "object for a command": ({"argv": {"R": "{connection_file}"}}, "argv", "{'R'", "a list"),
    "boot arguments on two lines": ({"boot_args": "a\nb"}, "boot_args", "'a\\nb'", "printable ASCII on one line"),
    "boot arguments with umlauts": ({"boot_args": "ä"}, "boot_args", "'ä'", "printable ASCII on one line"),
    "long boot arguments": ({"boot_args": "a" * 2049}, "boot_args", "'" + "a" * 78 + "…", "at most 2048 characters"),
    "object for a list": ({"network_interfaces": NIC}, "network_interfaces", "{'host_dev_name'", "a list"),
    "text for a list": ({"extra_drives": "data"}, "extra_drives", "'data'", "a list"),
    "number for an interface": ({"network_interfaces": [5]}, "network_interfaces[0]", "5", OBJECT),
    "17 interfaces": (
        {"network_interfaces": [{"iface_id": f"e{n}", "host_dev_name": f"t{n}"} for n in range(17)]},
        "network_interfaces", "[{", "at most 16 items",
    ),
    "interface without its device": (
        {"network_interfaces": [{"iface_id": "eth0"}]}, "network_interfaces[0].host_dev_name", "None", "a value",
    ),
    "interface twice": (
        {"network_interfaces": [NIC, {**NIC, "host_dev_name": "tap1"}]}, "network_interfaces", "[{", "each iface_id once",
    ),
    "device twice": (
        {"network_interfaces": [NIC, {**NIC, "iface_id": "eth1"}]}, "network_interfaces", "[{", "each host_dev_name once",
    ),
    "long device": (nic(host_dev_name="t" * 16), "network_interfaces[0].host_dev_name", repr("t" * 16), "1 to 15 of"),
    "device's path": (nic(host_dev_name="../tun"), "network_interfaces[0].host_dev_name", "'../tun'", "1 to 15 of"),
    "multicast MAC": (
        nic(guest_mac="01:00:5e:00:00:01"), "network_interfaces[0].guest_mac", "'01:00:5e:00:00:01'", "a unicast MAC",
    ),
    "MAC with dashes": (
        nic(guest_mac="06-00-ac-10-00-02"), "network_interfaces[0].guest_mac", "'06-00-ac-10-00-02'", "a unicast MAC",
    ),
    "short MAC": (nic(guest_mac="06:00:ac:10:00"), "network_interfaces[0].guest_mac", "'06:00:ac:10:00'", "a unicast MAC"),
    "MAC out of range": (nic(guest_mac="06:00:ac:10:00:0g"), "network_interfaces[0].guest_mac", "'06:", "a unicast MAC"),
    "reserved drive": (drive(drive_id="rootfs"), "extra_drives[0].drive_id", "'rootfs'", "any other id; 'rootfs' is"),
    "drive twice": ({"extra_drives": [DRIVE, DRIVE]}, "extra_drives", "[{", "each drive_id once; 'data' is there twice"),
    "drive's path above": (drive(path_on_host="../d"), "extra_drives[0].path_on_host", "'../d'", PATH),
    "drive with a dash": (drive(drive_id="my-data"), "extra_drives[0].drive_id", "'my-data'", IDENTIFIER),
    "drive without a flag": (
        {"extra_drives": [{"drive_id": "a", "path_on_host": "/a"}]}, "extra_drives[0].is_read_only", "None", "a value",
    ),
    "CID of the hypervisor": (vsock(cid=0), "vsock.cid", "0", "at least 3"),
    "CID of the loopback": (vsock(cid=1), "vsock.cid", "1", "at least 3"),
    "CID of the host": (vsock(cid=2), "vsock.cid", "2", "at least 3"),
    "CID for any": (vsock(cid=2**32 - 1), "vsock.cid", "4294967295", "at most 4294967294"),
    "negative CID": (vsock(cid=-3), "vsock.cid", "-3", "at least 3"),
    "socket above": (vsock(uds_path="../v"), "vsock.uds_path", "'../v'", PATH),
    "empty bucket": (bucket(size=0), "rootfs_rate_limit.ops.size", "0", "at least 1"),
    "bucket that never fills": (bucket(refill_time_ms=0), "rootfs_rate_limit.ops.refill_time_ms", "0", "at least 1"),
    "negative burst": (bucket(one_time_burst=-1), "rootfs_rate_limit.ops.one_time_burst", "-1", "at least 0"),
    "bucket over 64 bits": (bucket(size=2**64), "rootfs_rate_limit.ops.size", str(2**64), f"at most {2**64 - 1}"),
    "number for a limiter": ({"rootfs_rate_limit": 5}, "rootfs_rate_limit", "5", OBJECT),
    "text for a snapshot": ({"restore_from": "one"}, "restore_from", "'one'", OBJECT),
    "snapshot without a VM": ({"restore_from": {"snapshot_id": "one"}}, "restore_from.vm_id", "None", "a value"),
    "snapshot above": (snapshot(snapshot_id="../x"), "restore_from.snapshot_id", "'../x'", NAME),
    "snapshot's file": (snapshot(snapshot_id="a/mem"), "restore_from.snapshot_id", "'a/mem'", NAME),
    "number for resume": (snapshot(resume_immediately=0), "restore_from.resume_immediately", "0", "true or false"),
    "overrides twice": (snapshot(network_overrides=[NIC, NIC]), "restore_from.network_overrides", "[{", "each iface_id once"),
    "list": ([1, 2], "fc_kernel", "[1, 2]", OBJECT),
    "text": ("vcpu_count=2", "fc_kernel", "'vcpu_count=2'", OBJECT),
    "10 MB of text": ({"image": "x" * 10_000_000}, "fc_kernel", "'about 10000017 bytes'", "at most 65536 bytes"),
    "10 MB of names": ({f"{n:0100}": n for n in range(100_000)}, "fc_kernel", "'about ", "at most 65536 bytes"),
    "10 MB in a list": ({"extra_drives": ["x" * 1000] * 10_000}, "fc_kernel", "'about ", "at most 65536 bytes"),
    "deep nesting": (nested(5000), "fc_kernel", "'nested deeply'", "at most 12 levels"),
    "name that is no string": ({1: 2}, "fc_kernel", "1", "names that are strings"),
}  # fmt: skip
#: Valid values that this administrator does not allow to this notebook.
LIMIT_ERRORS: dict[str, tuple[Any, str, str, str]] = {
    "too many vCPUs": ({"vcpu_count": 9}, "vcpu_count", "9", "at most 8 (the administrator's limit)"),
    "too much memory": ({"mem_size_mib": 4097}, "mem_size_mib", "4097", "at most 4096 (the administrator's limit)"),
    "too much time": ({"start_timeout_s": 301}, "start_timeout_s", "301", "at most 300.0 (the administrator's limit)"),
    "image not allowed": ({"image": "secret"}, "image", "'secret'", "one of: default, geo"),
    "image in other letters": ({"image": "Default"}, "image", "'Default'", "one of: default, geo"),
    "network not allowed": ({"network": "lan"}, "network", "'lan'", "one of: none, nat"),
    "lower tier": ({"minimum_tier": "none"}, "minimum_tier", "'none'", "emulated or stronger"),
    "fake monitor": ({"monitor": "fake"}, "monitor", "'fake'", "auto, firecracker or qemu; the fake isolates nothing"),
    "kernel of the host": ({"kernel": "/boot/vmlinuz"}, "kernel", "'/boot/vmlinuz'", HOST),
    "relative kernel": ({"kernel": "vmlinux"}, "kernel", "'vmlinux'", HOST),
    "root file system": ({"rootfs": "/"}, "rootfs", "'/'", HOST),
    "writable root": ({"rootfs_read_only": False}, "rootfs_read_only", "False", HOST),
    "boot arguments": ({"boot_args": "init=/bin/sh"}, "boot_args", "'init=/bin/sh'", HOST),
    "drive of the host": (drive(path_on_host="/dev/sda"), "extra_drives", "[{'drive_id': 'data'", HOST),
    "interface of the host": (nic(), "network_interfaces", "[{'host_dev_name': 'tap0'", HOST),
    "vsock of the host": (vsock(), "vsock", "{'cid': 3, 'uds_path': '/v'}", HOST),
    "overrides": (snapshot(network_overrides=[NIC]), "restore_from.network_overrides", "[{", HOST),
    "one bad among good": ({"vcpu_count": 1, "mem_size_mib": 5000, "image": "geo"}, "mem_size_mib", "5000", "at most 4096"),
}  # fmt: skip

SHAPE = re.compile(r"(?P<field>.+?) \(from (?P<source>[a-z]+)\) is (?P<value>.+?); allowed: (?P<allowed>.+)")


def check_message(error: SpecError, *, source: str, field: str, value: str, allowed: str) -> None:
    """The whole shape of a message, as JupyterLab puts it into a dialog."""
    message = str(error)
    assert len(message) < 400
    assert message.isprintable(), "one line without control characters"
    found = SHAPE.fullmatch(message)
    assert found is not None, message
    assert found["field"] == field
    assert found["source"] == source == error.source
    assert found["value"].startswith(value)
    assert len(found["value"]) <= 80
    assert found["allowed"].startswith(allowed)


async def refusal(metadata: Any) -> SpecError:
    config = FcKernelConfig(config=Config({"FcKernelConfig": LIMITS}))
    with pytest.raises(FcKernelError) as caught:
        await resolve_settings(config, profile={}, environ={}, notebook=metadata)
    assert isinstance(caught.value, SpecError)
    return caught.value


def test_there_are_many() -> None:
    assert len(SPEC_ERRORS) + len(LIMIT_ERRORS) >= 90


@pytest.mark.parametrize("case", SPEC_ERRORS)
async def test_a_bad_value(case: str) -> None:
    metadata, field, value, allowed = SPEC_ERRORS[case]
    error = await refusal(metadata)
    assert type(error) is SpecError
    check_message(error, source="notebook", field=field, value=value, allowed=allowed)


@pytest.mark.parametrize("case", LIMIT_ERRORS)
async def test_a_value_over_the_limits(case: str) -> None:
    metadata, field, value, allowed = LIMIT_ERRORS[case]
    error = await refusal(metadata)
    assert type(error) is LimitError
    check_message(error, source="notebook", field=field, value=value, allowed=allowed)


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(object()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
)
names = st.sampled_from(sorted(KernelSettings.model_fields)) | st.text() | st.integers()


@given(st.dictionaries(names, anything, max_size=5) | anything)
def test_whatever_a_notebook_says_it_is_taken_or_refused_in_one_line(metadata: Any) -> None:
    config = FcKernelConfig(config=Config({"FcKernelConfig": LIMITS}))
    try:
        resolve([config.as_source(), Source("notebook", metadata)], config.limits())
    except SpecError as error:
        message = str(error)
    else:
        return
    assert len(message) < 400
    assert message.isprintable()
    assert SHAPE.fullmatch(message)


@pytest.mark.parametrize("name", ["vcpu_count", "mem_size_mib", "start_timeout_s"])
async def test_at_the_limit_is_allowed(name: str) -> None:
    config = FcKernelConfig(config=Config({"FcKernelConfig": LIMITS}))
    value = LIMITS[f"max_{name}"]
    resolved = await resolve_settings(config, profile={}, environ={}, notebook={name: value, "image": "geo"})
    assert value in (resolved.spec.vcpu_count, resolved.spec.mem_size_mib, resolved.start_timeout_s)
    assert resolved.image == "geo"


class Manager(AsyncKernelManager):
    """A manager with a configuration as a server's has it."""

    def __init__(self) -> None:
        super().__init__(config=Config({"FcKernelConfig": {**LIMITS, "monitor": "fake"}}))


@pytest.mark.parametrize(
    ("kwargs", "source", "field"),
    [
        ({"fc_kernel_notebook": {"vcpu_count": 9}}, "notebook", "vcpu_count"),
        ({"fc_kernel_notebook": {"monitor": "fake"}}, "notebook", "monitor"),
        ({"fc_kernel_notebook": [1]}, "notebook", "fc_kernel"),
        ({"fc_kernel": {"kernel": "/boot/vmlinuz"}}, "call", "kernel"),
        ({"fc_kernel": {"vcpus": 1}}, "call", "vcpus"),
        ({"fc_kernel": "big"}, "call", "fc_kernel"),
        ({"env": {"KERNEL_FC_VCPU_COUNT": "99"}}, "request", "vcpu_count"),
        ({"env": {"KERNEL_FC_VCPU_COUNT": "many"}}, "request", "KERNEL_FC_VCPU_COUNT"),
    ],
)
async def test_the_provisioner_refuses_before_anything_is_started(
    kwargs: dict[str, Any], source: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(*_: Any) -> None:
        pytest.fail("an engine was asked for")

    monkeypatch.setattr(Engine, "shared", no_engine)
    provisioner = FcProvisioner(kernel_id="k", kernel_spec=KernelSpec(), parent=Manager())
    with pytest.raises(SpecError) as caught:
        await provisioner.pre_launch(**{"env": {}, **kwargs})
    assert caught.value.field == field
    assert f"(from {source})" in str(caught.value)
    assert not provisioner.has_process
    assert list_entries(runtime_dir()) == []


async def test_a_profile_is_as_untrusted_as_a_notebook(tmp_path: Path) -> None:
    arguments = {"max_vcpu_count": 99, "config": Config(), "kernel": str(tmp_path / "vmlinux")}
    provisioner = FcProvisioner(kernel_id="k", kernel_spec=KernelSpec(), parent=Manager(), **arguments)
    with pytest.raises(SpecError) as caught:
        await provisioner.pre_launch(env={})
    assert caught.value.source == "kernelspec"
    assert caught.value.field in arguments
