"""``python -m fc_kernel.cli``."""

from . import main

main()
