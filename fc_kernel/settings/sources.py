"""Everything that has a say in a kernel's settings, in order, and the environment that its guest may see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .config import FcKernelConfig
from .environment import PREFIXES, environment_source
from .notebook import SOURCE_NAME, notebook_source
from .resolve import Resolved, Source, resolve

#: What the guest may see of the server's environment: the session's name, the time zone, and what is meant for the guest.
#: Not the locale: the guest has its own.
GUEST_NAMES = frozenset({"JPY_SESSION_NAME", "TZ"})
GUEST_PREFIX = "FC_GUEST_"
#: Variables with these words in their names stay on the server, whatever a kernelspec says.
NEVER = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
#: A secret has at least this many characters; a shorter text occurs in many values by chance.
LEAST_SECRET_LENGTH = 8


def guest_environment(environ: Mapping[str, str], kernelspec_env: Mapping[str, str]) -> dict[str, str]:
    """The part of ``environ`` that the guest may see: an allow-list, and what the kernelspec sets by name.

    A kernelspec's values may name other variables (``${JUPYTERHUB_API_TOKEN}``), so a value that holds a secret is left
    out, too, whatever the variable is called.
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


def requested_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings in a request's environment that differ from the server's own: whoever sent the request chose them."""
    return {
        name: value for name, value in environ.items() if name.startswith(PREFIXES) and os.environ.get(name) != value
    }


async def notebook_settings(
    environ: Mapping[str, str], cwd: str | os.PathLike[str] | None = None, contents_manager: Any = None
) -> Mapping[str, Any] | None:
    """``metadata.fc_kernel`` of the notebook that a kernel is started for, read where the user's files are.

    Raises :class:`~fc_kernel.errors.SpecError` when it is not an object.
    """
    found = await notebook_source(environ, cwd, contents_manager)
    return None if found is None else found.values


def resolve_settings(
    config: FcKernelConfig, *, profile: Any, requested: Mapping[str, str], notebook: Any = None, call: Any = None
) -> Resolved:
    """Merge all sources in order (later ones win) and apply the limits.

    ``profile`` is the kernelspec's ``config``, ``requested`` what :func:`requested_settings` gave, ``notebook`` a notebook's
    ``metadata.fc_kernel``, ``call`` what the caller of ``start_kernel`` gave as ``fc_kernel``. The ``FC_KERNEL_*`` of this
    process are the administrator's and trusted; those of a request are not. Raises :class:`~fc_kernel.errors.SpecError` and
    :class:`~fc_kernel.errors.ConfigError`.
    """
    sources = [
        config.as_source(),
        Source("kernelspec", profile if profile is not None else {}),
        environment_source(requested, trusted=False, name="request"),
        environment_source(os.environ, trusted=True),
    ]
    if notebook is not None:
        sources.append(Source(SOURCE_NAME, notebook))
    if call is not None:
        sources.append(Source("call", call))
    return resolve(sources, config.limits())
