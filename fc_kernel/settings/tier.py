"""The tiers of isolation."""

from __future__ import annotations

from enum import StrEnum


class Tier(StrEnum):
    """What isolation a running VM really gives; computed from the running process, never from configuration."""

    JAILED = "jailed"
    KVM = "kvm"
    EMULATED = "emulated"
    NONE = "none"

    @property
    def rank(self) -> int:
        """Higher is stronger; ``none`` is 0."""
        return {"none": 0, "emulated": 1, "kvm": 2, "jailed": 3}[self.value]
