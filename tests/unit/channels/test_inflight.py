"""Which requests wait: until their reply and their idle status have come, in either order, or their kernel is dead."""

from __future__ import annotations

from typing import Any

import pytest

from fc_kernel.channels import inflight
from fc_kernel.channels.inflight import InFlight, Request, request_of


def request(msg_id: str, kind: str = "execute", channel: str = "shell") -> Request:
    header = {"msg_id": msg_id, "msg_type": f"{kind}_request"}
    made = request_of(channel, [b"client"], header, b"raw")
    assert made is not None
    return made


def test_a_request_is_kept_as_it_came() -> None:
    assert request("1", "inspect", "control") == Request("control", [b"client"], "1", "inspect", b"raw")


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"msg_id": "1"},
        {"msg_id": "1", "msg_type": "comm_msg"},
        {"msg_id": "1", "msg_type": "execute_reply"},
        {"msg_id": 1, "msg_type": "execute_request"},
        {"msg_id": ["1"], "msg_type": "execute_request"},
        {"msg_id": "1", "msg_type": {"execute_request": 1}},
    ],
)
def test_what_expects_no_reply(header: dict[str, Any]) -> None:
    assert request_of("shell", [], header, b"") is None


@pytest.mark.parametrize("order", [("replied", "idle"), ("idle", "replied")])
def test_a_request_waits_for_both(order: tuple[str, str]) -> None:
    waiting = InFlight()
    waiting.sent(request("1"))
    for what in order:
        assert len(waiting) == 1
        getattr(waiting, what)({"msg_id": "1"})
        getattr(waiting, what)({"msg_id": "1"})
    assert len(waiting) == 0
    assert waiting.take_all() == []


@pytest.mark.parametrize("msg_id", [None, 1, "2", ["1"], {"1": 1}, True])
def test_a_guest_may_name_any_parent(msg_id: object) -> None:
    waiting = InFlight()
    waiting.sent(request("1"))
    for parent in ({"msg_id": msg_id}, {}):
        waiting.replied(parent)
        waiting.idle(parent)
    assert [each.msg_id for each in waiting.take_all()] == ["1"]


def test_all_are_taken_once_and_oldest_first() -> None:
    waiting = InFlight()
    for number in range(5):
        waiting.sent(request(str(number)))
    waiting.replied({"msg_id": "3"})
    taken = waiting.take_all()
    assert [each.msg_id for each in taken] == ["0", "1", "2", "3", "4"]
    assert [each.replied for each in taken] == [False, False, False, True, False]
    assert waiting.take_all() == []


def test_over_the_limit_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "MAX_REQUESTS", 3)
    waiting = InFlight()
    for number in range(5):
        waiting.sent(request(str(number)))
    assert [each.msg_id for each in waiting.take_all()] == ["2", "3", "4"]
