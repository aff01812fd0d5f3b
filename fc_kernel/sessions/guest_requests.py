"""What a cell in the guest asks of the host: the magics' other end. A guest may ask only about itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import FcKernelError
from ..machine.machine import AGENT_TIMEOUT_S, Machine

if TYPE_CHECKING:
    from .session import KernelSession

log = logging.getLogger(__name__)

Text = Annotated[str, Field(max_length=2000)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Wish(_Strict):
    """The notification ``kernel.request``."""

    id: Annotated[int, Field(ge=0, lt=1 << 53)]
    instance: Annotated[int, Field(ge=0, lt=1 << 31)]
    op: Literal["snapshot", "snapshots", "restore", "fork", "vm"]
    args: dict[str, Any] = Field(default_factory=dict)
    #: The id of the request whose cell asks.
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
    "snapshot": SnapshotArgs, "snapshots": NoArgs, "restore": RestoreArgs, "fork": ForkArgs, "vm": NoArgs,
}  # fmt: skip


async def serve(session: KernelSession, machine: Machine, params: dict[str, Any]) -> None:
    """Do what the guest asks for and answer it; a restore that succeeds has nobody left to answer."""
    try:
        wish = Wish.model_validate(params)
    except ValidationError as error:
        log.warning("the guest asked for what is no request: %s", error.errors()[0]["msg"])
        return
    answer: dict[str, Any]
    try:
        args = ARGUMENTS[wish.op].model_validate(wish.args)
        answer = {"result": await _fulfil(session, wish, args)}
    except ValidationError as error:
        first = error.errors()[0]
        answer = {"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}
    except FcKernelError as error:
        answer = {"error": str(error)}
    if machine is session.machine:
        await machine.agent.call("answer", timeout_s=AGENT_TIMEOUT_S, id=wish.id, **answer)


async def _fulfil(session: KernelSession, wish: Wish, args: _Strict) -> dict[str, Any]:
    if isinstance(args, SnapshotArgs):
        taken = await session.take_snapshot(args.name, args.description)
        return {
            "role": "source",
            "snapshot": await session.branches.shown(taken.snapshot),
            "stood_still_s": round(taken.stood_still_s, 4),
            "hook_errors": list(taken.hook_errors),
        }
    if isinstance(args, RestoreArgs):
        await session.restore(args.name, same_seed=args.same_seed, asker=wish.parent)
        return {}
    if isinstance(args, ForkArgs):
        forks = await session.fork(args.count, args.name)
        return {"role": "source", "forks": [fork.to_dict() for fork in forks]}
    if wish.op == "snapshots":
        return {"snapshots": await session.branches.shown_all()}
    return session.info()
