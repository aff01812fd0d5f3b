"""A guest that does what it likes: its own kernel ends with one clear error, and no other notices anything."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from fc_kernel.base.paths import runtime_dir
from fc_kernel.errors import AgentUnreachable, FcKernelError, KernelStartError
from fc_kernel.vmm.journal import list_entries

from ..jupyter.conftest import Run
from ..waiting import eventually
from .conftest import Innocent, connected, managed
from .rogue_agent import BEHAVIOURS, NO_HANDSHAKE

DEADLINE_S = 30.0
Rogue = Callable[..., None]

#: Behaviour → the error of ``start_kernel``, and what its message says.
REFUSED: dict[str, tuple[type[FcKernelError], str]] = {
    "shakes no hands": (AgentUnreachable, "not a vsock handshake"),
    "shakes hands without end": (AgentUnreachable, "not a vsock handshake"),
    "speaks no json": (AgentUnreachable, "the guest agent sent no JSON"),
    "a line without end": (AgentUnreachable, "a line of more than 1048576 bytes"),
    "deep json": (AgentUnreachable, "the guest agent sent no JSON"),
    "answers what nobody asked": (AgentUnreachable, "answered a call that nobody made: 9223372036854775808"),
    "answers as another": (AgentUnreachable, "answered a call that nobody made: '00000000-0000'"),
    "greets with nothing": (AgentUnreachable, "greeting is malformed"),
    "greets with infinity": (AgentUnreachable, "greeting is malformed"),
    "greets with a list": (AgentUnreachable, "greeting is malformed"),
    "speaks another protocol": (AgentUnreachable, "speaks protocol 9223372036854775808; this host speaks 3"),
    "never answers": (AgentUnreachable, r"did not answer within 1 s \(start_timeout_s\)"),
    "hangs up": (AgentUnreachable, "the connection to the guest agent"),
    "refuses the kernel at length": (KernelStartError, "the kernel did not start in the guest: no "),
    "greets no channel": (KernelStartError, "attach: no answer within 1 s"),
    "greets with rubbish": (KernelStartError, "the guest did not greet.*not a frame"),
}
#: Behaviour → what a client reads when its kernel has died of it.
FATAL = {
    "sends no frames": "the shell connection to the guest broke: not a frame: starts with b'GE'",
    "claims a gap": "the shell connection to the guest broke: message 9223372036854775808 follows 0",
    "claims 4 EiB": "the shell connection to the guest broke: a message of 4398046510080 bytes; at most 134217728",
    "floods with notifications": "the guest agent sent over 64 unasked messages in 10 s",
    "floods with old answers": "the guest agent sent over 64 unasked messages in 10 s",
}
#: Behaviours that only the guest's own user notices.
HARMLESS = {
    "never ends a message", "says yes to all", "sends rubbish messages", "floods with output", "names other kernels",
    "replies to others",
}  # fmt: skip


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a silent guest is waited for is no part of what is tested."""
    monkeypatch.setattr("fc_kernel.sessions.wiring.ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr("fc_kernel.sessions.life.AGENT_TIMEOUT_S", 0.5)
    # Longer than a start, which has a deadline of its own.
    monkeypatch.setattr("fc_kernel.machine.agent_client.AGENT_TIMEOUT_S", 2.0)


def only(innocent: Innocent) -> bool:
    """Whether no other VM is left."""
    return [entry.kernel_id for entry in list_entries(runtime_dir())] == [innocent.kernel_id]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_every_behaviour_is_tested() -> None:
    assert {*REFUSED, *FATAL, *HARMLESS} == {*BEHAVIOURS, *NO_HANDSHAKE}


@pytest.mark.parametrize(("behaviour", "error", "message"), [(name, *expected) for name, expected in REFUSED.items()])
def test_a_guest_of_no_use_is_refused(
    rogue: Rogue,
    innocent: Innocent,
    behaviour: str,
    error: type[FcKernelError],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rogue(behaviour)
    if behaviour == "never answers":
        monkeypatch.setenv("FC_KERNEL_START_TIMEOUT_S", "1")
    before = resident_bytes()
    with managed() as manager:
        with pytest.raises(error, match=f"(?s){message}") as caught:
            manager.start_kernel()
        assert len(str(caught.value)) < 10_000
        assert "\x1b" not in str(caught.value)
    eventually(lambda: only(innocent), "the hostile guest is gone")
    assert resident_bytes() - before < 32 << 20
    assert innocent.is_undisturbed()


def end_of_kernel(manager: KernelManager) -> str:
    """What its user is told: at the start, if it breaks the protocol that early, else in reply to a cell."""
    try:
        manager.start_kernel()
    except KernelStartError as error:
        return str(error)
    with connected(manager) as client:
        msg_id = client.execute("1")
        while (reply := client.get_shell_msg(timeout=DEADLINE_S))["parent_header"].get("msg_id") != msg_id:
            pass
    assert reply["content"]["ename"] == "KernelDied"
    eventually(lambda: not manager.is_alive(), "the manager sees the death")
    return str(reply["content"]["evalue"])


@pytest.mark.parametrize(("behaviour", "message"), FATAL.items(), ids=FATAL)
def test_a_guest_that_breaks_the_protocol_is_ended(
    rogue: Rogue, innocent: Innocent, behaviour: str, message: str
) -> None:
    rogue(behaviour)
    before = resident_bytes()
    with managed() as manager:
        assert message in end_of_kernel(manager)
    eventually(lambda: only(innocent), "the hostile guest is gone")
    assert resident_bytes() - before < 32 << 20
    assert innocent.is_undisturbed()


@pytest.mark.parametrize("behaviour", ["says yes to all", "never ends a message"])
def test_a_guest_that_only_pretends_can_be_ended(rogue: Rogue, innocent: Innocent, behaviour: str) -> None:
    rogue(behaviour)
    before = resident_bytes()
    with managed() as manager:
        manager.start_kernel()
        with connected(manager) as client:
            client.execute("1")
            assert innocent.is_undisturbed()
            assert client.is_alive()
            manager.interrupt_kernel()
            manager.shutdown_kernel(now=True)
    eventually(lambda: only(innocent), "the hostile guest is gone")
    assert resident_bytes() - before < 32 << 20
    assert innocent.is_undisturbed()


def test_rubbish_in_messages_costs_only_these_messages(rogue: Rogue, innocent: Innocent) -> None:
    rogue("sends rubbish messages")
    with managed() as manager:
        manager.start_kernel()
        with connected(manager) as client:
            client.execute("1")
            assert client.get_shell_msg(timeout=DEADLINE_S)["content"] == {"status": "ok"}
    assert innocent.is_undisturbed()


def test_a_guest_that_floods_is_discarded_and_can_be_ended(rogue: Rogue, innocent: Innocent) -> None:
    """Nobody listens to its output; it may send as fast as it can."""
    rogue("floods with output")
    with managed() as manager:
        manager.start_kernel()
        with connected(manager, iopub=False) as client:
            before = resident_bytes()
            for _ in range(30):
                assert innocent.is_undisturbed()
                assert resident_bytes() - before < 100 << 20
            assert client.hb_channel.is_beating() or client.is_alive()
            manager.shutdown_kernel(now=True)
    eventually(lambda: only(innocent), "the hostile guest is gone")


def test_a_guest_cannot_speak_of_another_kernel(rogue: Rogue, innocent: Innocent) -> None:
    """It tells of the ends of others; neither they nor its own kernel are believed to have ended."""
    rogue("names other kernels")
    with managed() as manager:
        manager.start_kernel()
        with connected(manager) as client:
            client.execute("1")
            assert client.get_shell_msg(timeout=DEADLINE_S)["content"] == {"status": "ok"}
            assert innocent.is_undisturbed()
            assert manager.is_alive()


def test_a_guest_cannot_speak_to_another_kernels_client(rogue: Rogue, innocent: Innocent) -> None:
    """It knows that client's identity and answers a request of its own to it."""
    rogue("replies to others", identity=innocent.client.session.bsession.decode())
    with managed() as manager:
        manager.start_kernel()
        with connected(manager) as client:
            client.execute("1")
            msg_id = client.execute("2")
            assert isinstance(msg_id, str)
            assert innocent.is_undisturbed()
            assert not client.shell_channel.msg_ready()
    assert innocent.is_undisturbed()


def test_the_next_launch_works(on_the_fake: None) -> None:
    with managed() as manager:
        manager.start_kernel()
        with connected(manager) as client:
            client.wait_for_ready(timeout=DEADLINE_S)
            assert Run(client, "6 * 7").value == "42"
