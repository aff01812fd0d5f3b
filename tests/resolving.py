"""The settings of a start from all sources: what a client gathers, resolved as its host does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.resolve import Resolved
from fc_kernel.settings.sources import notebook_settings, requested_settings
from fc_kernel.settings.sources import resolve_settings as resolve_on_the_host


async def resolve_settings(
    config: FcKernelConfig,
    *,
    profile: Any,
    environ: Mapping[str, str],
    cwd: Any = None,
    contents_manager: Any = None,
    notebook: Any = None,
    call: Any = None,
) -> Resolved:
    """As the provisioner and the host do it together."""
    if notebook is None:
        notebook = await notebook_settings(environ, cwd, contents_manager)
    return resolve_on_the_host(
        config, profile=profile, requested=requested_settings(environ), notebook=notebook, call=call
    )
