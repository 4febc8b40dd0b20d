"""The API of what a run leaves behind: logs, metrics, files, and the live stream of them all
(docs/live.md)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runs.api.answers import (
    ArtifactList,
    Curves,
    LogMatches,
    LogPart,
    Removed,
    SeriesList,
)
from runs.api.downloads import send_file
from runs.api.queries import (
    ArtifactsQuery,
    EventsQuery,
    LogPartQuery,
    LogSearchQuery,
    MetricsQuery,
)
from runs.api.views import RUN, actor, described
from runs.live import stream
from runs.models import MetricSeries, Run, RunQuerySet
from runs.queries import artifacts, curves, log_search, logs
from runs.runfolder.files import BrokenFile, open_regular
from runs.services.access import get_run_for, may_read_items, require_items
from runs.services.output_root import while_root_is_there
from runs.services.reservations import run_folder
from tunixrt.api.negotiation import OneForm
from tunixrt.api.query import NoQuery, read_query
from tunixrt.api.schema import Content, Path
from tunixrt.credentials import Credential
from tunixrt.refusals import InvalidQuery
from tunixrt.roles import May

OFFSET_TRIES = 3
STREAM = Path("Which log.", {"type": "string", "enum": list(logs.LOGS)}, "stdout")
FILE = Path("Path of a file in the folder of the run.", {"type": "string"}, "manifest.yaml")
RANGES = {"Range": "One range of bytes.", "If-Range": "The ETag that the range belongs to."}
EVENT = {
    "type": "object",
    "description": "One event (docs/live.md).",
    "properties": {
        "event": {"enum": ["status", "stdout", "stderr", "metrics", "end"]},
        "id": {"type": "string", "description": "A position, for from."},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
TEXT = Content(("text/plain",))
BYTES = Content(("application/octet-stream",))
SERIES_FIELDS = ("name", "count", "first", "last", "minimum", "maximum", "last_step")


def where_it_is() -> RunQuerySet:
    """Return visible runs with what it takes to find their folders."""
    return Run.objects.visible().only("status", "dry_run", "output_dir", "dataset_key")


class RunLogs(APIView):
    """GET: part of a log as text, from a byte offset on, or its last lines; or the lines of it that
    hold a text."""

    @described(
        "readLog",
        summary="Part of a log, its last lines, or the lines that hold a text",
        path=RUN,
        query=(LogPartQuery, LogSearchQuery),
        answers={200: (LogPart, LogMatches)},
        example_query={"stream": "stdout", "tail_lines": 50},
    )
    def get(self, request: Request, run_id: str) -> Response:
        if "search" in request.query_params:
            return self._search(request, run_id)
        query = read_query(LogPartQuery, request)
        log, tail_lines = query.stream, query.tail_lines
        run = get_run_for(actor(request), run_id, may=May.READ, runs=where_it_is())
        require_items(actor(request), run)
        path = while_root_is_there(run_folder(run)) / logs.LOGS[log]
        complete = run.is_terminal
        try:
            if tail_lines:
                part = logs.read_lines_before(
                    path, end=query.before, lines=tail_lines, limit=query.limit, complete=complete
                )
            else:
                part = logs.read_part(
                    path, offset=query.offset or 0, limit=query.limit, complete=complete
                )
        except logs.OffsetPastEnd as error:
            raise InvalidQuery({"before" if tail_lines else "offset": [str(error)]}) from error
        except BrokenFile as error:
            raise _no_such_log(log) from error
        answer: dict[str, Any] = {
            "stream": log,
            "offset": part.offset,
            "next_offset": part.next_offset,
            "size": part.size,
            "complete": complete,
            "text": part.text,
        }
        if query.line_numbers == "1":
            lines = logs.count_lines(path, part.offset) if part.offset else 0
            answer["first_line"] = None if lines is None else lines + 1
        return Response(answer)

    @staticmethod
    def _search(request: Request, run_id: str) -> Response:
        query = read_query(LogSearchQuery, request)
        log, offset = query.stream, query.offset
        run = get_run_for(actor(request), run_id, may=May.READ, runs=where_it_is())
        require_items(actor(request), run)
        path = while_root_is_there(run_folder(run)) / logs.LOGS[log]
        try:
            found = log_search.search_log(path, query.search, offset=offset, limit=query.matches)
        except logs.OffsetPastEnd as error:
            raise InvalidQuery({"offset": [str(error)]}) from error
        except BrokenFile as error:
            raise _no_such_log(log) from error
        numbered = query.line_numbers == "1"
        before = (logs.count_lines(path, offset) if offset else 0) if numbered else None
        answer = {
            "stream": log,
            "search": query.search,
            "offset": found.offset,
            "next_offset": found.next_offset,
            "size": found.size,
            "complete": run.is_terminal,
            "matches": [
                {
                    "offset": match.offset,
                    "line": None if before is None else before + match.line + 1,
                    "text": match.text,
                }
                for match in found.matches
            ],
        }
        return Response(answer)


def _no_such_log(stream: str) -> NotFound:
    return NotFound(
        f"{stream[:64]!r} is no log of this run: there are stdout and stderr, and they are regular"
        " files."
    )


class RunLogFile(APIView):
    """GET: a whole log, byte for byte, or ranges of it."""

    content_negotiation_class = OneForm

    @described(
        "downloadLog",
        summary="A whole log, byte for byte, or a range of it",
        path=RUN | {"stream": STREAM},
        headers=RANGES,
        answers={200: TEXT, 206: TEXT},
        refused=(416,),
    )
    def get(self, request: Request, run_id: str, stream: str) -> HttpResponseBase:
        read_query(NoQuery, request)
        run = get_run_for(actor(request), run_id, may=May.READ, runs=where_it_is())
        require_items(actor(request), run)
        if stream not in logs.LOGS:
            raise _no_such_log(stream)
        descriptor = None
        try:
            descriptor = open_regular(while_root_is_there(run_folder(run)) / logs.LOGS[stream])
        except FileNotFoundError:
            pass  # nothing has been written yet
        except BrokenFile as error:
            raise _no_such_log(stream) from error
        name = f"{run.run_id}-{stream}.log"
        return send_file(
            request._request, descriptor, filename=name, content_type="text/plain; charset=utf-8"
        )


class RunMetrics(APIView):
    """GET: the series of a run, or the curves of those named."""

    @described(
        "readMetrics",
        summary="Which series there are, or the curves of those named",
        path=RUN,
        query=MetricsQuery,
        answers={200: (SeriesList, Curves)},
        example_query={"points": 500},
    )
    def get(self, request: Request, run_id: str) -> Response:
        query = read_query(MetricsQuery, request)
        names, chained = query.name, query.chain == "1"
        run = get_run_for(actor(request), run_id, may=May.READ)
        attempts = curves.read_chain(run) if chained else [curves.Attempt(run, None, None)]
        answer: dict[str, Any] = {"run_id": run.run_id, "name": run.name}
        offset = run.metrics_offset
        for _ in range(OFFSET_TRIES):
            # The stream continues at this offset, so what was read must end there.
            offset = run.metrics_offset
            if names:
                answer["data"] = [
                    _curve(attempts, name, query.points, query.from_step, query.to_step)
                    for name in names
                ]
            else:
                answer["data"] = _series(attempts)
            run.refresh_from_db(fields=["metrics_offset"])
            if run.metrics_offset == offset:
                break
        answer["metrics_offset"] = offset
        if chained:
            answer["attempts"] = [
                {
                    "run_id": attempt.run.run_id,
                    "name": attempt.run.name,
                    "attempt": attempt.run.attempt,
                    "status": attempt.run.status,
                    "first_step": attempt.first_step,
                    "to_step": attempt.to_step,
                }
                for attempt in attempts
            ]
        return Response(answer)


def _series(attempts: Sequence[curves.Attempt]) -> list[dict[str, Any]]:
    """Return what was measured, by name; of a series of several attempts the latest one."""
    found: dict[str, dict[str, Any]] = {}
    for attempt in attempts:
        for series in MetricSeries.objects.filter(run=attempt.run).values(*SERIES_FIELDS):
            found[series["name"]] = series
    return [found[name] for name in sorted(found)]


def _curve(
    attempts: Sequence[curves.Attempt],
    name: str,
    points: int,
    from_step: int | None,
    to_step: int | None,
) -> dict[str, Any]:
    slices = curves.curve_slices(attempts, name, from_step=from_step, to_step=to_step)
    if not slices:
        raise NotFound(f"This run has no metric {name!r}.")
    curve = curves.read_curve(slices, points)
    return {
        "name": name,
        "count": curve.count,
        "bucket": curve.bucket,
        "steps": curve.steps,
        "times": curve.times,
        "values": [curves.as_json(value) for value in curve.values],
    }


class RunEvents(APIView):
    """GET: what happens to a run, as server-sent events, from a position on (docs/live.md)."""

    content_negotiation_class = OneForm

    @described(
        "watchRun",
        summary="What happens to a run, as server-sent events",
        path=RUN,
        query=EventsQuery,
        headers={"Last-Event-ID": "Where a browser was that comes back; as from."},
        answers={200: Content(("text/event-stream",), EVENT)},
    )
    def get(self, request: Request, run_id: str) -> HttpResponseBase:
        position = read_query(EventsQuery, request).from_ or stream.Position()
        # A browser that comes back repeats its first address and says here where it was.
        if last := request.headers.get("Last-Event-ID"):
            try:
                position = stream.Position.decode(last)
            except ValueError as error:
                raise InvalidQuery({"Last-Event-ID": [str(error)]}) from error
        run = get_run_for(actor(request), run_id, may=May.READ)
        folder = while_root_is_there(run_folder(run))
        if not position.lies_inside(folder):
            raise InvalidQuery({"from": ["lies behind the end of the files of this run."]})
        limits = {
            "limit": settings.TUNIXRT_MAX_STREAMS,
            "each": settings.TUNIXRT_STREAMS_PER_ACCOUNT,
        }
        texts = may_read_items(actor(request), run)
        viewer = stream.Viewer(run, folder, position, Credential.of(request), texts=texts, **limits)
        # the second is for nginx
        headers = {
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",
        }
        return StreamingHttpResponse(
            viewer, content_type="text/event-stream; charset=utf-8", headers=headers
        )


class RunArtifacts(APIView):
    """GET: the files of a run."""

    @described(
        "listArtifacts",
        summary="The files of a run",
        path=RUN,
        query=ArtifactsQuery,
        answers={200: ArtifactList},
        example_query={"limit": 100},
    )
    def get(self, request: Request, run_id: str) -> Response:
        limit = read_query(ArtifactsQuery, request).limit
        run = get_run_for(actor(request), run_id, may=May.READ, runs=where_it_is())
        listing = artifacts.list_artifacts(while_root_is_there(run_folder(run)), limit=limit)
        data = [
            {
                "path": artifact.path,
                "size": artifact.size,
                "modified": datetime.fromtimestamp(artifact.modified, UTC),
                "kind": artifact.kind,
                "removable": run.is_terminal and artifacts.is_removable(artifact.path),
            }
            for artifact in listing.artifacts
        ]
        return Response({"data": data, "truncated": listing.truncated})


class RunArtifact(APIView):
    """GET: one file, or ranges of it. DELETE: a file or folder of the checkpoints or the model of
    an ended run."""

    content_negotiation_class = OneForm

    @described(
        "downloadArtifact",
        summary="One file, or a range of it",
        path=RUN | {"path": FILE},
        headers=RANGES,
        answers={200: BYTES, 206: BYTES},
        refused=(416,),
    )
    def get(self, request: Request, run_id: str, path: str) -> HttpResponseBase:
        read_query(NoQuery, request)
        run = get_run_for(actor(request), run_id, may=May.READ, runs=where_it_is())
        if not artifacts.is_free_of_examples(path):
            require_items(actor(request), run)
        descriptor = artifacts.open_artifact(while_root_is_there(run_folder(run)), path)
        return send_file(
            request._request,
            descriptor,
            filename=path.rsplit("/", 1)[-1],
            content_type="application/octet-stream",
        )

    @described(
        "removeArtifact",
        summary="Remove a file or folder of the checkpoints or the model of an ended run",
        path=RUN | {"path": FILE},
        answers={200: Removed},
        refused=(409,),
    )
    def delete(self, request: Request, run_id: str, path: str) -> Response:
        run = get_run_for(actor(request), run_id, may=May.ACT)
        freed = artifacts.remove_artifact(run=run, path=path, by=actor(request))
        return Response({"removed": path, "bytes_freed": freed})
