"""Where machines come from: the pool, a template, a snapshot, a cold boot."""
