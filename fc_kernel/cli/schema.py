"""``fc-kernel schema``."""

from __future__ import annotations

from ..settings.kernel_settings import json_schema
from .command import Command


class SchemaCommand(Command):
    """Print the JSON Schema of ``metadata.fc_kernel``, of a profile's config and of the FC_KERNEL_* settings."""

    description = __doc__
    command_word = "schema"

    def run(self) -> None:
        """Print the schema."""
        self.print_json(json_schema())
