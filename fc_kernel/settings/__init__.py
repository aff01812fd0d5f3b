"""What a kernel's microVM may be: settings from every source, checked against the administrator's limits."""
