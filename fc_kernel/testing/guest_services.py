"""The services of a guest under which a monitor is tested: one small service for each promise about devices and streams.

The bare-metal guest of ``tests/guests/`` serves the same ports in C. Python 3.9, standard library.
"""

from __future__ import annotations

import glob
import os
import struct
from typing import TYPE_CHECKING, Callable, Optional

if TYPE_CHECKING:
    from ..guest.interfaces import Handler, Stream
    from ..guest.loop import Loop

#: How a guest is told to serve these instead of its agent (``fc.service=`` on its command line), and the files of the package
#: that it needs for that (``boot_initrd(…, also=FILES)``).
SERVICE = "fc_kernel.testing.guest_services:ConformanceServices"
FILES = ("testing/__init__.py", "testing/guest_services.py")

ECHO_PORT = 5000
#: Each byte is answered with three u64: a counter that grows while the guest runs, how often its vsock device was reset,
#: and how many bytes the sink has swallowed since the boot.
COUNTER_PORT = 5001
#: After the first byte: u64 numbers from 0 upwards, without an end.
FLOOD_PORT = 5002
#: Swallows everything.
SINK_PORT = 5003
#: Requests and answers of one sector; see :data:`DRIVE_REQUEST`.
DRIVES_PORT = 5004
#: Each byte is answered with 32 random bytes of the guest's entropy device.
ENTROPY_PORT = 5005
#: After a u32: as many u64 numbers from 0 upwards, and then the end.
FAREWELL_PORT = 5006
PORTS = (ECHO_PORT, COUNTER_PORT, FLOOD_PORT, SINK_PORT, DRIVES_PORT, ENTROPY_PORT, FAREWELL_PORT)

SECTOR_BYTES = 512
#: Operation (``SIZE``, ``READ``, ``WRITE``), number of the drive, sector, data.
DRIVE_REQUEST = struct.Struct(f"<II Q {SECTOR_BYTES}s")
#: Status (``DONE``, ``FAILED``, ``NO_DRIVE``), padding, size of the drive in sectors, data.
DRIVE_ANSWER = struct.Struct(f"<II Q {SECTOR_BYTES}s")
SIZE, READ, WRITE = range(3)
DONE, FAILED, NO_DRIVE = range(3)
NUMBER = struct.Struct("<Q")
COUNTERS = struct.Struct("<QQQ")
ENTROPY_BYTES = 32

#: How often the counter grows: often enough for a test to see it soon, seldom enough for an emulated guest.
TICK_S = 0.005
BUFFER_BYTES = 64 << 10
#: Numbers made at a time by the flood and the farewell.
BATCH = 4096


class _Service:
    """A handler of one connection: answers are queued until the stream takes them."""

    def __init__(self, guest: ConformanceServices) -> None:
        self.guest = guest
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._waiting = bytearray()
        self._stream: Optional[Stream] = None

    def connected(self, stream: Stream) -> None:
        """The stream is open."""
        self._stream = stream

    def get_buffer(self) -> memoryview:
        """The buffer for the next bytes."""
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        """``count`` bytes have come."""
        self.received(self._buffer[:count])

    def received(self, data: memoryview) -> None:
        """Take bytes from the host."""
        raise NotImplementedError

    def answer(self, data: bytes) -> None:
        """Send, as soon as there is room."""
        self._waiting += data
        self.writable()

    def writable(self) -> None:
        """There is room."""
        if self._stream is None:
            return
        while self._waiting:
            sent = self._stream.send([bytes(self._waiting)])
            del self._waiting[:sent]
            if not sent or self._stream is None:
                return
        self.drained()

    def drained(self) -> None:
        """All answers have been taken."""

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self._stream = None


class Echo(_Service):
    """Every byte comes back."""

    def received(self, data: memoryview) -> None:
        """Send the bytes back."""
        self.answer(bytes(data))


class Counter(_Service):
    """Tells what the guest has counted."""

    def received(self, data: memoryview) -> None:
        """An answer for each byte."""
        self.answer(COUNTERS.pack(self.guest.counter, 0, self.guest.sunk) * len(data))


class Sink(_Service):
    """Swallows what it receives."""

    def received(self, data: memoryview) -> None:
        """Count them."""
        self.guest.sunk += len(data)


class Flood(_Service):
    """Sends numbers without an end."""

    def __init__(self, guest: ConformanceServices) -> None:
        super().__init__(guest)
        self._next = 0
        self._started = False

    def received(self, data: memoryview) -> None:
        """Begin at the first byte."""
        if not self._started:
            self._started = True
            self.drained()

    def drained(self) -> None:
        """The next numbers, after others have had their turn."""
        if self._started:
            batch = range(self._next, self._next + BATCH)
            self._next += BATCH
            self._waiting += struct.pack(f"<{BATCH}Q", *batch)
            self.guest.soon(self.writable)


class Farewell(_Service):
    """Sends as many numbers as it was asked for, and then ends the stream."""

    def __init__(self, guest: ConformanceServices) -> None:
        super().__init__(guest)
        self._asked = bytearray()

    def received(self, data: memoryview) -> None:
        """Take the request: how many numbers to send."""
        self._asked += data
        if len(self._asked) == 4:
            count = int.from_bytes(self._asked, "little")
            self.answer(struct.pack(f"<{count}Q", *range(count)))

    def drained(self) -> None:
        """Send the next numbers, or end the stream when all have been sent."""
        if len(self._asked) == 4 and self._stream is not None:
            self._stream.end()


class Entropy(_Service):
    """Random bytes of the entropy device, where there is one."""

    def received(self, data: memoryview) -> None:
        """An answer for each byte."""
        for _ in range(len(data)):
            self.answer(_random())


class Drives(_Service):
    """Reads and writes sectors."""

    def __init__(self, guest: ConformanceServices) -> None:
        super().__init__(guest)
        self._request = bytearray()

    def received(self, data: memoryview) -> None:
        """An answer for each whole request."""
        self._request += data
        while len(self._request) >= DRIVE_REQUEST.size:
            request = DRIVE_REQUEST.unpack(self._request[: DRIVE_REQUEST.size])
            del self._request[: DRIVE_REQUEST.size]
            status, sectors, content = self._serve(*request)
            self.answer(DRIVE_ANSWER.pack(status, 0, sectors, content))

    @staticmethod
    def _serve(operation: int, number: int, sector: int, content: bytes) -> tuple[int, int, bytes]:
        drives = sorted(glob.glob("/sys/block/vd*"))
        if number >= len(drives):
            return NO_DRIVE, 0, b""
        with open(f"{drives[number]}/size") as file:
            sectors = int(file.read())
        device = f"/dev/{os.path.basename(drives[number])}"
        try:
            drive = os.open(device, os.O_RDWR if operation == WRITE else os.O_RDONLY)
            try:
                if operation == WRITE:
                    os.pwrite(drive, content, sector * SECTOR_BYTES)
                    os.fsync(drive)
                elif operation == READ:
                    content = os.pread(drive, SECTOR_BYTES, sector * SECTOR_BYTES)
            finally:
                os.close(drive)
        except OSError:
            return FAILED, sectors, b""
        return DONE, sectors, content


def _random() -> bytes:
    try:
        with open("/dev/hwrng", "rb", buffering=0) as device:
            content = b""
            while len(content) < ENTROPY_BYTES:
                content += device.read(ENTROPY_BYTES - len(content))
            return content
    except FileNotFoundError:
        # A guest that is a host process has no device of its own.
        return os.urandom(ENTROPY_BYTES)


class ConformanceServices:
    """All services; a transport asks :meth:`accept` for the handler of a port."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.ports = list(PORTS)
        self.counter = 0
        self.sunk = 0
        self._services = {
            ECHO_PORT: Echo,
            COUNTER_PORT: Counter,
            FLOOD_PORT: Flood,
            SINK_PORT: Sink,
            DRIVES_PORT: Drives,
            ENTROPY_PORT: Entropy,
            FAREWELL_PORT: Farewell,
        }
        self._tick()

    def accept(self, port: int) -> Optional[Handler]:
        """The handler for a new connection to ``port``, or ``None``."""
        service = self._services.get(port)
        return service(self) if service is not None else None

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back after what is ready now has had its turn."""
        self._loop.call_later(0, callback)

    def _tick(self) -> None:
        self.counter += 1
        self._loop.call_later(TICK_S, self._tick)
