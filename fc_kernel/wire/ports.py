"""The vsock ports on which the guest agent listens, and the names of the channels that go through the tunnel.

The heartbeat has no port: the host answers it (a pause must not look like a death).
"""

from __future__ import annotations

from typing import Final

#: JSON-RPC 2.0 between host and agent, one JSON object a line. Only root may listen below 1024 in the guest.
CONTROL_PORT: Final = 1000

#: One port per Jupyter channel.
CHANNEL_PORTS: Final = {"shell": 1001, "iopub": 1002, "stdin": 1003, "control": 1004}

#: The version that agent and host speak. Every incompatible change raises it.
PROTOCOL_VERSION: Final = 3
