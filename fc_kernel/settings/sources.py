"""Everything that has a say in a kernel's settings, in order, and the environment that its guest may see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .config import FcKernelConfig
from .environment import PREFIXES, environment_source
from .notebook import SOURCE_NAME, notebook_source
from .resolve import Resolved, Source, resolve

#: What of the server's environment the guest may see: the session's name, the time zone, and what was meant for it.
#: Locales are not: the guest has its own.
GUEST_NAMES = frozenset({"JPY_SESSION_NAME", "TZ"})
GUEST_PREFIX = "FC_GUEST_"
#: Whatever a kernelspec says, these are the server's own and stay there.
NEVER = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
#: A secret is at least so long; a shorter text is in many values by chance.
LEAST_SECRET_LENGTH = 8


def guest_environment(environ: Mapping[str, str], kernelspec_env: Mapping[str, str]) -> dict[str, str]:
    """The part of ``environ`` that the guest may see: an allow-list, and what the kernelspec sets by name.

    A kernelspec's values may name other variables (``${JUPYTERHUB_API_TOKEN}``), so a value that holds a secret stays here,
    too, whatever the variable is called.
    """
    secrets = {value for name, value in environ.items() if _is_secret(name) and len(value) >= LEAST_SECRET_LENGTH}
    shown = {
        name: value
        for name, value in environ.items()
        if name in GUEST_NAMES or name.startswith(GUEST_PREFIX) or name in kernelspec_env
    }
    return {
        name: value
        for name, value in shown.items()
        if not (
            name.startswith(("JUPYTER", "JPY_API")) or _is_secret(name) or any(secret in value for secret in secrets)
        )
    }


def _is_secret(name: str) -> bool:
    return any(word in name.upper() for word in NEVER)


async def resolve_settings(
    config: FcKernelConfig,
    *,
    profile: Mapping[str, Any],
    environ: Mapping[str, str],
    cwd: Any = None,
    contents_manager: Any = None,
    notebook: Mapping[str, Any] | None = None,
    call: Mapping[str, Any] | None = None,
) -> Resolved:
    """Ask all sources in order, the later wins, and apply the limits.

    ``profile`` is the kernelspec's ``config``, ``notebook`` a notebook's ``metadata.fc_kernel`` where the caller has read
    it (else it is looked for), ``call`` what the caller of ``start_kernel`` gave as ``fc_kernel``. The
    server's own ``FC_KERNEL_*`` are the administrator's word; those in a request are not. Raises
    :class:`~fc_kernel.errors.SpecError` and :class:`~fc_kernel.errors.ConfigError`.
    """
    sources = [config.as_source(), Source("kernelspec", profile)]
    requested = {
        name: value for name, value in environ.items() if name.startswith(PREFIXES) and os.environ.get(name) != value
    }
    sources.append(environment_source(requested, trusted=False, name="request"))
    sources.append(environment_source(os.environ, trusted=True))
    found = await notebook_source({**environ}, cwd, contents_manager) if notebook is None else None
    if notebook is not None:
        sources.append(Source(SOURCE_NAME, notebook))
    elif found is not None:
        sources.append(found)
    if call is not None:
        sources.append(Source("call", call))
    return resolve(sources, config.limits())
