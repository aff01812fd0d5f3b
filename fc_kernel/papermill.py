"""The papermill engine ``fc_kernel``: ``papermill --engine fc_kernel in.ipynb out.ipynb``."""

from __future__ import annotations

from typing import Any

from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.utils import merge_kwargs, remove_args


class FcKernelEngine(NBClientEngine):
    """papermill's own engine, which also passes ``metadata.fc_kernel`` to the kernel's start."""

    @classmethod
    def execute_managed_notebook(  # noqa: D102 - papermill's interface
        cls,
        nb_man: Any,
        kernel_name: str,
        log_output: bool = False,  # noqa: FBT001, FBT002
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        **kwargs: Any,
    ) -> Any:
        safe_kwargs = remove_args(["timeout", "startup_timeout"], **kwargs)
        final_kwargs = merge_kwargs(
            safe_kwargs,
            timeout=execution_timeout if execution_timeout else kwargs.get("timeout"),
            startup_timeout=start_timeout,
            kernel_name=kernel_name,
            log_output=log_output,
            stdout_file=stdout_file,
            stderr_file=stderr_file,
        )
        settings = dict(nb_man.nb.metadata.get("fc_kernel", {}))
        return PapermillNotebookClient(nb_man, **final_kwargs).execute(fc_kernel=settings)
