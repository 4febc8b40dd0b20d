"""The API of judges: models that operators have set up, and what they say of outputs."""

import uuid
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runs.api.evaluations import EVALUATION, get_evaluation_for
from runs.api.gates import RunId
from runs.api.views import actor
from runs.models import Judgement, Run
from runs.queries.judgements import judgements_of
from runs.services import judgements
from runs.services.access import get_run_for
from tunixrt.api.query import parse_uuid
from tunixrt.api.schema import Answer, Path, operation
from tunixrt.reading import Model, read_body, storable
from tunixrt.roles import May, require

described = partial(operation, tag="Judges")
JUDGEMENT = {
    "judgement_id": Path(
        "Id of a judgement.",
        {"type": "string", "format": "uuid"},
        "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11",
    )
}


class JudgeBody(Model):
    """Let a judge say which outputs are correct, or which of two are better."""

    judge: Annotated[str, Field(min_length=1, max_length=32), AfterValidator(storable)] = Field(
        description="Name of a judge."
    )
    prompt_version: int | None = Field(None, description="Of its instructions; null: the newest.")
    against: RunId | None = Field(
        None, description="Another evaluation of the same questions: judge pairs, in both orders."
    )


class JudgeAnswer(Answer):
    name: str
    model: str
    requests_max: int = Field(description="Of one judgement.")


class JudgeList(Answer):
    data: list[JudgeAnswer]
    prompt_versions: list[int]


class JudgementAnswer(Answer):
    """What a judge says. Numbers are those so far until the state is done; outputs without a
    verdict are failed, and never averaged."""

    judgement_id: uuid.UUID
    evaluation: uuid.UUID
    against: uuid.UUID | None = Field(description="The other evaluation of pairs.")
    judge: str
    model: str
    prompt_version: int
    prompt_sha256: str
    scorer_hash: str
    state: Literal["judging", "done", "failed", "cancelled"]
    problem: str = Field(description="Why it failed, or the first failure.")
    total: int = Field(description="Outputs; of pairs, questions whose outputs differ.")
    scored: int
    failed: int
    requests: int
    requests_max: int
    capped: bool = Field(description="requests_max was reached before the end.")
    mean: float | None = Field(description="Of pairs: the share of wins, ties counted as half.")
    low: float | None
    high: float | None
    wins: int = Field(description="This and the next four: of pairs.")
    losses: int
    ties: int
    disagreements: int = Field(description="Ties because the two orders contradict each other.")
    equal: int = Field(description="Questions with equal outputs, which are not asked about.")
    created_at: datetime
    completed_at: datetime | None
    created_by: str


class JudgementList(Answer):
    data: list[JudgementAnswer]


class Judges(APIView):
    """GET: the judges that operators have set up."""

    @described("listJudges", summary="The judges of this server", answers={200: JudgeList})
    def get(self, request: Request) -> Response:
        known = judgements.known_judges().values()
        return Response(
            {
                "data": [
                    {"name": one.name, "model": one.model, "requests_max": one.requests_max}
                    for one in known
                ],
                "prompt_versions": judgements.prompt_versions(),
            }
        )


class EvaluationJudge(APIView):
    """POST: let a judge score the outputs of an evaluation."""

    @described(
        "judgeEvaluation",
        summary="Let a judge score the outputs of an evaluation",
        description="For the owner of the evaluation and operators. Asked for again, it is the same"
        " judgement. Poll it until its state is not judging.",
        path=EVALUATION,
        body=JudgeBody,
        answers={202: JudgementAnswer},
        refused=(404, 409),
    )
    def post(self, request: Request, evaluation_id: str) -> Response:
        run = get_evaluation_for(request, evaluation_id)
        require(actor(request), May.ACT, owner_id=run.owner_id)
        body = read_body(JudgeBody, request.data)
        judgement, _ = judgements.start_judgement(
            run=run,
            judge=body.judge,
            prompt_version=body.prompt_version,
            against=against_for(request, body.against),
            by=actor(request),
        )
        return Response(judgement_answer(judgement), status=202)


def against_for(request: Request, run_id: uuid.UUID | None) -> Run | None:
    return None if run_id is None else get_run_for(actor(request), run_id, may=May.READ)


class EvaluationJudgements(APIView):
    """GET: what judges say of an evaluation."""

    @described(
        "listJudgements",
        summary="What judges say of an evaluation, also beside another one; the newest first",
        path=EVALUATION,
        answers={200: JudgementList},
    )
    def get(self, request: Request, evaluation_id: str) -> Response:
        run = get_evaluation_for(request, evaluation_id)
        found = judgements_of(run.evaluation)
        return Response({"data": [judgement_answer(one) for one in found]})


class JudgementDetail(APIView):
    """GET: a judgement."""

    @described(
        "readJudgement",
        summary="What a judge says so far",
        path=JUDGEMENT,
        answers={200: JudgementAnswer},
    )
    def get(self, request: Request, judgement_id: str) -> Response:
        return Response(judgement_answer(_find(judgement_id)))


class JudgementCancel(APIView):
    """POST: cancel a judgement."""

    @described(
        "cancelJudgement",
        summary="Cancel a judgement",
        path=JUDGEMENT,
        answers={200: JudgementAnswer},
        refused=(404, 409),
    )
    def post(self, request: Request, judgement_id: str) -> Response:
        judgement = _find(judgement_id)
        require(actor(request), May.ACT, owner_id=judgement.evaluation.run.owner_id)
        return Response(
            judgement_answer(judgements.cancel_judgement(judgement=judgement, by=actor(request)))
        )


def _find(judgement_id: str) -> Judgement:
    return judgements.find_judgement(parse_uuid(judgement_id, "judgement_id"))


def judgement_answer(judgement: Judgement) -> dict[str, Any]:
    same = (
        "judge", "model", "prompt_version", "scorer_hash", "state", "problem", "total", "scored",
        "failed", "requests", "requests_max", "capped", "mean", "low", "high", "wins", "losses",
        "ties", "disagreements", "equal", "created_at", "completed_at",
    )  # fmt: skip
    return {
        "judgement_id": judgement.pk,
        "evaluation": judgement.evaluation_id,
        "against": judgement.against_id,
        "prompt_sha256": judgement.prompt_hash,
        "created_by": judgement.created_by.get_username(),
        **{name: getattr(judgement, name) for name in same},
    }
