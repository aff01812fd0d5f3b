"""The kernel process: started in its own session, signalled, watched; its last output is kept. Python 3.9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from typing import Callable, Optional

from .loop import POLLIN, Loop

#: The kernel's stderr is kept for the error message of a failed start; what the user prints takes another way.
TAIL_LINES = 20
TAIL_LINE_BYTES = 500
#: How often the agent checks whether the kernel has made its sockets.
LOOK_EVERY_S = 0.01

#: The guest's own kernel, in a file beside this one.
KERNEL_APP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel_app.py")
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Kernel:
    """One kernel process and its connection file."""

    def __init__(self, loop: Loop, directory: str, instance: int, exited: Callable[[Kernel], None]) -> None:
        self.instance = instance
        self.pid = 0
        self.returncode: Optional[int] = None
        self.oom = False
        #: The key that signs its requests.
        self.key = ""
        #: Whether it waits for a slow reader of its outputs; kernels other than ours drop them.
        self.waits = False
        self._loop = loop
        self._directory = directory
        self._exited = exited
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._output = -1

    def endpoint(self, channel: str) -> str:
        """The ``ipc`` address of a channel."""
        return f"ipc://{self._path(channel)}"

    def _path(self, channel: str) -> str:
        return f"{self._directory}/k-{CHANNELS.index(channel) + 1}"

    @property
    def link_path(self) -> str:
        """The Unix socket that the kernel's process connects to; the name is short because the path's length is limited."""
        return f"{self._directory}/a"

    def prepare(self) -> None:
        """Create the directory; raises :class:`OSError`."""
        os.makedirs(self._directory, mode=0o700)

    def start(self, argv: Optional[list[str]], env: dict[str, str], cwd: str, key: str) -> None:
        """Write the connection file and start the process; raises :class:`OSError`."""
        connection_file = f"{self._directory}/kernel.json"
        info: dict[str, object] = {f"{channel}_port": number + 1 for number, channel in enumerate(CHANNELS)}
        info.update(transport="ipc", ip=f"{self._directory}/k", key=key, signature_scheme="hmac-sha256")
        descriptor = os.open(connection_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(info, file)
        command = argv or [sys.executable, KERNEL_APP, "-f", "{connection_file}"]
        self.waits = argv is None
        self.key = key
        command = [word.replace("{connection_file}", connection_file) for word in command]
        if os.getpid() != 1:
            # A host process (under the fake monitor) must not outlive the agent; in a VM it could not.
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        output, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        try:
            process = subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(theirs)
        # The agent reaps all children, including this one.
        process.returncode = 0
        self.pid = process.pid
        try:
            with open(f"/proc/{self.pid}/oom_score_adj", "w") as file:
                file.write("0")
        except OSError:
            pass
        self._output = output
        self._loop.watch(output, POLLIN, self._read)

    def ready(self) -> bool:
        """Whether all its sockets exist."""
        return all(os.path.exists(self._path(channel)) for channel in CHANNELS[:4])

    def signal(self, signum: int, *, group: bool) -> None:
        """Send a signal to the process, or to its process group as Jupyter does; nothing happens if it has ended."""
        if self.returncode is None and self.pid:
            try:
                (os.killpg if group else os.kill)(self.pid, signum)
            except ProcessLookupError:
                pass

    def reaped(self, status: int) -> None:
        """The process has ended with this wait status."""
        self._read(0)
        self.returncode = os.waitstatus_to_exitcode(status)
        # Processes left in its group would keep its sockets and memory.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._exited(self)

    def tail(self) -> list[str]:
        """The last lines that the process wrote to its own stdout and stderr."""
        return list(self._tail)

    def _read(self, _events: int) -> None:
        while self._output >= 0:
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                return
            if not data:
                self.close()
                return
            os.write(2, data)
            lines = data.decode("utf-8", "replace").splitlines()
            self._tail.extend(line[:TAIL_LINE_BYTES] for line in lines if line.strip())

    def close(self) -> None:
        """Stop reading its output."""
        if self._output >= 0:
            self._loop.unwatch(self._output)
            os.close(self._output)
            self._output = -1
