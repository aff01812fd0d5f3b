"""Renewing what a process must not keep when its VM was copied: key, identity, environment, state of random generators."""

from __future__ import annotations

import os
import sys
from typing import Any

#: Bytes of fresh randomness for each generator; more than any of them holds in entropy.
SEED_BYTES = 32
#: The state of numpy's legacy generator.
MT19937_WORDS = 624


def renew(session: Any, orders: dict[str, Any]) -> list[str]:
    """Carry out what the agent orders after a restore: ``key``, ``env``, ``cwd``, ``reseed``. Returns what went wrong.

    ``session`` is the kernel's ``jupyter_client`` session. The new key comes first: what clients had sent to the VM
    that was copied is signed with the old key, and is dropped.
    """
    remarks: list[str] = []
    if session is not None and orders.get("key"):
        session.key = str(orders["key"]).encode()
        # Message IDs begin with it: without a new one, IDs that clients have already seen would be used again.
        session.session = os.urandom(16).hex()
    os.environ.update({str(name): str(value) for name, value in (orders.get("env") or {}).items()})
    if cwd := orders.get("cwd"):
        try:
            os.chdir(str(cwd))
        except OSError as error:
            remarks.append(f"could not change to the working directory {cwd}: {error.strerror}")
    _forget_names()
    if orders.get("reseed", True):
        remarks += reseed()
    return remarks


def _forget_names() -> None:
    """Forget two cached things: the generator of temporary file names, and the host name."""
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None  # type: ignore[attr-defined]
    platform = sys.modules.get("platform")
    if platform is not None:
        platform._uname_cache = None  # type: ignore[attr-defined]


def reseed() -> list[str]:
    """Reseed the global generators that are loaded; returns those that failed. The user's own generators are not found."""
    remarks = []
    for name, seed in _GENERATORS.items():
        module = sys.modules.get(name)
        if module is None:
            continue
        try:
            seed(module)
        except Exception as error:  # noqa: BLE001 - it may be any version, or a user's own module of that name
            remarks.append(f"{name} could not be reseeded: {type(error).__name__}: {error}")
    return remarks


def _random(module: Any) -> None:
    # As a number: bytes would first be hashed, by code that an emulator would have to translate before the first cell.
    module.seed(int.from_bytes(os.urandom(SEED_BYTES), "little"))


def _ssl(module: Any) -> None:
    module.RAND_add(os.urandom(SEED_BYTES), float(SEED_BYTES))


def _numpy(module: Any) -> None:
    numpy = sys.modules["numpy"]
    try:
        # Setting the whole state is faster than seeding it from an array.
        module.set_state(("MT19937", numpy.frombuffer(os.urandom(4 * MT19937_WORDS), numpy.uint32), MT19937_WORDS))
    except (ValueError, TypeError):  # the user has put another kind of generator there
        module.seed([int.from_bytes(os.urandom(4), "little") for _ in range(SEED_BYTES // 4)])


def _torch(module: Any) -> None:
    # Also the generators of devices, once they are in use.
    module.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)


_GENERATORS = {"random": _random, "ssl": _ssl, "numpy.random": _numpy, "torch": _torch}
