"""The kernel provisioner: passes the calls of ``jupyter_client``, on the caller's loop, on to the host of kernels."""

from __future__ import annotations

import logging
import signal
import time
from typing import Any

import zmq
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from .api.calls import Listen, OpenKernel, RawSettings, StartKernel
from .errors import FcKernelError, StateError
from .host.client import LEASE_S, HostClient
from .host.current import client_for
from .host.held import HeldKernel
from .settings.config import load_config
from .settings.notebook import path_on_server
from .settings.sources import guest_environment, notebook_settings, requested_settings
from .settings.tenant import Tenant

log = logging.getLogger(__name__)

#: The factory's arguments. All else is the kernelspec's, which anybody may write: it never reaches a trait.
OWN_ARGUMENTS = frozenset({"kernel_id", "kernel_spec", "parent"})
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
        self._client: HostClient | None = None
        self._kernel: HeldKernel | None = None
        self._start: StartKernel | None = None
        self._ticket = ""
        self._process = False
        self._launch_took_s = 0.0
        # The class's default is one dictionary for all kernels.
        self.connection_info = {}

    @property
    def has_process(self) -> bool:
        """Whether a kernel was started whose end has not been waited for."""
        return self._process

    async def poll(self) -> int | None:
        """``None`` while the kernel process runs, else its exit status (0 when there is none)."""
        self._carry_on()
        if not self._process or self._kernel is None:
            return 0
        return self._kernel.returncode

    async def wait(self) -> int | None:
        """Wait until the kernel process has ended and return its exit status (0 when there is none)."""
        self._carry_on()
        kernel = self._kernel
        if kernel is None or not self._process:
            self._process = False
            return 0
        returncode = await kernel.wait()
        self._process = False
        return returncode

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group. Never raises: the manager calls this on dead kernels, too."""
        self._carry_on()
        kernel = self._kernel
        if kernel is None or signum == 0:
            return
        try:
            await kernel.signal(signum)
        except FcKernelError as error:
            log.warning("signal %s did not reach kernel %s: %s", signum, self.kernel_id, error)

    async def kill(self, restart: bool = False) -> None:
        """Kill the kernel process. :meth:`cleanup` ends the VM, because ``restart`` is not reliable here."""
        if self._kernel is not None:
            await self._kernel.kill()

    async def terminate(self, restart: bool = False) -> None:
        """Send SIGTERM to the kernel process."""
        await self.send_signal(signal.SIGTERM)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Gather the settings and have the host check them; bad ones are refused here, before anything is started.

        ``fc_kernel`` holds settings of the caller of ``start_kernel``, ``fc_kernel_notebook`` those that it read in a
        notebook, for clients that do not say which notebook they execute, and ``fc_kernel_ticket`` a fork's ticket.
        """
        call = kwargs.pop("fc_kernel", None)
        notebook = kwargs.pop("fc_kernel_notebook", None)
        self._ticket = kwargs.pop("fc_kernel_ticket", "")
        if ignored := kwargs.pop("extra_arguments", None):
            log.warning("kernel %s: these arguments do not reach the guest's kernel: %s", self.kernel_id, ignored)
        prepared = await super().pre_launch(cmd=[], **kwargs)
        client = client_for(Tenant.of_this_process(load_config(getattr(self.parent, "config", None) or self.config)))
        environ = prepared["env"]
        if notebook is None:
            notebook = await notebook_settings(environ, prepared.get("cwd"), self._contents_manager())
        settings = RawSettings(
            profile=self._profile, environment=requested_settings(environ), notebook=notebook, call=call
        )
        await client.host.check(settings)
        spec_env = getattr(self.kernel_spec, "env", None) or {}
        self._client, self._start = client, StartKernel(settings=settings, env=guest_environment(environ, spec_env))
        return prepared

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the kernel, in a new VM or in the present one; on any error, and when cancelled, nothing is left.

        ``cmd`` is the launcher's, for clients without provisioners; the guest's command is the setting ``argv``.
        """
        client, start = self._client, self._start
        if client is None or start is None:
            raise StateError("launch_kernel was called without pre_launch")
        first = self._kernel is None
        since = time.monotonic()
        try:
            if first:
                await self._open_kernel(client, start)
            kernel = self._kernel
            if kernel is None:
                raise StateError("the kernel was cleaned up while it started")
            await kernel.start(start)
        except BaseException:
            # Nobody calls cleanup after a failed first start. After a failed restart the endpoints wait for the next one.
            if first:
                await self._close_kernel()
            raise
        self._launch_took_s = time.monotonic() - since
        self._process = True
        return self.connection_info

    async def _open_kernel(self, client: HostClient, start: StartKernel) -> None:
        """Have the kernel's sockets bound; its lease is renewed once its manager has taken it over."""
        manager: Any = self.parent
        key, scheme = manager.session.key, manager.session.signature_scheme
        name = start.env.get("JPY_SESSION_NAME", "")
        public, secret = self._curve_keys()
        self._kernel = await client.open(
            OpenKernel(
                kernel_id=self.kernel_id,
                key=key,
                signature_scheme=scheme,
                listen=Listen(curve_publickey=public, curve_secretkey=secret),
                notebook=name,
                scope=path_on_server(name, self._contents_manager()) if name else "",
                ticket=self._ticket,
                lease_s=LEASE_S,
            )
        )
        endpoints = self._kernel.endpoints
        info: dict[str, Any] = {
            "transport": endpoints.transport,
            "ip": endpoints.ip,
            "key": key,
            "signature_scheme": scheme,
            **{f"{channel}_port": port for channel, port in endpoints.ports.items()},
        }
        if public is not None and secret is not None:
            info.update(curve_publickey=public.decode(), curve_secretkey=secret.decode())
        self.connection_info = info  # type: ignore[assignment]  # its keys are all optional, and so is its type

    def _carry_on(self) -> None:
        """Keep the lease renewed: the manager goes on with the kernel. One that fails after our launch never gets here."""
        if self._kernel is not None:
            self._kernel.keep()

    async def post_launch(self, **kwargs: Any) -> None:
        """The manager has taken the kernel over."""
        self._carry_on()
        await super().post_launch(**kwargs)

    def _curve_keys(self) -> tuple[bytes | None, bytes | None]:
        """Keys for CurveZMQ where the manager's policy asks for it; the manager keeps them for its whole life."""
        manager: Any = self.parent
        policy = getattr(manager, "transport_encryption", "disabled")
        declared = self.kernel_spec.metadata.get("supported_encryption", ()) if self.kernel_spec else ()
        if policy == "disabled" or (policy == "auto" and "curve" not in declared):
            return None, None
        if manager.curve_publickey is None:
            manager.curve_publickey, manager.curve_secretkey = zmq.curve_keypair()
        return manager.curve_publickey, manager.curve_secretkey

    def _contents_manager(self) -> Any:
        """The server's contents manager, if the kernel manager belongs to a server."""
        above = self.parent
        while above is not None:
            if (found := getattr(above, "contents_manager", None)) is not None:
                return found
            above = getattr(above, "parent", None)
        return None

    async def cleanup(self, restart: bool = False) -> None:
        """After the kernel has ended: end the VM too, unless this is a restart. May be called twice, or before a launch."""
        if not restart:
            await self._close_kernel()

    async def _close_kernel(self) -> None:
        kernel, self._kernel = self._kernel, None
        self._process = False
        if kernel is not None:
            await kernel.close()

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """How long a shutdown may take, in seconds: longer than for a local process."""
        return max(recommended, SHUTDOWN_WAIT_S)

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        """When a kernel counts as stable, in seconds from the death of the process before; so the launch is added."""
        return recommended + self._launch_took_s

    async def get_provisioner_info(self) -> dict[str, Any]:
        """For kernel managers that keep kernels over a restart of their own; JSON-safe, with no key in it."""
        info = await super().get_provisioner_info()
        shown = {name: value for name, value in self.connection_info.items() if name != "key" and "curve" not in name}
        return {**info, "connection_info": shown}
