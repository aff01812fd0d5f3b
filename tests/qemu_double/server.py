"""The program: ``server.py SETUP`` and then QEMU's own arguments. Standard library.

The set-up is a JSON object of faults by what they strike: ``start``, ``greeting`` or a QMP command. ``exit``, ``hang``,
``refuse`` (an error of QMP), ``garbage`` (no JSON), ``hang up`` (the QMP connection).
"""

from __future__ import annotations

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


def inherited(words: list[str], name: str) -> socket.socket:
    """The socket that a character device was given."""
    devices = [words[at + 1] for at, word in enumerate(words) if word == "-chardev"]
    [descriptor] = [match[1] for word in devices if (match := re.match(rf"socket,id={name},fd=(\d+)$", word))]
    return socket.socket(fileno=int(descriptor))


def hold(connection: socket.socket) -> None:
    """Listen to the multiplexer and say nothing."""
    while connection.recv(4096):
        pass


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
    threading.Thread(target=hold, args=(inherited(words, "mux"),), daemon=True).start()
    connection = inherited(words, "qmp")
    print("qemu: somebody is there", flush=True)
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
            answer = {"return": ANSWERS.get(name, {})}
        if "id" in command:
            answer["id"] = command["id"]
        connection.sendall(json.dumps(answer).encode() + b"\r\n")
    time.sleep(FOR_EVER_S)


if __name__ == "__main__":
    main()
