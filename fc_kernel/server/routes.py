"""All routes of the API, with their requests, answers and errors."""

from __future__ import annotations

from http import HTTPStatus

from ..api.models import (
    ChangeSnapshot,
    Console,
    CreateSnapshot,
    Fork,
    ForkedKernel,
    ImportQuery,
    Kernel,
    Restore,
    ScopeQuery,
    Snapshot,
    Status,
)
from ..api.openapi import Operation, Route
from .about import OpenApiHandler, SchemaHandler, StatusHandler
from .kernels import (
    ConsoleHandler,
    ForkHandler,
    KernelHandler,
    KernelsHandler,
    KernelSnapshotsHandler,
    RestoreHandler,
)
from .snapshots import SnapshotHandler, SnapshotNotebookHandler, SnapshotsHandler
from .transfer import MEDIA_TYPE, ExportHandler, ImportHandler

JSON = "application/json"
BAD, MISSING, TAKEN = HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT
LARGE, UNFIT, FULL = (
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.INSUFFICIENT_STORAGE,
)

ROUTES = (
    Route(
        path="status",
        handler=StatusHandler,
        operations={"get": Operation(summary="Version, tier and limits", answer=Status)},
    ),
    Route(
        path="openapi.json",
        handler=OpenApiHandler,
        operations={"get": Operation(summary="This description", answer=JSON)},
    ),
    Route(
        path="schema",
        handler=SchemaHandler,
        operations={
            "get": Operation(summary="JSON Schema of metadata.fc_kernel, with the administrator's limits", answer=JSON),
            "post": Operation(
                summary="Check settings as a start would",
                request=JSON,
                answer=None,
                status=HTTPStatus.NO_CONTENT,
                errors=(BAD, LARGE, UNFIT),
            ),
        },
    ),
    Route(
        path="kernels",
        handler=KernelsHandler,
        operations={"get": Operation(summary="All kernels of this server that run in microVMs", answer=[Kernel])},
    ),
    Route(
        path="kernels/{kernel_id}",
        handler=KernelHandler,
        operations={"get": Operation(summary="A kernel and its microVM", answer=Kernel, errors=(MISSING,))},
    ),
    Route(
        path="kernels/{kernel_id}/console",
        handler=ConsoleHandler,
        operations={"get": Operation(summary="The guest's console", answer=Console, errors=(MISSING,))},
    ),
    Route(
        path="kernels/{kernel_id}/snapshots",
        handler=KernelSnapshotsHandler,
        operations={
            "get": Operation(summary="Snapshots of the kernel's scope", answer=[Snapshot], errors=(MISSING,)),
            "post": Operation(
                summary="Take a snapshot",
                request=CreateSnapshot,
                answer=Snapshot,
                status=HTTPStatus.CREATED,
                errors=(BAD, MISSING, TAKEN, LARGE, UNFIT, FULL),
            ),
        },
    ),
    Route(
        path="kernels/{kernel_id}/restore",
        handler=RestoreHandler,
        operations={
            "post": Operation(
                summary="Restore the kernel to a snapshot",
                request=Restore,
                answer=Kernel,
                errors=(BAD, MISSING, TAKEN, LARGE, UNFIT),
            )
        },
    ),
    Route(
        path="kernels/{kernel_id}/fork",
        handler=ForkHandler,
        operations={
            "post": Operation(
                summary="Fork the kernel: start new kernels from its present state, or from a snapshot",
                request=Fork,
                answer=[ForkedKernel],
                status=HTTPStatus.CREATED,
                errors=(BAD, MISSING, TAKEN, LARGE, UNFIT, FULL),
            )
        },
    ),
    Route(
        path="snapshots",
        handler=SnapshotsHandler,
        operations={
            "get": Operation(summary="All snapshots of the user", query=ScopeQuery, answer=[Snapshot], errors=(BAD,))
        },
    ),
    # Before the route with an ID: no ID is "import", and that route has no POST.
    Route(
        path="snapshots/import",
        handler=ImportHandler,
        operations={
            "post": Operation(
                summary="Import a snapshot from a file that an export made",
                request="application/octet-stream",
                query=ImportQuery,
                answer=Snapshot,
                status=HTTPStatus.CREATED,
                errors=(BAD, TAKEN, LARGE, UNFIT, FULL),
            )
        },
    ),
    Route(
        path="snapshots/{snapshot_id}",
        handler=SnapshotHandler,
        operations={
            "get": Operation(summary="A snapshot", answer=Snapshot, errors=(MISSING,)),
            "patch": Operation(
                summary="Change a snapshot's name or description",
                request=ChangeSnapshot,
                answer=Snapshot,
                errors=(BAD, MISSING, TAKEN, LARGE, UNFIT),
            ),
            "delete": Operation(
                summary="Delete a snapshot",
                answer=None,
                status=HTTPStatus.NO_CONTENT,
                errors=(MISSING, TAKEN, UNFIT),
            ),
        },
    ),
    Route(
        path="snapshots/{snapshot_id}/notebook",
        handler=SnapshotNotebookHandler,
        operations={
            "get": Operation(
                summary="The notebook that was saved with a snapshot", answer=JSON, errors=(MISSING, UNFIT)
            )
        },
    ),
    Route(
        path="snapshots/{snapshot_id}/export",
        handler=ExportHandler,
        operations={
            "get": Operation(summary="A snapshot as one file", answer=MEDIA_TYPE, errors=(MISSING, UNFIT, FULL))
        },
    ),
)
