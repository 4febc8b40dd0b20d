"""The API of gates: baselines, and checks against them."""

import uuid
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runs.api.views import RUN, actor
from runs.models import Baseline, GateCheck
from runs.queries.gates import find_check, list_baselines
from runs.services import gates
from runs.services.access import get_run_for
from runs.services.run_requests import InvalidRequest, clean_webhook_url
from tunixrt.api.query import parse_uuid
from tunixrt.api.schema import Answer, Path, operation
from tunixrt.reading import Model, read_body, storable
from tunixrt.roles import May, require

described = partial(operation, tag="Gates")
NAME_MAX = 128
CHECK = {
    "check_id": Path(
        "Id of a check.",
        {"type": "string", "format": "uuid"},
        "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11",
    )
}
BASELINE = {"name": Path("Name of a baseline.", {"type": "string"}, "gsm8k")}


def _canonical(value: Any) -> uuid.UUID:
    try:
        found = uuid.UUID(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or str(found) != str(value).lower():
        raise ValueError("This field must be the id of a run.")
    return found


RunId = Annotated[
    Any, PlainValidator(_canonical), WithJsonSchema({"type": "string", "format": "uuid"})
]
Name = Annotated[str, Field(min_length=1, max_length=NAME_MAX), AfterValidator(storable)]


class BaselineBody(Model):
    """Keep an evaluation as a baseline."""

    name: Name = Field(description="How checks refer to it.")
    run_id: RunId = Field(description="An evaluation, or a run whose newest complete one it is.")
    metric: Name | None = Field(None, description="Label of a score; null: the only one.")
    lower_is_better: bool | None = Field(
        None, description="Must be as the score says; null: as the score says."
    )


class CheckBody(Model):
    """Ask whether a candidate is not worse than baselines."""

    run_id: RunId = Field(
        description="An evaluation, or a run. What is missing of its evaluations is started."
    )
    baseline_name: Name | None = Field(None, description="One baseline.")
    baseline_names: (
        Annotated[list[Name], Field(min_length=1, max_length=gates.BASELINES_MAX)] | None
    ) = Field(None, description="Several: the check passes if all of them are passed.")
    margin: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = Field(
        0.0, description="δ: how much worse is still accepted, in the unit of the score."
    )
    webhook_url: (
        Annotated[
            Any,
            PlainValidator(clean_webhook_url),
            WithJsonSchema({"type": "string", "maxLength": 2000}),
        ]
        | None
    ) = Field(None, description="Is told when the check is decided.")


class BaselineAnswer(Answer):
    name: str
    run_id: uuid.UUID = Field(description="The evaluation.")
    metric: str
    lower_is_better: bool
    value: float | None
    created_at: datetime


class BaselineList(Answer):
    data: list[BaselineAnswer]


class PartAnswer(Answer):
    """A check against one baseline; numbers are null until it is decided."""

    baseline_name: str
    metric: str
    evaluation: uuid.UUID | None = Field(description="Of the candidate.")
    verdict: Literal["pass", "fail", "undecided"] | None
    baseline_value: float | None
    current_value: float | None
    delta: float | None = Field(description="Paired: candidate less baseline.")
    delta_percent: float | None
    low: float | None = Field(description="Of the 95 % interval of delta.")
    high: float | None
    n: int | None = Field(description="Questions that both answered.")
    needed: int | None = Field(
        description="Questions that would decide it, if the difference stays what it is; null:"
        " decided, or no number would."
    )
    method: str | None


class CheckAnswer(Answer):
    check_id: uuid.UUID
    state: Literal["waiting", "decided", "failed"]
    verdict: Literal["pass", "fail", "undecided"] | None
    problem: str = Field(description="Why it has no verdict.")
    run_id: uuid.UUID | None
    margin: float
    created_at: datetime
    decided_at: datetime | None
    parts: list[PartAnswer]
    baseline_value: float | None = Field(description="This and the next three: of the first part.")
    current_value: float | None
    delta: float | None
    delta_percent: float | None


NUMBERS = (
    "baseline_value", "current_value", "delta", "delta_percent", "low", "high", "n", "needed",
    "method",
)  # fmt: skip
_FIRST = NUMBERS[:4]


class Baselines(APIView):
    """GET: all baselines. POST: keep an evaluation as one."""

    @described("listBaselines", summary="All baselines, by name", answers={200: BaselineList})
    def get(self, request: Request) -> Response:
        return Response({"data": [baseline_answer(one) for one in list_baselines()]})

    @described(
        "makeBaseline",
        summary="Keep an evaluation as a baseline",
        body=BaselineBody,
        answers={201: BaselineAnswer},
        refused=(404, 409),
        example={"name": "gsm8k", "run_id": RUN["run_id"].example, "metric": "numeric"},
    )
    def post(self, request: Request) -> Response:
        require(actor(request), May.MAKE)
        body = read_body(BaselineBody, request.data)
        run = get_run_for(actor(request), body.run_id, may=May.READ)
        baseline = gates.make_baseline(
            name=body.name,
            run=run,
            label=body.metric,
            lower_is_better=body.lower_is_better,
            by=actor(request),
        )
        return Response(baseline_answer(baseline), status=201)


class BaselineDetail(APIView):
    """DELETE: a baseline; its evaluation stays."""

    @described(
        "deleteBaseline",
        summary="Delete a baseline, and what checks said of it; its evaluation stays",
        path=BASELINE,
        answers={204: None},
        refused=(404,),
    )
    def delete(self, request: Request, name: str) -> Response:
        [baseline] = gates.find_baselines([name.replace("\x00", "")])
        require(actor(request), May.ACT, owner_id=baseline.created_by_id)
        baseline.delete()
        return Response(status=204)


class Checks(APIView):
    """POST: start a check."""

    @described(
        "startCheck",
        summary="Ask whether a candidate is not worse than baselines by more than a margin",
        description="Poll the answer's check until it is decided.",
        body=CheckBody,
        answers={202: CheckAnswer},
        refused=(404, 409, 501),
        example={"run_id": RUN["run_id"].example, "baseline_name": "gsm8k", "margin": 0.02},
        gives={"check_id": "/check_id"},
    )
    def post(self, request: Request) -> Response:
        require(actor(request), May.MAKE)
        body = read_body(CheckBody, request.data)
        given = [
            *(body.baseline_names or ()),
            *([body.baseline_name] if body.baseline_name else ()),
        ]
        if not given:
            raise InvalidRequest({"baseline_name": ["This field is required."]})
        check = gates.start_check(
            candidate=get_run_for(actor(request), body.run_id, may=May.READ),
            baselines=gates.find_baselines(given),
            margin=body.margin,
            by=actor(request),
            webhook_url=body.webhook_url or "",
        )
        return Response(check_answer(check), status=202)


class Check(APIView):
    """GET: a check, and its verdict once it is decided."""

    @described("readCheck", summary="A check", path=CHECK, answers={200: CheckAnswer})
    def get(self, request: Request, check_id: str) -> Response:
        check = find_check(parse_uuid(check_id, "check_id"))
        return Response(check_answer(gates.decide(check)))


def baseline_answer(baseline: Baseline) -> dict[str, Any]:
    score = baseline.evaluation.scores.filter(label=baseline.label).first()
    return {
        "name": baseline.name,
        "run_id": baseline.evaluation_id,
        "metric": baseline.label,
        "lower_is_better": baseline.lower_is_better,
        "value": score.mean if score else None,
        "created_at": baseline.created_at,
    }


def check_answer(check: GateCheck) -> dict[str, Any]:
    parts = [
        {
            "baseline_name": part.baseline.name,
            "metric": part.baseline.label,
            "evaluation": part.evaluation_id,
            "verdict": part.verdict or None,
            **{name: part.result.get(name) for name in NUMBERS},
        }
        for part in check.parts.select_related("baseline")
    ]
    first = parts[0] if parts else {}
    return {
        "check_id": check.pk,
        "state": check.state,
        "verdict": check.verdict or None,
        "problem": check.problem,
        "run_id": check.candidate_id,
        "margin": check.margin,
        "created_at": check.created_at,
        "decided_at": check.decided_at,
        "parts": parts,
        **{name: first.get(name) for name in _FIRST},
    }
