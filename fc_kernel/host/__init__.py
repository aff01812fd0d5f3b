"""The engine that owns VMs: its thread, its sessions, and the choice of a monitor."""
