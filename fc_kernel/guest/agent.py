"""The guest agent: serves the host's control connection and channels, and looks after the kernel process.

It is PID 1 of a microVM, or a host process under the fake monitor. It knows no secret of the host and decides nothing:
what it says is an unproven claim. Python 3.9, pyzmq.
"""

from __future__ import annotations

import base64
import os
import platform
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Callable, Optional

import zmq

from ..wire import methods, operations
from ..wire.ports import CHANNEL_PORTS, CONTROL_PORT, PROTOCOL_VERSION
from . import system
from .control import Control, RpcError
from .freeze import KernelFreeze
from .kernel import DEFAULT_PATH, LOOK_EVERY_S, Kernel
from .loop import POLLIN, Loop
from .relay import Relay

if TYPE_CHECKING:
    from .interfaces import Handler, Params, Reply


class Agent:
    """All state of the agent; transports ask :meth:`accept` for the handler of a port."""

    def __init__(self, loop: Loop, *, run_dir: str, transport: str, is_init: bool) -> None:
        self._loop = loop
        self._run_dir = run_dir
        self._transport = transport
        self._is_init = is_init
        self._kernel: Optional[Kernel] = None
        #: The kernel to whose sockets the relays are connected.
        self._attached: Optional[Kernel] = None
        self._starting: Optional[Reply] = None
        self._context: zmq.Context[Any] = zmq.Context()
        self._control = Control(self._call)
        self._relays = {port: Relay(loop, channel) for channel, port in CHANNEL_PORTS.items()}
        self._freeze = KernelFreeze(
            loop,
            self._relays.values(),
            self._control.notify,
            machine=system.OwnMachine() if is_init else system.NoMachine(),
            is_init=is_init,
        )
        self._oom_kills = system.oom_kills()
        self._methods: dict[str, Callable[[Params], object]] = {
            methods.HELLO: self._hello,
            methods.PING: lambda _params: {},
            methods.KERNEL_STATUS: lambda _params: self._status(),
            methods.KERNEL_SIGNAL: self._signal,
            methods.KERNEL_KILL: self._kill,
            methods.SYSTEM_SHUTDOWN: self._shutdown,
            methods.ANSWER: self._freeze.answer,
        }
        self._slow_methods: dict[str, Callable[[Params, Reply], None]] = {
            methods.KERNEL_START: self._start,
            methods.FREEZE: self._freeze.freeze,
            methods.RENEW: self._freeze.renew,
            methods.THAW: self._freeze.thaw,
            methods.REHEARSE: self._freeze.rehearse,
        }
        self._watch_children()

    def accept(self, port: int) -> Optional[Handler]:
        """The handler for a new connection to ``port``, or ``None``."""
        return self._control if port == CONTROL_PORT else self._relays.get(port)

    @property
    def ports(self) -> list[int]:
        """The ports that are served."""
        return [CONTROL_PORT, *self._relays]

    def _watch_children(self) -> None:
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        self._wake = (woken, wake)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._loop.watch(woken.fileno(), POLLIN, self._reap)

    def _reap(self, _events: int) -> None:
        try:
            self._wake[0].recv(4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self._kernel is not None and pid == self._kernel.pid and self._kernel.returncode is None:
                kills = system.oom_kills()
                self._kernel.oom = self._is_init and kills > self._oom_kills
                self._oom_kills = kills
                self._kernel.reaped(status)

    def _call(self, method: str, params: Params, reply: Reply) -> None:
        if method in self._slow_methods:
            self._slow_methods[method](params, reply)
        elif method in self._methods:
            reply(self._methods[method](params))
        else:
            raise RpcError(methods.NO_SUCH_METHOD, f"no method {method!r}")

    def _hello(self, params: Params) -> Params:
        if self._is_init:
            system.set_clock(float(params["time"]))
            system.add_entropy(base64.b64decode(params["entropy_b64"]))
        return {
            "protocol": PROTOCOL_VERSION,
            "python": platform.python_version(),
            "kernel_release": os.uname().release,
            "machine": os.uname().machine,
            "vcpu_count": os.cpu_count(),
            "mem_total_mib": system.memory_total_mib(),
            "boot_time_s": time.clock_gettime(time.CLOCK_BOOTTIME),
            "transport": self._transport,
        }

    def _status(self) -> Params:
        kernel = self._kernel
        if kernel is None:
            return {"running": False, "pid": None, "returncode": None, "instance": None}
        return {
            "running": kernel.returncode is None,
            "pid": kernel.pid,
            "returncode": kernel.returncode,
            "instance": kernel.instance,
        }

    def _start(self, params: Params, reply: Reply) -> None:
        if self._kernel is not None and self._kernel.returncode is None:
            raise RpcError(methods.KERNEL_ERROR, "a kernel is running")
        home = os.environ.get("HOME", "/root")
        # Parent pid 1 tells ipykernel that it was started by a program, not from a terminal. The debugger would warn about
        # frozen standard modules; switching them off costs start-up time.
        env = {"PATH": DEFAULT_PATH, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "JPY_PARENT_PID": "1"}
        env["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        if not self._is_init:
            env.update(PATH=os.environ.get("PATH", DEFAULT_PATH), HOME=home)
        env.update({str(name): str(value) for name, value in params["env"].items()})
        instance = int(params["instance"])
        kernel = Kernel(self._loop, f"{self._run_dir}/k{instance}", instance, self._kernel_exited)
        argv = params.get("argv")
        try:
            kernel.prepare()
            if argv is None:
                env[operations.AGENT_SOCKET_VARIABLE] = self._freeze.open(kernel, lambda: self._look(kernel))
            kernel.start(argv, env, params.get("cwd") or home, params["key"])
            self._freeze.started(kernel)
        except OSError as error:
            self._freeze.ended()
            raise RpcError(methods.KERNEL_ERROR, f"cannot start the kernel: {error}") from error
        self._kernel = kernel
        self._starting = reply
        self._look(kernel)

    def _look(self, kernel: Kernel) -> None:
        if kernel is not self._kernel or self._starting is None:
            return
        if not kernel.ready():
            self._loop.call_later(LOOK_EVERY_S, lambda: self._look(kernel))
            return
        if self._attached is not kernel:
            # Early, so that the relays subscribe before the first request.
            self._attached = kernel
            for relay in self._relays.values():
                relay.attach_kernel(self._context, kernel.endpoint(relay.channel), waits=kernel.waits)
        if kernel.waits and not self._freeze.has_thread:
            return  # our own kernel says when it is ready
        reply, self._starting = self._starting, None
        reply({"pid": kernel.pid, "instance": kernel.instance})

    def _kernel_exited(self, kernel: Kernel) -> None:
        self._freeze.ended()
        if self._starting is not None:
            reply, self._starting = self._starting, None
            said = "".join(f"\n  | {line}" for line in kernel.tail())
            reply(RpcError(methods.KERNEL_ERROR, f"the kernel process ended with status {kernel.returncode}{said}"))
            return
        # The relays stay connected: the kernel's last messages may still be on their way. A new kernel replaces the old one.
        self._control.notify(
            methods.KERNEL_EXITED,
            {
                "instance": kernel.instance,
                "returncode": kernel.returncode,
                "oom": kernel.oom,
                "stderr_tail": kernel.tail(),
            },
        )

    def _signal(self, params: Params) -> Params:
        if self._kernel is not None:
            self._kernel.signal(int(params["signum"]), group=bool(params.get("group", True)))
        return {}

    def _kill(self, _params: Params) -> Params:
        if self._kernel is not None:
            self._kernel.signal(signal.SIGKILL, group=True)
        return {}

    def _shutdown(self, _params: Params) -> Params:
        self._loop.call_later(0, self._end)
        return {}

    def _end(self) -> None:
        if self._is_init:
            system.end_machine()
        self.close()

    def close(self) -> None:
        """End the kernel and the loop (for the fake monitor; a real guest ends with its machine)."""
        self._kill({})
        self._loop.stop()
