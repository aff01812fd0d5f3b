"""Settings from ``FC_KERNEL_*`` variables, and from the ``KERNEL_FC_*`` that gateways forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import SpecError
from .resolve import Source

SOURCE_NAME = "environment"
PREFIXES = ("KERNEL_FC_", "FC_KERNEL_")
#: A variable's name without its prefix, and the type of its value.
SETTINGS: Mapping[str, type] = {
    "VCPU_COUNT": int,
    "MEM_SIZE_MIB": int,
    "IMAGE": str,
    "MONITOR": str,
    "MINIMUM_TIER": str,
    "NETWORK": str,
    "START_TIMEOUT_S": float,
}


def environment_source(environ: Mapping[str, str], *, trusted: bool, name: str = SOURCE_NAME) -> Source:
    """The settings in ``environ``; ``trusted`` when it is the server's own environment, not a request's.

    Raises :class:`~fc_kernel.errors.SpecError` for text that is not a number where one is needed.
    """
    values: dict[str, Any] = {}
    for prefix in PREFIXES:
        for setting, kind in SETTINGS.items():
            text = environ.get(prefix + setting)
            if not text:
                continue
            try:
                values[setting.lower()] = kind(text)
            except ValueError:
                raise SpecError(prefix + setting, text, "a number", source=name) from None
    return Source(name, values, trusted)
