"""The papermill engine ``fc_kernel``: ``papermill --engine fc_kernel in.ipynb out.ipynb``."""

from __future__ import annotations

from typing import Any

from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.utils import merge_kwargs, remove_args

from .headless import microvm_kernel, notebook_settings, require_microvm


class FcKernelEngine(NBClientEngine):
    """papermill's own engine, which also passes ``metadata.fc_kernel`` to the start of the kernel."""

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """The kernelspec that the caller names, or else one that starts a microVM for the notebook."""
        return name or microvm_kernel(nb)

    @classmethod
    def execute_managed_notebook(  # noqa: D102 - papermill's interface
        cls,
        nb_man: Any,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        **kwargs: Any,
    ) -> Any:
        require_microvm(kernel_name)
        safe_kwargs = remove_args(["input_path", "timeout", "startup_timeout"], **kwargs)
        final_kwargs = merge_kwargs(
            safe_kwargs,
            timeout=execution_timeout or kwargs.get("timeout"),
            startup_timeout=start_timeout,
            kernel_name=kernel_name,
            log_output=log_output,
            stdout_file=stdout_file,
            stderr_file=stderr_file,
        )
        start = {"fc_kernel_notebook": notebook_settings(nb_man.nb)}
        client = PapermillNotebookClient(nb_man, **final_kwargs)
        return client.execute(**start)
