"""Installing, replacing and removing the kernelspec and profiles of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from fc_kernel.errors import ConfigError, SpecError
from fc_kernel.settings import kernelspec
from fc_kernel.settings.kernelspec import (
    DEFAULT_NAME,
    PROVISIONER,
    Profile,
    install,
    kernel_json,
    source_dir,
    uninstall,
)


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for kernelspecs, looked at before those of this environment."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "1")
    return tmp_path / "share/jupyter/kernels"


def spec_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "kernel.json").read_text())
    return found


def test_the_default(kernels: Path, tmp_path: Path) -> None:
    where = install(Profile(), prefix=str(tmp_path))
    assert where == kernels / DEFAULT_NAME
    assert {path.name for path in where.iterdir()} >= {"kernel.json", "logo-svg.svg"}
    spec = KernelSpecManager().get_kernel_spec(DEFAULT_NAME)
    assert spec.display_name == "Python (microVM)"
    assert spec.language == "python"
    assert spec.interrupt_mode == "signal"
    assert spec.argv == [sys.executable, "-m", "fc_kernel.launcher", "-f", "{connection_file}"]
    assert spec.metadata["kernel_provisioner"] == {"provisioner_name": PROVISIONER, "config": {}}
    assert spec.metadata["debugger"] is True
    assert spec.metadata["supported_encryption"] == ["curve"]


def test_a_profile(tmp_path: Path) -> None:
    config = {"vcpu_count": 4, "mem_size_mib": 8192, "image": None, "network": None}
    profile = Profile(name="fc-big", display_name="Python (4 vCPU)", config=config, env={"OMP_NUM_THREADS": "4"})
    spec = spec_of(install(profile, prefix=str(tmp_path)))
    assert spec["display_name"] == "Python (4 vCPU)"
    assert spec["metadata"]["kernel_provisioner"]["config"] == {"vcpu_count": 4, "mem_size_mib": 8192}
    assert spec["env"] == {"OMP_NUM_THREADS": "4"}
    assert spec_of(install(Profile(name="fc-other"), prefix=str(tmp_path)))["display_name"].endswith("· fc-other")


R = ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"]


def test_a_kernel_of_another_language(tmp_path: Path) -> None:
    profile = Profile(name="r", config={"image": "r", "argv": R}, language="R", interrupt_mode="message")
    where = install(profile, prefix=str(tmp_path))
    assert [path.name for path in where.iterdir()] == ["kernel.json"]
    spec = KernelSpecManager().get_kernel_spec("r")
    assert (spec.display_name, spec.language, spec.interrupt_mode) == ("R (microVM)", "R", "message")
    assert set(spec.metadata) == {"supported_encryption", "kernel_provisioner"}
    assert spec.metadata["kernel_provisioner"]["config"] == {"image": "r", "argv": R}
    named = Profile(name="r", display_name="Statistics", config={"argv": R}, language="R")
    assert kernel_json(named)["display_name"] == "Statistics"


async def test_clients_that_run_the_launcher_get_the_settings_too(tmp_path: Path) -> None:
    install(Profile(name="r", config={"image": "r", "argv": R}, language="R"), prefix=str(tmp_path))
    manager = KernelManager(kernel_name="r", connection_file=str(tmp_path / "connection.json"))
    command = manager.format_kernel_cmd()
    assert command[1:5] == ["-m", "fc_kernel.launcher", "-f", manager.connection_file]
    assert command[5] == "--settings"
    assert json.loads(command[6]) == {"image": "r", "argv": R}


@pytest.mark.parametrize(
    ("config", "language"),
    [({}, "R"), ({"argv": R}, None), ({"argv": R}, ""), ({"argv": R}, "R\n"), ({"argv": R}, "R" * 65)],
)
def test_languages_that_are_none(config: dict[str, Any], language: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        kernel_json(Profile(name="r", config=config, language=language))
    assert caught.value.field == "language"


def test_installing_again_replaces_it(tmp_path: Path) -> None:
    install(Profile(config={"vcpu_count": 4}), prefix=str(tmp_path))
    spec = spec_of(install(Profile(), prefix=str(tmp_path)))
    assert spec["metadata"]["kernel_provisioner"]["config"] == {}


def test_for_the_user(tmp_path: Path) -> None:
    assert install(Profile(), user=True) == tmp_path / "user/kernels" / DEFAULT_NAME


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "../x", "a b", "ä", "a\n", "x" * 65])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        kernel_json(Profile(name=name))
    assert caught.value.field == "name"


@pytest.mark.parametrize(
    "config",
    [
        {"vcpu_count": 0},
        {"vcpu_count": "4"},
        {"vcpus": 4},
        {"image": "../x"},
        {"kernel": ""},
        {"mem_size_mib": 2**40},
        {"argv": []},
    ],
)
def test_settings_are_checked_before_anything_is_installed(
    config: dict[str, Any], kernels: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="from the profile"):
        install(Profile(config=config), prefix=str(tmp_path))
    assert not kernels.exists()


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "share").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot install the kernelspec"):
        install(Profile(), prefix=str(tmp_path))


def test_no_room_for_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        install(Profile(), prefix=str(tmp_path))


def test_an_installation_without_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernelspec, "_CANDIDATES", (tmp_path,))
    with pytest.raises(ConfigError, match="install fc-kernel again"):
        source_dir()


def test_uninstall(tmp_path: Path) -> None:
    where = install(Profile(name="fc-big"), prefix=str(tmp_path))
    kept = install(Profile(), prefix=str(tmp_path))
    assert uninstall("fc-big") == where
    assert not where.exists()
    assert kept.exists()
    with pytest.raises(ConfigError, match="no kernelspec is called 'fc-big'"):
        uninstall("fc-big")


def other(kernels: Path, name: str, text: str) -> Path:
    (kernels / name).mkdir(parents=True)
    (kernels / name / "kernel.json").write_text(text)
    return kernels / name


@pytest.mark.parametrize(
    "metadata", [{}, {"kernel_provisioner": {"provisioner_name": "local-provisioner"}}, {"kernel_provisioner": 5}]
)
def test_other_kernelspecs_are_left_alone(metadata: dict[str, Any], kernels: Path) -> None:
    document = {"argv": ["python"], "display_name": "Other", "language": "python", "metadata": metadata}
    where = other(kernels, "other", json.dumps(document))
    with pytest.raises(ConfigError, match="left alone"):
        uninstall("other")
    assert where.exists()


@pytest.mark.parametrize("text", ["{", "[]", "5", '{"metadata": 5}', '{"argv": "x"}', "\udcff"])
def test_damaged_kernelspecs_are_left_alone(text: str, kernels: Path) -> None:
    (kernels / "broken").mkdir(parents=True)
    (kernels / "broken/kernel.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError, match="left alone"):
        uninstall("broken")
    assert (kernels / "broken/kernel.json").exists()


def test_one_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(Profile(), prefix=str(tmp_path))

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(KernelSpecManager, "remove_kernel_spec", refused)
    with pytest.raises(ConfigError, match="cannot remove the kernelspec"):
        uninstall(DEFAULT_NAME)
