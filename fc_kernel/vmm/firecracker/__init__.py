"""Firecracker, through its REST API on a Unix socket."""
