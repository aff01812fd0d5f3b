"""A host to which only bytes get through: every argument, answer, error and event is encoded and decoded again.

So the host could as well be in another process. Byte streams are passed on directly, as separate connections would be.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from fc_kernel.api.calls import ForkClaim
from fc_kernel.api.events import EVENT, Event
from fc_kernel.api.failures import crossing, error_of
from fc_kernel.api.models import Failure, Snapshot
from fc_kernel.errors import FcKernelError
from fc_kernel.host.current import hosts
from fc_kernel.host.service import ByteStream, KernelHost


def through(adapter: TypeAdapter[Any], value: Any) -> Any:
    """The value as it is on the other side."""
    data = adapter.dump_json(value, by_alias=True)
    assert isinstance(data, bytes)
    return adapter.validate_json(data)


def failed(error: FcKernelError) -> FcKernelError:
    """The error as it is on the other side."""
    return error_of(Failure.model_validate_json(crossing(error).model_dump_json()))


def encoded(name: str) -> Callable[..., Any]:
    """A call of :class:`KernelHost` that goes through bytes."""
    method = getattr(KernelHost, name)
    hints = get_type_hints(method)
    answer = TypeAdapter(hints.pop("return"))
    arguments = {each: TypeAdapter(hint) for each, hint in hints.items()}
    signature = inspect.signature(method)

    async def call(self: EncodedHost, *words: Any, **options: Any) -> Any:
        given = signature.bind(self, *words, **options).arguments
        sent = {each: through(arguments[each], value) for each, value in given.items() if each != "self"}
        positional = [sent.pop(each) for each, spec in signature.parameters.items()
                      if each in sent and spec.kind is not spec.KEYWORD_ONLY]  # fmt: skip
        try:
            result = await getattr(self.inner, name)(*positional, **sent)
        except FcKernelError as error:
            raise failed(error) from None
        return through(answer, result)

    return call


class _Wall(KernelHost):
    """What is not a call with an answer."""

    def __init__(self, inner: KernelHost) -> None:
        self.inner = inner

    @contextlib.asynccontextmanager
    async def events(self, *, forks: ForkClaim = "none") -> AsyncIterator[AsyncIterator[Event]]:
        async with self.inner.events(forks=forks) as events:
            yield self._encoded(events)

    async def _encoded(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        try:
            async for event in events:
                yield EVENT.validate_json(EVENT.dump_json(event))
        except FcKernelError as error:
            raise failed(error) from None

    async def export_snapshot(self, snapshot_id: str) -> tuple[int, ByteStream]:
        try:
            return await self.inner.export_snapshot(snapshot_id)
        except FcKernelError as error:
            raise failed(error) from None

    async def import_snapshot(self, content: ByteStream, *, scope: str | None, name: str | None = None) -> Snapshot:
        try:
            made = await self.inner.import_snapshot(content, scope=scope, name=name)
        except FcKernelError as error:
            raise failed(error) from None
        return Snapshot.model_validate_json(made.model_dump_json())


CALLS = sorted(name for name in KernelHost.__abstractmethods__ if name not in vars(_Wall))
EncodedHost: Any = type("EncodedHost", (_Wall,), {name: encoded(name) for name in CALLS})


@contextlib.contextmanager
def behind_the_wall() -> Iterator[None]:
    """All hosts of this process are behind the wall, for kernels that are opened meanwhile."""
    hosts().use(lambda tenant: EncodedHost(hosts().local(tenant)))
    try:
        yield
    finally:
        hosts().use(None)
