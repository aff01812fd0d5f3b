"""Taking a snapshot of a kernel: the VM is saved into a draft in the store, which is then published."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping

from ..base.tasks import off_loop
from ..errors import SnapshotError
from ..machine import capture
from ..machine.agent_client import Frozen
from ..snapshots.draft import Draft
from ..snapshots.manifest import ManifestDraft
from ..snapshots.store import SnapshotStore
from ..supply.templates import manifest_of
from .incarnation import Incarnation


async def take(
    running: Callable[[], Incarnation],
    store: SnapshotStore,
    *,
    name: str | None,
    description: str,
    notebook: bytes | None,
    scope: str,
    labels: Mapping[str, str],
    on_resumed: Callable[[], Awaitable[None]],
) -> capture.TakenSnapshot:
    """Save the VM of a kernel as it is now; the caller holds the session's lock.

    ``running`` returns the incarnation, or raises when none runs any more. ``on_resumed`` is awaited when the kernel runs
    again, before the snapshot is written. Raises :class:`~fc_kernel.errors.FcKernelError`; then nothing was saved.
    """
    machine = running().machine
    if machine.keeps_data:
        raise SnapshotError("this VM has a writable drive of its own, which a snapshot cannot hold; make it read-only")
    begin = functools.partial(store.begin, name=name, scope=scope, expected_bytes=capture.expected_bytes(machine))
    async with await off_loop(begin, undo=Draft.discard) as draft:
        # The store may have taken its time, and the kernel may have ended.
        incarnation = running()
        describe = functools.partial(_describe, incarnation, description=description, labels=labels)
        return await capture.take(incarnation.machine, draft, describe, notebook=notebook, on_resumed=on_resumed)


def _describe(
    incarnation: Incarnation, frozen: Frozen, *, description: str, labels: Mapping[str, str]
) -> ManifestDraft:
    """What the manifest says of the VM and of the kernel that is frozen in it."""
    base, current = incarnation.machine.origin.base, incarnation.machine.origin.current
    return manifest_of(incarnation.machine).model_copy(
        update={
            "description": description,
            "parent": None if current is None else current.id,
            "notebook": labels.get("notebook"),
            "kernel_id": labels.get("kernel_id", ""),
            "generation": incarnation.generation,
            "template_key": "" if base is None else base.manifest.template_key,
            "kernel": capture.kernel_state(frozen, incarnation.key),
        }
    )
