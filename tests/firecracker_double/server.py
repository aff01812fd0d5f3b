"""The program: ``server.py --setup FILE`` and then Firecracker's own arguments.

The set-up is a JSON object: ``version``, and ``faults`` by the request that they strike (``"PUT /vsock"``, or ``"start"``):
``refuse`` it, ``exit``, ``hang``, ``stop`` (the process, by SIGSTOP), or ``drop`` (carry it out and close without a reply).
Every request is written to ``FILE.requests``, one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
#: jsonschema would import a checker of a format that is not asked for, which takes most of a second.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
#: A hanging process is killed by the test, not by itself.
FOR_EVER_S = 3600
BEFORE_BOOT = (
    "/machine-config",
    "/boot-source",
    "/drives/{drive_id}",
    "/network-interfaces/{iface_id}",
    "/vsock",
    "/entropy",
)


class Instance:
    """What Firecracker would have configured; refuses what is out of order."""

    def __init__(self, version: str) -> None:
        from tests.firecracker_double.description import ApiDescription, BadRequest, described

        self.bad = BadRequest
        self.version = version
        self.description = ApiDescription(described(version))
        self.state = "Not started"
        self.configured: set[str] = set()
        self.vsock = "v.sock"
        self.listener: socket.socket | None = None
        #: In place of the VM that a Firecracker would have from KVM; see ``tests/firecracker_double/program.py``.
        self.vm = -1

    def carry_out(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """Raises ``BadRequest``."""
        template = self.description.check(method, path, body)
        if method == "GET":
            return {"id": "double", "app_name": "Firecracker", "vmm_version": self.version, "state": self.state}
        if template in BEFORE_BOOT:
            self._only("Not started", template)
            self.configured.add(template)
            if template == "/vsock":
                self.vsock = body["uds_path"]
        elif template == "/actions":
            self._only("Not started", "InstanceStart")
            if "/boot-source" not in self.configured:
                raise self.bad("Cannot start microvm without kernel configuration.")
            self._run()
        elif template == "/vm":
            if self.state == "Not started":
                raise self.bad("The requested operation is not supported before starting the microVM.")
            self.state = "Paused" if body["state"] == "Paused" else "Running"
        elif template == "/snapshot/create":
            self._only("Paused", "save")
            try:
                Path(body["snapshot_path"]).write_bytes(b"vmstate")
                Path(body["mem_file_path"]).write_bytes(b"mem")
            except OSError as error:
                raise self.bad(f"Cannot create the snapshot: {error}") from error
        elif template == "/snapshot/load":
            self._load(body)
        else:
            raise self.bad(f"the double does not know {template}")
        return {}

    def _load(self, body: dict[str, Any]) -> None:
        if self.configured or self.state != "Not started":
            raise self.bad("Loading a microVM snapshot not allowed after configuring boot-specific resources.")
        for path in (body["snapshot_path"], body["mem_backend"]["backend_path"]):
            if not Path(path).exists():
                raise self.bad(f"Failed to open {path}: No such file or directory")
        self.vsock = body.get("vsock_override", {}).get("uds_path", self.vsock)
        self._run()
        self.state = "Running" if body.get("resume_vm") else "Paused"

    def _only(self, state: str, what: str) -> None:
        if self.state != state:
            raise self.bad(f"{what} is not supported in the state {self.state}")

    def _run(self) -> None:
        self.state = "Running"
        self.vm = os.memfd_create("vm")
        print("guest: booting", flush=True)
        # As long as no driver of the guest is up, a connection is taken and nothing is answered.
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.vsock)
        self.listener.listen()


def strike(fault: str) -> None:
    """What befalls the process itself."""
    if fault == "exit":
        os._exit(7)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "hang":
        time.sleep(FOR_EVER_S)


def serve(setup: Path, arguments: argparse.Namespace) -> None:
    given = json.loads(setup.read_text())
    faults: dict[str, str] = given.get("faults", {})
    print(f"double of Firecracker v{given['version']}", flush=True)
    Path(arguments.log_path).write_text("2026-01-01 [double:main:WARN] what the log says last\n")
    Path(arguments.metrics_path).write_text("{}\n")
    strike(faults.get("start", ""))
    instance = Instance(given["version"])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            """Not on the console."""

        def _handle(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.loads(content) if content else None
            with Path(f"{setup}.requests").open("a") as file:
                file.write(json.dumps({"method": self.command, "path": self.path, "body": body}) + "\n")
            fault = faults.get(f"{self.command} {self.path}", "")
            strike(fault)
            try:
                if fault == "refuse":
                    raise instance.bad("the double refuses")
                answer = instance.carry_out(self.command, self.path, body)
            except instance.bad as error:
                self._answer(400, {"fault_message": str(error)})
                if self.path == "/snapshot/load":
                    # Firecracker does not outlive a failed load.
                    os._exit(1)
                return
            if fault == "drop":
                self.close_connection = True
                return
            self._answer(200 if answer else 204, answer)

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode() if body else b""
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        do_GET = do_PUT = do_PATCH = _handle  # noqa: N815

    with UnixStreamServer(arguments.api_sock, Handler) as server:
        server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--setup", type=Path, required=True)
    parser.add_argument("--version", action="store_true")
    for name in ("--id", "--api-sock", "--log-path", "--level", "--metrics-path"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    if arguments.version:
        print("Firecracker v" + json.loads(arguments.setup.read_text())["version"])
        return
    serve(arguments.setup, arguments)


if __name__ == "__main__":
    main()
