"""QEMU's ``microvm`` machine: what runs where Firecracker cannot."""
