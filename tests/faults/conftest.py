"""The same fixtures as for the clients' tests."""

from ..jupyter.conftest import jupyter_path, monitor  # noqa: F401
