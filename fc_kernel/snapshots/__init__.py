"""Snapshots and templates on the disk: published whole or not at all, checked before they are used."""
