"""The API of runs. Paths and codes are fixed by docs/api.md; every view parses, authorises, calls a
service and answers."""

from functools import partial
from typing import Any, cast

from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, connection
from django.http import HttpResponse
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runs.api.answers import (
    RunAnswer,
    RunPage,
    RunStatusAnswer,
    RuntimeAnswer,
    Trashed,
)
from runs.api.presentation import full_answer, read_full, read_short
from runs.api.queries import RunListQuery, SubmitQuery
from runs.execution import attending, launching
from runs.models import Run
from runs.queries import pages
from runs.runfolder import files, names
from runs.services import annotations, deletion, reservations, retrying, submission
from runs.services.access import get_run_for, read_run_for, require_priority
from runs.services.disk import disk_warnings
from runs.services.output_root import while_root_is_there
from runs.services.run_requests import (
    AnnotationsBody,
    ExtensionBody,
    InvalidRequest,
    RetryBody,
    RunRequest,
    clean_annotations,
    clean_extension,
    clean_request,
    clean_retry,
    run_body,
)
from runs.services.runtime import local_runtime
from runs.spec.kinds import EVALUATE, KINDS
from tunixrt.api.query import read_query
from tunixrt.api.schema import Content, Path, operation
from tunixrt.reading import Model
from tunixrt.roles import May, require
from tunixrt.searches import search


def actor(request: Request) -> User:
    """Return the account that sends the request; the permission classes refuse requests without
    one."""
    return cast(User, request.user)


RUN = {
    "run_id": Path(
        "Id of a run.",
        {"type": "string", "format": "uuid"},
        "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11",
    )
}
described = partial(operation, tag="Runs")
GIVES_RUN = {"run_id": "/run_id"}
EXAMPLE = {"dataset_key": "sums-v1", "model_id": "preset:tiny-llama"}


def run_bodies() -> list[type[Model]]:
    """Return the models of a request for a run: one for each kind."""
    return [run_body(kind) for kind in (*KINDS.values(), EVALUATE)]


REQUEST_ID_HEADERS = ("X-Client-Request-Id", "Idempotency-Key")
DIFFERENT_REQUEST_IDS = (
    "The request has different ids: give one, as client_request_id or as the header"
    " Idempotency-Key or X-Client-Request-Id."
)


class RunSubmit(APIView):
    """POST: check a configuration (dry run), train and wait, or, with ``?mode=async``, queue."""

    @described(
        "submitRun",
        summary="Check a configuration, train and wait, or queue",
        description="By default a dry run, which checks everything and starts nothing. A"
        " configuration that cannot work is a dry run that failed: 202 too.",
        query=SubmitQuery,
        body=run_bodies,
        headers=dict.fromkeys(REQUEST_ID_HEADERS, "The same as client_request_id."),
        answers={202: RunAnswer},
        refused=(404, 409, 501),
        example=EXAMPLE | {"num_epochs": 1, "tags": ["first"]},
        gives=GIVES_RUN,
    )
    def post(self, request: Request) -> Response:
        require(actor(request), May.MAKE)
        queued = read_query(SubmitQuery, request).mode == "async"
        asked = self._read(request)
        if queued:
            run, _ = submission.submit_run(request=asked, by=actor(request), queued=True)
        else:
            run, _ = launching.run_in_request(request=asked, by=actor(request))
        return _taken(run, actor(request))

    @staticmethod
    def _read(request: Request) -> RunRequest:
        asked = clean_request(with_request_id(request))
        require_priority(actor(request), asked.priority)
        return asked


def with_request_id(request: Request) -> Any:
    """Return the body of a request, with the request id of its headers. Raise InvalidRequest where
    they differ."""
    data = request.data
    if not isinstance(data, dict):
        return data
    headers = (request.headers.get(name) for name in REQUEST_ID_HEADERS)
    given = [value for value in (data.get("client_request_id"), *headers) if value]
    if any(value != given[0] for value in given):
        raise InvalidRequest({"client_request_id": [DIFFERENT_REQUEST_IDS]})
    return data | {"client_request_id": given[0]} if given else data


def _taken(run: Run, by: User) -> Response:
    """Return the answer to a request for a run, with what its owner should know before the next.
    If the database went away meanwhile, the end of the run goes first."""
    answer = full_answer(run, by)
    try:
        warnings = disk_warnings(by)
    except (OperationalError, InterfaceError):
        connection.close()
        warnings = []
    answer["warnings"] = [*answer["warnings"], *warnings]
    return Response(answer, status=202)


class RunList(APIView):
    """GET: a page of runs, newest first."""

    @described(
        "listRuns",
        summary="A page of runs, newest first",
        query=RunListQuery,
        answers={200: RunPage},
        example_query={"limit": 20, "status": "completed", "q": "model:tiny"},
        gives={"run_id": "/data/0/run_id"},
    )
    def get(self, request: Request) -> Response:
        query = read_query(RunListQuery, request)
        selection = query.selection(by=actor(request))
        with search(actor(request), "q", reads_all=selection.reads_all):
            rows, behind = pages.read_page(
                selection,
                limit=query.limit,
                offset=query.offset,
                cursor=query.cursor,
                oldest_first=query.order == "oldest",
            )
        pagination = {
            "limit": query.limit,
            "offset": query.offset,
            "next_offset": query.offset + query.limit if behind else None,
            "next_cursor": behind.encode() if behind else None,
        }
        return Response({"data": rows, "pagination": pagination})


class RunDetail(APIView):
    """GET: everything about a run. PATCH: name, tags, notes, pin. DELETE: an ended run goes to the
    trash."""

    @described("readRun", summary="Everything about a run", path=RUN, answers={200: RunAnswer})
    def get(self, request: Request, run_id: str) -> Response:
        return Response(
            read_run_for(actor(request), run_id, lambda key: read_full(key, actor(request)))
        )

    @described(
        "annotateRun",
        summary="Change name, tags, notes, pin",
        path=RUN,
        body=AnnotationsBody,
        answers={200: RunAnswer},
        example={"name": "best", "tags": ["keep"], "notes": "the good one", "pinned": True},
    )
    def patch(self, request: Request, run_id: str) -> Response:
        run = get_run_for(actor(request), run_id, may=May.ACT)
        kept = [run.name, *(tag.name for tag in run.tags.all())]
        changes = clean_annotations(request.data, kept=kept)
        annotations.annotate_run(run=run, by=actor(request), **changes)
        return Response(full_answer(run, actor(request)))

    @described(
        "deleteRun",
        summary="Move an ended run to the trash, with its files",
        path=RUN,
        answers={200: Trashed},
        refused=(409,),
    )
    def delete(self, request: Request, run_id: str) -> Response:
        deletion.trash_run(run=get_run_for(actor(request), run_id, may=May.ACT), by=actor(request))
        return Response({"trashed": True})


class RunStatusView(APIView):
    """GET: what a poller needs."""

    @described(
        "readStatus", summary="What a poller needs", path=RUN, answers={200: RunStatusAnswer}
    )
    def get(self, request: Request, run_id: str) -> Response:
        return Response(read_run_for(actor(request), run_id, read_short))


class RunCancel(APIView):
    """POST: ask a run to stop."""

    @described(
        "cancelRun",
        summary="Ask a run to stop",
        path=RUN,
        answers={202: RunAnswer},
        refused=(409,),
    )
    def post(self, request: Request, run_id: str) -> Response:
        run = get_run_for(actor(request), run_id, may=May.ACT)
        run = attending.cancel_run(run=run, by=actor(request))
        return Response(full_answer(run, actor(request)), status=202)


class RunRetry(APIView):
    """POST: a new run from an ended one, from its last checkpoint unless ``resume`` is false."""

    @described(
        "retryRun",
        summary="A new run from an ended one",
        path=RUN,
        body=RetryBody,
        answers={202: RunAnswer},
        refused=(409, 501),
        example={"resume": False},
        gives=GIVES_RUN,
    )
    def post(self, request: Request, run_id: str) -> Response:
        run = get_run_for(actor(request), run_id, may=May.ACT)
        resume = clean_retry(request.data)
        retry = retrying.retry_run(run=run, by=actor(request), resume=resume)
        return _taken(retry, actor(request))


class RunExtend(APIView):
    """POST: a new run that adds ``num_epochs`` or ``max_steps`` to a completed training."""

    @described(
        "extendRun",
        summary="A new run that adds epochs or steps to a completed training",
        path=RUN,
        body=ExtensionBody,
        answers={202: RunAnswer},
        refused=(409, 501),
        example={"num_epochs": 2},
        gives=GIVES_RUN,
    )
    def post(self, request: Request, run_id: str) -> Response:
        run = get_run_for(actor(request), run_id, may=May.ACT)
        added = clean_extension(request.data)
        extension = retrying.extend_run(run=run, by=actor(request), **added)
        return _taken(extension, actor(request))


class RunManifest(APIView):
    """GET: the manifest of a run as it was written."""

    @described(
        "readManifest",
        summary="What the training program was given",
        path=RUN,
        answers={200: Content(("application/yaml",), {"type": "object"})},
    )
    def get(self, request: Request, run_id: str) -> HttpResponse:
        path = (
            while_root_is_there(
                reservations.run_folder(get_run_for(actor(request), run_id, may=May.READ))
            )
            / names.MANIFEST
        )
        try:
            with open(files.open_regular(path), "rb") as file:
                return HttpResponse(file.read(), content_type="application/yaml; charset=utf-8")
        except (OSError, files.BrokenFile) as error:
            raise NotFound("This run has no manifest: it has not been started.") from error


class RuntimeStatus(APIView):
    """GET: is the training runtime here?"""

    @described("readRuntime", summary="Is the training runtime here?", answers={200: RuntimeAnswer})
    def get(self, request: Request) -> Response:
        runtime = local_runtime()
        return Response(
            {
                "available": runtime.available,
                "version": runtime.version,
                "runtime_required": runtime.available,
                "message": runtime.message,
            }
        )
