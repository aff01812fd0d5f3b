"""The host's end of the magics: what a cell in the guest asks for. A guest may ask only about itself."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..api.calls import ForkResult
from ..base.tasks import off_loop
from ..errors import FcKernelError
from ..machine.capture import TakenSnapshot
from ..snapshots.snapshot import Snapshot
from ..snapshots.store import SnapshotStore
from ..wire import operations
from .display import snapshot_shown, snapshots_shown
from .incarnation import Incarnation

log = logging.getLogger(__name__)

Text = Annotated[str, Field(max_length=2000)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class GuestRequest(_Strict):
    """The notification ``kernel.request``."""

    id: Annotated[int, Field(ge=0, lt=1 << 53)]
    instance: Annotated[int, Field(ge=0, lt=1 << 31)]
    op: Literal["snapshot", "snapshots", "restore", "fork", "vm"]
    args: dict[str, Any] = Field(default_factory=dict)
    #: The message id of the request whose cell asks.
    parent: Annotated[str, Field(max_length=128)] | None = None


class SnapshotArgs(_Strict):
    """``%snapshot``."""

    name: Text | None = None
    description: Text = ""


class RestoreArgs(_Strict):
    """``%restore``."""

    name: Text
    same_seed: bool = False


class ForkArgs(_Strict):
    """``%fork``."""

    name: Text | None = None
    count: Annotated[int, Field(ge=1, le=1000)] = 1


class NoArgs(_Strict):
    """``%snapshots``, ``%vm``."""


ARGUMENTS: dict[str, type[_Strict]] = {
    operations.SNAPSHOT: SnapshotArgs, operations.SNAPSHOTS: NoArgs, operations.RESTORE: RestoreArgs,
    operations.FORK: ForkArgs, operations.VM: NoArgs,
}  # fmt: skip


class Asked(Protocol):
    """The kernel's session, as its own cells may use it."""

    @property
    def scope(self) -> str:
        """Where the names of its snapshots are unique."""

    @property
    def store(self) -> SnapshotStore:
        """The store of its snapshots."""

    @property
    def incarnation(self) -> Incarnation | None:
        """The present incarnation, if there is one."""

    async def take_snapshot(self, name: str | None, description: str) -> TakenSnapshot:
        """``%snapshot``."""

    async def restore(self, ref: str, *, same_seed: bool, asker: str | None) -> Snapshot:
        """``%restore``."""

    async def fork(self, count: int, name: str | None) -> list[ForkResult]:
        """``%fork``."""

    def info(self) -> dict[str, Any]:
        """``%vm``."""


async def serve(session: Asked, incarnation: Incarnation, params: dict[str, Any]) -> None:
    """Do what the guest asks for and answer it; after a successful restore the VM that asked is gone and gets no answer."""
    try:
        request = GuestRequest.model_validate(params)
    except ValidationError as error:
        log.warning("the guest sent a malformed request: %s", error.errors()[0]["msg"])
        return
    answer: dict[str, Any]
    try:
        args = ARGUMENTS[request.op].model_validate(request.args)
        answer = {"result": await _do(session, request, args)}
    except ValidationError as error:
        first = error.errors()[0]
        answer = {"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}
    except FcKernelError as error:
        answer = {"error": str(error)}
    except Exception as error:
        # Without an answer the cell would wait for ever.
        log.exception("a request of a cell failed: %s", request.op)
        answer = {"error": f"the host failed: {type(error).__name__}"}
    machine, now = incarnation.machine, session.incarnation
    if now is not None and now.machine is machine:
        await machine.agent.answer(request.id, answer)


async def _do(session: Asked, request: GuestRequest, args: _Strict) -> dict[str, Any]:
    if isinstance(args, SnapshotArgs):
        taken = await session.take_snapshot(args.name, args.description)
        return {
            "role": operations.ROLE_SOURCE,
            "snapshot": await snapshot_shown(taken.snapshot, session.store, session.incarnation),
            "paused_s": round(taken.paused_s, 4),
            "hook_errors": list(taken.hook_errors),
        }
    if isinstance(args, RestoreArgs):
        await session.restore(args.name, same_seed=args.same_seed, asker=request.parent)
        return {}
    if isinstance(args, ForkArgs):
        forks = await session.fork(args.count, args.name)
        return {"role": operations.ROLE_SOURCE, "forks": [fork.model_dump(exclude={"ticket"}) for fork in forks]}
    if request.op == operations.SNAPSHOTS:
        return {"snapshots": await snapshots_shown(session.scope, session.store, session.incarnation)}
    await off_loop(session.store.list)  # sees what other processes have renamed or removed
    return session.info()
