"""Hooks: the user's functions that run before a snapshot and after a restore, on the main thread, in the order in which they
were registered.

    @fc_kernel.on_restore
    def reconnect(): ...

    fc_kernel.on_restore.remove(reconnect)
"""

from __future__ import annotations

from typing import Callable, TypeVar

Hook = TypeVar("Hook", bound=Callable[[], object])

#: The length of a hook's error in the host's log and in the user's cell.
MAX_ERROR_CHARS = 500


class Hooks:
    """A list of functions. Calling it with a function registers that function and returns it, so it works as a decorator."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._hooks: list[Callable[[], object]] = []

    def __call__(self, hook: Hook) -> Hook:
        """Register ``hook``; a second time changes nothing."""
        if not callable(hook):
            raise TypeError(f"fc_kernel.{self.name} takes a function, not {hook!r}")
        if hook not in self._hooks:
            self._hooks.append(hook)
        return hook

    def remove(self, hook: Callable[[], object]) -> None:
        """Unregister ``hook``; nothing happens if it is not registered."""
        if hook in self._hooks:
            self._hooks.remove(hook)

    def __len__(self) -> int:
        return len(self._hooks)

    def run(self) -> list[str]:
        """Run all hooks; an error in one does not stop the others. Returns the errors, one line each."""
        return [error for hook in list(self._hooks) if (error := self._error_of(hook))]

    def _error_of(self, hook: Callable[[], object]) -> str:
        try:
            hook()
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - a hook may raise anything
            name = getattr(hook, "__qualname__", repr(hook))
            line = " ".join(f"{self.name} {name}: {type(error).__name__}: {error}".split())
            return line[:MAX_ERROR_CHARS]
        return ""

    def __repr__(self) -> str:
        return f"<fc_kernel.{self.name}: {len(self._hooks)} registered>"


on_snapshot = Hooks("on_snapshot")
on_restore = Hooks("on_restore")
