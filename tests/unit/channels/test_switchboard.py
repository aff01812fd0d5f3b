"""Clients on one side, a guest on the other: messages cross, are signed for each side, and get an answer when it dies."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.channels.endpoints import ClientEndpoints
from fc_kernel.channels.signing import MAX_IDENTITIES, split
from fc_kernel.channels.switchboard import Switchboard
from fc_kernel.errors import ConfigError, StateError
from fc_kernel.wire import frames

from ...waiting import eventually
from ..switchboard_ends import CLIENT_KEY, DEADLINE_S, GUEST_KEY, Client, Ends, Guest, ends_of_a_switchboard, signed


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    with ends_of_a_switchboard(tmp_path) as ends:
        yield ends


def answered(client: Client, guest: Guest) -> bool:
    """Whether a request crosses, and its reply comes back."""
    msg_id = client.request("kernel_info_request")
    guest.reply(guest.channels["shell"].receive(), {"status": "ok"})
    return client.receive("shell")["parent_header"]["msg_id"] == msg_id


def header_part(request: list[bytes]) -> bytes:
    return request[split(request) + 2]


def test_a_request_is_signed_for_the_guest_and_its_reply_for_the_client(ends: Ends) -> None:
    client, guest = ends.client(), ends.guest()
    msg_id = client.request("execute_request", {"code": "1"})
    request = guest.channels["shell"].receive()
    at = split(request)
    assert guest.session.sign(request[at + 2 : at + 6]) == request[at + 1]
    assert client.session.sign(request[at + 2 : at + 6]) != request[at + 1]
    guest.reply(request, {"status": "ok"})
    # The client's session refuses what is not signed with its key.
    reply = client.receive("shell")
    assert reply["msg_type"] == "execute_reply"
    assert reply["parent_header"]["msg_id"] == msg_id


def test_replies_go_to_whom_they_are_for(ends: Ends) -> None:
    clients, guest = [ends.client(), ends.client()], ends.guest()
    for client in clients:
        assert answered(client, guest)
    assert all(client.nothing("shell") for client in clients)


def test_output_goes_to_all(ends: Ends) -> None:
    clients, guest = [ends.client(), ends.client()], ends.guest()
    assert clients[0].receive("iopub")["msg_type"] == "iopub_welcome"
    guest.publish("stream", {"name": "stdout", "text": "hello"})
    assert [client.receive("iopub")["content"]["text"] for client in clients] == ["hello", "hello"]


def test_a_new_subscriber_is_welcomed_once_and_by_the_host(ends: Ends) -> None:
    first, guest = ends.client(), ends.guest()
    guest.publish("iopub_welcome", {"subscription": ""})
    second = ends.client()
    guest.publish("stream", {"name": "stdout", "text": "next"})
    assert second.receive("iopub")["msg_type"] == "stream"
    # The first one hears of the second's subscription too, as with a plain kernel.
    assert [first.receive("iopub")["msg_type"] for _ in range(2)] == ["iopub_welcome", "stream"]


def test_the_heartbeat_needs_no_guest(ends: Ends) -> None:
    client = ends.client()
    assert client.beats()
    guest = ends.guest()
    assert client.beats()
    guest.close()
    assert ends.loss()[1] is False
    assert client.beats()


def test_input_is_asked_for_and_given(ends: Ends) -> None:
    client, guest = ends.client(), ends.guest()
    client.request("execute_request")
    request = guest.channels["shell"].receive()
    message = guest.session.msg("input_request", {"prompt": "?"})
    guest.channels["stdin"].send([request[0], *guest.session.serialize(message)])
    assert client.receive("stdin")["content"]["prompt"] == "?"
    client.request("input_reply", {"value": "42"}, channel="stdin")
    assert b'"42"' in guest.channels["stdin"].receive()[-1]


def test_what_is_asked_before_there_is_a_guest_waits_for_it(ends: Ends) -> None:
    client = ends.client()
    asked = [client.request("execute_request", {"code": str(number)}) for number in range(50)]
    assert client.beats()
    guest = ends.guest()
    for msg_id in asked:
        request = guest.channels["shell"].receive()
        assert guest.session.sign(request[3:7]) == request[2]
        guest.reply(request, {"status": "ok"})
        assert client.receive("shell")["parent_header"]["msg_id"] == msg_id


def test_a_forged_signature_is_dropped(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    client, guest = ends.client(), ends.guest()
    forger = ends.client(key=b"guessed", subscribe=False)
    forger.request("execute_request", {"code": "evil"})
    message = client.serialized("execute_request", {"code": "good"})
    client.send([*message[:5], message[5].replace(b"good", b"evil")])
    # A message that the guest's key signs is no client's.
    client.send(guest.session.serialize(guest.session.msg("execute_request", {"code": "evil"})))
    assert answered(client, guest)
    # The forger's connection is another one, and may be slower.
    eventually(lambda: caplog.text.count("a wrong signature") >= 3, "all three are dropped")
    assert not guest.channels["shell"].messages
    assert caplog.text.count("a wrong signature") == 3


@pytest.mark.parametrize("identities", [0, 1, MAX_IDENTITIES - 1, MAX_IDENTITIES, 100])
def test_identities_up_to_the_limit(ends: Ends, identities: int) -> None:
    """The ROUTER adds the client's own; proxies add theirs."""
    client, guest = ends.client(), ends.guest()
    client.send([b"proxy"] * identities + client.serialized("execute_request"))
    if identities < MAX_IDENTITIES:
        request = guest.channels["shell"].receive()
        assert split(request) == identities + 1
        assert request[0] == client.session.bsession
    assert answered(client, guest)
    assert not guest.channels["shell"].messages


@pytest.mark.parametrize("parts", [[b""], [b"<IDS|MSG>"], [b"<IDS|MSG>"] * 3, [b"x"] * 500])
def test_what_is_no_message_of_a_client_is_dropped(ends: Ends, parts: list[bytes]) -> None:
    client, guest = ends.client(), ends.guest()
    client.send(parts)
    assert answered(client, guest)
    assert not guest.channels["shell"].messages


@pytest.mark.parametrize("kind", ["execute", "complete", "comm_msg"])
def test_a_message_over_the_limit_is_answered(ends: Ends, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, guest = ends.client(), ends.guest()
    monkeypatch.setattr(frames, "MAX_MESSAGE_BYTES", 10_000)
    is_request = kind != "comm_msg"
    msg_id = client.request(f"{kind}_request" if is_request else kind, {"code": "x" * 20_000})
    if is_request:
        reply = client.receive("shell")
        assert reply["parent_header"]["msg_id"] == msg_id
        assert reply["content"]["ename"] == "MessageTooLarge"
        assert "at most 10000" in reply["content"]["evalue"]
        kinds = [client.receive("iopub")["msg_type"] for _ in range(2 if kind == "execute" else 1)]
        assert kinds == ["error", "status"][-len(kinds) :]
    assert answered(client, guest)
    assert not guest.channels["shell"].messages


def test_a_death_answers_every_request(ends: Ends) -> None:
    client, guest = ends.client(), ends.guest()
    asked = {kind: client.request(f"{kind}_request") for kind in ("execute", "complete", "inspect")}
    asked["shutdown"] = client.request("shutdown_request", channel="control")
    for _ in range(3):
        guest.channels["shell"].receive()
    guest.channels["control"].receive()
    ends.board.detach(reason="the kernel process ended with status 3").result(DEADLINE_S)
    for kind in ("execute", "complete", "inspect"):
        reply = client.receive("shell")
        assert reply["msg_type"] == f"{kind}_reply"
        assert reply["parent_header"]["msg_id"] == asked[kind]
        assert reply["content"]["status"] == "error"
        assert reply["content"]["ename"] == "KernelDied"
        assert reply["content"]["evalue"] == "the kernel process ended with status 3"
    assert client.receive("control")["content"] == {"status": "ok", "restart": False}
    said = [client.receive("iopub") for _ in range(5)]
    by_parent = {msg_id: [m for m in said if m["parent_header"]["msg_id"] == msg_id] for msg_id in asked.values()}
    for kind, msg_id in asked.items():
        kinds = ["error", "status"] if kind == "execute" else ["status"]
        assert [message["msg_type"] for message in by_parent[msg_id]] == kinds
        assert by_parent[msg_id][-1]["content"]["execution_state"] == "idle"


def test_a_death_does_not_answer_twice(ends: Ends) -> None:
    """One request was replied to and is not idle, one is idle and was not replied to, one is done."""
    client, guest = ends.client(), ends.guest()
    requests = []
    for _ in range(3):
        client.request("execute_request")
        requests.append(guest.channels["shell"].receive())
    replied, idle, done = requests
    for request in (replied, done):
        guest.reply(request, {"status": "ok"})
        assert client.receive("shell")["content"] == {"status": "ok"}
    for request in (idle, done):
        guest.publish("status", {"execution_state": "idle"}, request)
        assert client.receive("iopub")["content"] == {"execution_state": "idle"}
    ends.board.detach(reason="gone").result(DEADLINE_S)
    assert client.receive("shell")["content"]["status"] == "error"
    assert [client.receive("iopub")["msg_type"] for _ in range(3)] == ["status", "error", "status"]
    assert client.beats()
    assert client.nothing("shell")
    assert client.nothing("iopub")


def test_requests_that_were_held_are_answered_at_a_death_too(ends: Ends) -> None:
    client = ends.client()
    client.request("execute_request")
    assert client.beats()
    ends.board.detach(reason="never came up").result(DEADLINE_S)
    assert client.receive("shell")["content"]["evalue"] == "never came up"
    guest = ends.guest(generation=2)
    assert answered(client, guest)


def test_a_request_to_shut_a_dead_kernel_down_does_not_reach_the_next_one(ends: Ends) -> None:
    client, guest = ends.client(), ends.guest()
    assert answered(client, guest)
    ends.board.detach(reason="the microVM ended").result(DEADLINE_S)
    client.request("shutdown_request", {"restart": True}, channel="control")
    assert client.receive("control")["content"] == {"status": "ok", "restart": False}
    # What else is asked waits.
    client.request("interrupt_request", channel="control")
    assert client.beats()
    following = ends.guest(generation=2)
    assert b'"interrupt_request"' in header_part(following.channels["control"].receive())
    client.request("shutdown_request", channel="control")
    assert b'"shutdown_request"' in header_part(following.channels["control"].receive())


def test_a_header_is_carried_back_unchanged(ends: Ends) -> None:
    """Also one that would not survive being parsed and written again."""
    client = ends.client()
    header = (
        json.dumps(client.session.msg("execute_request")["header"], default=str)[:-1] + ', "extra": [1.50, "\\ud83d"]}'
    )
    client.send(signed([header.encode(), b"{}", b"{}", b"{}"], CLIENT_KEY))
    assert client.beats()
    ends.board.detach(reason="gone").result(DEADLINE_S)
    assert client.sockets["shell"].poll(DEADLINE_S * 1000)
    reply = client.sockets["shell"].recv_multipart()
    assert reply[3] == header.encode()


def test_replies_of_a_discarded_past_are_dropped(ends: Ends) -> None:
    client, old = ends.client(), ends.guest()
    client.request("execute_request")
    request = old.channels["shell"].receive()
    ends.board.detach(reason="restored").result(DEADLINE_S)
    assert client.receive("shell")["content"]["ename"] == "KernelDied"
    assert old.channels["shell"].is_closed()
    with pytest.raises(OSError):
        old.reply(request, {"status": "ok"})
    new = ends.guest(generation=2)
    assert answered(client, new)
    assert client.nothing("shell")


def test_connections_that_break_lose_and_repeat_nothing(ends: Ends) -> None:
    """The same guest with the same generation carries on where it was."""
    client, guest = ends.client(), ends.guest()
    texts = []
    for number in range(6):
        guest.publish("stream", {"name": "stdout", "text": str(number)})
        msg_id = client.request("execute_request")
        links = guest.links
        if number % 2:
            guest.close()
            for link in links.values():
                link.connection_lost()
            guest = ends.guest(links=links)
        request = guest.channels["shell"].receive()
        guest.reply(request, {"status": "ok"})
        assert client.receive("shell")["parent_header"]["msg_id"] == msg_id
        texts.append(client.receive("iopub")["content"]["text"])
    assert texts == [str(number) for number in range(6)]
    assert client.nothing("iopub")
    assert client.nothing("shell")


def test_a_new_guest_replaces_the_old_ones_connections(ends: Ends) -> None:
    client, old = ends.client(), ends.guest()
    new = ends.guest(generation=2)
    assert answered(client, new)
    assert all(channel.is_closed() for channel in old.channels.values())
    assert ends.lost == []


def test_sockets_are_not_kept_when_they_cannot_be_taken(ends: Ends) -> None:
    ours, theirs = socket.socketpair()
    attached = ends.board.attach({"shell": theirs}, guest_key=GUEST_KEY, generation=1)
    assert isinstance(attached.exception(DEADLINE_S), KeyError)
    ours.settimeout(DEADLINE_S)
    while ours.recv(100):
        pass
    ours.close()
    assert answered(ends.client(), ends.guest())


def test_a_closed_switchboard(tmp_path: Path) -> None:
    board = Switchboard(ClientEndpoints(transport="ipc", ip=str(tmp_path / "k")), key=CLIENT_KEY)
    board.start()
    with pytest.raises(StateError, match="started before"):
        board.start()
    board.close()
    board.close()
    assert list(tmp_path.iterdir()) == []
    guest = Guest()
    attached = board.attach(
        {channel: each.hosts for channel, each in guest.channels.items()}, guest_key=GUEST_KEY, generation=1
    )
    assert isinstance(attached.exception(DEADLINE_S), StateError)
    guest.close()


def test_a_switchboard_that_cannot_bind(tmp_path: Path) -> None:
    board = Switchboard(ClientEndpoints(transport="ipc", ip=str(tmp_path / "no" / "k")), key=CLIENT_KEY)
    with pytest.raises(ConfigError, match="cannot listen"):
        board.start()
    board.close()
