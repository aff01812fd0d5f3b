"""The command line: help, usage errors, one line for an error, JSON for scripts, and what runs now."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import fc_kernel
from fc_kernel.base.paths import RunDir, runtime_dir
from fc_kernel.cli import main
from fc_kernel.cli.vms import _age
from fc_kernel.settings.kernel_settings import json_schema
from fc_kernel.settings.spec import VmSpec
from fc_kernel.testing.fake_vmm import FakeVmm
from fc_kernel.vmm.base import BootPlan
from fc_kernel.vmm.journal import JournalEntry

from ..calling import call

DEADLINE_S = 60

COMMANDS = [
    ["doctor"], ["image", "build"], ["image", "list"], ["image", "show"], ["image", "rm"], ["install"], ["uninstall"],
    ["execute"], ["ps"], ["gc"], ["schema"], ["firecracker", "install"], ["snapshot", "list"], ["snapshot", "show"],
    ["snapshot", "rm"], ["snapshot", "rename"], ["snapshot", "export"], ["snapshot", "import"],
    ["snapshot", "create"], ["snapshot", "restore"], ["fork"],
]  # fmt: skip
GROUPS: list[list[str]] = [[], ["image"], ["firecracker"], ["snapshot"]]


@pytest.fixture(autouse=True)
def nothing_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration, kernelspecs, images of whoever runs the tests."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_PATH", "JUPYTER_DATA_DIR", "FC_KERNEL_DATA_DIR", "FC_KERNEL_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.mark.parametrize("words", [*COMMANDS, *GROUPS], ids=" ".join)
def test_help(words: list[str]) -> None:
    called = call(*words, "--help")
    assert called.status == 0
    assert called.err == ""
    assert called.out[0].isupper()
    assert "Options" in called.out
    if words in GROUPS:
        names = {whole[len(words)] for whole in COMMANDS if whole[: len(words)] == words}
        assert all(name in called.out for name in names)


@pytest.mark.parametrize("words", [*COMMANDS, *GROUPS], ids=" ".join)
def test_version(words: list[str]) -> None:
    called = call(*words, "--version")
    assert (called.status, called.out) == (0, f"{fc_kernel.__version__}\n")


USAGE_ERRORS = {
    "bogus": "fc-kernel: there is no command 'bogus'; there are: doctor, image",
    "image bogus": "fc-kernel image: there is no command 'bogus'; there are: build, list",
    "firecracker bogus": "fc-kernel firecracker: there is no command 'bogus'; there are: install",
    "ps more": "fc-kernel ps: expected no arguments, got ['more']",
    "schema more": "fc-kernel schema: expected no arguments",
    "execute": "fc-kernel execute: expected one notebook, got []",
    "execute a.ipynb b.ipynb": "fc-kernel execute: expected one notebook, got ['a.ipynb', 'b.ipynb']",
    "image rm": "fc-kernel image rm: expected one or more image names",
    "image show a b": "fc-kernel image show: expected at most one image name",
    "ps --bogus": "fc-kernel ps: there is no option --bogus",
    "ps --bogus=1": "fc-kernel ps: there is no option --bogus",
    "install --vcpu=4": "fc-kernel install: there is no option --vcpu ",
    "install --env NAME": "fc-kernel install: --env takes NAME=VALUE, not 'NAME'",
    "install --argv 'R": "fc-kernel install: --argv takes words as for a shell, or a JSON list",
    "install --argv [": "fc-kernel install: --argv takes words as for a shell, or a JSON list",
    "install --interrupt-mode shout": "signal",
    "install --user --prefix /nowhere": "exclude each other",
    "install --vcpus many": "expected an int, not the str 'many'",
    "execute a.ipynb --timeout soon": "expected an int, not the str 'soon'",
}


@pytest.mark.parametrize("words", USAGE_ERRORS)
def test_usage_errors_are_one_line_and_status_2(words: str, caplog: pytest.LogCaptureFixture) -> None:
    called = call(*words.split())
    assert called.status == 2
    assert called.out == ""
    assert USAGE_ERRORS[words] in called.err + caplog.text
    assert len(called.err.splitlines()) <= 1


def test_a_group_alone_shows_its_commands() -> None:
    for words in GROUPS:
        called = call(*words)
        assert called.status == 2
        assert "Subcommands" in called.out


ERRORS = {
    "image show nope": "fc-kernel image show: there is no image 'nope'; build it with: fc-kernel image build --name nope",
    "image show ../x": "fc-kernel image show: image is '../x'; allowed: 1 to 64",
    "image rm nope": "fc-kernel image rm: there is no image 'nope'",
    "uninstall nope": "fc-kernel uninstall: no kernelspec is called 'nope'",
    "install --name A/b --sys-prefix": "fc-kernel install: name is 'A/b'; allowed: 1 to 64 of a-z",
    "install --vcpus 999 --sys-prefix": "fc-kernel install: vcpu_count (from the profile) is 999; allowed: at most 255",
    "install --argv R --sys-prefix": "fc-kernel install: argv (from the profile) is ['R']; allowed: at most 64 words, with",
    "install --argv {connection_file} --sys-prefix": "fc-kernel install: language is None; allowed: the name of",
    "install --language R --sys-prefix": "fc-kernel install: language is 'R'; allowed: the name of",
    "install --mem 0 --sys-prefix": "fc-kernel install: mem_size_mib (from the profile) is 0; allowed: at least 1",
    "execute /nowhere/a.ipynb": "fc-kernel execute: cannot read the notebook '/nowhere/a.ipynb'",
}


@pytest.mark.parametrize("words", ERRORS)
def test_errors_are_one_line_and_status_1(words: str) -> None:
    called = call(*words.split())
    assert (called.status, called.out) == (1, "")
    (line,) = called.err.splitlines()
    assert line.startswith(ERRORS[words])


def test_an_error_for_scripts_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", "/tmp/" + "x" * 100)
    called = call("ps", "--json")
    assert called.status == 1
    error = json.loads(called.out)["error"]
    assert error["type"] == "RunDirError"
    assert "FC_KERNEL_RUNTIME_DIR" in error["message"]


@pytest.mark.parametrize("text", ["{", '{"FcKernelConfig": {"vcpus": 1}}', '{"FcKernelConfig": {"vcpu_count": "x"}}'])
def test_a_bad_configuration_is_one_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "JUPYTER_CONFIG_DIR").mkdir()
    (tmp_path / "JUPYTER_CONFIG_DIR/jupyter_fc_kernel_config.json").write_text(text)
    called = call("doctor")
    assert called.status == 1
    assert called.err.splitlines()[-1].startswith("fc-kernel doctor: ")


def test_the_schema() -> None:
    called = call("schema")
    assert called.status == 0
    assert json.loads(called.out) == json_schema()


def test_install_and_uninstall(tmp_path: Path) -> None:
    words = ["--prefix", str(tmp_path), "--name", "fc-big", "--vcpus", "4", "--mem", "8192", "--image", "geo"]
    called = call("install", *words, "--display-name", "Big", "--env", "A=b=c", "--env", "D=")
    where = tmp_path / "share/jupyter/kernels/fc-big"
    assert called.status == 0
    assert called.out == f"installed fc-big in {where}\n"
    spec = json.loads((where / "kernel.json").read_text())
    config = spec["metadata"]["kernel_provisioner"]["config"]
    assert config == {"vcpu_count": 4, "mem_size_mib": 8192, "image": "geo"}
    assert (spec["display_name"], spec["env"]) == ("Big", {"A": "b=c", "D": ""})
    assert call("install", "--user", "--name", "fc-user").status == 0
    called = call("uninstall", "fc-user")
    assert called.status == 0
    assert called.out == f"removed {tmp_path / 'JUPYTER_DATA_DIR/kernels/fc-user'}\n"


R = ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"]


@pytest.mark.parametrize(
    "argv", [json.dumps(R), " ".join(R), "R --slave -e 'IRkernel::main()' --args {connection_file}"]
)
def test_install_for_another_language(tmp_path: Path, argv: str) -> None:
    words = ["--prefix", str(tmp_path), "--name", "r", "--image", "r", "--language", "R", "--display-name", "R in a VM"]
    assert call("install", *words, "--interrupt-mode", "message", "--argv", argv).status == 0
    spec = json.loads((tmp_path / "share/jupyter/kernels/r/kernel.json").read_text())
    assert spec["metadata"]["kernel_provisioner"]["config"] == {"image": "r", "argv": R}
    assert (spec["display_name"], spec["language"], spec["interrupt_mode"]) == ("R in a VM", "R", "message")


def test_nothing_runs() -> None:
    assert call("ps").out == "no microVM is running\n"
    assert json.loads(call("ps", "--json").out) == []
    assert call("gc").out == "nothing to remove\n"
    assert json.loads(call("gc", "--json").out) == []


@pytest.fixture
async def vmm() -> AsyncIterator[FakeVmm]:
    run_dir = RunDir.create(runtime_dir(), "0000c11a")
    labels = {"kernel_id": "a-kernel", "notebook": "/home/jo/a.ipynb"}
    spec = VmSpec(vcpu_count=1, mem_size_mib=128)
    running = FakeVmm(BootPlan(vm_id="0000c11a", spec=spec, run_dir=run_dir.path, labels=labels))
    await running.start()
    yield running
    await running.aclose()
    run_dir.remove()


def test_what_runs(vmm: FakeVmm) -> None:
    called = call("ps")
    heading, row = (line.split() for line in called.out.splitlines())
    assert heading == ["VM", "MONITOR", "PID", "OWNER", "STATE", "AGE", "KERNEL"]
    assert row[:3] == ["0000c11a", "fake", str(vmm.pid)]
    assert row[4] == "running"
    assert row[6] == "a-kernel"
    (entry,) = json.loads(call("ps", "--json").out)
    assert set(entry) == {
        "vm_id", "monitor", "pid", "start_time", "exe", "owner_pid", "created", "kernel_id", "labels", "lifetime",
        "owner_alive",
    }  # fmt: skip
    assert (entry["vm_id"], entry["pid"], entry["owner_alive"]) == ("0000c11a", vmm.pid, True)
    assert entry["labels"]["notebook"] == "/home/jo/a.ipynb"
    assert call("gc").out == "nothing to remove\n"
    assert vmm.pid is not None


ORPHAN = """
import asyncio, sys
from fc_kernel.base.paths import RunDir, runtime_dir
from fc_kernel.settings.spec import VmSpec
from fc_kernel.testing.fake_vmm import FakeVmm
from fc_kernel.vmm.base import BootPlan

async def main():
    plan = BootPlan(vm_id="0000dead", spec=VmSpec(vcpu_count=1, mem_size_mib=128), run_dir=run_dir.path)
    vmm = FakeVmm(plan)
    await vmm.start()
    print(flush=True)
    await vmm.wait()

run_dir = RunDir.create(runtime_dir(), "0000dead")
asyncio.run(main())
"""


def test_what_a_killed_server_left() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"\n"
        (entry,) = json.loads(call("ps", "--json").out)
        assert (entry["owner_pid"], entry["owner_alive"]) == (owner.pid, True)
        owner.kill()
        owner.wait(DEADLINE_S)
    assert "orphan (fc-kernel gc)" in call("ps").out
    (reaped,) = json.loads(call("gc", "--json").out)
    assert set(reaped) == {"vm_id", "outcome"}
    assert reaped["vm_id"] == "0000dead"
    assert not (runtime_dir() / "0000dead").exists()
    assert call("gc").out == "nothing to remove\n"


def test_a_directory_without_a_process() -> None:
    code = "from fc_kernel.base.paths import RunDir, runtime_dir; RunDir.create(runtime_dir(), '0000dea1')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE_S)
    assert call("ps").out == "no microVM is running\n"
    assert call("gc").out == "0000dea1: removed; no process had been recorded\n1 removed\n"


def test_names_that_a_client_chose_are_only_text(vmm: FakeVmm) -> None:
    entry = JournalEntry.of_process(
        vmm.pid or 0, vm_id="0000c11a", monitor="fake", labels={"kernel_id": "[/red][bold]x\x1b[2J\u202e"}
    )
    entry.write(vmm.plan.run_dir)
    called = call("ps")
    assert called.status == 0
    assert called.out.splitlines()[1].rstrip().endswith("[/red][bold]x")


def test_a_scripts_line_is_not_broken(vmm: FakeVmm) -> None:
    labels = {"kernel_id": "0123456789ab-" * 20}
    JournalEntry.of_process(vmm.pid or 0, vm_id="0000c11a", monitor="fake", labels=labels).write(vmm.plan.run_dir)
    assert labels["kernel_id"] in call("ps").out


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-5, "0m00s"), (0, "0m00s"), (59.9, "0m59s"), (61, "1m01s"), (7260, "2h01m")]
)
def test_ages(seconds: float, shown: str) -> None:
    assert _age(seconds) == shown


def test_both_console_scripts_are_this() -> None:
    scripts = {point.name: point for point in entry_points(group="console_scripts")}
    assert scripts["fc-kernel"].load() is scripts["jupyter-fc-kernel"].load() is main


@pytest.mark.parametrize("start", [["-m", "fc_kernel.cli"], ["-m", "jupyter", "fc-kernel"]])
def test_as_a_program(start: list[str]) -> None:
    done = subprocess.run([sys.executable, *start, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, fc_kernel.__version__)
