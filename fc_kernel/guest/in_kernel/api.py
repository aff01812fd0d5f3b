"""Requests to the host, as functions. Each raises ``RequestError``, whose one line says why the host refused.

A cell that takes a snapshot, or forks, continues after the call only in the VM that keeps running. In a VM that comes from the
snapshot the cell ends at the call, because the rest of it has run already.
"""

from __future__ import annotations

from typing import Any, NoReturn, Optional

from fc_kernel.wire import operations

from . import requests
from .answers import Fork, Forks, MicroVm, Snapshot, Snapshots
from .requests import RequestError, request


def snapshot(name: Optional[str] = None, message: str = "") -> Snapshot:
    """Save the whole VM as it is now, and continue; without a name the snapshot gets the next of s1, s2, …"""
    answer = request(operations.SNAPSHOT, name=name, description=message)
    taken = Snapshot.of(answer["snapshot"])
    taken.hook_errors = [str(error) for error in answer.get("hook_errors", ())]
    paused_s = answer.get("paused_s")
    taken.paused_s = float(paused_s) if isinstance(paused_s, (int, float)) else requests.last_pause_s
    return taken


def snapshots(timeout_s: Optional[float] = None) -> Snapshots:
    """The snapshots that can be restored here, oldest first."""
    return Snapshots(Snapshot.of(each) for each in request(operations.SNAPSHOTS, timeout_s=timeout_s)["snapshots"])


def restore(name: str, *, same_seed: bool = False) -> NoReturn:
    """Return to a snapshot: this session is then as it was. ``same_seed`` repeats the random numbers that followed it."""
    request(operations.RESTORE, name=name, same_seed=same_seed)
    raise RequestError("the host answered, but restored nothing")


def fork(name: Optional[str] = None, count: int = 1) -> Forks:
    """Start ``count`` new kernels from the present state of this one."""
    if count < 1:
        raise RequestError(f"the number of kernels must be at least 1, not {count}")
    return Forks(Fork.of(each) for each in request(operations.FORK, name=name, count=count)["forks"])


def vm() -> MicroVm:
    """Facts about the VM that this kernel runs in; a ``dict``."""
    answer: dict[str, Any] = request(operations.VM)
    return MicroVm(answer)
