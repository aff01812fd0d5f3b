"""The program: ``server.py SETUP`` and then QEMU's own arguments. Standard library.

The set-up is a JSON object of faults by what they strike: ``start``, ``greeting`` or a QMP command. ``exit``, ``hang``,
``refuse`` (an error of QMP), ``garbage`` (no JSON), ``hang up`` (the QMP connection).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOR_EVER_S = 3600
#: What is not an empty object.
ANSWERS: dict[str, object] = {"query-status": {"status": "paused"}}
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}, "capabilities": []}}


def strike(fault: str, connection: socket.socket | None = None) -> None:
    if fault == "exit":
        print("qemu: it cannot be", flush=True)
        os._exit(1)
    if fault == "hang":
        time.sleep(FOR_EVER_S)
    if fault == "garbage" and connection is not None:
        connection.sendall(b"this is not QMP\n")
        time.sleep(FOR_EVER_S)
    if fault == "hang up" and connection is not None:
        connection.shutdown(socket.SHUT_RDWR)
        time.sleep(FOR_EVER_S)


def listening(words: list[str], name: str) -> socket.socket:
    """The socket on which a character device listens."""
    devices = [words[at + 1] for at, word in enumerate(words) if word == "-chardev"]
    [path] = [
        match[1] for word in devices if (match := re.match(rf"socket,id={name},path=([^,]+),server=on,wait=off$", word))
    ]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    sock.listen()
    return sock


#: Set when somebody is connected to the multiplexer's port.
connected = threading.Event()


def hold(listener: socket.socket) -> None:
    """Listen to the multiplexer and say nothing; one connection after the other."""
    while True:
        connection, _ = listener.accept()
        connected.set()
        with contextlib.suppress(OSError):
            while connection.recv(4096):
                pass
        connected.clear()


def devices() -> list[dict[str, str]]:
    mux = "unix:mux.sock" if connected.is_set() else "disconnected:unix:mux.sock,server=on"
    return [{"label": "qmp", "filename": "unix:qmp.sock"}, {"label": "mux", "filename": mux}]


def commands(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """JSON objects one after the other, with nothing between them."""
    text = ""
    while data := connection.recv(4096):
        text += data.decode()
        while text:
            try:
                command, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            yield command
            text = text[end:].lstrip()


def main() -> None:
    setup = Path(sys.argv[1])
    faults: dict[str, str] = json.loads(setup.read_text())
    words = sys.argv[2:]
    strike(faults.get("start", ""))
    assert "-S" in words
    threading.Thread(target=hold, args=(listening(words, "mux"),), daemon=True).start()
    listener = listening(words, "qmp")
    print("qemu: somebody is there", flush=True)
    while True:
        serve(setup, faults, listener.accept()[0])


def serve(setup: Path, faults: dict[str, str], connection: socket.socket) -> None:
    """One connection of QMP's, to its end."""
    strike(faults.get("greeting", ""), connection)
    connection.sendall(json.dumps(GREETING).encode() + b"\r\n")
    for command in commands(connection):
        name = command.get("execute") or command["exec-oob"]
        with Path(f"{setup}.commands").open("a") as file:
            file.write(name + "\n")
        fault = faults.get(name, "")
        strike(fault, connection)
        if fault == "refuse":
            answer: dict[str, object] = {"error": {"class": "GenericError", "desc": "the double refuses"}}
        else:
            answer = {"return": devices() if name == "query-chardev" else ANSWERS.get(name, {})}
        if "id" in command:
            answer["id"] = command["id"]
        connection.sendall(json.dumps(answer).encode() + b"\r\n")


if __name__ == "__main__":
    main()
