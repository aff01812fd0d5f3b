"""What runs in the guest: the agent and its transports. Standard library and pyzmq, Python 3.9."""
