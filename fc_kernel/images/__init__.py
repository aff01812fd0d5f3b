"""Guest images: building them, keeping them, and checking them before every boot."""
