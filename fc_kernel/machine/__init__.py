"""One running guest: booting it, or loading and waking it, saving it, and ending it."""
