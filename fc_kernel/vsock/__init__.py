"""Reaching the guest: the hybrid-vsock handshake, and many streams over one."""
