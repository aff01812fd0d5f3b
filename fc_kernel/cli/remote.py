"""Running Jupyter servers of this user and their kernels: what commands on a running kernel talk to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from jupyter_core.application import base_aliases, base_flags
from jupyter_server.serverapp import list_running_servers
from traitlets import Unicode

from .. import errors
from ..api.failures import error_of
from ..api.models import Failure
from ..base.text import without_controls
from ..errors import ConfigError, FcKernelError
from .command import JSON_FLAG, Command

#: A snapshot of a large machine, or eight forks on a busy host, take minutes at worst.
ANSWER_TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 10.0
#: A shorter beginning of an id is more likely a mistyped name of a notebook.
MIN_PREFIX = 4


@dataclass(frozen=True)
class Server:
    """Where a server is; ``socket`` is the Unix socket of one that listens on no port."""

    url: str
    token: str
    root_dir: str = ""
    socket: str = ""

    @classmethod
    def running(cls) -> Iterator[Server]:
        """The running servers of this user, from the files that they write."""
        for info in list_running_servers():
            yield cls(
                url=str(info.get("url", "")),
                token=str(info.get("token", "")),
                root_dir=str(info.get("root_dir", "")),
                socket=str(info.get("sock") or ""),
            )

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer to a request; raises the :class:`~fc_kernel.errors.FcKernelError` that the server names."""
        # Without proxies: none may see the token of a server on this very host.
        transport = httpx.HTTPTransport(uds=self.socket) if self.socket else None
        base = f"http://localhost/{self.url.partition('//')[2].partition('/')[2]}" if self.socket else self.url
        headers = {"Authorization": f"token {self.token}"} if self.token else {}
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            with httpx.Client(
                base_url=base, headers=headers, timeout=timeout, transport=transport, trust_env=False
            ) as client:
                response = client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigError(f"the server at {self.url} does not answer: {error}") from error
        if response.is_success:
            return _json(response, self.url)
        raise _refusal(response, self.url)


def _json(response: httpx.Response, url: str) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        raise ConfigError(f"what answers at {url} is not a Jupyter server") from None


def _refusal(response: httpx.Response, url: str) -> FcKernelError:
    """The error that a server answered with, as far as its form can be trusted."""
    try:
        said = response.json()
    except ValueError:
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("message"), str):
        return ConfigError(f"the server at {url} answered with HTTP status {response.status_code}")
    failure = Failure.model_construct(
        message=without_controls(said["message"]),
        reason=str(said.get("reason")),
        details=[without_controls(line) for line in said.get("details") or () if isinstance(line, str)],
        field=None,
        source=None,
    )
    if response.status_code == httpx.codes.FORBIDDEN:
        failure = failure.model_copy(update={"message": f"{failure.message} (the server at {url}; --token)"})
    return error_of(failure)


@dataclass(frozen=True)
class Kernel:
    """A microVM's kernel on a server; ``path`` is that of its notebook there, empty if it has none."""

    server: Server
    kernel_id: str
    path: str

    def called(self, ref: str) -> bool:
        """Whether ``ref`` is its id, the beginning of it, or its notebook."""
        if ref == self.kernel_id or (len(ref) >= MIN_PREFIX and self.kernel_id.startswith(ref)):
            return True
        if not self.path:
            return False
        return ref.strip("/") == self.path or (
            bool(self.server.root_dir) and Path(ref).absolute() == Path(self.server.root_dir, self.path)
        )

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """As :meth:`Server.ask`, about this kernel."""
        return self.server.ask(method, f"fc-kernel/api/kernels/{self.kernel_id}/{path}", body)


def kernels_of(server: Server) -> list[Kernel]:
    """The microVM kernels of a server."""
    found = server.ask("GET", "fc-kernel/api/kernels")
    sessions = server.ask("GET", "api/sessions")
    paths = {each["kernel"]["id"]: str(each["path"]) for each in sessions if each.get("kernel")}
    return [Kernel(server, each["kernel_id"], paths.get(each["kernel_id"], "")) for each in found]


class RemoteCommand(Command):
    """A command on a kernel of a running Jupyter server.

    Without --server, all running servers of this user are asked. A kernel is given by its id, the beginning of its id, or the
    path of its notebook.
    """

    aliases: dict[Any, Any] = {**base_aliases, "server": "RemoteCommand.server", "token": "RemoteCommand.token"}
    flags = {**base_flags, **JSON_FLAG}

    server = Unicode("", help="URL of the Jupyter server").tag(config=True)
    token = Unicode("", help="the server's token, if it is not a running server of this user").tag(config=True)

    def servers(self) -> list[Server]:
        """The servers to ask; raises :class:`~fc_kernel.errors.ConfigError` when there are none."""
        running = list(Server.running())
        if not self.server:
            if self.token:
                self.usage_error("--token needs --server")
            if not running:
                raise ConfigError("no Jupyter server of this user is running; name another one with --server")
            return running
        url = self.server.rstrip("/") + "/"
        if not url.startswith(("http://", "https://")):
            self.usage_error(f"--server is {self.server!r}; expected a URL (http://…)")
        known = next((each for each in running if each.url == url), None)
        return [Server(url, self.token or (known.token if known else ""), known.root_dir if known else "")]

    def kernel(self, ref: str) -> Kernel:
        """The kernel that ``ref`` means; raises :class:`~fc_kernel.errors.ConfigError` for none and for several."""
        kernels: list[Kernel] = []
        problems: list[str] = []
        for server in self.servers():
            try:
                kernels += kernels_of(server)
            except FcKernelError as error:
                # A server without the extension, or one that has just ended, does not hide the others.
                problems.append(f"{server.url}: {error}")
        meant = [each for each in kernels if each.called(ref)]
        exact = [each for each in meant if each.kernel_id == ref]
        if len(exact or meant) == 1:
            return (exact or meant)[0]
        shown = ", ".join(f"{each.kernel_id} ({each.path or 'no notebook'})" for each in meant or kernels)
        if meant:
            raise ConfigError(f"{ref!r} could be any of these kernels: {shown}")
        if not kernels and problems:
            raise ConfigError(f"no microVM kernel {ref!r} was found; " + "; ".join(problems))
        raise ConfigError(f"there is no microVM kernel {ref!r}; there are: {shown or 'none'}")

    @staticmethod
    def snapshot_id(kernel: Kernel, ref: str) -> str:
        """The id of one of the kernel's snapshots, given by its name, its id, or the beginning of its id."""
        snapshots = kernel.ask("GET", "snapshots")
        named = [each for each in snapshots if ref in (each["name"], each["id"])]
        found = named or [each for each in snapshots if len(ref) >= MIN_PREFIX and each["id"].startswith(ref)]
        if len(found) != 1:
            there_are = ", ".join(f"{each['name']} ({each['id']})" for each in snapshots) or "none"
            raise errors.SnapshotNotFound(f"there is no snapshot {ref!r} of this kernel; there are: {there_are}")
        return str(found[0]["id"])
