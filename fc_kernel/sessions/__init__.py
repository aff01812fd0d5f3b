"""One kernel's life, over machines that may be replaced."""
