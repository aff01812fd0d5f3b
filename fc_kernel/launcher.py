"""``python -m fc_kernel.launcher -f CONNECTION_FILE``: a microVM for clients that ignore provisioners and run ``argv``.

The launcher is to its client what a kernel process would be: it serves the connection file's endpoints at once and holds
requests until the guest is up; SIGINT interrupts the kernel, SIGTERM ends it; its exit status is the kernel's; and it ends
when the program that started it does.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from traitlets.config import Config

from .channels.endpoints import CHANNELS, ClientEndpoints
from .config import load_config
from .errors import ConfigError, FcKernelError
from .host.engine import Engine
from .host.session import KernelRequest, KernelSession
from .paths import RunDir, new_vm_id
from .sources import guest_environment, resolve_settings

#: ``linux/prctl.h``
PR_SET_PDEATHSIG = 1
MAX_CONNECTION_FILE_BYTES = 64 << 10
#: A shell's convention for a process that a signal ended.
SIGNALLED = 128


def read_connection_file(path: str) -> dict[str, Any]:
    """The connection file's content; raises :class:`~fc_kernel.errors.ConfigError` that says what is wrong with it."""
    try:
        with Path(path).open("rb") as file:
            info = json.loads(file.read(MAX_CONNECTION_FILE_BYTES))
        ports = {channel: int(info[f"{channel}_port"]) for channel in CHANNELS}
        transport = info.get("transport", "tcp")
        if transport not in ("tcp", "ipc"):
            raise ValueError(f"transport is {transport!r}; allowed: tcp, ipc")
        return {**info, "ports": ports, "transport": transport, "ip": str(info["ip"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot use the connection file {path!r}: {error!r}") from error


def endpoints_of(info: dict[str, Any]) -> ClientEndpoints:
    """The endpoints that a connection file names."""
    public, secret = info.get("curve_publickey"), info.get("curve_secretkey")
    return ClientEndpoints(
        transport=info["transport"],
        ip=info["ip"],
        ports=info["ports"],
        curve_publickey=public.encode() if public else None,
        curve_secretkey=secret.encode() if secret else None,
    )


async def serve(info: dict[str, Any], engine: Engine, settings: dict[str, Any]) -> int:
    """Serve one kernel until it ends; returns its exit status. Runs on the engine's loop."""
    config = load_config(Config())
    resolved = await resolve_settings(config, profile={}, environ=os.environ, cwd=Path.cwd(), call=settings)
    request = KernelRequest(resolved=resolved, env=guest_environment(os.environ, {}))
    session = KernelSession(
        engine,
        config,
        endpoints_of(info),
        key=str(info.get("key", "")).encode(),
        signature_scheme=info.get("signature_scheme", "hmac-sha256"),
        labels={"kernel_id": str(info.get("kernel_name", "launcher"))[:64], "launcher": str(os.getpid())},
    )
    serving = asyncio.current_task()
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def interrupt() -> None:
        task = loop.create_task(session.signal(signal.SIGINT))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def terminate() -> None:
        if serving is not None:
            serving.cancel()

    _on_signals(loop, {signal.SIGINT: interrupt, signal.SIGTERM: terminate})
    try:
        await session.start(request)
        return await session.wait()
    except asyncio.CancelledError:
        return -signal.SIGTERM
    finally:
        await session.aclose()


def _on_signals(loop: asyncio.AbstractEventLoop, handlers: dict[int, Any]) -> None:
    """Deliver the process's signals, which Python handles in its main thread, to the engine's loop."""
    for signum, handler in handlers.items():
        _handlers[signum] = lambda handler=handler: loop.call_soon_threadsafe(handler)


_handlers: dict[int, Any] = {}


def _signalled(signum: int, _frame: Any) -> None:
    handler = _handlers.get(signum)
    if handler is not None:
        handler()
    elif signum == signal.SIGTERM:
        raise SystemExit(SIGNALLED + signum)


def main() -> None:
    """Entry point; exits with the kernel's status, or with 1 and one line on stderr when it could not start."""
    parser = argparse.ArgumentParser(prog="fc_kernel.launcher", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-f", "--connection-file", required=True)
    parser.add_argument("--settings", default="{}", help="JSON, as in a notebook's metadata.fc_kernel")
    options, _ignored = parser.parse_known_args()
    # The client's end is ours: the kernel tells, whatever way it ends.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _signalled)
    try:
        info = read_connection_file(options.connection_file)
        engine = Engine.shared()
        future = asyncio.run_coroutine_threadsafe(serve(info, engine, json.loads(options.settings)), engine.loop)
        status = None
        while status is None:
            try:
                # A wait with an end, so that Python's signal handlers get their turn in this thread.
                status = future.result(0.2)
            except TimeoutError:
                if future.done():
                    raise
        engine.close()
    except FcKernelError as error:
        sys.stderr.write(f"fc_kernel.launcher: {error}\n")
        raise SystemExit(1) from None
    raise SystemExit(status if status >= 0 else SIGNALLED - status)


if __name__ == "__main__":
    main()
