"""What runs in the kernel's process in the guest; there this package is called ``fc_kernel``, and is all there is of it."""

from __future__ import annotations

from .hooks import on_restore, on_snapshot

__all__ = ["on_restore", "on_snapshot"]
