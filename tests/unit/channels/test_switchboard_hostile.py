"""A guest that sends rubbish, floods, or stands still: clients are served, and what is held stays bounded."""

from __future__ import annotations

import random
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.channels import delivery, tunnel
from fc_kernel.channels.signing import DELIMITER, split
from fc_kernel.wire import frames

from ..switchboard_ends import CLIENT_KEY, DEADLINE_S, GUEST_KEY, Client, Ends, Guest, ends_of_a_switchboard, signed

IDLE = b'{"execution_state": "idle"}'
STATUS = b'{"msg_type": "status"}'


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    with ends_of_a_switchboard(tmp_path) as ends:
        yield ends


def answered(client: Client, guest: Guest) -> bool:
    """Whether a request crosses, and its reply comes back."""
    msg_id = client.request("kernel_info_request")
    guest.reply(guest.channels["shell"].receive(), {"status": "ok"})
    return client.receive("shell")["parent_header"]["msg_id"] == msg_id


MALFORMED: dict[str, list[bytes]] = {
    "nothing": [b""],
    "no delimiter": [b"x"] * 8,
    "a hundred identities": [b"x"] * 100 + [DELIMITER, b"", b"{}", b"{}", b"{}", b"{}"],
    "four parts": [b"id", DELIMITER, b"", b"{}", b"{}", b"{}"],
    "a parent that is no JSON": [b"id", DELIMITER, b"", STATUS, b"\xff", b"{}", IDLE],
    "a parent that is no object": [b"id", DELIMITER, b"", STATUS, b"[]", b"{}", IDLE],
    "a parent that is too deep": [b"id", DELIMITER, b"", STATUS, b"[" * 50_000, b"{}", IDLE],
    "a parent of a megabyte": [b"id", DELIMITER, b"", STATUS, b'{"a": "' + b"x" * (1 << 20) + b'"}', b"{}", IDLE],
    "a parent with many digits": [b"id", DELIMITER, b"", STATUS, b'{"msg_id": ' + b"9" * 9999 + b"}", b"{}", IDLE],
}
STRANGE: dict[str, list[bytes]] = {
    "an id that is a list": [b"id", DELIMITER, b"", STATUS, b'{"msg_id": ["1"]}', b"{}", IDLE],
    "an id that is an object": [b"id", DELIMITER, b"", STATUS, b'{"msg_id": {"1": 2}}', b"{}", IDLE],
    "no identity": [DELIMITER, b"", STATUS, b"{}", b"{}", IDLE],
    "an identity of nobody": [b"nobody", DELIMITER, b"", STATUS, b"{}", b"{}", IDLE],
    "an empty identity": [b"", DELIMITER, b"", STATUS, b"{}", b"{}", IDLE],
    "a long identity": [b"x" * 70_000, DELIMITER, b"", STATUS, b"{}", b"{}", IDLE],
    "as many parts as may be": [b"id", DELIMITER, b"", STATUS, b"{}", b"{}", IDLE, *[b""] * (frames.MAX_PARTS - 7)],
}


@pytest.mark.parametrize("channel", ["shell", "iopub", "stdin", "control"])
@pytest.mark.parametrize("parts", [*MALFORMED.values(), *STRANGE.values()], ids=[*MALFORMED, *STRANGE])
def test_rubbish_in_a_message_hurts_nobody(ends: Ends, channel: str, parts: list[bytes]) -> None:
    client, guest = ends.client(), ends.guest()
    for _ in range(3):
        guest.channels[channel].send(parts)
    assert answered(client, guest)
    guest.publish("stream", {"name": "stdout", "text": "still here"})
    while True:
        # What is a message, however strange, is passed on; subscribers ignore what they do not understand.
        assert client.sockets["iopub"].poll(DEADLINE_S * 1000)
        if b"still here" in client.sockets["iopub"].recv_multipart()[-1]:
            break
    assert ends.lost == []


def test_rubbish_is_logged_now_and_then(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    client, guest = ends.client(), ends.guest()
    for _ in range(1000):
        guest.channels["shell"].send([b"rubbish"])
    assert answered(client, guest)
    assert caplog.text.count("messages of the guest were dropped") == 10


def test_random_parts_hurt_nobody(ends: Ends) -> None:
    rng = random.Random(7)
    client, guest = ends.client(), ends.guest()
    client.request("execute_request")
    request = guest.channels["shell"].receive()
    valid = [*request[: split(request)], *guest.session.serialize(guest.session.msg("status", {"a": 1}))]
    for _ in range(2000):
        parts = list(valid)
        at = rng.randrange(len(parts))
        parts[at : at + rng.randrange(2)] = [rng.randbytes(rng.randrange(20)) for _ in range(rng.randrange(3))]
        if parts:
            guest.channels[rng.choice(["shell", "iopub", "stdin", "control"])].send(parts)
    client.request("kernel_info_request", channel="control")
    guest.reply(guest.channels["control"].receive(), {"status": "the last"}, channel="control")
    while client.sockets["control"].poll(DEADLINE_S * 1000):
        if b"the last" in client.sockets["control"].recv_multipart()[-1]:
            break
    assert client.beats()
    assert ends.lost == []


@pytest.mark.parametrize("channel", ["shell", "iopub", "stdin", "control"])
def test_rubbish_on_the_wire_ends_the_guest_and_nothing_else(ends: Ends, channel: str) -> None:
    client, guest = ends.client(), ends.guest()
    client.request("execute_request")
    guest.channels["shell"].receive()
    guest.channels[channel].ours.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    reason, fatal = ends.loss()
    assert fatal
    assert reason == f"the {channel} connection to the guest broke: not a frame: starts with b'GE'"
    assert client.beats()
    ends.board.detach(reason=reason).result(DEADLINE_S)
    assert client.receive("shell")["content"]["evalue"] == reason
    assert answered(client, ends.guest(generation=2))


def test_a_guest_that_does_not_greet(ends: Ends) -> None:
    guest = Guest()
    sockets = {channel: each.hosts for channel, each in guest.channels.items()}
    guest._attached = True
    attached = ends.board.attach(sockets, guest_key=GUEST_KEY, generation=1)
    guest.channels["iopub"].ours.sendall(b"\0" * 100)
    assert "the guest did not greet" in str(attached.exception(DEADLINE_S))
    assert "not a frame" in str(attached.exception(DEADLINE_S))
    guest.close()
    assert answered(ends.client(), ends.guest())


def test_an_interrupt_overtakes_a_flood_of_requests(ends: Ends) -> None:
    """The guest reads no more of shell; control still crosses, both ways."""
    client, guest = ends.client(), ends.guest()
    text = "x" * (1 << 20)
    for _ in range(60):
        client.request("execute_request", {"code": text})
    client.request("interrupt_request", channel="control")
    guest.reply(guest.channels["control"].receive(), {"status": "ok"}, channel="control")
    assert client.receive("control")["msg_type"] == "interrupt_reply"
    assert client.beats()


def test_an_interrupt_overtakes_a_flood_of_output(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber stands still, and the guest has filled all there is between them."""
    monkeypatch.setattr(delivery, "PATIENCE_S", DEADLINE_S)
    client, guest = ends.client(), ends.guest()
    guest.channels["iopub"].ours.setblocking(False)
    message = [b"topic", *signed([STATUS, b"{}", b"{}", bytes(1 << 20)], GUEST_KEY)]
    link = guest.channels["iopub"].link
    while link.writable:
        link.send(message)
    with pytest.raises(BlockingIOError):
        guest.channels["iopub"].flush()
    client.request("interrupt_request", channel="control")
    guest.reply(guest.channels["control"].receive(), {"status": "ok"}, channel="control")
    assert client.receive("control")["msg_type"] == "interrupt_reply"


def test_what_is_held_for_a_guest_to_come_is_bounded(ends: Ends) -> None:
    client = ends.client()
    sent = 0
    while client.sockets["shell"].poll(0, 2) and sent < 400:
        client.request("execute_request", {"code": "x" * (1 << 20)})
        sent += 1
        assert client.beats()
    assert ends.board._tunnels["shell"]._held_bytes <= tunnel.MAX_HELD_BYTES + (2 << 20)
    guest = ends.guest()
    for _ in range(min(sent, 40)):
        guest.reply(guest.channels["shell"].receive(), {"status": "ok"})
        assert client.receive("shell")["content"]["status"] == "ok"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("clients", ["none", "stuck", "stuck and good"])
def test_a_flood_of_large_outputs_takes_bounded_memory(
    ends: Ends, clients: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty times 8 MiB, as fast as they are taken."""
    monkeypatch.setattr(delivery, "PATIENCE_S", 0.5)
    monkeypatch.setattr(delivery, "LEAST_PATIENCE_S", 0.1)
    stuck = ends.client(subscribe=False)
    if "stuck" in clients:
        stuck = ends.client()
        stuck.sockets["iopub"].rcvhwm = 1
    good = ends.client() if "good" in clients else None
    guest = ends.guest()
    before = resident_bytes()
    channel = guest.channels["iopub"]
    message = [b"topic", *signed([STATUS, b"{}", b"{}", bytes(8 << 20)], GUEST_KEY)]
    link = channel.link

    def flood() -> None:
        for _ in range(60):
            while not link.writable:
                channel.pump()
            channel.send(message)

    thread = threading.Thread(target=flood)
    thread.start()
    most = 0
    received = 0
    while thread.is_alive() or (good and received < 60):
        most = max(most, resident_bytes())
        if good is None:
            thread.join(0.001)
        elif good.sockets["iopub"].poll(1):
            received += len(good.sockets["iopub"].recv_multipart()[-1]) > 1 << 20
    thread.join()
    # The sender's window and the good client's own queue are in this process too.
    assert most - before < (200 << 20 if good else 100 << 20)
    client = good or stuck
    client.request("kernel_info_request")
    guest.reply(guest.channels["shell"].receive(), {"status": "ok"})
    assert client.receive("shell")["content"]["status"] == "ok"


def test_a_guest_never_sees_the_clients_key(ends: Ends) -> None:
    client, guest = ends.client(), ends.guest()
    for kind in ("execute_request", "comm_open"):
        client.request(kind)
        parts = guest.channels["shell"].receive()
        assert all(CLIENT_KEY not in part for part in parts)
        at = split(parts)
        assert parts[at + 1] == guest.session.sign(parts[at + 2 : at + 6])
