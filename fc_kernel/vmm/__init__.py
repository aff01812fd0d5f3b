"""The monitors: their drivers, their processes, their isolation, and what this host can run."""
