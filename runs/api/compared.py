"""The API's comparison of evaluations (docs/evaluation.md)."""

import uuid
from typing import Annotated, Any

from django.contrib.auth.models import User
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runs.api.evaluations import QuestionsAnswer, described, questions_answer
from runs.api.views import actor
from runs.models import Run, RunStatus
from runs.queries import evaluation_comparison as comparing
from runs.queries.compared_items import ItemsAway, facts_of
from runs.queries.evaluation_comparison import Cell, Measured
from tunixrt.api.query import read_by, read_query, text
from tunixrt.api.schema import Answer
from tunixrt.reading import Model
from tunixrt.refusals import InvalidQuery, Missing
from tunixrt.searches import searches


class ComparedAnswer(Answer):
    """An evaluation of the comparison; the first is the baseline."""

    run_id: uuid.UUID
    name: str
    model_id: str
    status: RunStatus
    complete: bool
    answered: int = Field(description="Questions that have their outputs.")
    problem: str = Field(description="Why it is not compared; empty: it is.")


class DifferingAnswer(Answer):
    """A setting in which the evaluations differ, with the value of each, in their order; an empty
    text: not known."""

    name: str
    values: list[Any]


class DifferenceAnswer(Answer):
    """An evaluation against the baseline, paired: on the questions that both have a score for."""

    n: int
    mean: float | None = Field(description="On these questions.")
    baseline_mean: float | None
    difference: float | None = Field(description="mean less baseline_mean; null: too few pairs.")
    low: float | None = Field(description="Of the 95 % interval of the difference.")
    high: float | None
    better_on: int = Field(description="Questions on which it is better than the baseline.")
    worse_on: int
    p_value: float | None = Field(description="Exact McNemar, where all scores are 0 or 1.")
    method: str
    smallest_effect: float | None = Field(
        description="The smallest difference that so many pairs with this spread show."
    )
    verdict: str = Field(description="better, worse, or undecided.")


class ComparedScoreAnswer(Answer):
    """``mean`` and its interval are over all questions of the evaluation with a score."""

    run_id: uuid.UUID
    mean: float | None = Field(description="null: the scorer has not scored it.")
    low: float | None = None
    high: float | None = None
    n: int
    against_baseline: DifferenceAnswer | None = Field(description="null: it is the baseline.")


class ComparedScorerAnswer(Answer):
    """A scorer that the baseline shares with another evaluation: same name, version and
    parameters."""

    label: str
    scorer: dict[str, Any]
    lower_is_better: bool
    scores: list[ComparedScoreAnswer]


class SliceAnswer(Answer):
    value: str
    n: int = Field(description="Questions with this value.")
    too_few: bool = Field(description="Fewer than 30.")
    scores: list[ComparedScoreAnswer]


class ComparisonAnswer(Answer):
    """Two to ten evaluations of the same questions."""

    questions: QuestionsAnswer
    evaluations: list[ComparedAnswer]
    differing: list[DifferingAnswer] = Field(
        description="Settings, template, engine and scorers that are not the same for all."
    )
    headline: ComparedScorerAnswer | None = Field(
        description="The weighted mean of all shared scorers; null: fewer than two."
    )
    scorers: list[ComparedScorerAnswer]
    columns: list[str] = Field(description="By which questions can be grouped.")
    slices: list[SliceAnswer] = Field(description="Of the column that was asked for.")


def parse_ids(given: str) -> list[uuid.UUID]:
    """Return the ids of a list with commas, each once. Raise ValueError."""
    if len(given) > 37 * 100:
        raise ValueError("has too many ids.")
    found = []
    for one in filter(None, (part.strip() for part in given.split(","))):
        try:
            found.append(uuid.UUID(one))
        except ValueError:
            raise ValueError(f"{one[:64]!r} is not a UUID of 36 characters.") from None
    return list(dict.fromkeys(found))


class ComparisonQuery(Model):
    ids: Annotated[
        list[uuid.UUID] | None,
        read_by(
            parse_ids,
            examples=["0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11,7b2f3a0c-51a5-4c57-8a44-8d8a3d3d7a10"],
        ),
    ] = Field(
        None,
        description="Two to ten ids of evaluations of the same questions, with commas between"
        " them; the first is the baseline.",
    )
    scorer: Annotated[str | None, text] = Field(None, description="Only this one, by its label.")
    column: Annotated[str | None, text] = Field(
        None, description="A column of the set: slices by its values."
    )


class EvaluationComparison(APIView):
    """GET: evaluations of the same questions, compared."""

    @described(
        "compareEvaluations",
        summary="Compare two to ten evaluations of the same questions",
        description="Paired differences from the first one. With a column, the same for the"
        " questions with each of its values, by the first scorer unless scorer says another.",
        query=ComparisonQuery,
        answers={200: ComparisonAnswer},
        refused=(404,),
    )
    def get(self, request: Request) -> Response:
        query = read_query(ComparisonQuery, request)
        runs, missing = comparing.find_evaluations(query.ids or [])
        if missing:
            raise Missing(f"Evaluation not found: {', '.join(map(str, missing))}")
        with searches.one_of(actor(request).pk):
            return Response(_answer(query, runs, reader=actor(request)))


def _answer(query: ComparisonQuery, runs: list[Run], *, reader: User) -> dict[str, Any]:
    comparison = comparing.compare_evaluations(runs)
    measured = comparing.measure(comparison)
    if query.scorer is not None:
        labels = ", ".join(one.label for one in measured) or "none"
        measured = [one for one in measured if one.label == query.scorer]
        if not measured:
            raise InvalidQuery({"scorer": [f"must be one that they share: {labels}."]})
    try:
        entries = [one.run for one in comparison.entries if not one.why_not]
        columns = facts_of(entries, reader=reader).columns
    except ItemsAway as away:
        columns = {}
        if query.column is not None:
            raise InvalidQuery({"column": [str(away)]}) from away
    if query.column is not None and query.column not in columns:
        known = ", ".join(sorted(columns)) or "none"
        raise InvalidQuery({"column": [f"must be one to group by: {known}."]})
    sliced = (
        comparing.slices(comparison, measured[0].hash, columns[query.column])
        if query.column is not None and measured
        else []
    )
    together = None if query.scorer is not None else comparing.headline(comparison)
    return {
        "questions": questions_answer(comparison.questions),
        "evaluations": [
            {
                "run_id": entry.run.pk,
                "name": entry.run.name,
                "model_id": entry.run.model_id,
                "status": entry.run.status,
                "complete": entry.run.evaluation.complete,
                "answered": entry.run.evaluation.answered,
                "problem": entry.why_not,
            }
            for entry in comparison.entries
        ],
        "differing": [{"name": line.label, "values": line.values} for line in comparison.differing],
        "headline": together and _scorer(together),
        "scorers": [_scorer(one) for one in measured],
        "columns": sorted(columns),
        "slices": [
            {
                "value": one.value,
                "n": one.n,
                "too_few": one.too_few,
                "scores": [_score(cell) for cell in one.cells],
            }
            for one in sliced
        ],
    }


def _scorer(one: Measured) -> dict[str, Any]:
    return {
        "label": one.label,
        "scorer": one.scorer,
        "lower_is_better": one.lower_is_better,
        "scores": [_score(cell) for cell in one.cells],
    }


def _score(cell: Cell) -> dict[str, Any]:
    mean, against = cell.mean, cell.against
    return {
        "run_id": cell.entry.run.pk,
        "mean": mean and mean.mean,
        "low": mean and mean.low,
        "high": mean and mean.high,
        "n": mean.n if mean else 0,
        "against_baseline": against
        and {name: getattr(against, name) for name in DifferenceAnswer.model_fields},
    }
