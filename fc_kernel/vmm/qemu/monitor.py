"""QEMU's machine protocol (QMP) on a connected socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from typing import Any, Self

from qemu.qmp import ConnectError, ExecInterruptedError, QMPClient, QMPError

from ...errors import MonitorApiError, MonitorError, OutcomeUnknown

#: QMP answers in milliseconds, also when the guest hangs.
QMP_TIMEOUT_S = 10.0
#: How often to ask QEMU whether it has finished something that takes a few milliseconds.
LOOK_EVERY_S = 0.001
#: QEMU's name for a character device that listens (``chardev/char-socket.c``).
DISCONNECTED = "disconnected:"


class QemuMonitor:
    """A QMP connection after the greeting; made by :meth:`connect`."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, name: str, sock: socket.socket) -> Self:
        """Take over the socket and wait for the greeting. Raises :class:`~fc_kernel.errors.MonitorError`."""
        client = QMPClient(name)
        # Its logger reports every event; ours reports what matters.
        client.logger.setLevel(logging.CRITICAL)
        try:
            await client.connect(sock)
        except ConnectError as error:
            sock.close()
            raise MonitorError(f"cannot talk to QEMU: {error}") from error
        except BaseException:
            sock.close()
            raise
        return cls(client)

    async def aclose(self) -> None:
        """Close the connection."""
        # disconnect() re-raises the error of the connection; the process's end says more.
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer.

        Raises :class:`~fc_kernel.errors.MonitorApiError` when QEMU refuses, and
        :class:`~fc_kernel.errors.OutcomeUnknown` when it does not answer.
        """
        try:
            async with asyncio.timeout(QMP_TIMEOUT_S):
                return await self._client.execute(command, arguments or None)
        except ExecInterruptedError as error:
            raise OutcomeUnknown(f"QEMU did not answer {command}: {error}") from error
        except QMPError as error:
            raise MonitorApiError(f"QEMU refused {command}: {error}") from error
        except TimeoutError:
            raise OutcomeUnknown(f"QEMU did not answer {command} within {QMP_TIMEOUT_S:g} s") from None

    async def memory_address(self) -> int:
        """Where in QEMU's process the guest's memory begins."""
        said = await self.execute("human-monitor-command", **{"command-line": "gpa2hva 0x0"})
        match = re.search(r" is 0x([0-9a-f]{1,16})", said) if isinstance(said, str) else None
        if match is None:
            raise MonitorError(f"QEMU does not say where the guest's memory is: {str(said)[:80]!r}")
        return int(match[1], 16)

    async def connected(self, device: str) -> None:
        """Return when QEMU has accepted our connection to a character device; what a guest writes before that is lost."""
        while True:
            found = {each["label"]: each["filename"] for each in await self.execute("query-chardev")}
            if not found.get(device, DISCONNECTED).startswith(DISCONNECTED):
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def load_devices(self, descriptor: int) -> None:
        """Load devices' state from a descriptor that QEMU has inherited; if QEMU cannot load it, it exits."""
        await self.execute("migrate-incoming", uri=f"fd:{descriptor}")
        while (await self.execute("query-status"))["status"] == "inmigrate":
            await asyncio.sleep(LOOK_EVERY_S)
