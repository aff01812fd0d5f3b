"""What the host is asked for, as functions. Each raises ``RequestError`` with one line that says why not.

A cell that takes a snapshot, or forks, goes on after the call only in the machine that runs on; in the machine that comes from
the snapshot it ends at the call, for it has been executed already.
"""

from __future__ import annotations

from typing import Any, NoReturn, Optional

from fc_kernel.wire import operations

from . import requests
from .answers import Fork, Forks, Machine, Snapshot, Snapshots
from .requests import RequestError, request


def snapshot(name: Optional[str] = None, message: str = "") -> Snapshot:
    """Keep the whole machine as it is now, and go on; without a name it gets the next of s1, s2, …"""
    answer = request(operations.SNAPSHOT, name=name, description=message)
    taken = Snapshot.of(answer["snapshot"])
    taken.hook_errors = [str(error) for error in answer.get("hook_errors", ())]
    still_s = answer.get("stood_still_s")
    taken.stood_still_s = float(still_s) if isinstance(still_s, (int, float)) else requests.last_standstill_s
    return taken


def snapshots(timeout_s: Optional[float] = None) -> Snapshots:
    """What can be restored here, oldest first."""
    return Snapshots(Snapshot.of(each) for each in request(operations.SNAPSHOTS, timeout_s=timeout_s)["snapshots"])


def restore(name: str, *, same_seed: bool = False) -> NoReturn:
    """Go back to a snapshot: this very session is then as it was. ``same_seed`` repeats its random numbers."""
    request(operations.RESTORE, name=name, same_seed=same_seed)
    raise RequestError("the host answered, but restored nothing")


def fork(name: Optional[str] = None, count: int = 1) -> Forks:
    """So many new kernels that begin where this one is."""
    if count < 1:
        raise RequestError(f"a number of kernels from 1, not {count}")
    return Forks(Fork.of(each) for each in request(operations.FORK, name=name, count=count)["forks"])


def vm() -> Machine:
    """What this kernel runs on; a ``dict``."""
    answer: dict[str, Any] = request(operations.VM)
    return Machine(answer)
