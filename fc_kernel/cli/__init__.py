"""The command line: ``fc-kernel …``, also called as ``jupyter fc-kernel …``."""

from __future__ import annotations

from .app import FcKernelApp

__all__ = ["FcKernelApp", "main"]


def main() -> None:
    """Entry point of both console scripts; exits with 0 (done), 1 (one clear line on stderr) or 2 (usage)."""
    FcKernelApp.launch_instance()
