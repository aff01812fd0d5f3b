"""What a guest tells before it is known whose its machine is: kept, and not without limit."""

from __future__ import annotations

import contextlib
from typing import Any

from fc_kernel.machine.machine import MAX_UNHEARD, Machine, Origin


async def test_it_is_heard_later() -> None:
    machine = Machine(None, contextlib.AsyncExitStack(), Origin("snapshot"), None)  # type: ignore[arg-type]
    heard: list[tuple[str, dict[str, Any]]] = []
    for number in range(2 * MAX_UNHEARD):
        machine._notified("kernel.exited", {"instance": number})
    machine.listen(lambda method, params: heard.append((method, params)))
    assert heard == [("kernel.exited", {"instance": number}) for number in range(MAX_UNHEARD)]
    machine._notified("kernel.request", {})
    assert heard.pop() == ("kernel.request", {})
    machine.listen(None)
    machine._notified("kernel.request", {"id": 1})
    assert len(heard) == MAX_UNHEARD
    machine.listen(lambda method, params: heard.append((method, params)))
    assert heard[MAX_UNHEARD:] == [("kernel.request", {"id": 1})]
