"""Renewal refuses to go on without entropy."""

from __future__ import annotations

from typing import Any

import pytest

from fc_kernel.guest.control import RpcError
from fc_kernel.guest.freeze import KernelFreeze
from fc_kernel.guest.loop import Loop
from fc_kernel.wire.methods import ENTROPY_REFUSED


class Refusing:
    """A machine whose kernel takes no entropy."""

    def __init__(self) -> None:
        self.changed: list[str] = []

    def add_entropy(self, seed: bytes) -> None:
        raise OSError(1, "Operation not permitted")

    def set_clock(self, now: float) -> None:
        self.changed.append("clock")

    def set_names(self, hostname: str, machine_id: str) -> None:
        self.changed.append("names")


def test_without_entropy_nothing_goes_on() -> None:
    machine = Refusing()
    answers: list[Any] = []
    freeze = KernelFreeze(Loop(), [], lambda _method, _params: True, machine=machine, is_init=False)
    params = {"role": "fork", "name": "s1", "key": "k", "entropy_b64": "QUFB", "time": 0.0, "hostname": "h"}
    params.update(generation=2, env={}, reseed=True)
    with pytest.raises(RpcError, match="refused the entropy") as refused:
        freeze.renew({**params, "machine_id": "m"}, answers.append)
    assert refused.value.code == ENTROPY_REFUSED
    assert (machine.changed, answers) == ([], [])
