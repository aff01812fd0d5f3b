"""The schema that drives a form says of a value what a start would say."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from traitlets.config import Config

from fc_kernel.errors import SpecError
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.schema import check_settings, limited_schema

NETWORK = {"iface_id": "eth0", "host_dev_name": "tap0"}
LIMITED = {
    "monitor": "qemu",
    "max_vcpu_count": 2,
    "max_mem_size_mib": 2048,
    "max_start_timeout_s": 200.0,
    "allowed_images": ["default", "science"],
    "networks": {"lab": [NETWORK]},
    "minimum_tier": "kvm",
}
DRIVE = {"drive_id": "data", "path_on_host": "/data.img", "is_read_only": True}


def config(**more: Any) -> FcKernelConfig:
    return FcKernelConfig(config=Config({"FcKernelConfig": {**LIMITED, **more}}))


SAMPLES: list[dict[str, Any]] = [
    {},
    {"vcpu_count": None},
    {"vcpu_count": 2},
    {"vcpu_count": 3},
    {"vcpu_count": 0},
    {"vcpu_count": "2"},
    {"mem_size_mib": 2048},
    {"mem_size_mib": 2049},
    {"start_timeout_s": 200.0},
    {"start_timeout_s": 200.5},
    {"image": "science"},
    {"image": "other"},
    {"image": None},
    {"network": "none"},
    {"network": "lab"},
    {"network": "wan"},
    {"monitor": "firecracker"},
    {"monitor": "fake"},
    {"minimum_tier": "jailed"},
    {"minimum_tier": "kvm"},
    {"minimum_tier": "emulated"},
    {"workspace": "w"},
    {"restore_from": {"vm_id": "0a1b2c3d", "snapshot_id": "s1"}},
    {"restore_from": {"vm_id": "0a1b2c3d"}},
    {"no_such": 1},
    {"kernel": "/vmlinux"},
    {"boot_args": "quiet"},
    {"extra_drives": [DRIVE]},
    {"track_dirty_pages": False},
    {"restore_from": {"vm_id": "0a1b2c3d", "snapshot_id": "s1", "network_overrides": [NETWORK]}},
]


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_the_schema_agrees_with_a_start(sample: dict[str, Any], trusted: bool, settings_of_nobody: None) -> None:
    settings = config(allow_host_paths_from=["notebook"] if trusted else [])
    schema = limited_schema(settings)
    jsonschema.Draft202012Validator.check_schema(schema)
    try:
        check_settings(settings, sample)
        accepted = True
    except SpecError:
        accepted = False
    assert jsonschema.Draft202012Validator(schema).is_valid(sample) is accepted


def test_defaults_are_what_a_kernel_gets(monkeypatch: pytest.MonkeyPatch, settings_of_nobody: None) -> None:
    monkeypatch.setenv("FC_KERNEL_MEM_SIZE_MIB", "512")
    fields = limited_schema(config(vcpu_count=2))["properties"]
    assert (fields["vcpu_count"]["default"], fields["mem_size_mib"]["default"]) == (2, 512)


def test_no_definition_is_left_over(settings_of_nobody: None) -> None:
    text = str(limited_schema(config()))
    assert not any(word in text for word in ("host_dev_name", "path_on_host", "uds_path"))
