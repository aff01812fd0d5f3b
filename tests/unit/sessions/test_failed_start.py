"""A start that fails, and whose machine does not end in order either."""

from __future__ import annotations

import pytest

from fc_kernel.base.paths import runtime_dir
from fc_kernel.machine.machine import Machine
from fc_kernel.sessions.phases import Phase
from fc_kernel.vmm.journal import list_entries

from .test_session import Kernel


async def test_the_next_start_finds_nothing_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = await Kernel().open()
    aclose = Machine.aclose

    async def not_in_order(machine: Machine) -> None:
        await aclose(machine)
        raise OSError(5, "Input/output error")

    try:
        with monkeypatch.context() as broken:
            broken.setattr(Machine, "aclose", not_in_order)
            with pytest.raises(OSError, match="Input/output error"):
                await kernel.start(argv=["/no/such/program"])
        assert kernel.session.phase is Phase.EMPTY
        assert list_entries(runtime_dir()) == []
        await kernel.start()
        assert await kernel.evaluate("6 * 7") == "42"
    finally:
        await kernel.close()
