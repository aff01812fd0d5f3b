"""Who has a say in a kernel's settings, in which order; and what of the server's environment a guest may see."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets.config import Config

from fc_kernel.errors import LimitError, SpecError
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.environment import SETTINGS, environment_source
from fc_kernel.settings.resolve import Resolved
from fc_kernel.settings.sources import GUEST_NAMES, GUEST_PREFIX, NEVER, guest_environment
from fc_kernel.settings.tier import Tier

from ...resolving import resolve_settings


def configured(**values: Any) -> FcKernelConfig:
    return FcKernelConfig(config=Config({"FcKernelConfig": {"max_vcpu_count": 32, "max_mem_size_mib": 8192, **values}}))


def notebook_at(path: Path, settings: Any) -> None:
    notebook = nbformat.v4.new_notebook(metadata={"fc_kernel": settings})
    nbformat.write(notebook, path)


#: The design's order. Each entry makes its source say a number.
ORDER = ["defaults", "configuration", "kernelspec", "request", "environment", "notebook", "call"]


@pytest.mark.parametrize("last", range(len(ORDER)))
async def test_the_order(last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = {name: number for number, name in enumerate(ORDER, 1) if number <= last + 1}
    config = configured(**({"vcpu_count": says["configuration"]} if "configuration" in says else {}))
    environ = {"JPY_SESSION_NAME": str(tmp_path / "a.ipynb")}
    if "request" in says:
        environ["KERNEL_FC_VCPU_COUNT"] = str(says["request"])
    if "environment" in says:
        monkeypatch.setenv("FC_KERNEL_VCPU_COUNT", str(says["environment"]))
    if "notebook" in says:
        notebook_at(tmp_path / "a.ipynb", {"vcpu_count": says["notebook"]})
    resolved = await resolve_settings(
        config,
        profile={"vcpu_count": says["kernelspec"]} if "kernelspec" in says else {},
        environ=environ,
        call={"vcpu_count": says["call"]} if "call" in says else None,
    )
    assert resolved.spec.vcpu_count == last + 1


async def test_every_source_adds_what_the_others_do_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FC_KERNEL_START_TIMEOUT_S", "77.5")
    notebook_at(tmp_path / "a.ipynb", {"track_dirty_pages": False})
    resolved = await resolve_settings(
        configured(mem_size_mib=300, networks={"nat": []}),
        profile={"image": "geo"},
        environ={"JPY_SESSION_NAME": "a.ipynb", "KERNEL_FC_NETWORK": "nat"},
        cwd=tmp_path,
        call={"minimum_tier": "kvm"},
    )
    assert resolved.spec.mem_size_mib == 300
    assert resolved.spec.vcpu_count == 1
    assert resolved.image == "geo"
    assert resolved.network == "nat"
    assert resolved.start_timeout_s == 77.5
    assert resolved.spec.track_dirty_pages is False
    assert resolved.minimum_tier is Tier.KVM


async def test_a_notebook_that_the_caller_has_read_is_not_looked_for(tmp_path: Path) -> None:
    notebook_at(tmp_path / "a.ipynb", {"vcpu_count": 2})
    environ = {"JPY_SESSION_NAME": str(tmp_path / "a.ipynb")}
    for given_values, expected in (({"vcpu_count": 3}, 3), ({}, 1), (None, 2)):
        resolved = await resolve_settings(configured(), profile={}, environ=environ, notebook=given_values)
        assert resolved.spec.vcpu_count == expected


async def with_environment(environ: dict[str, str], **config: Any) -> Resolved:
    return await resolve_settings(configured(**config), profile={}, environ=environ)


async def test_the_servers_own_environment_is_the_administrators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FC_KERNEL_MONITOR", "fake")
    assert (await with_environment({"FC_KERNEL_MONITOR": "fake"})).monitor == "fake"
    assert (await with_environment({})).monitor == "fake"


@pytest.mark.parametrize("prefix", ["FC_KERNEL_", "KERNEL_FC_"])
async def test_a_requests_environment_is_not(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitError, match="monitor") as caught:
        await with_environment({f"{prefix}MONITOR": "fake"})
    assert caught.value.source == "request"
    monkeypatch.setenv(f"{prefix}VCPU_COUNT", "2")
    assert (await with_environment({f"{prefix}VCPU_COUNT": "3"})).spec.vcpu_count == 2
    with pytest.raises(LimitError, match="minimum_tier"):
        await with_environment({f"{prefix}MINIMUM_TIER": "none"}, minimum_tier="kvm")


async def test_a_gateways_names_are_those_of_the_environment() -> None:
    assert (await with_environment({"KERNEL_FC_MEM_SIZE_MIB": "600"})).spec.mem_size_mib == 600
    assert (await with_environment({"KERNEL_MEM_SIZE_MIB": "600", "FC_MEM_SIZE_MIB": "600"})).spec.mem_size_mib == 1024


def test_every_setting_of_the_environment() -> None:
    text = {"int": "5", "float": "5.5", "str": "kvm"}
    environ = {f"FC_KERNEL_{name}": text[kind.__name__] for name, kind in SETTINGS.items()}
    source = environment_source(environ, trusted=True)
    assert source.trusted
    assert source.values == {
        "vcpu_count": 5,
        "mem_size_mib": 5,
        "image": "kvm",
        "monitor": "kvm",
        "minimum_tier": "kvm",
        "network": "kvm",
        "start_timeout_s": 5.5,
    }


@pytest.mark.parametrize("text", ["many", "1.5", "0x10", "1e3", "9" * 5000])
def test_text_that_is_no_number(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        environment_source({"FC_KERNEL_VCPU_COUNT": text}, trusted=True)
    assert caught.value.field == "FC_KERNEL_VCPU_COUNT"
    assert len(str(caught.value)) < 200


def test_an_empty_variable_says_nothing() -> None:
    assert environment_source({"FC_KERNEL_VCPU_COUNT": "", "FC_KERNEL_IMAGE": ""}, trusted=True).values == {}


async def test_the_environments_values_are_checked_as_all_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FC_KERNEL_START_TIMEOUT_S", "nan")
    with pytest.raises(SpecError, match="a finite number"):
        await with_environment({})
    monkeypatch.setenv("FC_KERNEL_START_TIMEOUT_S", "60")
    monkeypatch.setenv("FC_KERNEL_IMAGE", "../x")
    with pytest.raises(SpecError, match=r"image \(from environment\)"):
        await with_environment({})


SERVER = {
    "PATH": "/usr/bin",
    "HOME": "/home/jo",
    "JUPYTERHUB_API_TOKEN": "c0ffee-c0ffee-c0ffee",
    "JPY_API_TOKEN": "c0ffee-c0ffee-c0ffee",
    "JUPYTER_TOKEN": "an-older-token",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-access-key",
    "MY_PASSWORD": "correct horse",
    "GOOGLE_APPLICATION_CREDENTIALS": "/home/jo/google.json",
    "JPY_SESSION_NAME": "/home/jo/a.ipynb",
    "JPY_PARENT_PID": "4711",
    "LANG": "de_DE.UTF-8",
    "TZ": "Europe/Berlin",
    "FC_GUEST_COLOUR": "blue",
}


def test_the_guest_sees_an_allow_list() -> None:
    assert guest_environment(SERVER, {}) == {
        "JPY_SESSION_NAME": "/home/jo/a.ipynb",
        "TZ": "Europe/Berlin",
        "FC_GUEST_COLOUR": "blue",
    }


def test_and_what_its_kernelspec_sets() -> None:
    environ = {**SERVER, "OMP_NUM_THREADS": "4"}
    assert guest_environment(environ, {"OMP_NUM_THREADS": "$N"})["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in guest_environment(environ, {"OTHER": "1"})


def test_no_token_whatever_it_is_called() -> None:
    kernelspec = dict.fromkeys([*SERVER, "FC_GUEST_TOKEN", "HARMLESS", "FC_GUEST_URL"], "")
    environ = {
        **SERVER,
        "FC_GUEST_TOKEN": "something",
        "HARMLESS": SERVER["JUPYTERHUB_API_TOKEN"],
        "FC_GUEST_URL": f"https://hub/?token={SERVER['JPY_API_TOKEN']}",
    }
    shown = guest_environment(environ, kernelspec)
    assert set(shown) == {
        "PATH", "HOME", "JPY_SESSION_NAME", "JPY_PARENT_PID", "LANG", "TZ", "FC_GUEST_COLOUR",
    }  # fmt: skip
    assert "c0ffee" not in repr(shown)


def test_a_short_secret_does_not_take_all_else_with_it() -> None:
    environ = {"FC_GUEST_COLOUR": "blue", "PIN_SECRET": "e", "EMPTY_TOKEN": ""}
    assert guest_environment(environ, {}) == {"FC_GUEST_COLOUR": "blue"}


names = st.sampled_from(list(SERVER)) | st.text(string.ascii_uppercase + "_", min_size=1, max_size=12)
words = st.sampled_from(sorted(NEVER))
environments = st.dictionaries(
    names | st.builds(lambda name, word: f"{name}_{word}", names, words) | names.map(lambda name: GUEST_PREFIX + name),
    st.text(max_size=20) | st.sampled_from(sorted(SERVER.values())),
)


@given(environments, environments)
def test_only_allowed_names_and_no_secret_value(environ: dict[str, str], kernelspec: dict[str, str]) -> None:
    shown = guest_environment(environ, kernelspec)
    for name, value in shown.items():
        assert name in GUEST_NAMES or name.startswith(GUEST_PREFIX) or name in kernelspec
        assert not any(word in name for word in NEVER)
        assert environ[name] == value
    secrets = [value for name, value in environ.items() if any(word in name for word in NEVER) and len(value) >= 8]
    assert not [value for value in shown.values() if any(secret in value for secret in secrets)]
