"""From a Jupyter client's sockets to the guest: switchboard, tunnel, wire formats."""
