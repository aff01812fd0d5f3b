"""The host's side of the services of a guest under test (:mod:`fc_kernel.testing.guest_services`)."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from ...vmm.base import Vmm
from ...wire.handshake import MAX_LINE_BYTES, connect_request
from .. import guest_services as services
from .expecting import ConformanceError, expect

T = TypeVar("T")

#: Nothing promised takes this long, even in an emulated guest on a busy host.
DEADLINE_S = 60.0
#: How long a guest may take to boot, at most.
BOOT_DEADLINE_S = 240.0
#: How long one try to connect may take; until its driver is up a guest does not answer at all.
TRY_S = 2.0
RETRY_S = 0.02


async def within(awaitable: Awaitable[T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Await; after the deadline raise :class:`ConformanceError` with ``what``."""
    try:
        async with asyncio.timeout(deadline_s):
            return await awaitable
    except TimeoutError:
        raise ConformanceError(f"{what}: not within {deadline_s:g} s") from None


@dataclass(frozen=True)
class Counters:
    """What the guest has counted since it booted."""

    counter: int
    resets: int
    sunk_bytes: int


class Connection:
    """One connection to a port of the guest, after the handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, vmm: Vmm, port: int) -> Connection:
        """Connect; raises :class:`ConnectionRefusedError` when the guest does not listen there."""
        reader, writer = await asyncio.open_unix_connection(os.fspath(vmm.uds_path))
        try:
            await cls._greet(reader, writer, port)
        except BaseException:
            await _close(writer)
            raise
        return cls(reader, writer)

    @staticmethod
    async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        try:
            writer.write(connect_request(port))
            line = await reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            said = error.partial if isinstance(error, asyncio.IncompleteReadError) else b""
            expect(not said, f"a refused port was answered with {said!r} instead of nothing")
            raise ConnectionRefusedError(f"the guest does not listen on port {port}") from None
        word, _, number = line.decode("ascii", "replace").rstrip("\n").partition(" ")
        expect(
            len(line) <= MAX_LINE_BYTES and word == "OK" and number.isdecimal(),
            rf"the handshake was answered with {line!r} instead of 'OK <n>\n'",
        )

    async def send(self, data: bytes) -> None:
        """Send; returns when all but one buffer's content is sent."""
        self.writer.write(data)
        await within(self.writer.drain(), f"the guest takes {len(data)} bytes")

    async def receive(self, count: int) -> bytes:
        """Receive exactly ``count`` bytes."""
        try:
            return await within(self.reader.readexactly(count), f"{count} bytes of the guest")
        except asyncio.IncompleteReadError as error:
            raise ConformanceError(f"the connection ended after {len(error.partial)} of {count} bytes") from None

    async def echo(self, data: bytes) -> None:
        """Send to the echo service and receive the same, both at once, so that neither side waits for the other."""
        _, back = await asyncio.gather(self.send(data), self.receive(len(data)))
        if back != data:
            first = next(at for at, (sent, got) in enumerate(zip(data, back, strict=True)) if sent != got)
            raise ConformanceError(f"the echo of {len(data)} bytes differs from byte {first} on")

    async def numbers(self, first: int, count: int) -> None:
        """Receive ``count`` u64 numbers, in order from ``first``."""
        data = await self.receive(8 * count)
        if data != struct.pack(f"<{count}Q", *range(first, first + count)):
            raise ConformanceError(f"the numbers from {first} on came damaged or in another order")

    async def counters(self) -> Counters:
        """Ask the counter service."""
        await self.send(b"?")
        return Counters(*services.COUNTERS.unpack(await self.receive(services.COUNTERS.size)))

    async def ended(self) -> None:
        """Wait for the end of the connection; no more bytes may come."""
        rest = await within(self.reader.read(), "the end of the connection")
        expect(not rest, f"{len(rest)} bytes came before the connection's end")

    async def close(self) -> None:
        """Close; may be called twice."""
        await _close(self.writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        # Closing with unread bytes is a reset, which is intended.
        return


class Guest:
    """A running guest that serves."""

    def __init__(self, vmm: Vmm) -> None:
        self.vmm = vmm

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[Connection]:
        """One connection, for the block."""
        connection = await self.open(port)
        try:
            yield connection
        finally:
            await connection.close()

    async def open(self, port: int) -> Connection:
        """One connection, which the caller closes."""
        return await within(Connection.open(self.vmm, port), f"an answer on port {port}")

    async def until_up(self, deadline_s: float = BOOT_DEADLINE_S) -> None:
        """Wait until a booting guest serves."""

        async def serves() -> None:
            while True:
                try:
                    async with asyncio.timeout(TRY_S):
                        connection = await Connection.open(self.vmm, services.ECHO_PORT)
                except (OSError, TimeoutError):
                    await asyncio.sleep(RETRY_S)
                    continue
                await connection.close()
                return

        serving = asyncio.ensure_future(serves())
        exited = asyncio.ensure_future(self.vmm.wait())
        try:
            done, _ = await asyncio.wait({serving, exited}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            console = "\n  | ".join(["", *self.vmm.console_tail()])
            expect(exited not in done, f"the monitor ended while the guest booted{console}")
            expect(serving in done, f"the guest does not serve within {deadline_s:g} s{console}")
            serving.result()
        finally:
            for task in (serving, exited):
                task.cancel()
            await asyncio.gather(serving, exited, return_exceptions=True)

    async def echoes(self, data: bytes = b"are you there?") -> None:
        """Check one echo on a new connection."""
        async with self.connect(services.ECHO_PORT) as connection:
            await connection.echo(data)

    async def counters(self) -> Counters:
        """What the guest has counted."""
        async with self.connect(services.COUNTER_PORT) as connection:
            return await connection.counters()

    async def sink(self, data: bytes) -> None:
        """Send bytes to the sink, and wait until it has counted them."""
        before = (await self.counters()).sunk_bytes
        async with self.connect(services.SINK_PORT) as connection:
            await connection.send(data)

        async def swallowed() -> None:
            while (await self.counters()).sunk_bytes < before + len(data):
                await asyncio.sleep(RETRY_S)

        await within(swallowed(), f"{len(data)} bytes sent before a close arrive")

    async def drive(self, operation: int, number: int, sector: int = 0, content: bytes = b"") -> tuple[int, int, bytes]:
        """Ask the drives' service: status, the drive's size in sectors, one sector's content."""
        async with self.connect(services.DRIVES_PORT) as connection:
            await connection.send(services.DRIVE_REQUEST.pack(operation, number, sector, content))
            answer = services.DRIVE_ANSWER.unpack(await connection.receive(services.DRIVE_ANSWER.size))
            return answer[0], answer[2], answer[3]
