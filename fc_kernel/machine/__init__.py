"""One running guest: booted or loaded, woken, saved, ended."""
