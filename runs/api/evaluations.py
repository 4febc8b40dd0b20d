"""The API of evaluations. An evaluation is a run of kind ``evaluate``: it is cancelled, retried and
watched as any run (docs/api.md)."""

import uuid
from datetime import datetime
from functools import cache, partial
from typing import Annotated, Any, Literal

from pydantic import Field, create_model
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runs.api.queries import PAGE_DEFAULT, PAGE_MAX
from runs.api.views import (
    GIVES_RUN,
    REQUEST_ID_HEADERS,
    RUN,
    actor,
    with_request_id,
)
from runs.models import EvaluationSet, Run, RunStatus
from runs.queries import evaluations as reading
from runs.queries.logs import OffsetPastEnd
from runs.queries.selection import Selection, parse_moment
from runs.runfolder import files, names
from runs.runfolder.checkpoints import complete_steps
from runs.services import submission
from runs.services.access import get_run_for, require_priority
from runs.services.evaluations import clean_evaluation
from runs.services.output_root import while_root_is_there
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.services.run_requests import KEY_MAX_LENGTH, InvalidRequest, run_body
from runs.spec.kinds import EVALUATE
from tunixrt.api.query import (
    CURSOR,
    OFFSET_MAX,
    choice,
    parse_uuid,
    read_by,
    read_query,
    text,
    whole,
)
from tunixrt.api.schema import Answer, Pagination, Path, operation
from tunixrt.cursors import Cursor, decode_uuid_cursor
from tunixrt.reading import NOT_AN_OBJECT, UNKNOWN, Model
from tunixrt.refusals import InvalidQuery
from tunixrt.roles import May, require

described = partial(operation, tag="Evaluations")
EVALUATION = {
    "evaluation_id": Path(
        "Id of an evaluation: that of its run.",
        RUN["run_id"].schema,
        RUN["run_id"].example,
    )
}
GIVES_EVALUATION = GIVES_RUN | {"evaluation_id": "/run_id"}
ITEMS_DEFAULT, ITEMS_MAX = 20, 100
EXAMPLE = {"dataset_key": "sums-v1", "model_id": "preset:tiny-llama", "max_tokens": 16}


class ScoreAnswer(Answer):
    """What one scorer says. ``mean`` and its interval are over questions; the counts are of
    outputs. A failure is never averaged."""

    label: str
    scorer: dict[str, Any]
    mean: float | None = Field(description="null: nothing was scored.")
    low: float | None = Field(description="Of the 95 % interval.")
    high: float | None
    n: int = Field(description="Questions in the mean.")
    scored: int
    failed: int
    truncated: int
    total: int
    pass_at_k: dict[str, float] = Field(description="k → estimate; only with several samples.")
    lower_is_better: bool
    standing: str = Field(description="Whether leaderboards rank it, or why they do not.")
    smallest_effect: float | None = Field(
        description="The smallest difference between two models that so many questions show."
    )


class QuestionsAnswer(Answer):
    """Which questions. Evaluations with one ``key`` can be compared."""

    key: str
    dataset_key: str
    fingerprint: str
    part: str
    limit: int | None
    size: int | None = Field(description="null: no evaluation has answered all of them yet.")


class EvaluationRow(Answer):
    """The essentials of an evaluation."""

    run_id: uuid.UUID
    name: str
    status: RunStatus
    dataset_key: str
    model_id: str
    questions: str = Field(description="Key of the set of questions.")
    created_at: datetime
    started_at: datetime | None
    duration_seconds: float | None
    complete: bool
    scores: list[ScoreAnswer]


class EvaluationPage(Answer):
    data: list[EvaluationRow]
    pagination: Pagination


class EvaluationAnswer(Answer):
    """Everything about an evaluation."""

    run_id: uuid.UUID
    name: str
    status: RunStatus
    message: str
    dataset_key: str
    model_id: str
    questions: QuestionsAnswer
    subject: uuid.UUID | None = Field(description="The run whose model it is.")
    step: int | None = Field(description="Of a checkpoint of that run.")
    lineage: str = Field(description="The model that the evaluated one was trained from.")
    settings: dict[str, Any]
    owner: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    answered: int | None = Field(description="Questions that have their outputs.")
    total: int | None = Field(description="Questions to answer.")
    complete: bool
    problem: str = Field(description="Why it takes no part in comparisons.")
    scores: list[ScoreAnswer] = Field(description="Partial while it executes.")
    truncated: int
    tokens: int
    looks: int = Field(
        description="How often models of this lineage were evaluated on these questions."
    )
    weights_sha256: str | None
    template_hash: str | None
    engine: str | None
    outputs_sha256: str | None
    outputs_intact: bool | None = Field(
        description="Whether the stored outputs are those that were scored; null: not known."
    )
    source: uuid.UUID | None = Field(description="The evaluation whose outputs it scores.")
    baseline: uuid.UUID | None
    curve: list[uuid.UUID] = Field([], description="One for each checkpoint that was asked for.")


class MessageAnswer(Answer):
    role: str
    content: str


class OutputAnswer(Answer):
    text: str
    tokens: int | None
    finish_reason: str = Field(description="stop, length, or prompt_too_long.")
    seconds: float | None
    scores: dict[str, float | None]
    problems: dict[str, str] = Field(description="Why a scorer has no score.")


class ItemAnswer(Answer):
    """A question with its outputs."""

    index: int | None = Field(description="Place in the set.")
    id: str = Field(description="Of the example.")
    hash: str = Field(description="By which items of two evaluations are paired.")
    prompt: list[MessageAnswer]
    rendered: str = Field(description="The prompt as the model saw it.")
    prompt_tokens: int | None
    reference: str | None
    columns: dict[str, Any]
    outputs: list[OutputAnswer]


class ItemsAnswer(Answer):
    data: list[ItemAnswer]
    next_offset: int | None = Field(description="null on the last page")
    unreadable: int = Field(description="Lines that are no item.")
    intact: bool | None = Field(
        description="Whether the items are those that were scored; null: not known."
    )


class EvaluationListQuery(Model):
    limit: Annotated[int, whole(1, PAGE_MAX)] = Field(PAGE_DEFAULT, description="Rows of a page.")
    offset: Annotated[int, whole(0, OFFSET_MAX)] = Field(0, description="Rows to pass over.")
    cursor: Annotated[Cursor[uuid.UUID] | None, read_by(decode_uuid_cursor)] = Field(
        None, description=CURSOR
    )
    status: Annotated[str | None, choice(RunStatus.values)] = None
    dataset_key: Annotated[str | None, text] = None
    model_id: Annotated[str | None, text] = None
    run_id: Annotated[
        uuid.UUID | None,
        read_by(partial(parse_uuid, name="run_id"), format="uuid"),
    ] = Field(None, description="The run whose model was evaluated.")
    owner: Annotated[str | None, text] = Field(None, description="Name of an account.")
    date_from: Annotated[datetime | None, read_by(parse_moment, examples=["2026-11-01"])] = Field(
        None, description="Created then or later."
    )
    date_to: Annotated[datetime | None, read_by(parse_moment, examples=["2026-12-01"])] = Field(
        None, description="Created earlier."
    )


class ItemsQuery(Model):
    offset: Annotated[int, whole(0, OFFSET_MAX)] = Field(
        0, description="Byte at which the page begins: ``next_offset`` of the page before."
    )
    limit: Annotated[int, whole(1, ITEMS_MAX)] = Field(ITEMS_DEFAULT, description="Items at most.")


_NOT_ASKED = ("kind", "dry_run", "smoke", "preflight")
_OF_SOURCE = "Needed, unless outputs_from names an evaluation, whose it is then."


@cache
def evaluation_body() -> type[Model]:
    """Return the model of a request for an evaluation: that of a run, without what says how a dry
    run is made."""
    fields = run_body(EVALUATE).model_fields
    asked: dict[str, Any] = {
        name: (field.annotation, field) for name, field in fields.items() if name not in _NOT_ASKED
    }
    for name in ("dataset_key", "model_id"):
        asked[name] = (
            str | None,
            Field(None, min_length=1, max_length=KEY_MAX_LENGTH, description=_OF_SOURCE),
        )
    return create_model("EvaluationRequest", __base__=Model, **asked)


@cache
def run_evaluation_body() -> type[Model]:
    """Return the model of a request for an evaluation of a run's model."""
    fields = evaluation_body().model_fields
    asked: dict[str, Any] = {
        name: (field.annotation, field) for name, field in fields.items() if name != "model_id"
    }
    asked["step"] = (
        int | Literal["all"] | None,
        Field(None, description="Of a checkpoint; all: an evaluation of each; null: the model."),
    )
    return create_model("RunEvaluationRequest", __base__=Model, **asked)


class EvaluationList(APIView):
    """GET: a page of evaluations, newest first. POST: queue one."""

    @described(
        "listEvaluations",
        summary="A page of evaluations, newest first",
        query=EvaluationListQuery,
        answers={200: EvaluationPage},
        example_query={"limit": 20, "dataset_key": "sums-v1"},
    )
    def get(self, request: Request) -> Response:
        query = read_query(EvaluationListQuery, request)
        chosen = Selection(
            kind=EVALUATE.name,
            status=query.status,
            dataset_key=query.dataset_key,
            model_id=query.model_id,
            owner=query.owner,
            after=query.date_from,
            before=query.date_to,
        )
        found, behind = reading.read_page(
            chosen,
            subject=query.run_id,
            limit=query.limit,
            offset=query.offset,
            cursor=query.cursor,
        )
        pagination = {
            "limit": query.limit,
            "offset": query.offset,
            "next_offset": query.offset + query.limit if behind else None,
            "next_cursor": behind.encode() if behind else None,
        }
        return Response({"data": [row(run) for run in found], "pagination": pagination})

    @described(
        "submitEvaluation",
        summary="Queue an evaluation",
        description="To check an evaluation and start nothing, send it to /api/tunix/run with"
        " kind: evaluate.",
        body=lambda: [evaluation_body()],
        headers=dict.fromkeys(REQUEST_ID_HEADERS, "The same as client_request_id."),
        answers={202: EvaluationAnswer},
        refused=(404, 409, 501),
        example=EXAMPLE,
        gives=GIVES_EVALUATION,
    )
    def post(self, request: Request) -> Response:
        require(actor(request), May.MAKE)
        return Response(answer(_submit(request, with_request_id(request))), status=202)


def _submit(request: Request, data: Any) -> Run:
    """Queue the evaluation that a body asks for."""
    if isinstance(data, dict) and (unknown := [name for name in _NOT_ASKED if name in data]):
        raise InvalidRequest({name: [UNKNOWN] for name in unknown})
    asked = clean_evaluation(data)
    require_priority(actor(request), asked.priority)
    run, _ = submission.submit_run(request=asked, by=actor(request), queued=True)
    return reading.with_evaluations(Run.objects.filter(pk=run.pk)).get()


class EvaluationDetail(APIView):
    """GET: everything about an evaluation."""

    @described(
        "readEvaluation",
        summary="Everything about an evaluation",
        path=EVALUATION,
        answers={200: EvaluationAnswer},
    )
    def get(self, request: Request, evaluation_id: str) -> Response:
        return Response(answer(get_evaluation_for(request, evaluation_id)))


class EvaluationItems(APIView):
    """GET: the questions of an evaluation with their outputs."""

    @described(
        "listItems",
        summary="Questions with their outputs, in the order in which they were answered",
        path=EVALUATION,
        query=ItemsQuery,
        answers={200: ItemsAnswer},
    )
    def get(self, request: Request, evaluation_id: str) -> Response:
        query = read_query(ItemsQuery, request)
        run = get_evaluation_for(request, evaluation_id)
        while_root_is_there(run_folder(run))
        try:
            page = reading.read_items(
                run, reader=actor(request), offset=query.offset, limit=query.limit
            )
        except FileNotFoundError:
            page = reading.ItemPage()
        except OffsetPastEnd as error:
            raise InvalidQuery({"offset": [str(error)]}) from error
        except files.BrokenFile as error:
            raise NotFound("The items of this evaluation cannot be read.") from error
        return Response(
            {
                "data": page.items,
                "next_offset": page.next_offset,
                "unreadable": page.unreadable,
                "intact": reading.is_intact(run),
            }
        )


class RunEvaluate(APIView):
    """POST: evaluate the model of a run, or each of its checkpoints."""

    @described(
        "evaluateRun",
        summary="Evaluate the model of a run",
        description="The body is that of an evaluation without model_id, and may have step: that"
        ' of a checkpoint, or "all" for an evaluation of each of them.',
        path=RUN,
        body=lambda: [run_evaluation_body()],
        answers={202: EvaluationAnswer},
        refused=(404, 409, 501),
        gives=GIVES_EVALUATION,
    )
    def post(self, request: Request, run_id: str) -> Response:
        require(actor(request), May.MAKE)
        run = get_run_for(actor(request), run_id, may=May.READ)
        data: Any = request.data
        if not isinstance(data, dict):
            raise InvalidRequest({"non_field_errors": [NOT_AN_OBJECT]})
        if "model_id" in data:
            raise InvalidRequest({"model_id": ["Leave this out: it is the model of the run."]})
        step = data.get("step")
        rest = {name: value for name, value in data.items() if name != "step"}
        if step != "all":
            model_id = f"run:{run.pk}" if step is None else f"run:{run.pk}@{_step(step)}"
            return Response(answer(_submit(request, rest | {"model_id": model_id})), status=202)
        steps = complete_steps(while_root_is_there(run_folder(run)) / names.CHECKPOINTS)
        if not steps:
            raise StateConflict("This run has no checkpoint to evaluate.")
        made = [
            _submit(request, _for_step(rest, step) | {"model_id": f"run:{run.pk}@{step}"})
            for step in steps
        ]
        found = answer(made[-1]) | {"curve": [one.pk for one in made]}
        return Response(found, status=202)


def _step(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 10**9:
        raise InvalidRequest({"step": ['This field must be a step, or "all".']})
    return value


def _for_step(data: dict[str, Any], step: int) -> dict[str, Any]:
    """Return the body for one of several evaluations, whose request ids must differ."""
    given = data.get("client_request_id")
    return data | {"client_request_id": f"{given}@{step}"} if isinstance(given, str) else data


class RunEvaluation(APIView):
    """GET: the newest evaluation of a run's model."""

    @described(
        "readRunEvaluation",
        summary="The newest evaluation of a run's model",
        path=RUN,
        answers={200: EvaluationAnswer},
    )
    def get(self, request: Request, run_id: str) -> Response:
        run = get_run_for(actor(request), run_id, may=May.READ)
        found = (
            reading.with_evaluations(reading.evaluation_runs(subject=run.pk)).newest_first().first()
        )
        if found is None:
            raise NotFound(f"The model of run {run.pk} has not been evaluated.")
        return Response(answer(found))


def get_evaluation_for(request: Request, evaluation_id: str) -> Run:
    """Return the run of an evaluation that the account may read. Raise what ``get_run_for``
    raises."""
    runs = reading.with_evaluations(Run.objects.visible().filter(evaluation__isnull=False))
    return get_run_for(actor(request), evaluation_id, may=May.READ, runs=runs)


def questions_answer(questions: EvaluationSet) -> dict[str, Any]:
    return {
        "key": questions.key,
        "dataset_key": questions.dataset_key,
        "fingerprint": questions.fingerprint,
        "part": questions.part,
        "limit": questions.limit,
        "size": questions.size or None,
    }


def row(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.pk,
        "name": run.name,
        "status": run.status,
        "dataset_key": run.dataset_key,
        "model_id": run.model_id,
        "questions": run.evaluation.questions.key,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "duration_seconds": run.duration_seconds,
        "complete": run.evaluation.complete,
        "scores": [reading.stored_row(score).as_json() for score in run.evaluation.scores.all()],
    }


def answer(run: Run) -> dict[str, Any]:
    evaluation = run.evaluation
    questions = evaluation.questions
    return {
        "run_id": run.pk,
        "name": run.name,
        "status": run.status,
        "message": run.message,
        "dataset_key": run.dataset_key,
        "model_id": run.model_id,
        "questions": questions_answer(questions),
        "subject": evaluation.subject_id,
        "step": evaluation.step,
        "lineage": evaluation.lineage,
        "settings": {
            name: value for name, value in run.config.items() if name in EVALUATE.parameters
        },
        "owner": run.owner.get_username(),
        "created_at": run.created_at,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
        "duration_seconds": run.duration_seconds,
        "answered": evaluation.answered if run.is_terminal else run.step,
        "total": run.total_steps,
        "complete": evaluation.complete,
        "problem": evaluation.problem,
        "scores": [score.as_json() for score in reading.score_rows(run)],
        "truncated": evaluation.truncated,
        "tokens": evaluation.tokens,
        "looks": reading.looks_at(evaluation),
        "weights_sha256": evaluation.weights or None,
        "template_hash": evaluation.template or None,
        "engine": evaluation.engine or None,
        "outputs_sha256": evaluation.outputs or None,
        "outputs_intact": reading.is_intact(run),
        "source": evaluation.source_id,
        "baseline": evaluation.baseline_id,
        "curve": [],
    }
