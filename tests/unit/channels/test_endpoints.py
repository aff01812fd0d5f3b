"""The sockets that clients connect to: private, bound once, linked again, encrypted where asked for."""

from __future__ import annotations

import socket as sockets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from fc_kernel.channels import endpoints
from fc_kernel.channels.endpoints import CHANNELS, BoundSockets, ClientEndpoints
from fc_kernel.errors import ConfigError

DEADLINE_MS = 30_000
#: A message that may not arrive is waited for so long; one that arrives needs a thousandth of it.
SILENCE_MS = 500


@pytest.fixture
def context() -> Iterator[Any]:
    context = zmq.Context()
    yield context
    context.destroy(0)


def arrives(context: Any, bound: BoundSockets, endpoint: str, deadline_ms: int = DEADLINE_MS, /, **keys: bytes) -> bool:
    """Whether what a client sends to the shell channel gets there."""
    client = context.socket(zmq.DEALER)
    try:
        for name, key in keys.items():
            setattr(client, name, key)
        client.connect(endpoint)
        client.send(b"hello")
        if not bound.sockets["shell"].poll(deadline_ms):
            return False
        return bound.sockets["shell"].recv_multipart()[-1] == b"hello"
    finally:
        client.close(0)


def ipc(directory: Path, **options: Any) -> ClientEndpoints:
    return ClientEndpoints(transport="ipc", ip=str(directory / "k"), **options)


def tcp(**options: Any) -> ClientEndpoints:
    return ClientEndpoints(transport="tcp", ip="127.0.0.1", **options)


def test_ipc_sockets_are_for_their_owner_alone(context: Any, tmp_path: Path) -> None:
    bound = BoundSockets(context, ipc(tmp_path))
    assert bound.ports == {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
    modes = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    assert {stat.S_IMODE(mode) for mode in modes.values()} == {0o600}
    assert all(stat.S_ISSOCK(mode) for mode in modes.values())
    assert {f"k-{number}" for number in range(1, 6)} <= set(modes)
    assert arrives(context, bound, f"ipc://{tmp_path}/k-1")
    bound.close()
    assert list(tmp_path.iterdir()) == []


def test_chosen_ports(context: Any, tmp_path: Path) -> None:
    ports = {channel: 5000 + number for number, channel in enumerate(CHANNELS)}
    bound = BoundSockets(context, ipc(tmp_path, ports=ports))
    assert bound.ports == ports
    assert arrives(context, bound, f"ipc://{tmp_path}/k-5000")
    bound.close()


def test_names_that_were_unlinked_come_back_and_clients_notice_nothing(context: Any, tmp_path: Path) -> None:
    """``KernelManager`` unlinks them at every restart."""
    bound = BoundSockets(context, ipc(tmp_path))
    client = context.socket(zmq.DEALER)
    client.connect(f"ipc://{tmp_path}/k-1")
    client.send(b"before")
    assert bound.sockets["shell"].poll(DEADLINE_MS)
    identity, said = bound.sockets["shell"].recv_multipart()
    assert said == b"before"
    for number in range(1, 6):
        (tmp_path / f"k-{number}").unlink()
    bound.link()
    bound.link()
    assert arrives(context, bound, f"ipc://{tmp_path}/k-1")
    client.send(b"after")
    assert bound.sockets["shell"].poll(DEADLINE_MS)
    assert bound.sockets["shell"].recv_multipart() == [identity, b"after"]
    client.close(0)
    bound.close()


def test_a_directory_that_is_gone(context: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen on ipc://"):
        BoundSockets(context, ipc(tmp_path / "no" / "such"))


def test_a_name_that_cannot_be_made(context: Any, tmp_path: Path) -> None:
    (tmp_path / "k-3").mkdir()
    with pytest.raises(ConfigError, match="k-3"):
        BoundSockets(context, ipc(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["k-3"]


def test_tcp_takes_free_ports_on_the_address_alone(context: Any) -> None:
    bound = BoundSockets(context, tcp())
    assert len(set(bound.ports.values())) == 5
    assert arrives(context, bound, f"tcp://127.0.0.1:{bound.ports['shell']}")
    for port in bound.ports.values():
        with sockets.socket() as probe:
            assert probe.connect_ex(("127.0.0.2", port)) != 0
    bound.close()


def test_a_port_that_is_taken_leaves_nothing_bound(context: Any) -> None:
    with sockets.socket() as other, sockets.socket() as free:
        for probe in (other, free):
            probe.bind(("127.0.0.1", 0))
        other.listen()
        taken, shell = other.getsockname()[1], free.getsockname()[1]
        free.close()
        with pytest.raises(ConfigError, match=f"cannot listen on tcp://127.0.0.1 port {taken} for stdin"):
            BoundSockets(context, tcp(ports={"shell": shell, "stdin": taken}))
    # ZeroMQ gives a port back in the background.
    end = time.monotonic() + DEADLINE_MS / 1000
    while True:
        try:
            again = BoundSockets(context, tcp(ports={"shell": shell}))
            break
        except ConfigError:
            assert time.monotonic() < end, "still bound"
            time.sleep(0.01)
    assert again.ports["shell"] == shell
    again.close()


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_curve_lets_in_who_has_the_key(context: Any, tmp_path: Path, transport: str) -> None:
    public, secret = zmq.curve_keypair()
    keys = {"curve_publickey": public, "curve_secretkey": secret}
    bound = BoundSockets(context, ipc(tmp_path, **keys) if transport == "ipc" else tcp(**keys))
    address = f"ipc://{tmp_path}/k-1" if transport == "ipc" else f"tcp://127.0.0.1:{bound.ports['shell']}"
    right = {"curve_serverkey": public, "curve_publickey": public, "curve_secretkey": secret}
    other_public, other_secret = zmq.curve_keypair()
    wrong = {"curve_serverkey": other_public, "curve_publickey": other_public, "curve_secretkey": other_secret}
    assert not arrives(context, bound, address, SILENCE_MS)
    assert not arrives(context, bound, address, SILENCE_MS, **wrong)
    assert arrives(context, bound, address, **right)
    bound.close()


def test_a_bad_curve_key_is_an_error_and_leaves_nothing(context: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen.*Invalid argument"):
        BoundSockets(context, ipc(tmp_path, curve_publickey=b"short", curve_secretkey=b"short"))
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_far_too_long_cuts_its_client_off(
    context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "MAX_PART_BYTES", 1000)
    bound = BoundSockets(context, ipc(tmp_path))
    client = context.socket(zmq.DEALER)
    client.connect(f"ipc://{tmp_path}/k-1")
    client.send(bytes(1000))
    assert bound.sockets["shell"].poll(DEADLINE_MS)
    assert len(bound.sockets["shell"].recv_multipart()[-1]) == 1000
    client.send(bytes(1001))
    assert not bound.sockets["shell"].poll(SILENCE_MS)
    assert arrives(context, bound, f"ipc://{tmp_path}/k-1")
    client.close(0)
    bound.close()
