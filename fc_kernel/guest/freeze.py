"""The agent's part in a snapshot: it freezes the kernel, and renews it in a machine that is loaded from the snapshot.

    running ─freeze─► freezing ─► frozen ─thaw──────────────────────► running
                                    └─renew─► renewed ─thaw─► waking ─► running

Freezing: the agent's thread in the kernel runs the user's hooks, parks the main thread and keeps the interpreter's lock; then
the freezer stops all processes. The snapshot is taken in the frozen state, so a restored agent begins in it. Renewing gives
the machine what it must not share with the saved one; the host makes its connections while the kernel is still frozen.
Thawing lets the kernel's processes run, but the thread keeps the lock until it has renewed the kernel. A kernel of another
language has no such thread. Python 3.9, pyzmq.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Callable, Optional

from ..wire import operations
from ..wire.methods import (
    ENTROPY_REFUSED,
    KERNEL_BUSY,
    KERNEL_ERROR,
    KERNEL_REQUEST,
    MAX_HOOK_ERROR_CHARS,
    MAX_HOOK_ERRORS,
    ROLE_STARTED,
    ROLES,
)
from .control import RpcError
from .freezer import Freezer, make_freezer, when_frozen
from .kernel_link import KernelLink
from .probe import Probe

if TYPE_CHECKING:
    from .interfaces import Machine, Params, Participant, Reply
    from .kernel import Kernel
    from .loop import Loop
    from .relay import Relay

RUNNING, FREEZING, FROZEN, RENEWED, WAKING, REHEARSING = (
    "running", "freezing", "frozen", "renewed", "waking", "rehearsing",
)  # fmt: skip

LOOK_EVERY_S = 0.002
#: The kernel's last messages pass through ZeroMQ's own threads; after this many looks without a message there are none.
LOOKS_AT_NOTHING = 3
#: How long to wait for a kernel that keeps sending, as a thread of native code can.
REST_TIMEOUT_S = 1.0
#: For hooks that reconnect to other services.
RENEWAL_TIMEOUT_S = 30.0


class KernelFreeze:
    """Freezes, renews and thaws one agent's kernel.

    ``participants`` take part beside the relays. ``notify(method, params)`` tells the host and returns whether it listens.
    """

    def __init__(
        self,
        loop: Loop,
        relays: Collection[Relay],
        notify: Callable[[str, Params], bool],
        *,
        machine: Machine,
        is_init: bool,
        participants: Collection[Participant] = (),
    ) -> None:
        self._loop = loop
        self._relays = relays
        self._participants: list[Participant] = [*relays, *participants]
        self._notify = notify
        self._machine = machine
        self._is_init = is_init
        self._state = RUNNING
        self._freezer: Optional[Freezer] = None
        self._kernel: Optional[Kernel] = None
        self._link: Optional[KernelLink] = None
        self._reply: Optional[Reply] = None
        #: The number of the current freeze or thaw; timers and answers of earlier ones are ignored.
        self._turn = 0
        self._facts: Params = {}
        #: What the kernel is told when its renewed machine is thawed.
        self._orders: Params = {}
        self._role = ""
        self._name: object = None
        self._probe: Optional[Probe] = None
        #: Whether the freezer has been started.
        self._stopping = False

    def open(self, kernel: Kernel, changed: Callable[[], None]) -> str:
        """Make the socket for a kernel that is about to start, and return its path.

        ``changed()`` is called when the agent's thread in the kernel connects or disconnects.
        """
        self._link = KernelLink(self._loop, kernel.link_path, changed=changed, said=self._said, asked=self._asked)
        return self._link.path

    def started(self, kernel: Kernel) -> None:
        """The kernel's process runs; it is frozen together with everything that it starts from now on."""
        if self._freezer is None:
            self._freezer = make_freezer(is_init=self._is_init)
        self._kernel = kernel
        self._freezer.add(kernel.pid)
        if self._link is not None:
            self._link.pid = kernel.pid

    @property
    def has_thread(self) -> bool:
        """Whether the kernel has the agent's thread, and so can be prepared and renewed."""
        return self._link is not None and self._link.has_thread

    def ended(self) -> None:
        """The kernel's process is gone."""
        self._kernel = None
        self._abandon("the kernel process ended")
        if self._freezer is not None:
            self._freezer.kill()
        if self._link is not None:
            self._link.close()
            self._link = None

    def freeze(self, params: Params, reply: Reply) -> None:
        """Freeze the kernel; the answer comes when it is frozen. A frozen kernel stays frozen."""
        if self._state == FROZEN:
            reply(self._facts)
            return
        if self._state != RUNNING:
            raise RpcError(KERNEL_ERROR, f"the kernel is {self._state}")
        timeout_s = float(params["timeout_s"])
        link, kernel = self._link, self._kernel
        request = link.pending if link is not None else None
        self._facts = {
            "instance": kernel.instance if kernel is not None else None,
            "language": "python" if self.has_thread else None,
            "execution_count": None,
            "cell": request.parent if request is not None and request.op in operations.COPYING else None,
            "hook_errors": [],
            "quiet": True,
        }
        turn = self._begin(FREEZING, reply)
        if kernel is not None and not self.has_thread:
            self._await_idle(turn, kernel, timeout_s)
            return
        if link is None or not link.has_thread:
            self._stop(turn)
            return
        link.tell({"op": operations.PREPARE, "turn": turn, "hooks": bool(params["hooks"]), "timeout_s": timeout_s})

        def late() -> None:
            if turn == self._turn and self._state == FREEZING and not self._stopping:
                self._facts["quiet"] = False
                self._stop(turn)

        self._loop.call_later(timeout_s, late)

    def renew(self, params: Params, reply: Reply) -> None:
        """Give a restored machine its own identity; the kernel stays frozen until :meth:`thaw`. May be called again."""
        if self._state not in (FROZEN, RUNNING, RENEWED):
            raise RpcError(KERNEL_ERROR, f"the kernel is {self._state}")
        role, generation = str(params["role"]), int(params["generation"])
        if role not in ROLES:
            raise ValueError(f"role {role!r}")
        orders = {"key": str(params["key"]), "env": params["env"], "cwd": params.get("cwd")}
        orders.update(reseed=bool(params["reseed"]), hooks=role != ROLE_STARTED)
        try:
            self._machine.add_entropy(base64.b64decode(params["entropy_b64"], validate=True))
        except OSError as error:
            raise RpcError(ENTROPY_REFUSED, f"the guest's kernel refused the entropy: {error}") from error
        self._machine.set_clock(float(params["time"]))
        self._machine.set_names(str(params["hostname"]), str(params["machine_id"]))
        for participant in self._participants:
            participant.forget()
            participant.renew(generation)
        self._state = RENEWED
        self._role, self._name, self._orders = role, params["name"], orders
        reply({"instance": self._kernel.instance if self._kernel is not None else None, "rekeyed": self.has_thread})

    def thaw(self, params: Params, reply: Reply) -> None:
        """Let the kernel run; after :meth:`renew` the answer comes when the kernel is renewed and its hooks have run."""
        if self._state == WAKING:
            raise RpcError(KERNEL_ERROR, f"the kernel is {self._state}")
        if "time" in params:
            # The machine's clock stood still with it.
            self._machine.set_clock(float(params["time"]))
        if self._state != RENEWED:
            self._abandon("thawed meanwhile")
            reply({})
            return
        self._facts = {"hook_errors": []}
        turn = self._begin(WAKING, lambda result: self._woken(reply, result))
        link = self._link
        if link is None or not link.has_thread:
            self._let_go()
            self._finish(turn, self._facts)
            return
        link.tell({"op": operations.RENEW, "turn": turn, **self._orders, "timeout_s": RENEWAL_TIMEOUT_S})
        self._let_go()

        def late() -> None:
            self._facts["hook_errors"].append("the kernel did not answer in time")
            self._finish(turn, self._facts)

        # A little later than the thread itself stops waiting for the hooks.
        self._loop.call_later(RENEWAL_TIMEOUT_S * 1.2, late)

    def rehearse(self, params: Params, reply: Reply) -> None:
        """Let the kernel run once what its first cell will need, without a trace: emulators translate code on its first run."""
        link = self._link
        if self._state != RUNNING or link is None or not link.has_thread:
            raise RpcError(KERNEL_ERROR, f"nothing to rehearse with; the kernel is {self._state}")
        turn = self._begin(REHEARSING, reply)
        link.tell({"op": operations.REHEARSE, "turn": turn})
        late = RpcError(KERNEL_ERROR, "the kernel did not end its rehearsal in time")
        self._loop.call_later(float(params["timeout_s"]), lambda: self._finish(turn, late))

    def answer(self, params: Params) -> Params:
        """Pass the host's answer to the waiting cell, which may be gone."""
        message = {"error": str(params["error"])} if "error" in params else {"result": params["result"]}
        if self._link is not None:
            self._link.answer(message, int(params["id"]))
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
        """Return to the running state from any other."""
        if self._state in (FREEZING, FROZEN, RENEWED):
            self._let_go()
            if self._link is not None:
                self._link.tell({"op": operations.GO_ON})
        if self._state in (FROZEN, RENEWED):
            self._state = RUNNING
        self._finish(self._turn, RpcError(code, reason))

    def _let_go(self) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None
        for participant in self._participants:
            participant.release()
        if self._freezer is not None:
            self._freezer.thaw()

    def _said(self, message: Params) -> None:
        """Handle an answer of the agent's thread in the kernel."""
        if message.get("turn") != self._turn:
            return
        remarks = _remarks(message.get("hook_errors"))
        if message.get("op") == operations.PREPARED and self._state == FREEZING:
            count = message.get("execution_count")
            self._facts.update(
                hook_errors=remarks,
                execution_count=count if isinstance(count, int) else None,
                quiet=message.get("gil") is True,
            )
            if self._facts["cell"] is None and isinstance(message.get("cell"), str):
                # No cell asked for the snapshot, but one is running.
                self._facts["cell"] = message["cell"]
            self._await_hold(self._turn)
        elif message.get("op") == operations.REHEARSED and self._state == REHEARSING:
            self._finish(self._turn, {})
        elif message.get("op") == operations.RENEWED and self._state == WAKING:
            self._facts["hook_errors"] = remarks
            self._finish(self._turn, self._facts)

    def _woken(self, reply: Reply, result: object) -> None:
        reply(result)
        link = self._link
        if link is not None and link.pending is not None:
            if link.pending.op in operations.COPYING:
                link.answer({"result": {"role": self._role, "name": self._name}})
            else:
                link.answer({"error": "the machine was restored meanwhile"})

    def _asked(self, number: int, op: str, args: Params, parent: Optional[str]) -> bool:
        if self._state in (RENEWED, WAKING):
            # Else a hook would wait for the host while the host waits for the hook.
            return False
        instance = self._kernel.instance if self._kernel is not None else None
        told = {"id": number, "instance": instance, "op": op, "args": args, "parent": parent}
        return self._notify(KERNEL_REQUEST, told)

    def _await_idle(self, turn: int, kernel: Kernel, timeout_s: float) -> None:
        """Go on when the kernel has served all its requests; new requests are held back meanwhile."""
        channels = {relay.channel: relay for relay in self._relays}

        def idle() -> None:
            if turn == self._turn and self._state == FREEZING:
                for relay in self._relays:
                    relay.hold()
                # Not from within the relay that received the answer.
                self._loop.call_later(0, lambda: self._stop(turn))

        def late() -> None:
            if turn == self._turn and self._state == FREEZING and not self._stopping:
                self._abandon(f"the kernel is at work and did not become idle within {timeout_s:g} s", KERNEL_BUSY)

        self._probe = Probe(channels["shell"], channels["iopub"], kernel.key, idle)
        channels["shell"].hold()
        self._loop.call_later(timeout_s, late)

    def _await_hold(self, turn: int) -> None:
        """Go on when the thread is in its read; until then other threads of the kernel may still run."""
        link = self._link
        if turn != self._turn or self._state != FREEZING or self._stopping or link is None:
            return
        if link.holds_lock:
            self._stop(turn)
        else:
            self._loop.call_later(LOOK_EVERY_S, lambda: self._await_hold(turn))

    def _stop(self, turn: int) -> None:
        """Forward what the kernel has sent, stop it, and forward the rest."""
        self._stopping = True
        self._rest(turn, time.monotonic() + REST_TIMEOUT_S, 0, lambda: self._freeze(turn))

    def _freeze(self, turn: int) -> None:
        if self._freezer is None:
            self._finish(turn, self._facts, FROZEN)
            return

        def done(whole: bool) -> None:
            if turn != self._turn or self._state != FREEZING:
                return
            if whole:
                for participant in self._participants:
                    participant.rest()
                self._finish(turn, self._facts, FROZEN)
            else:
                self._abandon("the kernel's processes did not stop in time")

        try:
            self._freezer.freeze()
            when_frozen(self._loop, self._freezer, done)
        except OSError as error:
            self._abandon(f"cannot freeze the kernel: {error}")

    def _rest(self, turn: int, end: float, looks: int, then: Callable[[], None]) -> None:
        if turn != self._turn or self._state != FREEZING:
            return
        moved = [participant.rest() for participant in self._participants]
        looks = 0 if any(moved) else looks + 1
        if looks >= LOOKS_AT_NOTHING or time.monotonic() > end:
            then()
        else:
            self._loop.call_later(LOOK_EVERY_S, lambda: self._rest(turn, end, looks, then))


def _remarks(said: object) -> list[str]:
    """What the hooks raised, cut to what the host accepts."""
    lines = said if isinstance(said, list) else []
    return [str(line)[:MAX_HOOK_ERROR_CHARS] for line in lines[:MAX_HOOK_ERRORS]]
