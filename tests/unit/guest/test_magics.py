"""The magics in a real kernel with a real agent; the test is the host that answers them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from ..guest_kernel import Guest
from .test_freeze import agent

SNAP = {
    "id": "0123456789abcdef", "name": "clean", "description": "<b>bold</b>\x1b[31m", "created": "2026-11-24T12:00:00Z",
    "size_bytes": 3 << 20, "parent": None, "current": True,
}  # fmt: skip
VM = {
    "tier": "emulated", "monitor": "qemu", "monitor_version": "7.2", "vcpu_count": 1, "mem_size_mib": 512,
    "uptime_s": 12.3, "generation": 2, "lineage": ["clean", "<i>"], "disk_bytes": 5 << 20, "image": "python",
    "vm_id": "abcd", "started": "template",
}  # fmt: skip
FORK = {"kernel_id": "k1", "name": "clean-1", "connection_file": "/run/a b/kernel.json", "url": None}


@pytest.fixture(scope="module")
def module_guest(short_private_runtime_dir: Any) -> Iterator[Guest]:
    directory = short_private_runtime_dir / "magics"
    directory.mkdir()
    for guest in agent(directory):
        guest.start()
        guest.attach()
        yield guest
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()


@pytest.fixture
def guest(module_guest: Guest) -> Guest:
    module_guest.notifications.clear()
    return module_guest


def asked(guest: Guest, code: str, answer: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """What a cell asked, its reply, and its outputs, after that answer of the host's."""
    msg_id = guest.execute(code)
    request = guest.notified("kernel.request")
    assert (request["instance"], request["parent"]) == (1, msg_id)
    guest.call("answer", id=request["id"], **answer)
    reply = guest.reply(msg_id)["content"]
    return request, reply, [said["content"] for said in guest.outputs(msg_id)]


def printed(outputs: list[Any]) -> str:
    return "".join(content.get("text", "") for content in outputs)


def shown(outputs: list[Any]) -> dict[str, str]:
    return next(content["data"] for content in outputs if "data" in content)


def source(**result: Any) -> dict[str, Any]:
    return {"result": {"role": "source", **result}}


def test_snapshot(guest: Guest) -> None:
    line = "%snapshot clean -m after the cleaning\nprint('went on')"
    request, reply, outputs = asked(guest, line, source(snapshot=SNAP))
    assert (request["op"], request["args"]) == ("snapshot", {"name": "clean", "description": "after the cleaning"})
    assert reply["status"] == "ok"
    text = printed(outputs)
    assert text.startswith("Snapshot clean: 3.0 MiB, paused for ")
    assert text.endswith(" s\nwent on\n")


def test_what_hooks_raised_at_a_snapshot(guest: Guest) -> None:
    _, reply, outputs = asked(guest, "%snapshot", source(snapshot=SNAP, hook_errors=["on_snapshot f: OSError: no"]))
    assert reply["status"] == "ok"
    assert printed(outputs).endswith(" s\non_snapshot f: OSError: no\n")


@pytest.mark.parametrize(
    ("given", "meant"), [("'after  it'", "after  it"), ('"a b"', "a b"), ("it's done", "it's done"), ("a b", "a b")]
)
def test_a_description_in_quotes_or_not(guest: Guest, given: str, meant: str) -> None:
    request, _, _ = asked(guest, f"%snapshot -m {given}", source(snapshot=SNAP))
    assert request["args"] == {"name": None, "description": meant}


def test_snapshots_as_text_and_html(guest: Guest) -> None:
    request, _, outputs = asked(
        guest, "%snapshots", source(snapshots=[SNAP, {**SNAP, "name": "two", "parent": "clean"}])
    )
    assert (request["op"], request["args"]) == ("snapshots", {})
    data = shown(outputs)
    # The guest of this test has the zone of this process.
    local = datetime(2026, 11, 24, 12, tzinfo=UTC).astimezone()
    taken = local.strftime("%Y-%m-%d %H:%M:%S ") + (local.strftime("%Z") if local.utcoffset() else "UTC")
    assert data["text/plain"].splitlines()[2].split() == [
        "*", "two", *taken.split(), "3.0", "MiB", "clean", "<b>bold</b>", "[31m",
    ]  # fmt: skip
    assert "\x1b" not in data["text/plain"]
    assert "<td>&lt;b&gt;bold&lt;/b&gt;" in data["text/html"]
    _, _, outputs = asked(guest, "%snapshots", source(snapshots=[]))
    assert shown(outputs)["text/plain"] == "no snapshots yet"


def test_fork(guest: Guest) -> None:
    request, _, outputs = asked(guest, "%fork -n 2", source(forks=[FORK, FORK]))
    assert (request["op"], request["args"]) == ("fork", {"name": None, "count": 2})
    line = "Fork clean-1:    jupyter console --existing '/run/a b/kernel.json'"
    assert [" ".join(each.split()) for each in printed(outputs).splitlines()] == [" ".join(line.split())] * 2


def test_vm(guest: Guest) -> None:
    request, _, outputs = asked(guest, "%vm", {"result": VM})
    assert request["op"] == "vm"
    data = shown(outputs)
    assert "Tier          emulated" in data["text/plain"]
    assert "clean → &lt;i&gt;" in data["text/html"]


@pytest.mark.parametrize("code", ["%snapshot", "%fork", "%restore x", "%snapshots", "%vm"])
def test_a_refusal_is_one_line(guest: Guest, code: str) -> None:
    _, reply, outputs = asked(guest, code, {"error": "the quota of\n3 snapshots is used up"})
    assert reply["ename"] == "UsageError"
    assert printed(outputs) == "UsageError: the quota of 3 snapshots is used up\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("%restore", "the following arguments are required: name"),
        ("%fork -n many", "invalid int value"),
        ("%fork -n 0", "the number of kernels must be at least 1, not 0"),
    ],
)
def test_what_makes_no_sense_is_not_asked(guest: Guest, code: str, said: str) -> None:
    msg_id = guest.execute(code)
    assert guest.reply(msg_id)["content"]["ename"] == "UsageError"
    assert said in printed([each["content"] for each in guest.outputs(msg_id)])
    assert not guest.notifications


@pytest.mark.parametrize("name", ["snapshot", "snapshots", "restore", "fork", "vm"])
def test_help(guest: Guest, name: str) -> None:
    assert f"%{name}" in guest.run(f"%{name} --help")


def test_names_are_completed(guest: Guest) -> None:
    msg_id = guest.request("complete_request", {"code": "%restore cl", "cursor_pos": 11})
    request = guest.notified("kernel.request")
    guest.call("answer", id=request["id"], **source(snapshots=[SNAP]))
    assert guest.reply(msg_id)["content"]["matches"] == ["clean"]


def test_an_interrupt_withdraws_the_question(guest: Guest) -> None:
    msg_id = guest.execute("%snapshot")
    number = guest.notified("kernel.request")["id"]
    guest.call("kernel.signal", signum=signal.SIGINT)
    assert guest.reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    assert guest.call("answer", id=number, result={}) == {}, "an answer that comes too late is no error"
    assert asked(guest, "%snapshot", source(snapshot=SNAP))[1]["status"] == "ok"


def test_one_question_at_a_time(guest: Guest) -> None:
    code = """
import fc_kernel, threading
def ask():
    try:
        fc_kernel.snapshot('two')
    except fc_kernel.RequestError as error:
        refused.append(str(error))
refused = []
threading.Thread(target=lambda: taken.append(fc_kernel.snapshot('one'))).start()
"""
    guest.run("taken = []" + code)
    number = guest.notified("kernel.request")["id"]
    assert guest.run("ask(); print(refused)") == "['another %snapshot is under way']\n"
    guest.call("answer", id=number, **source(snapshot=SNAP))


def test_from_python(guest: Guest) -> None:
    code = "import fc_kernel\ns = fc_kernel.snapshot('clean', message='m')\nprint(s.name, s.size_bytes, s.current)"
    request, _, outputs = asked(guest, code, source(snapshot=SNAP))
    assert request["args"] == {"name": "clean", "description": "m"}
    assert printed(outputs) == f"clean {3 << 20} True\n"
    assert guest.run(
        "import fc_kernel; print(hasattr(fc_kernel, 'VmSpec'), 'fc_kernel.host' in __import__('sys').modules)"
    ) == ("False False\n")


@pytest.mark.parametrize("role", ["restored", "fork"])
def test_in_the_copy_the_cell_ends_quietly(guest: Guest, role: str) -> None:
    generation = {"restored": 10, "fork": 11}[role]
    code = "print('before', flush=True)\ntry:\n    %snapshot clean\nexcept Exception:\n    print('caught')\nlate = 1"
    msg_id = guest.execute(code)
    guest.notified("kernel.request")
    frozen = guest.freeze()
    assert frozen["cell"] == msg_id
    guest.execute("queued = 1")
    guest.restored(role=role, generation=generation)
    guest.attach(generation)
    said = guest.outputs(msg_id)
    assert [each["header"]["msg_type"] for each in said] == ["status"], "no output after the snapshot, only idle"
    assert guest.reply(msg_id)["content"]["status"] == "ok"
    assert guest.run("print('late' in globals(), 'queued' in globals())") == "False False\n"
    guest.call("freeze", hooks=False, timeout_s=60)
    guest.restored(generation=generation + 10, key="a first key")
    guest.attach(generation + 10)


def test_in_an_ordinary_kernel() -> None:
    code = (
        "from IPython.core.interactiveshell import InteractiveShell as S\ns = S.instance()\n"
        "s.run_cell('%load_ext fc_kernel')\ns.run_cell('%snapshot')\nimport fc_kernel\nfc_kernel.on_restore(print)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = (done.stdout + done.stderr).splitlines()
    assert said == ["UsageError: this kernel does not run in a microVM; choose the kernel “Python (microVM)”"]
