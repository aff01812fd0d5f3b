"""Checks of the hybrid-vsock socket and its connections."""

from __future__ import annotations

import asyncio
import os
import stat

from .. import guest_services as services
from .bench import Bench
from .check import check
from .expecting import ConformanceError, expect
from .guest import Connection, Guest, within

#: Many times what all buffers hold.
VOLUME_BYTES = 4 << 20
FAREWELL_NUMBERS = 32 << 10
FLOOD_NUMBERS = 256 << 10
#: A kernel needs five; a burst of clients must not displace others.
MANY = 32
#: More than a table of streams holds, so that closed streams must be forgotten.
IN_TURN = 150
#: No service listens there, and none of the guest agent's either.
REFUSED_PORTS = (1, 4999, 5999, 0xFFFFFFFF)
NO_HANDSHAKES = (
    b"\n",
    b"HELLO\n",
    b"CONNECT\n",
    b"CONNECT x\n",
    b"CONNECT -1\n",
    b"CONNECT 99999999999\n",
    b"C" * 4096,
)


@check()
async def socket_is_private(bench: Bench) -> None:
    """The hybrid-vsock socket is a Unix socket in the VM's private directory."""
    guest = await bench.shared_guest()
    path = guest.vmm.uds_path
    expect(path.parent == guest.vmm.plan.run_dir, f"the socket is {path}")
    expect(stat.S_ISSOCK(path.stat().st_mode), f"{path} is no socket")
    expect(path.parent.stat().st_mode & 0o077 == 0, f"others may look into {path.parent}")


@check()
async def connects_and_echoes(bench: Bench) -> None:
    r"""``CONNECT <port>\n`` is answered with ``OK <n>\n``, and from then on bytes come and go."""
    guest = await bench.shared_guest()
    async with guest.connect(services.ECHO_PORT) as connection:
        for size in (1, 2, 100, 4096, 70_000):
            await connection.echo(os.urandom(size))


@check()
async def megabytes_arrive_intact(bench: Bench) -> None:
    """Megabytes go to the guest and back without a loss, in their order."""
    guest = await bench.shared_guest()
    async with guest.connect(services.ECHO_PORT) as connection:
        await connection.echo(os.urandom(VOLUME_BYTES))


@check()
async def refused_port_closes_without_an_answer(bench: Bench) -> None:
    """On a port where the guest does not listen the socket is closed without an answer."""
    guest = await bench.shared_guest()
    for port in REFUSED_PORTS:
        try:
            connection = await guest.open(port)
        except ConnectionRefusedError:
            continue
        await connection.close()
        raise ConformanceError(f"port {port} was answered, and nothing listens there")
    await guest.echoes()


@check()
async def nonsense_is_closed(bench: Bench) -> None:
    """A connection without a valid handshake is closed without an answer, and disturbs no other."""
    guest = await bench.shared_guest()
    async with guest.connect(services.ECHO_PORT) as undisturbed:
        for line in NO_HANDSHAKES:
            reader, writer = await asyncio.open_unix_connection(os.fspath(guest.vmm.uds_path))
            connection = Connection(reader, writer)
            try:
                writer.write(line)
                said = await within(reader.read(), f"the end after {line[:20]!r}")
                expect(not said, f"{line[:20]!r} was answered with {said!r}")
            except ConnectionError:
                pass
            finally:
                await connection.close()
            await undisturbed.echo(b"here I am")


@check()
async def many_connections_at_once(bench: Bench) -> None:
    """Many connections are open at the same time, and each gets its own bytes."""
    guest = await bench.shared_guest()
    connections = await asyncio.gather(*(guest.open(services.ECHO_PORT) for _ in range(MANY)))
    try:
        for _ in range(2):
            await asyncio.gather(*(connection.echo(os.urandom(3000)) for connection in connections))
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))


@check()
async def closed_connections_are_forgotten(bench: Bench) -> None:
    """Connections that come and go leave no trace: the last of many in turn is as good as the first."""
    guest = await bench.shared_guest()
    for number in range(IN_TURN):
        await guest.echoes(b"%d" % number)


@check()
async def last_bytes_come_before_the_end(bench: Bench) -> None:
    """When the guest ends a connection, everything that it sent before still arrives, and then the end."""
    guest = await bench.shared_guest()
    async with guest.connect(services.FAREWELL_PORT) as connection:
        await connection.send(FAREWELL_NUMBERS.to_bytes(4, "little"))
        await connection.numbers(0, FAREWELL_NUMBERS)
        await connection.ended()


@check()
async def bytes_before_a_close_arrive(bench: Bench) -> None:
    """When the host ends a connection, the guest still gets everything that was sent before."""
    guest = await bench.shared_guest()
    await guest.sink(os.urandom(VOLUME_BYTES // 4))


@check()
async def half_closed_connection_ends(bench: Bench) -> None:
    """When the host ends its side, the connection ends. (No more is promised: Firecracker closes both sides.)"""
    guest = await bench.shared_guest()
    async with guest.connect(services.ECHO_PORT) as connection:
        await connection.echo(b"before")
        connection.writer.write_eof()
        await connection.ended()
    await guest.echoes()


@check()
async def flood_arrives_in_order(bench: Bench) -> None:
    """What a guest sends as fast as it can arrives complete and in order."""
    guest = await bench.shared_guest()
    async with guest.connect(services.FLOOD_PORT) as flood:
        await flood.send(b"!")
        for first in range(0, FLOOD_NUMBERS, FLOOD_NUMBERS // 16):
            await flood.numbers(first, FLOOD_NUMBERS // 16)


@check()
async def unread_flood_delays_nobody(bench: Bench) -> None:
    """A stream that nobody reads fills only its own buffers; others go on, and it goes on when it is read."""
    guest = await bench.shared_guest()
    async with guest.connect(services.FLOOD_PORT) as flood, guest.connect(services.ECHO_PORT) as other:
        await flood.send(b"!")
        await flood.numbers(0, 1024)
        for _ in range(4):
            await other.echo(os.urandom(VOLUME_BYTES // 16))
        await guest.echoes()
        await flood.numbers(1024, FLOOD_NUMBERS // 4)


@check()
async def unread_echo_delays_nobody(bench: Bench) -> None:
    """A client that sends and does not read is made to wait; others go on, and what it sent comes back when it reads."""
    guest = await bench.shared_guest()
    data = os.urandom(VOLUME_BYTES // 2)
    async with guest.connect(services.ECHO_PORT) as stubborn, guest.connect(services.ECHO_PORT) as other:
        sending = asyncio.ensure_future(stubborn.send(data))
        try:
            for _ in range(4):
                await other.echo(os.urandom(VOLUME_BYTES // 16))
            expect(await stubborn.receive(len(data)) == data, "it came back damaged")
        finally:
            await asyncio.wait({sending})
        sending.result()


@check()
async def gone_client_disturbs_nobody(bench: Bench) -> None:
    """A client that goes away in the middle of a flood is forgotten; the next one is served."""
    guest = await bench.shared_guest()
    for _ in range(3):
        async with guest.connect(services.FLOOD_PORT) as flood:
            await flood.send(b"!")
            await flood.receive(8)
        await _floods_from_the_beginning(guest)


async def _floods_from_the_beginning(guest: Guest) -> None:
    async with guest.connect(services.FLOOD_PORT) as flood:
        await flood.send(b"!")
        await flood.numbers(0, 1024)


@check()
async def console_tells(bench: Bench) -> None:
    """The last lines of the guest's console can be read: no more than asked for, and no control characters."""
    guest = await bench.shared_guest()

    async def said() -> None:
        while not guest.vmm.console_tail():
            await asyncio.sleep(0.01)

    await within(said(), "a line on the console")
    lines = guest.vmm.console_tail(200)
    expect(all(line and line.isprintable() for line in lines), f"control characters or empty lines: {lines}")
    expect(guest.vmm.console_tail(1) == guest.vmm.console_tail(200)[-1:], "the tail is not the end")
