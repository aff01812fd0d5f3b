"""The agent of a scripted guest: the protocol of :mod:`fc_kernel.guest.agent`, strict about the order of the host's calls."""

from __future__ import annotations

import base64
import hashlib
import platform
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...guest.control import Control, RpcError
from ...guest.loop import Loop
from ...wire import methods
from ...wire.frames import Buffer
from ...wire.methods import ENTROPY_REFUSED, KERNEL_ERROR, NO_SUCH_METHOD, ROLE_STARTED, ROLES, SEED_BYTES
from ...wire.operations import COPYING
from ...wire.ports import CHANNEL_PORTS, CONTROL_PORT, PROTOCOL_VERSION
from .channel import Channel
from .clock import Clock, Noise
from .faults import Fault, Faults, die
from .kernel import ScriptedKernel
from .language import CellError

if TYPE_CHECKING:
    from ...guest.interfaces import Handler, Params, Reply

HOME = "/root"
PLAIN = ("generation", "role", "hostname", "machine_id", "asked", "pending", "frozen_facts")


class ScriptedAgent:
    """A service as the transports need it: :meth:`accept` gives the handler of a port."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        faults: Faults,
        shape: dict[str, Any],
        saved: dict[str, Any] | None = None,
    ) -> None:
        """``shape`` is what the machine has; with ``saved``, what :meth:`state` returned, it goes on as a loaded machine."""
        self._loop = loop
        self.clock = clock
        self.faults = faults
        self._shape = shape
        #: Whether this machine was loaded and not told so yet; whatever its kernel does then, it does twice.
        self._unaware = self._loaded = saved is not None
        #: Called when a renewed machine is thawed: gives its kernel what is new, and returns what hooks raised.
        self._renewal: Callable[[], list[str]] | None = None
        self.entropy = Noise(*saved["entropy"]) if saved else Noise("unseeded")
        self.generation = 0
        self.role = "booted"
        self.hostname = "microvm"
        self.machine_id = ""
        self.asked = 0
        #: The number of the kernel's request that the host has not answered.
        self.pending: int | None = None
        #: What the last freezing told.
        self.frozen_facts: dict[str, Any] = {}
        self._turn_at: float | None = None
        self._control = Control(self._call)
        self._channels = {name: self._channel(name) for name in CHANNEL_PORTS}
        self._ports = {port: self._channels[name] for name, port in CHANNEL_PORTS.items()}
        self.kernel: ScriptedKernel | None = None
        self._methods: dict[str, Callable[[Params], Params]] = {
            methods.HELLO: self._hello,
            methods.PING: lambda _params: {},
            methods.KERNEL_START: self._start,
            methods.KERNEL_STATUS: lambda _params: self._status(),
            methods.KERNEL_SIGNAL: self._signal,
            methods.KERNEL_KILL: self._kill,
            methods.FREEZE: self._freeze,
            methods.THAW: self._thaw,
            methods.RENEW: self._renew,
            methods.REHEARSE: self._rehearse,
            methods.ANSWER: self._answer,
            methods.SYSTEM_SHUTDOWN: self._shutdown,
        }
        if saved:
            for name in PLAIN:
                setattr(self, name, saved[name])
            if saved["kernel"] is not None:
                self.kernel = ScriptedKernel.of_state(self, saved["kernel"])
            self._wake()

    def state(self) -> dict[str, Any]:
        """The state that is saved; connections and messages in the channels are not part of it."""
        return {
            **{name: getattr(self, name) for name in PLAIN},
            "entropy": self.entropy.state(),
            "kernel": self.kernel.state() if self.kernel is not None else None,
        }

    def accept(self, port: int) -> Handler | None:
        """The handler for a new connection to ``port``, or ``None``."""
        return self._control if port == CONTROL_PORT else self._ports.get(port)

    @property
    def ports(self) -> list[int]:
        """The ports that are served."""
        return [CONTROL_PORT, *self._ports]

    def _channel(self, name: str) -> Channel:
        def received(parts: list[bytes]) -> None:
            if self.kernel is not None and name != "iopub":
                self.kernel.received(name, parts)
                self._wake()

        return Channel(name, received, self._wake)

    # What the kernel needs of its machine.

    def say(self, channel: str, parts: list[Buffer]) -> None:
        """Pass on a message from the kernel."""
        self._channels[channel].send(parts)

    def full(self, channel: str) -> bool:
        """Whether the kernel has to wait."""
        return self._channels[channel].full

    def request(self, op: str, args: dict[str, Any], parent: str) -> int:
        """Ask the host on behalf of a cell."""
        if self.pending is not None or self.kernel is None:
            raise CellError("SnapshotError", "another request of this kernel is not answered yet")
        self.asked += 1
        self.pending = self.asked
        params = {"id": self.asked, "instance": self.kernel.instance, "op": op, "args": args, "parent": parent}
        self._control.notify(methods.KERNEL_REQUEST, params)
        return self.asked

    def exited(self, returncode: int) -> None:
        """The kernel has ended."""
        self.pending = None
        instance = self.kernel.instance if self.kernel is not None else None
        ended: Params = {"instance": instance, "returncode": returncode, "oom": False, "stderr_tail": []}
        self._control.notify(methods.KERNEL_EXITED, ended)

    def facts(self) -> dict[str, Callable[..., Any]]:
        """What cells can ask of the machine."""
        return {
            "urandom": lambda: self.entropy.draw().hex(),
            "time": self.clock.time,
            "monotonic": self.clock.monotonic,
            "hostname": lambda: self.hostname,
            "machine_id": lambda: self.machine_id,
            "generation": lambda: self.generation,
            "role": lambda: self.role,
            "interfaces": lambda: dict(self._shape["interfaces"]),
        }

    def _wake(self, delay_s: float = 0.0) -> None:
        """Give the kernel a turn, after the delay at the latest."""
        due = self.clock.monotonic() + delay_s
        if self._turn_at is None or due < self._turn_at:
            self._turn_at = due
            self._loop.call_later(delay_s, lambda: self._turn(due))

    def _turn(self, due: float) -> None:
        if self._turn_at != due:
            return  # an earlier turn has taken its place
        self._turn_at = None
        delay_s = self.kernel.turn() if self.kernel is not None else None
        if delay_s is not None:
            self._wake(delay_s)

    # The host's calls.

    def _call(self, method: str, params: Params, reply: Reply) -> None:
        if method not in self._methods:
            raise RpcError(NO_SUCH_METHOD, f"no method {method!r}")
        fault = self.faults.at(method)
        if fault is None:
            reply(self._methods[method](params))
        elif fault.what == "late":
            self._loop.call_later(fault.value, lambda: self._call_late(method, params, reply))
        elif fault.what == "die":
            die()
        elif fault.what != "hang":
            raise _refusal(fault)

    def _call_late(self, method: str, params: Params, reply: Reply) -> None:
        try:
            reply(self._methods[method](params))
        except RpcError as error:
            reply(error)
        except (KeyError, TypeError, ValueError) as error:
            reply(RpcError(methods.BAD_PARAMETERS, f"{method}: {type(error).__name__}: {error}"))

    def _hello(self, params: Params) -> Params:
        self.clock.set(float(params["time"]))
        self._seed(params["entropy_b64"])
        return {
            "protocol": PROTOCOL_VERSION,
            "python": platform.python_version(),
            "kernel_release": "scripted",
            "machine": platform.machine(),
            "vcpu_count": self._shape["vcpu_count"],
            "mem_total_mib": self._shape["mem_size_mib"],
            "boot_time_s": self.clock.monotonic(),
            "transport": "hybrid",
        }

    def _seed(self, entropy_b64: str) -> None:
        entropy = base64.b64decode(entropy_b64, validate=True)
        if len(entropy) < SEED_BYTES:
            raise RpcError(ENTROPY_REFUSED, f"{len(entropy)} bytes of randomness; at least {SEED_BYTES}")
        self.entropy = Noise(hashlib.sha256(self.entropy.seed.encode() + entropy).hexdigest())

    def _status(self) -> Params:
        kernel = self.kernel
        if kernel is None:
            return {"running": False, "pid": None, "returncode": None, "instance": None}
        running = kernel.returncode is None
        return {"running": running, "pid": 1, "returncode": kernel.returncode, "instance": kernel.instance}

    def _living(self) -> ScriptedKernel | None:
        return self.kernel if self.kernel is not None and self.kernel.returncode is None else None

    def _start(self, params: Params) -> Params:
        self._aware(methods.KERNEL_START)
        if self._living() is not None:
            raise RpcError(KERNEL_ERROR, "a kernel is running")
        argv = params.get("argv")
        if argv and shutil.which(str(argv[0])) is None:
            raise RpcError(KERNEL_ERROR, f"cannot start the kernel: no program {argv[0]!r}")
        env = {"HOME": HOME, **{str(name): str(value) for name, value in params["env"].items()}}
        instance, key, cwd = int(params["instance"]), str(params["key"]), str(params.get("cwd") or HOME)
        self.pending = None
        for channel in self._channels.values():
            channel.forget()
        self.kernel = ScriptedKernel(self, instance=instance, key=key, env=env, cwd=cwd)
        return {"pid": 1, "instance": instance}

    def _signal(self, params: Params) -> Params:
        if self.kernel is not None:
            self.kernel.signal(int(params["signum"]))
            self._wake()
        return {}

    def _kill(self, _params: Params) -> Params:
        if self.kernel is not None:
            self.kernel.exit(-9)
        return {}

    def _freeze(self, params: Params) -> Params:
        self._aware(methods.FREEZE)
        kernel = self._living()
        if kernel is None:
            nothing = dict.fromkeys(("instance", "language", "execution_count", "cell"))
            return {**nothing, "hook_errors": [], "quiet": True}
        if kernel.frozen:
            return self.frozen_facts
        hooks, _timeout_s = bool(params["hooks"]), float(params["timeout_s"])
        errors = kernel.run_hooks("snapshot") if hooks else []
        quiet = kernel.freeze()
        for channel in self._channels.values():
            channel.settle()
        cell = kernel.cell
        self.frozen_facts = {
            "instance": kernel.instance,
            "language": "python",
            "execution_count": kernel.execution_count,
            # Whether it asked for the snapshot, or only runs.
            "cell": cell.request.msg_id if cell is not None else None,
            "hook_errors": errors,
            "quiet": quiet,
        }
        return self.frozen_facts

    def _thaw(self, params: Params) -> Params:
        self._aware(methods.THAW)
        if "time" in params:
            self.clock.set(float(params["time"]))
        renewal, self._renewal = self._renewal, None
        said: Params = {"hook_errors": renewal()} if renewal is not None else {}
        if self.kernel is not None:
            self.kernel.frozen = False
            self._wake()
        return said

    def _aware(self, method: str) -> None:
        """A real agent cannot know that it was loaded; here a host that forgets to say so finds out."""
        if self._renewal is not None and method != methods.THAW:
            raise RpcError(
                KERNEL_ERROR, f"{method} before {methods.THAW}: this machine is renewed, and its kernel frozen"
            )
        if self._unaware:
            raise RpcError(KERNEL_ERROR, f"{method} before {methods.RENEW}: this machine was loaded and not told so")

    def _renew(self, params: Params) -> Params:
        role, name, generation = str(params["role"]), str(params["name"]), int(params["generation"])
        key, env, cwd = str(params["key"]), dict(params["env"]), params["cwd"]
        hostname, machine_id, reseed = str(params["hostname"]), str(params["machine_id"]), bool(params["reseed"])
        now = float(params["time"])
        if role not in ROLES:
            raise ValueError(f"role {role!r}")
        if not self._loaded:
            raise RpcError(KERNEL_ERROR, "this machine was not loaded")
        self._seed(params["entropy_b64"])
        self._unaware = False
        self.clock.set(now)
        self.hostname, self.machine_id = hostname, machine_id
        self.role, self.generation = role, generation
        for channel in self._channels.values():
            channel.forget()
            channel.renew(generation)
        self.pending = None
        kernel = self._living()
        if kernel is None:
            self._renewal = list
            return {"instance": None, "rekeyed": False}

        def renewal() -> list[str]:
            kernel.renew(key=key, env=env, cwd=cwd, reseed=reseed)
            errors = kernel.run_hooks("restore") if role != ROLE_STARTED else []
            cell = kernel.cell
            if cell is not None and cell.asked:
                print(f"agent: answered a request: role {role}, name {name}", flush=True)
                if cell.asked in COPYING:
                    cell.end_quietly()
                else:
                    cell.answer({"error": "the machine was restored meanwhile"})
            return errors

        self._renewal = renewal
        return {"instance": kernel.instance, "rekeyed": True}

    def _rehearse(self, _params: Params) -> Params:
        """There is nothing that would be faster the second time."""
        self._aware(methods.REHEARSE)
        kernel = self._living()
        if kernel is None or kernel.frozen:
            raise RpcError(KERNEL_ERROR, "nothing to rehearse with")
        return {}

    def _answer(self, params: Params) -> Params:
        number = params["id"]
        answer = {"error": str(params["error"])} if "error" in params else {"result": params["result"]}
        if number == self.pending:
            self.pending = None
            if self.kernel is not None:
                self.kernel.answered(number, answer)
                self._wake()
        return {}

    def _shutdown(self, _params: Params) -> Params:
        self._kill({})
        self._loop.call_later(0, self._loop.stop)
        return {}


def _refusal(fault: Fault) -> RpcError:
    if fault.step == methods.RENEW:
        return RpcError(ENTROPY_REFUSED, "the host's randomness was refused")
    return RpcError(KERNEL_ERROR, f"{fault.step} was refused")
