"""The kernel provisioner: what ``jupyter_client`` calls, on the caller's loop, passed on to the engine's."""

from __future__ import annotations

import contextlib
import logging
import signal
from typing import Any

import zmq
from jupyter_client.provisioning import KernelProvisionerBase

from .channels.endpoints import CHANNELS, ClientEndpoints
from .config import load_config
from .errors import FcKernelError
from .host.engine import Engine
from .host.session import KernelRequest, KernelSession
from .paths import RunDir, new_vm_id
from .sources import guest_environment, resolve_settings

log = logging.getLogger(__name__)

#: What the factory gives besides the kernelspec's own configuration.
OWN_ARGUMENTS = frozenset({"kernel_id", "kernel_spec", "parent", "config", "log"})
#: A guest under emulation answers a shutdown request late; half of this passes before SIGTERM, half before SIGKILL.
SHUTDOWN_WAIT_S = 20.0


class FcProvisioner(KernelProvisionerBase):
    """One kernel in a microVM of its own.

    The kernelspec's ``metadata.kernel_provisioner.config`` holds settings as a notebook's ``metadata.fc_kernel`` does, not
    traits: limits and paths are the administrator's, in ``FcKernelConfig``.
    """

    def __init__(self, **kwargs: Any) -> None:
        own = {name: value for name, value in kwargs.items() if name in OWN_ARGUMENTS}
        self._profile = {name: value for name, value in kwargs.items() if name not in OWN_ARGUMENTS}
        super().__init__(**own)
        self._session: KernelSession | None = None
        self._endpoint_dir: RunDir | None = None
        self._request: KernelRequest | None = None
        self._process = False
        self.connection_info = {}

    @property
    def has_process(self) -> bool:
        """Whether a kernel was started whose end has not been waited for."""
        return self._process

    async def poll(self) -> int | None:
        """``None`` while the kernel process runs, else its exit status (0 when there is none)."""
        if not self._process or self._session is None:
            return 0
        return self._session.returncode

    async def wait(self) -> int | None:
        """Until the kernel process has ended."""
        session = self._session
        if session is None or not self._process:
            return 0
        returncode = await Engine.shared().run(session.wait())
        self._process = False
        return returncode

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group. Never raises: the manager calls this on dead kernels, too."""
        session = self._session
        if session is None or signum == 0:
            return
        try:
            await Engine.shared().run(session.signal(signum))
        except FcKernelError as error:
            log.warning("signal %s did not reach kernel %s: %s", signum, self.kernel_id, error)

    async def kill(self, restart: bool = False) -> None:
        """End the kernel process. The VM goes in :meth:`cleanup`, the only call that knows whether this is a restart."""
        if self._session is not None:
            await Engine.shared().run(self._session.kill())

    async def terminate(self, restart: bool = False) -> None:
        """SIGTERM to the kernel process."""
        await self.send_signal(signal.SIGTERM)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Resolve the settings; a bad one is refused here, before anything is started."""
        call = kwargs.pop("fc_kernel", None)
        kwargs.pop("extra_arguments", None)
        prepared = await super().pre_launch(cmd=[], **kwargs)
        config = load_config(getattr(self.parent, "config", None) or self.config)
        self._config = config
        environ = prepared["env"]
        spec_env = getattr(self.kernel_spec, "env", None) or {}
        resolved = await resolve_settings(
            config,
            profile=self._profile,
            environ=environ,
            cwd=prepared.get("cwd"),
            contents_manager=self._contents_manager(),
            call=call,
        )
        self._request = KernelRequest(resolved=resolved, env=guest_environment(environ, spec_env))
        return prepared

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Boot (or go on in) the VM and start the kernel; on any error, and when cancelled, nothing is left."""
        assert self._request is not None  # noqa: S101 - the manager calls pre_launch first
        first = self._session is None
        try:
            if first:
                await self._open_session()
            assert self._session is not None  # noqa: S101 - just opened
            await Engine.shared().run(self._relink_and_start(self._session, self._request, relink=not first))
        except BaseException:
            if first:
                await self._close_session()
            raise
        self._process = True
        return self.connection_info

    async def _relink_and_start(self, session: KernelSession, request: KernelRequest, *, relink: bool) -> None:
        import asyncio

        if relink:
            await asyncio.wrap_future(session.switchboard.link())
        await session.start(request)

    async def _open_session(self) -> None:
        manager = self.parent
        self._endpoint_dir = RunDir.create(new_vm_id())
        ip = str(self._endpoint_dir.path / "k")
        curve = self._curve_keys()
        endpoints = ClientEndpoints(transport="ipc", ip=ip, curve_publickey=curve[0], curve_secretkey=curve[1])
        labels = {"kernel_id": self.kernel_id}
        if name := (self._request.env.get("JPY_SESSION_NAME") if self._request else None):
            labels["notebook"] = name[:512]
        key, scheme = manager.session.key, manager.session.signature_scheme
        engine = Engine.shared()

        async def open_session() -> KernelSession:
            return KernelSession(
                engine, self._config, endpoints, key=key, signature_scheme=scheme, labels=labels
            )

        self._session = await engine.run(open_session())
        info: dict[str, Any] = {
            "transport": "ipc",
            "ip": ip,
            "key": key,
            "signature_scheme": scheme,
            **{f"{channel}_port": self._session.ports[channel] for channel in CHANNELS},
        }
        if curve[0] is not None and curve[1] is not None:
            info.update(curve_publickey=curve[0].decode(), curve_secretkey=curve[1].decode())
        self.connection_info = info

    def _curve_keys(self) -> tuple[bytes | None, bytes | None]:
        """Keys for CurveZMQ where the manager's policy asks for it; they are the manager's for its whole life."""
        manager = self.parent
        policy = getattr(manager, "transport_encryption", "disabled")
        if policy == "disabled":
            return None, None
        if manager.curve_publickey is None:
            manager.curve_publickey, manager.curve_secretkey = zmq.curve_keypair()
        return manager.curve_publickey, manager.curve_secretkey

    def _contents_manager(self) -> Any:
        """The server's, if the kernel manager belongs to a server."""
        above = self.parent
        while above is not None:
            if (found := getattr(above, "contents_manager", None)) is not None:
                return found
            above = getattr(above, "parent", None)
        return None

    async def cleanup(self, restart: bool = False) -> None:
        """After the kernel has ended: end the VM too, unless this is a restart. May be called twice, or before a launch."""
        if not restart:
            await self._close_session()

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        endpoint_dir, self._endpoint_dir = self._endpoint_dir, None
        self._process = False
        with contextlib.ExitStack() as stack:
            if endpoint_dir is not None:
                stack.callback(endpoint_dir.remove)
            if session is not None:
                await Engine.shared().run(session.aclose())

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Longer than for a local process."""
        return max(recommended, SHUTDOWN_WAIT_S)

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        """As long as a start may take."""
        return recommended if self._request is None else max(recommended, self._request.resolved.start_timeout_s)

    async def get_provisioner_info(self) -> dict[str, Any]:
        """For kernel managers that keep kernels over a restart of their own; JSON-safe, with no key in it."""
        info = await super().get_provisioner_info()
        shown = {name: value for name, value in self.connection_info.items() if name != "key" and "curve" not in name}
        return {**info, "connection_info": shown}
