"""The kernel provisioner: what ``jupyter_client`` calls, on the caller's loop, passed on to the engine's."""

from __future__ import annotations

import logging
import os
import signal
import time
import weakref
from typing import Any

import zmq
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from .base.paths import RunDir, new_vm_id
from .channels.endpoints import CHANNELS, ClientEndpoints
from .errors import FcKernelError, StateError
from .host.engine import Engine
from .machine.start import KernelRequest
from .sessions.session import KernelSession
from .settings.config import FcKernelConfig, load_config
from .settings.notebook import path_on_server
from .settings.sources import guest_environment, resolve_settings
from .settings.tenant import Tenant

log = logging.getLogger(__name__)

#: What the factory gives. All else is the kernelspec's, which anybody may write: it never reaches a trait.
OWN_ARGUMENTS = frozenset({"kernel_id", "kernel_spec", "parent"})
#: A guest under emulation answers a shutdown request late; half of this passes before SIGTERM, half before SIGKILL.
SHUTDOWN_WAIT_S = 20.0
#: A manager that fails after our launch calls nothing of ours any more; then the kernel is ended.
FIRST_CALL_WITHIN_S = 60.0


class FcProvisioner(KernelProvisionerBase):
    """One kernel in a microVM of its own.

    The kernelspec's ``metadata.kernel_provisioner.config`` holds settings as a notebook's ``metadata.fc_kernel`` does, not
    traits: limits and paths are the administrator's, in ``FcKernelConfig``.
    """

    def __init__(self, **kwargs: Any) -> None:
        own = {name: value for name, value in kwargs.items() if name in OWN_ARGUMENTS}
        self._profile = {name: value for name, value in kwargs.items() if name not in OWN_ARGUMENTS}
        super().__init__(**own)
        self._config: FcKernelConfig | None = None
        self._session: KernelSession | None = None
        self._request: KernelRequest | None = None
        self._scope: str | None = None
        self._process = False
        self._wanted = True
        self._launch_took_s = 0.0
        self._finalizer: weakref.finalize[Any, Any] | None = None
        # The class's default is one dictionary for all kernels.
        self.connection_info = {}

    @property
    def has_process(self) -> bool:
        """Whether a kernel was started whose end has not been waited for."""
        return self._process

    async def poll(self) -> int | None:
        """``None`` while the kernel process runs, else its exit status (0 when there is none)."""
        self._wanted = True
        if not self._process or self._session is None:
            return 0
        return self._session.returncode

    async def wait(self) -> int | None:
        """Until the kernel process has ended."""
        self._wanted = True
        session = self._session
        if session is None or not self._process:
            self._process = False
            return 0
        returncode = await Engine.shared().run(session.wait())
        self._process = False
        return returncode

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group. Never raises: the manager calls this on dead kernels, too."""
        self._wanted = True
        session = self._session
        if session is None or signum == 0:
            return
        try:
            await Engine.shared().run(session.signal(signum))
        except FcKernelError as error:
            log.warning("signal %s did not reach kernel %s: %s", signum, self.kernel_id, error)

    async def kill(self, restart: bool = False) -> None:
        """End the kernel process. ``restart`` is not reliable; the VM goes in :meth:`cleanup`, which knows."""
        if self._session is not None:
            await Engine.shared().run(self._session.kill())

    async def terminate(self, restart: bool = False) -> None:
        """SIGTERM to the kernel process."""
        await self.send_signal(signal.SIGTERM)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Resolve the settings; a bad one is refused here, before anything is started.

        ``fc_kernel`` are settings of the caller of ``start_kernel``, ``fc_kernel_notebook`` those that it read in a
        notebook, for clients that do not say which notebook they execute, ``fc_kernel_scope`` what names of snapshots are
        unique in, for a fork: its parent's.
        """
        call = kwargs.pop("fc_kernel", None)
        given = kwargs.pop("fc_kernel_notebook", None)
        self._scope = kwargs.pop("fc_kernel_scope", None)
        if ignored := kwargs.pop("extra_arguments", None):
            log.warning("kernel %s: these arguments do not reach the guest's kernel: %s", self.kernel_id, ignored)
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
            notebook=given,
            call=call,
        )
        env = guest_environment(environ, spec_env)
        self._request = KernelRequest(resolved=resolved, argv=resolved.argv, env=env)
        return prepared

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Boot (or go on in) the VM and start the kernel; on any error, and when cancelled, nothing is left.

        ``cmd`` is the launcher's, for clients without provisioners; the guest's command is the setting ``argv``.
        """
        request, config = self._request, self._config
        if request is None or config is None:
            raise StateError("launch_kernel without pre_launch")
        first = self._session is None
        engine = Engine.shared()
        since = time.monotonic()
        try:
            if first:
                await engine.run(self._open_session(engine, request, config))
            session = self._session
            if session is None:
                raise StateError("the kernel was cleaned up while it started")
            await engine.run(session.start(request))
        except BaseException:
            # Nobody calls cleanup after a failed first start. After a failed restart the endpoints wait for the next one.
            if first:
                await self._close_session()
            raise
        self._launch_took_s = time.monotonic() - since
        self._process = True
        self._expect_a_call(engine, session)
        return self.connection_info

    async def _open_session(self, engine: Engine, request: KernelRequest, config: FcKernelConfig) -> None:
        """Make the session; on the engine's loop, so that whoever stops waiting for it still finds it."""
        manager: Any = self.parent
        tenant = Tenant.of_this_process(config)
        endpoint_dir = RunDir.create(tenant.run_dir, new_vm_id())
        ip = str(endpoint_dir.path / "k")
        key, scheme = manager.session.key, manager.session.signature_scheme
        labels = {"kernel_id": self.kernel_id}
        if name := request.env.get("JPY_SESSION_NAME"):
            labels["notebook"] = name[:512]
            labels["scope"] = path_on_server(name, self._contents_manager())[:512]
        if self._scope:
            labels["scope"] = self._scope
        public, secret = self._curve_keys()
        session = engine.open(
            tenant,
            ClientEndpoints(transport="ipc", ip=ip, curve_publickey=public, curve_secretkey=secret),
            key=key,
            signature_scheme=scheme,
            labels=labels,
            endpoint_dir=endpoint_dir,
        )
        self._session = session
        # A server that gives up on a kernel after five deaths only forgets its manager.
        self._finalizer = weakref.finalize(self, _abandoned, engine, session, os.getpid())
        self._finalizer.atexit = False  # the engine closes all sessions then
        info: dict[str, Any] = {
            "transport": "ipc",
            "ip": ip,
            "key": key,
            "signature_scheme": scheme,
            **{f"{channel}_port": session.ports[channel] for channel in CHANNELS},
        }
        if public is not None and secret is not None:
            info.update(curve_publickey=public.decode(), curve_secretkey=secret.decode())
        self.connection_info = info  # type: ignore[assignment]  # its keys are all optional, and so is its type

    def _expect_a_call(self, engine: Engine, session: KernelSession) -> None:
        """End the kernel unless its manager makes some call (``post_launch`` is the first) within a minute."""
        self._wanted = False
        myself = weakref.ref(self)

        def look() -> None:
            provisioner = myself()
            if provisioner is not None and not provisioner._wanted and provisioner._session is session:
                log.warning("kernel %s is ended: its manager did not carry on with it", provisioner.kernel_id)
                session.abandon()

        engine.loop.call_soon_threadsafe(engine.loop.call_later, FIRST_CALL_WITHIN_S, look)

    async def post_launch(self, **kwargs: Any) -> None:
        """The manager has taken the kernel over."""
        self._wanted = True
        await super().post_launch(**kwargs)

    def _curve_keys(self) -> tuple[bytes | None, bytes | None]:
        """Keys for CurveZMQ where the manager's policy asks for it; they are the manager's for its whole life."""
        manager: Any = self.parent
        policy = getattr(manager, "transport_encryption", "disabled")
        declared = self.kernel_spec.metadata.get("supported_encryption", ()) if self.kernel_spec else ()
        if policy == "disabled" or (policy == "auto" and "curve" not in declared):
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
        finalizer, self._finalizer = self._finalizer, None
        self._process = False
        if finalizer is not None:
            finalizer.detach()
        if session is not None:
            await Engine.shared().run(session.aclose())

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Longer than for a local process."""
        return max(recommended, SHUTDOWN_WAIT_S)

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        """The restarter counts from the death of the process before; the launch is not yet the kernel's own time."""
        return recommended + self._launch_took_s

    async def get_provisioner_info(self) -> dict[str, Any]:
        """For kernel managers that keep kernels over a restart of their own; JSON-safe, with no key in it."""
        info = await super().get_provisioner_info()
        shown = {name: value for name, value in self.connection_info.items() if name != "key" and "curve" not in name}
        return {**info, "connection_info": shown}


def _abandoned(engine: Engine, session: KernelSession, pid: int) -> None:
    """The provisioner was collected as garbage: nobody can end this kernel any more."""
    if pid == os.getpid() and not engine.loop.is_closed():
        engine.loop.call_soon_threadsafe(session.abandon)
