"""From the sources' settings to one spec: the order, the limits, and that nobody untrusted can widen them."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fc_kernel.errors import LimitError, SpecError
from fc_kernel.settings.kernel_settings import KernelSettings
from fc_kernel.settings.resolve import HOST_FIELDS, Limits, Resolved, Source, resolve
from fc_kernel.settings.spec import NetworkInterface, SnapshotRef, VmSpec
from fc_kernel.settings.tier import Tier

NIC = NetworkInterface(iface_id="eth0", host_dev_name="tap0")
LIMITS = Limits(
    max_vcpu_count=4,
    max_mem_size_mib=2048,
    max_start_timeout_s=300.0,
    allowed_images=frozenset({"default", "geo"}),
    networks={"nat": (NIC,)},
)
DEFAULTS = Source(
    "configuration",
    {"image": "default", "monitor": "auto", "vcpu_count": 1, "mem_size_mib": 512, "start_timeout_s": 60.0},
    trusted=True,
)
HOST_VALUES: dict[str, Any] = {
    "kernel": "/boot/vmlinux",
    "rootfs": "/root.erofs",
    "rootfs_read_only": False,
    "boot_args": "quiet",
    "network_interfaces": [{"iface_id": "eth0", "host_dev_name": "tap9"}],
    "extra_drives": [{"drive_id": "d", "path_on_host": "/d", "is_read_only": True}],
    "vsock": {"cid": 9, "uds_path": "v.sock"},
}


def resolved(*values: dict[str, Any], limits: Limits = LIMITS, trusted: bool = False) -> Resolved:
    sources = [Source(f"source{number}", value, trusted) for number, value in enumerate(values)]
    return resolve([DEFAULTS, *sources], limits)


def test_the_defaults_alone() -> None:
    assert resolved() == Resolved(
        spec=VmSpec(vcpu_count=1, mem_size_mib=512),
        image="default",
        monitor="auto",
        minimum_tier=Tier.EMULATED,
        network="none",
        start_timeout_s=60.0,
    )


def test_the_later_source_wins_field_by_field() -> None:
    found = resolved({"vcpu_count": 2, "image": "geo"}, {"vcpu_count": 3, "network": "nat"})
    assert (found.spec.vcpu_count, found.image, found.network, found.spec.mem_size_mib) == (3, "geo", "nat", 512)


def test_a_kernel_of_another_language_runs_in_the_guest_so_anybody_may_name_it() -> None:
    words = ["R", "--args", "{connection_file}"]
    assert resolved({"image": "geo", "argv": words}, {"argv": None}).argv == tuple(words)
    assert resolved({"argv": words}, {"argv": ["node", "kernel.js", "{connection_file}"]}).argv is not None
    assert resolved({"image": "geo"}).argv is None


def test_null_leaves_the_field_to_the_sources_before() -> None:
    drives = [{"drive_id": "d", "path_on_host": "/d", "is_read_only": True}]
    found = resolved(
        {"vcpu_count": 2, "extra_drives": drives}, {"vcpu_count": None, "extra_drives": None}, trusted=True
    )
    assert found.spec.vcpu_count == 2
    assert found.spec.extra_drives[0].path_on_host == Path("/d")


def test_an_empty_list_takes_what_was_there_away() -> None:
    found = resolved(
        {"network_interfaces": HOST_VALUES["network_interfaces"]}, {"network_interfaces": []}, trusted=True
    )
    assert found.spec.network_interfaces == ()


def test_a_network_profile_gives_the_interfaces() -> None:
    found = resolved({"network": "nat"})
    assert found.network == "nat"
    assert found.spec.network_interfaces == (NIC,)
    assert resolved({"network": "nat"}, {"network": "none"}).spec.network_interfaces == ()


def test_a_network_profile_and_interfaces_of_ones_own() -> None:
    with pytest.raises(SpecError, match="either a network profile or network_interfaces") as caught:
        resolved({"network": "nat", "network_interfaces": HOST_VALUES["network_interfaces"]}, trusted=True)
    assert caught.value.source == "source0"


def test_the_error_names_the_source_that_said_it() -> None:
    with pytest.raises(LimitError) as caught:
        resolved({"vcpu_count": 5}, {"mem_size_mib": 100})
    assert caught.value.source == "source0"
    with pytest.raises(SpecError) as refused:
        resolved({"vcpu_count": 2}, {"mem_size_mib": "much"})
    assert refused.value.source == "source1"


def test_what_is_overruled_is_not_held_against_its_source() -> None:
    assert resolved({"vcpu_count": 5}, {"vcpu_count": 4}).spec.vcpu_count == 4


def test_the_limits_hold_for_trusted_sources_too() -> None:
    with pytest.raises(LimitError, match="at most 4"):
        resolved({"vcpu_count": 5}, trusted=True)
    with pytest.raises(LimitError, match="one of: default, geo"):
        resolved({"image": "other"}, trusted=True)


def test_no_images_allowed_at_all() -> None:
    limits = Limits(max_vcpu_count=4, max_mem_size_mib=2048, allowed_images=frozenset())
    with pytest.raises(LimitError, match="one of: none"):
        resolved(limits=limits)


@pytest.mark.parametrize("field", HOST_FIELDS)
def test_only_whom_the_administrator_allows_reaches_for_the_host(field: str) -> None:
    value = {field: HOST_VALUES[field]}
    with pytest.raises(LimitError) as caught:
        resolved(value)
    assert (caught.value.field, caught.value.value) == (field, HOST_VALUES[field])
    expected = getattr(KernelSettings.model_validate(value), field)
    assert getattr(resolved(value, trusted=True).spec, field) == expected
    limits = Limits(max_vcpu_count=4, max_mem_size_mib=2048, host_paths_from=frozenset({"source0"}))
    assert getattr(resolved(value, limits=limits).spec, field) == expected
    with pytest.raises(LimitError):
        resolved({}, value, limits=limits)


def test_a_snapshot_without_overrides_may_be_named_by_anybody() -> None:
    found = resolved({"restore_from": {"vm_id": "vm", "snapshot_id": "one"}})
    assert found.spec.restore_from == SnapshotRef(vm_id="vm", snapshot_id="one")


@pytest.mark.parametrize("least", Tier)
@pytest.mark.parametrize("asked", Tier)
def test_a_tier_may_be_raised_and_never_lowered(least: Tier, asked: Tier) -> None:
    limits = Limits(max_vcpu_count=4, max_mem_size_mib=2048, minimum_tier=least)
    if asked.rank >= least.rank:
        assert resolved({"minimum_tier": asked.value}, limits=limits).minimum_tier is asked
    else:
        with pytest.raises(LimitError, match=f"{least} or stronger"):
            resolved({"minimum_tier": asked.value}, limits=limits)
    # A trusted source that asks for less gets what the limits say.
    assert resolved({"minimum_tier": asked.value}, limits=limits, trusted=True).minimum_tier.rank >= least.rank


def test_a_tier_that_was_raised_stays_so() -> None:
    with pytest.raises(LimitError, match="kvm or stronger"):
        resolved({"minimum_tier": "kvm"}, {"minimum_tier": "emulated"})


def test_the_fake_is_for_trusted_sources_alone() -> None:
    with pytest.raises(LimitError, match="the fake isolates nothing"):
        resolved({"monitor": "fake"})
    found = resolved({"monitor": "fake"}, trusted=True)
    assert (found.monitor, found.minimum_tier) == ("fake", Tier.NONE)


def test_the_fake_does_not_lower_a_tier_that_somebody_asked_for() -> None:
    fake = Source("environment", {"monitor": "fake"}, trusted=True)
    for asked in (Tier.EMULATED, Tier.KVM):
        found = resolve([DEFAULTS, fake, Source("notebook", {"minimum_tier": asked.value})], LIMITS)
        assert found.minimum_tier is asked
    strict = Limits(max_vcpu_count=4, max_mem_size_mib=2048, minimum_tier=Tier.JAILED)
    assert resolve([DEFAULTS, fake], strict).minimum_tier is Tier.JAILED


def test_the_order_of_the_tiers() -> None:
    assert sorted(Tier, key=lambda tier: tier.rank) == [Tier.NONE, Tier.EMULATED, Tier.KVM, Tier.JAILED]
    assert len({tier.rank for tier in Tier}) == len(Tier)
    assert [str(tier) for tier in Tier] == ["jailed", "kvm", "emulated", "none"]


numbers = st.integers(-1, 10) | st.integers(-(2**70), 2**70)
#: Mostly what somebody who wants more would say, sometimes anything.
claims: dict[str, st.SearchStrategy[Any]] = {
    "vcpu_count": numbers,
    "mem_size_mib": st.integers(1, 10_000) | numbers,
    "start_timeout_s": st.floats() | st.integers(1, 4000),
    "image": st.sampled_from(["default", "geo", "other", "../x", ""]) | st.text(max_size=8),
    "monitor": st.sampled_from(["auto", "firecracker", "qemu", "fake", "xen"]),
    "minimum_tier": st.sampled_from(["jailed", "kvm", "emulated", "none", "auto"]),
    "network": st.sampled_from(["none", "nat", "lan"]),
    "track_dirty_pages": st.booleans(),
    "restore_from": st.sampled_from(
        [
            {"vm_id": "vm", "snapshot_id": "one"},
            {"vm_id": "vm", "snapshot_id": "one", "network_overrides": HOST_VALUES["network_interfaces"]},
        ]
    ),
    "max_vcpu_count": st.just(1000),
    "allow_host_paths_from": st.just(["notebook"]),
    **{field: st.just(HOST_VALUES[field]) | st.just([]) for field in HOST_FIELDS},
}
settings_of_anybody = st.dictionaries(st.sampled_from(sorted(claims)), st.none(), max_size=4).flatmap(
    lambda chosen: st.fixed_dictionaries({name: st.none() | claims[name] for name in chosen})
)


@given(
    said=st.lists(settings_of_anybody, min_size=1, max_size=4),
    names=st.permutations(["kernelspec", "request", "notebook", "call"]),
    least=st.sampled_from(list(Tier)),
)
def test_no_untrusted_source_widens_a_limit_or_lowers_the_tier(
    said: list[dict[str, Any]], names: list[str], least: Tier
) -> None:
    limits = dataclasses.replace(LIMITS, minimum_tier=least)
    sources = [Source(name, values) for name, values in zip(names, said, strict=False)]
    try:
        found = resolve([DEFAULTS, *sources], limits)
    except SpecError:
        return
    spec = found.spec
    assert spec.vcpu_count is not None
    assert 1 <= spec.vcpu_count <= 4
    assert spec.mem_size_mib is not None
    assert 1 <= spec.mem_size_mib <= 2048
    assert 0 < found.start_timeout_s <= 300
    assert found.image in {"default", "geo"}
    assert found.monitor in {"auto", "firecracker", "qemu"}
    assert found.minimum_tier.rank >= least.rank
    assert spec.network_interfaces == (() if found.network == "none" else (NIC,))
    assert {getattr(spec, name) for name in HOST_FIELDS} - {None, (), (NIC,)} == set()
    assert spec.restore_from is None or spec.restore_from.network_overrides == ()


@given(
    st.lists(st.fixed_dictionaries({}, optional={"vcpu_count": st.integers(1, 4), "image": st.just("geo")}), max_size=5)
)
def test_the_last_word_counts(said: list[dict[str, Any]]) -> None:
    found = resolved(*said)
    asked = [values["vcpu_count"] for values in said if "vcpu_count" in values]
    assert found.spec.vcpu_count == (asked[-1] if asked else 1)
    assert found.image == ("geo" if any("image" in values for values in said) else "default")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_limits_do_not_depend_on_who_comes_first(order: tuple[int, ...]) -> None:
    values: list[dict[str, Any]] = [{"vcpu_count": 5}, {"mem_size_mib": 100}, {"track_dirty_pages": False}]
    with pytest.raises(LimitError, match="vcpu_count"):
        resolved(*(values[index] for index in order))
