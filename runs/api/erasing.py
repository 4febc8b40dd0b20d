"""The API of erasing the content of examples. For operators (docs/operations.md)."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, PlainValidator, WithJsonSchema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.examples.schema import json_kind
from datasets.models import Erasure
from datasets.services.access import get_dataset_for
from runs.api.views import actor, described
from runs.services.erasing import (
    TRACES_MAX,
    Affected,
    affected_by,
    affected_of_dataset,
    continue_erasure,
    erase,
    get_erasure,
)
from tunixrt.api.query import parse_uuid
from tunixrt.api.schema import Answer, Path
from tunixrt.reading import Model, read_body
from tunixrt.refusals import Refusal
from tunixrt.roles import May, require

ERASURE = {
    "erasure_id": Path(
        "Id of an erasure.",
        {"type": "string", "format": "uuid"},
        "6f1d2f6a-3f0f-4c9b-8a57-0a8b6e0c2d11",
    )
}


def _ids(value: Any) -> list[UUID]:
    if not isinstance(value, list):
        raise ValueError(f"Must be a list of trace ids, not {json_kind(value)}.")
    try:
        return [UUID(each) for each in value]
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError("Must hold trace ids (UUIDs) only.") from error


def _count(value: Any) -> int | None:
    if value is None or (type(value) is int and 0 <= value <= TRACES_MAX):
        return value
    raise ValueError(f"Must be the number of examples that go, at most {TRACES_MAX:,}, or null.")


class ErasureBody(Model):
    """Which examples; without ``confirm`` the answer only says what would be affected."""

    trace_ids: Annotated[
        list[UUID],
        PlainValidator(_ids),
        WithJsonSchema(
            {"type": "array", "items": {"type": "string", "format": "uuid"}, "maxItems": TRACES_MAX}
        ),
    ] = Field([], description="Of the examples.")
    dataset_key: Annotated[str | None, WithJsonSchema({"type": ["string", "null"]})] = Field(
        None, description="Instead of ids: all examples that only this dataset uses."
    )
    confirm: Annotated[
        int | None,
        PlainValidator(_count),
        WithJsonSchema({"type": ["integer", "null"], "minimum": 0, "maximum": TRACES_MAX}),
    ] = Field(None, description="How many examples go, as the answer without it said: erase them.")


class AffectedAnswer(Answer):
    """The lists hold the first hundred, the counts are of all."""

    traces: int = Field(description="Examples that go.")
    already_erased: int
    twins: int = Field(
        description="Among them, examples that were not named, but say the same as one that was."
    )
    more: bool = Field(description="Whether there are more than one erasure takes.")
    datasets: list[str]
    dataset_count: int
    runs: list[UUID] = Field(description="Whose files are changed.")
    run_count: int
    model_count: int = Field(description="Models that learnt from the datasets; they stay.")
    executing: list[UUID] = Field(description="Runs that have to end first.")
    derived: list[str] = Field(description="Datasets that may hold changed copies; they stay.")
    derived_count: int
    skipped_files: int = Field(description="Files of lines left out by imports, which go.")


class ErasureState(Answer):
    id: UUID
    traces: int
    runs_done: int
    files_changed: int
    problem: str = Field(description="What is left, and why.")
    created_at: datetime
    completed_at: datetime | None


class ErasureAnswer(Answer):
    affected: AffectedAnswer
    erasure: ErasureState | None = Field(description="null without confirm")


def affected_answer(affected: Affected) -> dict[str, Any]:
    return {
        "traces": affected.count,
        "already_erased": affected.erased,
        "twins": affected.twins,
        "more": affected.more,
        "datasets": [dataset.dataset_key for dataset in affected.datasets],
        "dataset_count": affected.dataset_count,
        "runs": [str(run.pk) for run in affected.runs],
        "run_count": affected.run_count,
        "model_count": affected.model_count,
        "executing": [str(run.pk) for run in affected.executing],
        "derived": [dataset.dataset_key for dataset in affected.derived],
        "derived_count": affected.derived_count,
        "skipped_files": affected.skipped_files,
    }


def erasure_state(erasure: Erasure) -> dict[str, Any]:
    names = ("runs_done", "files_changed", "problem", "created_at", "completed_at")
    return {
        "id": str(erasure.pk),
        "traces": len(erasure.trace_ids),
        **{name: getattr(erasure, name) for name in names},
    }


class ErasureList(APIView):
    """POST: say what an erasure would affect, or erase."""

    @described(
        "eraseTraces",
        tag="Traces",
        summary="Say what erasing the content of examples would affect; with confirm, erase it",
        description="For operators. 202: files of runs are left; continue it.",
        body=ErasureBody,
        answers={200: ErasureAnswer, 202: ErasureAnswer},
        refused=(404, 409),
        example={"dataset_key": "sums-v1"},
    )
    def post(self, request: Request) -> Response:
        by = actor(request)
        require(by, May.OPERATE)
        body = read_body(ErasureBody, request.data)
        if (body.dataset_key is None) == (not body.trace_ids):
            raise Refusal("Give either trace_ids or dataset_key.")
        if body.dataset_key is None:
            affected = affected_by(trace_ids=body.trace_ids, by=by)
        else:
            dataset = get_dataset_for(by, body.dataset_key, may=May.READ)
            affected = affected_of_dataset(dataset=dataset, by=by)
        answer: dict[str, Any] = {"affected": affected_answer(affected), "erasure": None}
        if body.confirm is None:
            return Response(answer)
        erasure = erase(affected=affected, confirmed=body.confirm, by=by)
        answer["erasure"] = erasure_state(erasure)
        return Response(answer, status=200 if erasure.completed_at else 202)


class ErasureDetail(APIView):
    """GET: how far an erasure is. POST: continue it."""

    @described(
        "readErasure",
        tag="Traces",
        summary="How far an erasure is",
        path=ERASURE,
        answers={200: ErasureState},
    )
    def get(self, request: Request, erasure_id: str) -> Response:
        require(actor(request), May.OPERATE)
        parsed = parse_uuid(erasure_id, "erasure_id")
        return Response(erasure_state(get_erasure(actor(request), parsed)))

    @described(
        "continueErasure",
        tag="Traces",
        summary="Do what is left of an erasure",
        path=ERASURE,
        answers={200: ErasureState, 202: ErasureState},
    )
    def post(self, request: Request, erasure_id: str) -> Response:
        by = actor(request)
        require(by, May.OPERATE)
        erasure = get_erasure(by, parse_uuid(erasure_id, "erasure_id"))
        erasure = continue_erasure(erasure=erasure, by=by)
        return Response(erasure_state(erasure), status=200 if erasure.completed_at else 202)
