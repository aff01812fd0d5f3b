"""The magics with a client, on whatever monitor: what the host answers, and what of it a notebook shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from jupyter_client.manager import KernelManager

from fc_kernel.base.paths import data_dir

from .conftest import DEADLINE_S, Run

Execute = Callable[..., Run]


@pytest.fixture(scope="module", autouse=True)
def own_snapshots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Snapshots and templates of this module only, and the images of everybody."""
    data = tmp_path_factory.mktemp("data")
    images = data_dir() / "images"
    if images.is_dir():
        (data / "images").symlink_to(images)
    patch = pytest.MonkeyPatch()
    patch.setenv("FC_KERNEL_DATA_DIR", str(data))
    yield
    patch.undo()


def stderr(run: Run) -> str:
    return "".join(m["content"]["text"] for m in run.messages if m["content"].get("name") == "stderr")


def test_vm_says_what_this_is(run: Execute, monitor: str) -> None:
    shown = run("%vm")
    assert monitor in shown.value
    assert "<table>" in shown.data[-1]["text/html"]


def test_nothing_is_there_at_first(run: Execute) -> None:
    assert run("%snapshots").value == "no snapshots yet"


@pytest.mark.parametrize("code", ["%restore never", "%snapshot ../up"])
def test_a_refusal_is_one_line(run: Execute, code: str) -> None:
    refused = run(code)
    assert refused.reply["content"]["ename"] == "UsageError"
    assert stderr(refused).startswith("UsageError: ")
    assert len(stderr(refused).splitlines()) == 1


def test_the_kernel_is_the_same_after_all_that(run: Execute) -> None:
    assert run("import fc_kernel; kept = 1; fc_kernel.snapshots()").value == "no snapshots yet"
    assert run("kept").value == "1"


def test_without_a_real_machine_there_is_no_snapshot(run: Execute, monitor: str) -> None:
    if monitor != "fake":
        pytest.skip("this one can")
    refused = run("%snapshot one")
    assert refused.reply["content"]["ename"] == "UsageError"
    assert "FakeVmm" in stderr(refused)
    assert run("1 + 1").value == "2", "it stood still, and goes on"


@pytest.mark.vm
def test_a_snapshot_and_back(jupyter_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FC_KERNEL_MONITOR", "qemu")
    manager = KernelManager(kernel_name="fc-python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE_S)
        setting = (
            "import fc_kernel, random\nback = 0\n@fc_kernel.on_restore\ndef after():\n    global back\n    back += 1"
        )
        assert Run(client, setting).ok
        assert Run(client, "random.seed(1)\nx = 1").ok
        taken = Run(client, "%snapshot one -m 'the first'\nx = 2\nprint('went on')")
        assert taken.ok, taken.reply
        first, second = taken.stdout.splitlines()
        assert first.startswith("Snapshot one: ")
        assert second == "went on"
        assert "the first" in Run(client, "%snapshots").value
        assert Run(client, "x, back, random.seed(1) or random.random()").value.startswith("(2, 0, ")
        back = Run(client, "%restore one")
        assert back.ok, back.reply
        assert back.stdout == "restored one\n"
        assert Run(client, "x, back").value == "(1, 1)", "the rest of the snapshot's cell did not run again"
        assert "one" in Run(client, "%vm").value
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
