"""The agent's part in a snapshot: the kernel stands still for it, and is renewed in the machine that comes from it.

    running ─freeze─► freezing ─► frozen ─thaw──────► running
                                    └─────restored─► renewing ─► running

Freezing: the kernel's companion thread runs the user's hooks, parks the main thread and keeps the interpreter's lock; then
the freezer stops everything. The snapshot is taken in the frozen state, so a restored agent finds itself in it.
Python 3.9, pyzmq.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Callable, Optional

from .control import RpcError
from .freezer import Freezer, make_freezer, when_frozen
from .kernel_link import COPYING, Companion
from .probe import Probe

if TYPE_CHECKING:
    from .interfaces import Machine, Params, Reply
    from .kernel import Kernel
    from .loop import Loop
    from .relay import Relay

#: JSON-RPC codes from the range that is ours: the kernel's fault, entropy that was refused, and a kernel that is at work.
KERNEL_ERROR = -32000
NO_ENTROPY = -32001
KERNEL_BUSY = -32002

RUNNING, FREEZING, FROZEN, RENEWING, REHEARSING = "running", "freezing", "frozen", "renewing", "rehearsing"

LOOK_EVERY_S = 0.002
#: The kernel's last messages are on their way through ZeroMQ's own threads; after so many looks at nothing, there are none.
LOOKS_AT_NOTHING = 3
#: A kernel that goes on sending from a thread of native code is not waited for.
PUMP_TIMEOUT_S = 1.0
#: For hooks that reconnect to something.
RENEWAL_TIMEOUT_S = 30.0
MAX_REMARKS = 50
MAX_REMARK_CHARS = 500


class Checkpoint:
    """Freezes, thaws and renews one agent's kernel. ``notify(method, params)`` tells the host, and whether it listens."""

    def __init__(
        self,
        loop: Loop,
        relays: Collection[Relay],
        notify: Callable[[str, Params], bool],
        *,
        machine: Machine,
        is_init: bool,
    ) -> None:
        self._loop = loop
        self._relays = relays
        self._notify = notify
        self._machine = machine
        self._is_init = is_init
        self._state = RUNNING
        self._freezer: Optional[Freezer] = None
        self._kernel: Optional[Kernel] = None
        self._companion: Optional[Companion] = None
        self._reply: Optional[Reply] = None
        #: Which freeze or renewal the timers and the companion's answers belong to.
        self._turn = 0
        self._facts: Params = {}
        self._probe: Optional[Probe] = None
        #: Whether the freezer's part has begun.
        self._stopping = False

    def open(self, kernel: Kernel, changed: Callable[[], None]) -> str:
        """Make the socket for the companion of a kernel that is about to start, and return its path.

        ``changed()`` is called when the companion comes or goes.
        """
        self._companion = Companion(
            self._loop, kernel.companion_path, changed=changed, said=self._said, asked=self._asked
        )
        return self._companion.path

    def started(self, kernel: Kernel) -> None:
        """The kernel's process is there; what it starts from now on stands still with it."""
        if self._freezer is None:
            self._freezer = make_freezer(is_init=self._is_init)
        self._kernel = kernel
        self._freezer.add(kernel.pid)
        if self._companion is not None:
            self._companion.pid = kernel.pid

    @property
    def has_companion(self) -> bool:
        """Whether the kernel can be prepared and renewed."""
        return self._companion is not None and self._companion.present

    def ended(self) -> None:
        """The kernel's process is gone."""
        self._kernel = None
        self._abandon("the kernel process ended")
        if self._freezer is not None:
            self._freezer.kill()
        if self._companion is not None:
            self._companion.close()
            self._companion = None

    def freeze(self, params: Params, reply: Reply) -> None:
        """Bring the kernel to rest; the answer comes when it is. A frozen kernel stays so."""
        if self._state == FROZEN:
            reply(self._facts)
            return
        if self._state != RUNNING:
            raise RpcError(KERNEL_ERROR, f"the kernel is {self._state}")
        timeout_s = float(params["timeout_s"])
        companion, kernel = self._companion, self._kernel
        request = companion.pending if companion is not None else None
        self._facts = {
            "instance": kernel.instance if kernel is not None else None,
            "language": "python" if self.has_companion else None,
            "execution_count": None,
            "cell": request.parent if request is not None and request.op in COPYING else None,
            "hook_errors": [],
            "quiet": True,
        }
        turn = self._begin(FREEZING, reply)
        if kernel is not None and not self.has_companion:
            self._await_idle(turn, kernel, timeout_s)
            return
        if companion is None or not companion.present:
            self._stop(turn)
            return
        companion.tell({"op": "prepare", "turn": turn, "hooks": bool(params["hooks"]), "timeout_s": timeout_s})

        def late() -> None:
            if turn == self._turn and self._state == FREEZING and not self._stopping:
                self._facts["quiet"] = False
                self._stop(turn)

        self._loop.call_later(timeout_s, late)

    def thaw(self, params: Params) -> Params:
        """Let the kernel go on where it was; while the machine stood still, its clock did."""
        if "time" in params:
            self._machine.set_clock(float(params["time"]))
        self._abandon("thawed meanwhile")
        return {}

    def restored(self, params: Params, reply: Reply) -> None:
        """Renew the machine and the kernel, which may be frozen, and let it go on; the answer comes after its hooks."""
        if self._state not in (FROZEN, RUNNING):
            raise RpcError(KERNEL_ERROR, f"the kernel is {self._state}")
        role, name, key = str(params["role"]), params["name"], str(params["key"])
        try:
            self._machine.add_entropy(base64.b64decode(params["entropy_b64"], validate=True))
        except OSError as error:
            raise RpcError(NO_ENTROPY, f"the guest's kernel refused the entropy: {error}") from error
        self._machine.set_clock(float(params["time"]))
        self._machine.set_names(str(params["hostname"]), str(params["machine_id"]))
        for relay in self._relays:
            relay.forget()
        kernel, companion = self._kernel, self._companion
        self._facts = {"instance": kernel.instance if kernel is not None else None, "hook_errors": []}
        turn = self._begin(RENEWING, lambda result: self._renewed(reply, result, role, name))
        self._facts["rekeyed"] = self.has_companion
        if companion is None or not companion.present:
            self._thaw()
            self._finish(turn, self._facts)
            return
        orders = {"op": "restored", "turn": turn, "key": key, "hooks": role != "started"}
        orders.update(env=params["env"], cwd=params["cwd"], reseed=bool(params["reseed"]))
        companion.tell({**orders, "timeout_s": RENEWAL_TIMEOUT_S})
        self._thaw()

        def late() -> None:
            self._facts["hook_errors"].append("the kernel did not answer in time")
            self._finish(turn, self._facts)

        # A little later than the companion itself gives up on the hooks.
        self._loop.call_later(RENEWAL_TIMEOUT_S * 1.2, late)

    def rehearse(self, params: Params, reply: Reply) -> None:
        """Have the kernel do once, without a trace, what its first cell will: emulators translate code as it is first run."""
        companion = self._companion
        if self._state != RUNNING or companion is None or not companion.present:
            raise RpcError(KERNEL_ERROR, f"nothing to rehearse with; the kernel is {self._state}")
        turn = self._begin(REHEARSING, reply)
        companion.tell({"op": "rehearse", "turn": turn})
        late = RpcError(KERNEL_ERROR, "the kernel did not end its rehearsal in time")
        self._loop.call_later(float(params["timeout_s"]), lambda: self._finish(turn, late))

    def answer(self, params: Params) -> Params:
        """Hand the host's answer to the cell that waits; it may have gone."""
        message = {"error": str(params["error"])} if "error" in params else {"result": params["result"]}
        if self._companion is not None:
            self._companion.answer(message, int(params["id"]))
        return {}

    def _begin(self, state: str, reply: Reply) -> int:
        self._turn += 1
        self._state, self._reply, self._stopping = state, reply, False
        return self._turn

    def _finish(self, turn: int, result: object, state: str = RUNNING) -> None:
        if turn == self._turn and self._reply is not None:
            reply, self._reply = self._reply, None
            self._state = state
            reply(result)

    def _abandon(self, reason: str, code: int = KERNEL_ERROR) -> None:
        """Back to the running state, whatever the state is."""
        if self._state in (FREEZING, FROZEN):
            self._thaw()
            if self._companion is not None:
                self._companion.tell({"op": "thaw"})
        if self._state == FROZEN:
            self._state = RUNNING
        self._finish(self._turn, RpcError(code, reason))

    def _thaw(self) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None
            for relay in self._relays:
                relay.release()
        if self._freezer is not None:
            self._freezer.thaw()

    def _said(self, message: Params) -> None:
        """The companion thread's answers, one by one."""
        if message.get("turn") != self._turn:
            return
        remarks = _remarks(message.get("hook_errors"))
        if message.get("op") == "prepared" and self._state == FREEZING:
            count = message.get("execution_count")
            self._facts.update(
                hook_errors=remarks,
                execution_count=count if isinstance(count, int) else None,
                quiet=message.get("gil") is True,
            )
            if self._facts["cell"] is None and isinstance(message.get("cell"), str):
                # Nobody's cell asked for it, but one runs.
                self._facts["cell"] = message["cell"]
            self._await_hold(self._turn)
        elif message.get("op") == "rehearsed" and self._state == REHEARSING:
            self._finish(self._turn, {})
        elif message.get("op") == "restored" and self._state == RENEWING:
            self._facts["hook_errors"] = remarks
            self._finish(self._turn, self._facts)

    def _renewed(self, reply: Reply, result: object, role: str, name: Any) -> None:
        reply(result)
        companion = self._companion
        if companion is not None and companion.pending is not None:
            if companion.pending.op in COPYING:
                companion.answer({"result": {"role": role, "name": name}})
            else:
                companion.answer({"error": "the machine was restored meanwhile"})

    def _asked(self, number: int, op: str, args: Params, parent: Optional[str]) -> bool:
        if self._state == RENEWING:
            # A hook that waits for the host while the host waits for the hook.
            return False
        instance = self._kernel.instance if self._kernel is not None else None
        told = {"id": number, "instance": instance, "op": op, "args": args, "parent": parent}
        return self._notify("kernel.request", told)

    def _await_idle(self, turn: int, kernel: Kernel, timeout_s: float) -> None:
        """Go on when the kernel has done all that it was asked for; what else is asked waits here meanwhile."""
        channels = {relay.channel: relay for relay in self._relays}

        def idle() -> None:
            if turn == self._turn and self._state == FREEZING:
                for relay in self._relays:
                    relay.hold()
                # Not within the relay that has received the answer.
                self._loop.call_later(0, lambda: self._stop(turn))

        def late() -> None:
            if turn == self._turn and self._state == FREEZING and not self._stopping:
                self._abandon(f"the kernel is at work and did not become idle within {timeout_s:g} s", KERNEL_BUSY)

        self._probe = Probe(channels["shell"], channels["iopub"], kernel.key, idle)
        channels["shell"].hold()
        self._loop.call_later(timeout_s, late)

    def _await_hold(self, turn: int) -> None:
        """Go on when the companion thread is in its read; between its answer and that, others may still run."""
        companion = self._companion
        if turn != self._turn or self._state != FREEZING or self._stopping or companion is None:
            return
        if companion.holds:
            self._stop(turn)
        else:
            self._loop.call_later(LOOK_EVERY_S, lambda: self._await_hold(turn))

    def _stop(self, turn: int) -> None:
        """Take what the kernel has said, stop it, and take the rest."""
        self._stopping = True
        self._pump(turn, time.monotonic() + PUMP_TIMEOUT_S, 0, lambda: self._freeze(turn))

    def _freeze(self, turn: int) -> None:
        if self._freezer is None:
            self._finish(turn, self._facts, FROZEN)
            return

        def done(whole: bool) -> None:
            if turn != self._turn or self._state != FREEZING:
                return
            if whole:
                for relay in self._relays:
                    relay.pump()
                self._finish(turn, self._facts, FROZEN)
            else:
                self._abandon("the kernel's processes did not stop in time")

        try:
            self._freezer.freeze()
            when_frozen(self._loop, self._freezer, done)
        except OSError as error:
            self._abandon(f"cannot freeze the kernel: {error}")

    def _pump(self, turn: int, end: float, looks: int, then: Callable[[], None]) -> None:
        if turn != self._turn or self._state != FREEZING:
            return
        moved = [relay.pump() for relay in self._relays]
        looks = 0 if any(moved) else looks + 1
        if looks >= LOOKS_AT_NOTHING or time.monotonic() > end:
            then()
        else:
            self._loop.call_later(LOOK_EVERY_S, lambda: self._pump(turn, end, looks, then))


def _remarks(said: object) -> list[str]:
    """What hooks complain of, as much as the host wants to read."""
    lines = said if isinstance(said, list) else []
    return [str(line)[:MAX_REMARK_CHARS] for line in lines[:MAX_REMARKS]]
