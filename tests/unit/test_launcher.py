"""The launcher's connection file: what it takes from it, and one line for each that is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.connect import write_connection_file

from fc_kernel.api.calls import Endpoints
from fc_kernel.errors import ConfigError
from fc_kernel.host.service import CHANNELS
from fc_kernel.launcher import MAX_CONNECTION_FILE_BYTES, links_to, listen_of, read_connection_file, run

PORTS: dict[str, Any] = {f"{channel}_port": 50000 + number for number, channel in enumerate(CHANNELS)}


def written(path: Path, content: Any = None, **changes: Any) -> str:
    file = path / "connection.json"
    document = {**PORTS, "key": "k", **changes} if content is None else content
    file.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return str(file)


def test_a_file_of_jupyters(tmp_path: Path) -> None:
    path = str(tmp_path / "connection.json")
    public, secret = zmq.curve_keypair()
    write_connection_file(
        path,
        key=b"a key",
        ip="127.0.0.1",
        kernel_name="fc-python3",
        curve_publickey=public,
        curve_secretkey=secret,
        **PORTS,
    )
    assert read_connection_file(path) == {
        "ports": {channel: PORTS[f"{channel}_port"] for channel in CHANNELS},
        "transport": "tcp",
        "ip": "127.0.0.1",
        "key": "a key",
        "signature_scheme": "hmac-sha256",
        "kernel_name": "fc-python3",
        "curve_publickey": public.decode(),
        "curve_secretkey": secret.decode(),
    }


def test_what_may_be_left_out(tmp_path: Path) -> None:
    info = read_connection_file(written(tmp_path, PORTS))
    assert (info["transport"], info["ip"], info["signature_scheme"]) == ("tcp", "127.0.0.1", "hmac-sha256")
    assert (info["key"], info["kernel_name"]) == ("", "")
    assert info["curve_publickey"] is info["curve_secretkey"] is None
    assert read_connection_file(written(tmp_path, {**PORTS, "transport": "ipc"}))["ip"] == "kernel-ipc"
    nulls = dict.fromkeys(["key", "ip", "transport", "signature_scheme", "kernel_name"])
    assert read_connection_file(written(tmp_path, {**PORTS, **nulls})) == info


BAD_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "no port": ({"shell_port": None}, "shell_port is None; allowed: 1 to 65535"),
    "port 0": ({"iopub_port": 0}, "iopub_port is 0"),
    "port too large": ({"stdin_port": 65536}, "stdin_port is 65536"),
    "negative port": ({"hb_port": -1}, "hb_port is -1"),
    "port of text": ({"control_port": "5000"}, "control_port is '5000'"),
    "port true": ({"control_port": True}, "control_port is True"),
    "port of fractions": ({"control_port": 5.0}, "control_port is 5.0"),
    "long port": ({"control_port": "x" * 10_000}, "control_port is 'xxx"),
    "other transport": ({"transport": "udp"}, "transport is 'udp'; allowed: tcp, ipc"),
    "transport of another type": ({"transport": ["tcp"]}, "transport is"),
    "ip of another type": ({"ip": 127}, "ip is 127; allowed: a string"),
    "ip with NUL": ({"ip": "a\0b"}, "ip has invalid characters"),
    "key of another type": ({"key": {"a": 1}}, "key is"),
    "key with half a surrogate pair": ({"key": "\ud800"}, "key has invalid characters"),
    "scheme of another type": ({"signature_scheme": 256}, "signature_scheme is 256"),
    "name of another type": ({"kernel_name": []}, "kernel_name is"),
    "public key alone": ({"curve_publickey": "x" * 40}, "one of curve_publickey and curve_secretkey"),
    "secret key alone": ({"curve_secretkey": "x" * 40}, "one of curve_publickey and curve_secretkey"),
}


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_bad_values(kind: str, tmp_path: Path) -> None:
    changes, named = BAD_VALUES[kind]
    with pytest.raises(ConfigError) as caught:
        read_connection_file(written(tmp_path, **changes))
    assert named in str(caught.value)
    assert "connection.json" in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" not in str(caught.value)


BAD_FILES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "no UTF-8": b'{"key": "\xff"}',
    "deep": b"[" * 60_000,
    "huge number": b'{"shell_port": ' + b"9" * 5000 + b"}",
    "too large": json.dumps({**PORTS, "key": "k" * MAX_CONNECTION_FILE_BYTES}).encode(),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_none(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="connection file"):
        read_connection_file(written(tmp_path, BAD_FILES[kind]))


@pytest.mark.parametrize("path", ["/nowhere/connection.json", "/", "", "a\0b"])
def test_a_file_that_is_not_there(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the connection file"):
        read_connection_file(path)


def test_tcp_endpoints(tmp_path: Path) -> None:
    listen = listen_of(read_connection_file(written(tmp_path, curve_publickey="p" * 40, curve_secretkey="s" * 40)))
    assert (listen.transport, listen.ip) == ("tcp", "127.0.0.1")
    assert [listen.ports[channel] for channel in CHANNELS] == list(PORTS.values())
    assert (listen.curve_publickey, listen.curve_secretkey) == (b"p" * 40, b"s" * 40)


def bound(info: dict[str, Any], private: Path) -> Endpoints:
    """What a host answers to a kernel with the ports of a connection file."""
    listen = listen_of(info)
    assert (listen.transport, listen.ip) == ("ipc", "")
    return Endpoints(transport="ipc", ip=str(private / "k"), ports=listen.ports)


def test_ipc_endpoints_are_links_into_the_private_directory(tmp_path: Path) -> None:
    public, private = tmp_path / "public", tmp_path / "private"
    public.mkdir()
    private.mkdir()
    info = read_connection_file(written(tmp_path, transport="ipc", ip=str(public / "kernel")))
    with links_to(bound(info, private), info):
        for port in PORTS.values():
            assert (public / f"kernel-{port}").readlink() == private / f"k-{port}"
    assert list(public.iterdir()) == []


def test_what_stands_in_the_way_of_a_link_is_kept(tmp_path: Path) -> None:
    taken = tmp_path / f"kernel-{PORTS['iopub_port']}"
    taken.write_text("somebody's")
    info = read_connection_file(written(tmp_path, transport="ipc", ip=str(tmp_path / "kernel")))
    with pytest.raises(ConfigError, match="File exists"), links_to(bound(info, tmp_path), info):
        pytest.fail("it was made")
    assert taken.read_text() == "somebody's"
    assert {path.name for path in tmp_path.iterdir()} == {"connection.json", taken.name}


@pytest.mark.parametrize("settings", ["", "{", "x", "[" * 100_000, "{} {}"])
def test_settings_that_are_no_json(settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(written(tmp_path), settings) == 1
    assert capsys.readouterr().err.startswith("fc_kernel.launcher: --settings is not JSON")


def test_a_bad_file_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    descriptors = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert run("/nowhere", "{}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fc_kernel.launcher: cannot read the connection file '/nowhere'")
    assert set(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


@pytest.mark.parametrize(
    ("words", "environment", "line"),
    [
        (["--settings", "[]"], {}, "fc_kernel (from call) is []; allowed: an object of names and values"),
        (["--settings", '{"vcpu_count": 0}'], {}, "vcpu_count (from call) is 0; allowed: at least 1"),
        ([], {"FC_KERNEL_MONITOR": "xen"}, "monitor (from environment) is 'xen'; allowed: 'auto'"),
        (
            [],
            {"FC_KERNEL_MONITOR": "qemu", "FC_KERNEL_QEMU": "/nowhere/qemu"},
            "no monitor can run here; qemu: /nowhere/qemu",
        ),
        ([], {"FC_KERNEL_RUNTIME_DIR": "/tmp/" + "x" * 100}, "the run directory '/tmp/xxx"),
    ],
)
def test_what_cannot_start_ends_with_one_line(
    words: list[str], environment: dict[str, str], line: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fc_kernel.launcher",
            "-f",
            written(tmp_path, transport="ipc", ip=f"{tmp_path}/k"),
            *words,
        ],
        env={**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path), "FC_KERNEL_MONITOR": "fake", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"fc_kernel.launcher: {line}")
    assert [path.name for path in tmp_path.iterdir()] == ["connection.json"]


def test_without_a_connection_file_it_is_a_matter_of_usage() -> None:
    done = subprocess.run([sys.executable, "-m", "fc_kernel.launcher"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--connection-file" in done.stderr
