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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from traitlets.config import Config

from .api.calls import Endpoints, Listen, OpenKernel, RawSettings, StartKernel
from .errors import ConfigError, FcKernelError
from .host.client import LEASE_S
from .host.current import client_for
from .host.service import CHANNELS
from .settings.config import load_config
from .settings.sources import guest_environment, notebook_settings, requested_settings
from .settings.tenant import Tenant

MAX_CONNECTION_FILE_BYTES = 64 << 10
#: What shells add to the number of the signal that ended a process.
SIGNALLED = 128


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
                f"the connection file {path!r}: {name} has invalid characters; allowed: Unicode without NUL"
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


def listen_of(info: Mapping[str, Any]) -> Listen:
    """Where clients connect according to a connection file; ``ipc`` sockets are made in a private directory of the host's."""
    public, secret = info["curve_publickey"], info["curve_secretkey"]
    return Listen(
        transport=info["transport"],
        ip=info["ip"] if info["transport"] == "tcp" else "",
        ports=info["ports"],
        curve_publickey=public.encode() if public else None,
        curve_secretkey=secret.encode() if secret else None,
    )


@contextlib.contextmanager
def links_to(endpoints: Endpoints, info: Mapping[str, Any]) -> Iterator[None]:
    """Within the context, links to the ``ipc`` sockets from the paths that the connection file names."""
    with contextlib.ExitStack() as links:
        for channel, port in info["ports"].items() if info["transport"] == "ipc" else ():
            link = Path(f"{info['ip']}-{port}")
            try:
                link.symlink_to(f"{endpoints.ip}-{endpoints.ports[channel]}")
            except OSError as error:
                raise ConfigError(f"cannot make the socket {str(link)!r}: {error.strerror}") from error
            links.callback(link.unlink, missing_ok=True)
        yield


async def serve(info: Mapping[str, Any], settings: Any) -> int:
    """Serve one kernel until it ends; returns its exit status. Takes the process's signals, so it runs on the main thread.

    Raises :class:`~fc_kernel.errors.FcKernelError`.
    """
    loop = asyncio.get_running_loop()
    serving = asyncio.current_task()
    assert serving is not None  # noqa: S101 - this is a coroutine
    signals: set[asyncio.Task[None]] = set()
    kernel = None

    async def interrupt() -> None:
        with contextlib.suppress(FcKernelError):  # a kernel that is not there needs no interrupt
            if kernel is not None:
                await kernel.signal(signal.SIGINT)

    def interrupted() -> None:
        task = loop.create_task(interrupt())
        signals.add(task)
        task.add_done_callback(signals.discard)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, serving.cancel)
    async with contextlib.AsyncExitStack() as stack:
        try:
            client = client_for(Tenant.of_this_process(load_config(Config())))
            raw = RawSettings(
                profile={},
                environment=requested_settings(os.environ),
                notebook=await notebook_settings(os.environ, Path.cwd()),
                call=settings,
            )
            await client.host.check(raw)
            if (parent := _parent()) is not None:
                stack.callback(os.close, parent)
                loop.add_reader(parent, lambda: (loop.remove_reader(parent), serving.cancel()))
                stack.callback(loop.remove_reader, parent)
            kernel = await client.open(
                OpenKernel(
                    kernel_id=info["kernel_name"][:64] or "launcher",
                    key=info["key"].encode(),
                    signature_scheme=info["signature_scheme"],
                    listen=listen_of(info),
                    labels={"launcher": str(os.getpid())},
                    lease_s=LEASE_S,
                )
            )
            stack.push_async_callback(kernel.close)
            kernel.keep()
            stack.enter_context(links_to(kernel.endpoints, info))
            await kernel.start(StartKernel(settings=raw, env=guest_environment(os.environ, {})))
            return await kernel.wait()
        except asyncio.CancelledError:
            # It was asked to end, in whatever phase; closing the kernel does that.
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


def run(connection_file: str, settings: str) -> int:
    """Serve the connection file until the kernel ends, from the main thread; returns the exit status."""
    try:
        info = read_connection_file(connection_file)
        try:
            given = json.loads(settings)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--settings is not JSON: {error}") from error
        status = asyncio.run(serve(info, given))
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
