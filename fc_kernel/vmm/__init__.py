"""The monitors: their drivers, their processes, and whether this host can run them."""
