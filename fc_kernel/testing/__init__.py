"""For tests, ours and other projects': a monitor without virtualisation, and the suite that every monitor passes.

A guest under test gets this file too, so its exports are imported only when they are used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .conformance import check_vmm
    from .fake_vmm import FakeVmm

__all__ = ["FakeVmm", "check_vmm"]


def __getattr__(name: str) -> object:
    """Import an export when it is first used (PEP 562)."""
    if name == "FakeVmm":
        from .fake_vmm import FakeVmm

        return FakeVmm
    if name == "check_vmm":
        from .conformance import check_vmm

        return check_vmm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
