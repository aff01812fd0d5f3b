"""``python -m fc_kernel.testing.scripted_guest``: started by the fake monitor's driver, which gives the first command."""

from __future__ import annotations

import socket
import sys

from ...guest.loop import Loop
from .faults import Faults
from .machine import Machine


def main() -> None:
    """Serve until the driver's connection ends."""
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    monitor = socket.socket(fileno=int(given["--monitor-fd"]))
    machine = Machine(Loop(), monitor, given["--uds"], Faults(given["--faults"]), given["--service"])
    machine.run()


main()
