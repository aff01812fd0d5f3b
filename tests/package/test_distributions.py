"""The wheel and the sdist: complete, and a wheel works where no checkout is."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import fc_kernel
from fc_kernel.guest.payload import guest_files
from fc_kernel.images.initramfs import init_script

CHECKOUT = Path(fc_kernel.__file__).parent.parent
#: The JupyterLab extension: not a part of the package, and shipped where JupyterLab looks.
BUILT = CHECKOUT / "fc_kernel/labextension"
LOGOS = ("logo-32x32.png", "logo-64x64.png", "logo-svg.svg")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built as a release is: the sdist from the checkout, the wheel from the sdist."""
    if not (CHECKOUT / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    [path] = distributions.glob("fc_kernel-*-py3-none-any.whl")
    return path


def source_files() -> set[str]:
    """What the package consists of, in the checkout."""
    return {
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / "fc_kernel").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and BUILT not in path.parents
    }


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.startswith("fc_kernel/") and "kernelspec_data" not in name} == source_files()
    assert {"fc_kernel/py.typed", "fc_kernel/images/init.sh"} <= names
    shared = f"fc_kernel-{fc_kernel.__version__}.data/data"
    assert f"{shared}/etc/jupyter/jupyter_server_config.d/fc_kernel.json" in names
    data = f"{shared}/share/jupyter/kernels/fc-python3"
    for place in (data, "fc_kernel/kernelspec_data"):
        assert {f"{place}/{name}" for name in ("kernel.json", *LOGOS)} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


def test_both_carry_the_built_lab_extension(wheel: Path, distributions: Path, tmp_path: Path) -> None:
    place = f"fc_kernel-{fc_kernel.__version__}.data/data/share/jupyter/labextensions/fc-kernel/"
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix(place) for name in archive.namelist() if name.startswith(place)}
        package = json.loads(archive.read(f"{place}package.json"))
    assert {"install.json", "schemas/fc-kernel/plugin.json", "static/style.js"} <= names
    assert package["jupyterlab"]["_build"]["load"] in names
    assert package["version"] == fc_kernel.__version__
    # Node.js is needed by neither who installs the wheel nor who builds one of the sdist.
    [sdist] = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        tar.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    [again] = tmp_path.glob("*.whl")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_the_lock_file_records_no_addresses() -> None:
    lock = json.loads((CHECKOUT / "labextension/package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]


def test_the_sdist_has_what_a_build_and_its_tests_need(distributions: Path) -> None:
    [path] = distributions.glob("*.tar.gz")
    with tarfile.open(path) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert source_files() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "kernelspec/kernel.json", "scripts/test"} <= names
    assert not any("__pycache__" in name or ".venv" in name for name in names)


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run a program of a fresh environment with the wheel in it; what it depends on is this environment's."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin/python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    [packages] = environment.glob("lib/python3*/site-packages")
    # A directory named in a .pth file is searched last, and .pth files in it (the checkout's) are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def call(program: str, *words: str) -> str:
        done = subprocess.run(
            [str(environment / "bin" / program), *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=environment,
            env={"PATH": "/usr/bin:/bin", "HOME": str(environment), "JUPYTER_PATH": ""},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call.environment = environment  # type: ignore[attr-defined]
    return call


def test_the_console_scripts(run: Callable[..., str]) -> None:
    for program in ("fc-kernel", "jupyter-fc-kernel"):
        assert run(program, "--version").strip() == fc_kernel.__version__
    assert json.loads(run("fc-kernel", "schema"))["$schema"]


LOAD = """
import json
from importlib.metadata import entry_points
from papermill.engines import papermill_engines
import fc_kernel
[provisioner] = entry_points(group="jupyter_client.kernel_provisioners", name="fc-provisioner")
loaded = [provisioner.load().__module__, papermill_engines.get_engine("fc_kernel").__module__]
print(json.dumps([fc_kernel.__file__, loaded]))
"""


def test_the_entry_points(run: Callable[..., str]) -> None:
    where, loaded = json.loads(run("python", "-c", LOAD))
    assert not where.startswith(str(CHECKOUT / "fc_kernel"))
    assert loaded == ["fc_kernel.provisioner", "fc_kernel.papermill"]


FIND = """
import json
from jupyter_client.kernelspec import KernelSpecManager
manager = KernelSpecManager()
spec = manager.get_kernel_spec("fc-python3")
print(json.dumps([spec.resource_dir, spec.to_dict()]))
"""


def test_the_kernelspec_comes_with_the_wheel(run: Callable[..., str]) -> None:
    directory, spec = json.loads(run("python", "-c", FIND))
    assert sorted(path.name for path in Path(directory).iterdir()) == ["kernel.json", *LOGOS]
    assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "fc-provisioner"
    assert spec["display_name"] == "Python (microVM)"


def test_profiles_are_made_from_the_wheel(run: Callable[..., str], tmp_path: Path) -> None:
    run("fc-kernel", "install", "--prefix", str(tmp_path), "--name", "fc-big", "--vcpus", "2", "--mem", "2048")
    installed = tmp_path / "share/jupyter/kernels/fc-big"
    assert sorted(path.name for path in installed.iterdir()) == ["kernel.json", *LOGOS]
    spec = json.loads((installed / "kernel.json").read_text())
    assert spec["metadata"]["kernel_provisioner"]["config"] == {"vcpu_count": 2, "mem_size_mib": 2048}
    assert spec["argv"][0].startswith(str(run.environment))  # type: ignore[attr-defined]


SERVER = """
import json
from jupyter_core.paths import jupyter_config_path
from jupyter_server.extension.config import ExtensionConfigManager
from jupyter_server.extension.manager import ExtensionManager
enabled = ExtensionConfigManager(read_config_path=jupyter_config_path()).get_jpserver_extensions()
manager = ExtensionManager()
manager.from_jpserver_extensions({name: on for name, on in enabled.items() if name == "fc_kernel"})
print(json.dumps([enabled["fc_kernel"], *manager.extensions["fc_kernel"].extension_points]))
"""


def test_the_wheel_enables_the_server_extension(run: Callable[..., str]) -> None:
    assert json.loads(run("python", "-c", SERVER)) == [True, "fc_kernel.server"]


PAYLOAD = """
import hashlib, json
from fc_kernel.guest.payload import guest_files
from fc_kernel.images.initramfs import init_script
files = {name: hashlib.sha256(data).hexdigest() for name, data in guest_files().items()}
print(json.dumps([files, init_script().decode()]))
"""


def test_what_goes_into_the_guest_is_complete(run: Callable[..., str]) -> None:
    import hashlib

    files, init = json.loads(run("python", "-c", PAYLOAD))
    assert files == {name: hashlib.sha256(data).hexdigest() for name, data in guest_files().items()}
    assert init == init_script().decode()


def test_importing_the_package_is_cheap(run: Callable[..., str]) -> None:
    loaded = set(run("python", "-c", "import sys, fc_kernel; print(*sys.modules)").split())
    assert not loaded & {"pydantic", "traitlets", "zmq", "jupyter_client", "asyncio", "fc_kernel.settings.spec"}
