"""``python -m fc_kernel.launcher -f CONNECTION_FILE``: a microVM for clients that ignore provisioners and run ``argv``.

The launcher is to its client what a kernel process would be: it serves the connection file's endpoints at once and
holds requests until the guest is up; SIGINT interrupts the kernel, SIGTERM ends it; its exit status is the kernel's; and
it ends when the program that started it does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from pathlib import Path
from types import FrameType
from typing import Any

from traitlets.config import Config

from .base.paths import RunDir, new_vm_id
from .channels.endpoints import CHANNELS, ClientEndpoints
from .errors import ConfigError, FcKernelError
from .host.engine import Engine
from .machine.start import KernelRequest
from .settings.config import load_config
from .settings.sources import guest_environment, resolve_settings
from .settings.tenant import Tenant

MAX_CONNECTION_FILE_BYTES = 64 << 10
#: A shell's convention for a process that a signal ended.
SIGNALLED = 128
#: How often the main thread looks up from its wait: Python runs signal handlers only there.
LOOK_EVERY_S = 0.2


def read_connection_file(path: str) -> dict[str, Any]:
    """The connection file's content; raises :class:`~fc_kernel.errors.ConfigError` that says what is wrong with it."""
    try:
        with Path(path).open("rb") as file:
            info = json.loads(file.read(MAX_CONNECTION_FILE_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the connection file {path!r}: {error}") from error
    if not isinstance(info, dict):
        raise ConfigError(f"the connection file {path!r} holds no JSON object")

    def text(name: str) -> str | None:
        value = info.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise ConfigError(f"the connection file {path!r}: {name} is {value!r:.40}; allowed: a string")
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ConfigError(
                f"the connection file {path!r}: {name} has characters that are none; allowed: Unicode, no NUL"
            )
        return value

    ports = {}
    for channel in CHANNELS:
        port = info.get(f"{channel}_port")
        if type(port) is not int or not 0 < port < 1 << 16:
            raise ConfigError(f"the connection file {path!r}: {channel}_port is {port!r:.40}; allowed: 1 to 65535")
        ports[channel] = port
    transport = text("transport") or "tcp"
    if transport not in ("tcp", "ipc"):
        raise ConfigError(f"the connection file {path!r}: transport is {transport!r:.40}; allowed: tcp, ipc")
    curve = {name: text(name) or None for name in ("curve_publickey", "curve_secretkey")}
    if None in curve.values() and any(curve.values()):
        # With half of a pair the sockets would be open to all, and nobody would notice.
        raise ConfigError(f"the connection file {path!r} has one of curve_publickey and curve_secretkey; allowed: both")
    return {
        "ports": ports,
        "transport": transport,
        "ip": text("ip") or ("127.0.0.1" if transport == "tcp" else "kernel-ipc"),
        "key": text("key") or "",
        "signature_scheme": text("signature_scheme") or "hmac-sha256",
        "kernel_name": text("kernel_name") or "",
        **curve,
    }


@contextlib.contextmanager
def endpoints_of(info: Mapping[str, Any], endpoint_dir: Path) -> Iterator[ClientEndpoints]:
    """The endpoints that a connection file names.

    ``ipc`` sockets are made in the private ``endpoint_dir``; where the file says there are links to them, for the time
    of the context.
    """
    public, secret = info["curve_publickey"], info["curve_secretkey"]
    curve = {
        "curve_publickey": public.encode() if public else None,
        "curve_secretkey": secret.encode() if secret else None,
    }
    if info["transport"] == "tcp":
        yield ClientEndpoints(transport="tcp", ip=info["ip"], ports=info["ports"], **curve)
        return
    with contextlib.ExitStack() as links:
        for port in info["ports"].values():
            link = Path(f"{info['ip']}-{port}")
            try:
                link.symlink_to(endpoint_dir / f"k-{port}")
            except OSError as error:
                raise ConfigError(f"cannot make the socket {str(link)!r}: {error.strerror}") from error
            links.callback(link.unlink, missing_ok=True)
        yield ClientEndpoints(transport="ipc", ip=str(endpoint_dir / "k"), ports=info["ports"], **curve)


async def serve(
    info: Mapping[str, Any], engine: Engine, settings: Mapping[str, Any], on_signals: Callable[[dict[int, Any]], None]
) -> int:
    """Serve one kernel until it ends; returns its exit status. Runs on the engine's loop.

    ``on_signals`` is given what to do, on the loop, at a signal. Raises :class:`~fc_kernel.errors.FcKernelError`.
    """
    config = load_config(Config())
    resolved = await resolve_settings(config, profile={}, environ=os.environ, cwd=Path.cwd(), call=settings)
    request = KernelRequest(resolved=resolved, argv=resolved.argv, env=guest_environment(os.environ, {}))
    loop = asyncio.get_running_loop()
    serving = asyncio.current_task()
    assert serving is not None  # noqa: S101 - this is a coroutine
    signals: set[asyncio.Task[None]] = set()

    async with contextlib.AsyncExitStack() as stack:
        tenant = Tenant.of_this_process(config)
        endpoint_dir = RunDir.create(tenant.run_dir, new_vm_id())
        stack.callback(endpoint_dir.remove)
        session = engine.open(
            tenant,
            stack.enter_context(endpoints_of(info, endpoint_dir.path)),
            key=info["key"].encode(),
            signature_scheme=info["signature_scheme"],
            labels={"kernel_id": info["kernel_name"][:64] or "launcher", "launcher": str(os.getpid())},
        )
        stack.push_async_callback(session.aclose)

        async def interrupt() -> None:
            with contextlib.suppress(FcKernelError):  # a kernel that is not there needs no interrupt
                await session.signal(signal.SIGINT)

        def interrupted() -> None:
            task = loop.create_task(interrupt())
            signals.add(task)
            task.add_done_callback(signals.discard)

        on_signals({signal.SIGINT: interrupted, signal.SIGTERM: serving.cancel})
        if (parent := _parent()) is not None:
            stack.callback(os.close, parent)
            loop.add_reader(parent, lambda: (loop.remove_reader(parent), serving.cancel()))
            stack.callback(loop.remove_reader, parent)
        try:
            await session.start(request)
            return await session.wait()
        except asyncio.CancelledError:
            # Asked to end, in whatever phase; the session's close does it.
            return -signal.SIGTERM


def _parent() -> int | None:
    """A descriptor, readable when the program that started us has ended; ``None`` where that is the init process.

    The parent-death signal would not do: it comes when the parent's *thread* ends.
    """
    pid = os.getppid()
    if pid == 1:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise ConfigError(f"the program that started this one cannot be watched: {error.strerror}") from error


class Signals:
    """The process's signals, delivered to the engine's loop; before there is anyone to take them, SIGTERM ends us."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handlers: dict[int, Callable[[], object]] = {}
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._signalled)

    def deliver(self, handlers: dict[int, Callable[[], object]]) -> None:
        """From now on these are called, on the loop."""
        self._handlers = handlers

    def _signalled(self, signum: int, _frame: FrameType | None) -> None:
        handler = self._handlers.get(signum)
        if handler is not None:
            self._loop.call_soon_threadsafe(handler)
        elif signum == signal.SIGTERM:
            raise SystemExit(SIGNALLED + signum)


def run(connection_file: str, settings: str) -> int:
    """Serve the connection file until the kernel ends, from the main thread; returns the exit status."""
    try:
        info = read_connection_file(connection_file)
        try:
            given = json.loads(settings)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--settings is no JSON: {error}") from error
        engine = Engine.shared()
        signals = Signals(engine.loop)
        future = engine.submit(serve(info, engine, given, signals.deliver))
        while not future.done():
            wait([future], LOOK_EVERY_S)
        engine.close()
        status = future.result()
    except FcKernelError as error:
        sys.stderr.write(f"fc_kernel.launcher: {error}\n")
        return 1
    return status if status >= 0 else SIGNALLED - status


def main() -> None:
    """Entry point; exits with the kernel's status, or with 1 and the reason on stderr when it could not start."""
    parser = argparse.ArgumentParser(prog="fc_kernel.launcher", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-f", "--connection-file", required=True)
    parser.add_argument("--settings", default="{}", help="JSON, as in a notebook's metadata.fc_kernel")
    options, _ignored = parser.parse_known_args()
    raise SystemExit(run(options.connection_file, options.settings))


if __name__ == "__main__":
    main()
