"""The administrator's configuration: where it is read, and that a mistake in it is one clear error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from fc_kernel.errors import ConfigError, SpecError
from fc_kernel.settings.config import FcKernelConfig, load_config
from fc_kernel.settings.resolve import resolve
from fc_kernel.settings.spec import NetworkInterface
from fc_kernel.settings.tier import Tier

NIC = {"iface_id": "eth0", "host_dev_name": "tap0"}


@pytest.fixture(autouse=True)
def config_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's and the system's configuration directory, and no others."""
    user, system = tmp_path / "user", tmp_path / "system"
    user.mkdir()
    system.mkdir()
    monkeypatch.setattr(
        "fc_kernel.settings.config.jupyter_config_path", lambda: [str(user), str(tmp_path / "none"), str(system)]
    )
    return user, system


def section(**values: Any) -> Config:
    return Config({"FcKernelConfig": values})


def test_the_defaults_start_a_kernel() -> None:
    config = load_config(Config())
    found = resolve([config.as_source()], config.limits())
    assert (found.image, found.monitor, found.network) == ("default", "auto", "none")
    assert (found.spec.vcpu_count, found.spec.mem_size_mib, found.start_timeout_s) == (1, 1024, 120.0)
    assert found.minimum_tier is Tier.EMULATED


def test_the_limits_leave_something_to_the_host() -> None:
    limits = load_config(Config()).limits()
    memory_mib = (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20
    assert memory_mib // 2 < limits.max_mem_size_mib < memory_mib
    assert 1 <= limits.max_vcpu_count <= min(32, os.cpu_count() or 1)
    assert limits.allowed_images is None
    assert limits.networks == {}
    assert limits.host_paths_from == frozenset()


def test_a_servers_own_section_is_enough(config_dirs: tuple[Path, Path]) -> None:
    (config_dirs[0] / "jupyter_fc_kernel_config.json").write_text('{"FcKernelConfig": {"vcpu_count": 7}}')
    assert load_config(section(mem_size_mib=600)).vcpu_count == 1
    assert load_config(section(mem_size_mib=600)).mem_size_mib == 600


def test_clients_without_a_configuration_read_the_files(config_dirs: tuple[Path, Path]) -> None:
    user, system = config_dirs
    (system / "jupyter_fc_kernel_config.json").write_text(
        '{"FcKernelConfig": {"vcpu_count": 2, "mem_size_mib": 700, "image": "system"}}'
    )
    (system / "jupyter_fc_kernel_config.py").write_text("c.FcKernelConfig.image = 'system-py'\n")
    (user / "jupyter_fc_kernel_config.py").write_text("c = get_config()\nc.FcKernelConfig.vcpu_count = 3\n")
    config = load_config(Config({"SomethingElse": {"x": 1}}))
    assert (config.vcpu_count, config.mem_size_mib, config.image) == (3, 700, "system-py")


def test_traits_that_are_lists_can_be_appended_to(config_dirs: tuple[Path, Path]) -> None:
    (config_dirs[0] / "jupyter_fc_kernel_config.py").write_text(
        "c.FcKernelConfig.allow_host_paths_from.append('kernelspec')\n"
    )
    assert load_config(Config()).limits().host_paths_from == {"kernelspec"}


BROKEN_FILES = {
    "json": ("jupyter_fc_kernel_config.json", "{not json"),
    "syntax": ("jupyter_fc_kernel_config.py", "c.FcKernelConfig.vcpu_count =\n"),
    "exception": ("jupyter_fc_kernel_config.py", "raise RuntimeError('no luck')\n"),
    "not a number": ("jupyter_fc_kernel_config.py", "c.FcKernelConfig.vcpu_count = 'many'\n"),
    "not a choice": ("jupyter_fc_kernel_config.json", '{"FcKernelConfig": {"monitor": "xen"}}'),
    "not a section": ("jupyter_fc_kernel_config.json", '{"FcKernelConfig": 5}'),
    "unknown": ("jupyter_fc_kernel_config.json", '{"FcKernelConfig": {"max_vcpus": 2}}'),
}


@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_file_that_cannot_be_used_is_an_error(kind: str, config_dirs: tuple[Path, Path]) -> None:
    name, text = BROKEN_FILES[kind]
    (config_dirs[1] / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Config())
    assert name in str(caught.value) or "FcKernelConfig" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"vcpu_count": "2"}, "vcpu_count"),
        ({"minimum_tier": "high"}, "minimum_tier"),
        ({"allowed_images": [1]}, "allowed_images"),
        ({"networks": [NIC]}, "networks"),
        ({"keep_vm_on_restart": "yes"}, "keep_vm_on_restart"),
        ({"max_vcpu_cuont": 1}, "max_vcpu_cuont is not a setting; there are: allow_host_paths_from"),
        ({"limits": 1}, "limits is not a setting"),
    ],
)
def test_a_mistake_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(section(**values))


def test_network_profiles() -> None:
    limits = load_config(section(networks={"nat": [NIC], "offline": []})).limits()
    assert limits.networks == {"nat": (NetworkInterface(iface_id="eth0", host_dev_name="tap0"),), "offline": ()}


@pytest.mark.parametrize(
    ("networks", "named"),
    [
        ({"nat": [{"iface_id": "eth0"}]}, "host_dev_name"),
        ({"nat": [NIC, NIC]}, "iface_id once"),
        ({"nat": "tap0"}, "a list"),
        ({"nat": 5}, "a list"),
        ({"nat": [5]}, "an object"),
        ({"none": [NIC]}, "'none' cannot be the name"),
        ({"my net": [NIC]}, "'my net' cannot be the name"),
        ({"nat\n": [NIC]}, "cannot be the name"),
    ],
)
def test_a_malformed_network_profile_is_an_error_of_the_configuration(networks: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(section(networks=networks)).limits()


@pytest.mark.parametrize(
    ("name", "value"), [("vcpu_count", 0), ("mem_size_mib", -1), ("image", "../x"), ("start_timeout_s", 0)]
)
def test_defaults_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    config = load_config(section(**{name: value}))
    with pytest.raises(SpecError, match=rf"{name} \(from configuration\)"):
        resolve([config.as_source()], config.limits())


@pytest.mark.parametrize("tier", Tier)
def test_the_minimum_tier(tier: Tier) -> None:
    assert load_config(section(minimum_tier=tier.value)).limits().minimum_tier is tier


def test_under_jupyterhub_only_the_jail_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "a token")
    assert load_config(Config()).limits().minimum_tier is Tier.JAILED
    assert load_config(section(minimum_tier="kvm")).limits().minimum_tier is Tier.KVM


def test_every_setting_says_what_it_is() -> None:
    for name, trait in FcKernelConfig.class_traits(config=True).items():
        assert trait.help.endswith("."), name
