"""Print the OpenAPI description of the REST API and its events, without a server.

The JupyterLab extension's types are generated from it: ``python scripts/openapi.py > openapi.json``.
"""

from __future__ import annotations

import json
import sys

from fc_kernel.api.openapi import description
from fc_kernel.server.routes import ROUTES


def main() -> None:
    """Write one JSON document to standard output."""
    json.dump(description(ROUTES), sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
