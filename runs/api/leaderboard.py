"""The API of leaderboards."""

import uuid
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runs.api.evaluations import QuestionsAnswer, questions_answer
from runs.models import Score
from runs.queries import leaderboard as reading
from runs.queries.leaderboard import Mark, Row, decode_mark
from tunixrt.api.query import CURSOR, read_by, read_query, text, whole
from tunixrt.api.schema import Answer, Path, operation
from tunixrt.reading import Model

described = partial(operation, tag="Evaluations")
PAGE_DEFAULT, PAGE_MAX = 20, 100
SET = {
    "set_key": Path(
        "Key of a set of questions.", {"type": "string", "maxLength": 64}, "5c1aab5131c1b95c"
    )
}


class BoardAnswer(Answer):
    """A scorer by which evaluations of the set are ranked."""

    scorer_hash: str
    label: str
    scorer: dict[str, Any]
    lower_is_better: bool


class LeaderboardSet(Answer):
    questions: QuestionsAnswer
    boards: list[BoardAnswer]


class LeaderboardsAnswer(Answer):
    data: list[LeaderboardSet]


class CleanAnswer(Answer):
    """The score without the questions that overlap with what the model has learnt."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


class BaseAnswer(Answer):
    """The model that it was trained from, under the same settings."""

    run_id: uuid.UUID
    mean: float | None
    difference: float = Field(description="Paired; of the row from its base.")
    low: float
    high: float
    is_real: bool = Field(description="Chance is not a likely reason of it.")


class ContaminationAnswer(Answer):
    datasets: list[str] = Field(description="What the model was trained on, here.")
    found: int = Field(description="Questions that overlap with them.")
    unknown: list[str] = Field(description="Datasets that were not compared yet.")
    itself: bool = Field(description="It was trained on these very questions.")
    sentence: str


class RowAnswer(Answer):
    place: int
    group: int = Field(
        description="Rows of one group differ by no more than chance may make of it."
    )
    run_id: uuid.UUID
    name: str
    model_id: str
    owner: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    scored: int
    failed: int
    truncated: int
    total: int
    looks: int = Field(description="Evaluations of this lineage on these questions.")
    seeds: int = Field(description="Evaluations that differ in nothing but the seed.")
    seeds_mean: float | None = Field(description="The mean of their means.")
    contamination: ContaminationAnswer
    clean: CleanAnswer | None
    base: BaseAnswer | None
    weights_sha256: str
    template_hash: str
    engine: str


class UnrankedAnswer(Answer):
    run_id: uuid.UUID
    name: str
    model_id: str
    mean: float | None
    n: int


class LeaderboardAnswer(Answer):
    """A leaderboard, the best first: by the worse bound of the 95 % interval."""

    questions: QuestionsAnswer
    board: BoardAnswer
    data: list[RowAnswer]
    unranked: list[UnrankedAnswer] = Field(description="Of fewer than 30 questions.")
    next_cursor: str | None = Field(description="null on the last page")


class LeaderboardQuery(Model):
    scorer: Annotated[str | None, text] = Field(
        None, description="Hash or label of a scorer; null: the first one."
    )
    limit: Annotated[int, whole(1, PAGE_MAX)] = Field(PAGE_DEFAULT, description="Rows of a page.")
    cursor: Annotated[Mark | None, read_by(decode_mark)] = Field(None, description=CURSOR)


class LeaderboardList(APIView):
    """GET: the sets that have a leaderboard."""

    @described(
        "listLeaderboards",
        summary="Sets of questions, and the scorers they have leaderboards for",
        answers={200: LeaderboardsAnswer},
    )
    def get(self, request: Request) -> Response:
        data = [
            {
                "questions": questions_answer(questions),
                "boards": [board_answer(board) for board in reading.boards_of(questions)],
            }
            for questions in reading.sets_with_scores()
        ]
        return Response({"data": data})


class LeaderboardDetail(APIView):
    """GET: one leaderboard."""

    @described(
        "readLeaderboard",
        summary="A leaderboard",
        path=SET,
        query=LeaderboardQuery,
        answers={200: LeaderboardAnswer},
    )
    def get(self, request: Request, set_key: str) -> Response:
        query = read_query(LeaderboardQuery, request)
        board = reading.choose_board(reading.boards_for(set_key), query.scorer or "")
        rows, following = reading.read_board(board, limit=query.limit, behind=query.cursor)
        return Response(
            {
                "questions": questions_answer(board.questions),
                "board": board_answer(board),
                "data": [row_answer(row) for row in rows],
                "unranked": [unranked_answer(score) for score in reading.unranked(board)],
                "next_cursor": following.encode() if following else None,
            }
        )


def board_answer(board: reading.Board) -> dict[str, Any]:
    return {
        "scorer_hash": board.scorer_hash,
        "label": board.label,
        "scorer": board.scorer,
        "lower_is_better": board.lower_is_better,
    }


def row_answer(row: Row) -> dict[str, Any]:
    score, evaluation = row.score, row.evaluation
    names = ("mean", "low", "high", "n", "scored", "failed", "truncated", "total")
    contamination = row.contamination
    return {
        "place": row.place,
        "group": row.group,
        "run_id": evaluation.run.pk,
        "name": evaluation.run.name,
        "model_id": evaluation.run.model_id,
        "owner": evaluation.run.owner.get_username(),
        **{name: getattr(score, name) for name in names},
        "looks": row.looks,
        "seeds": row.seeds,
        "seeds_mean": row.seeds_mean,
        "contamination": {
            "datasets": list(contamination.datasets),
            "found": contamination.found,
            "unknown": list(contamination.unknown),
            "itself": contamination.itself,
            "sentence": contamination.sentence,
        },
        "clean": vars(row.clean) if row.clean else None,
        "base": vars(row.base) if row.base else None,
        "weights_sha256": evaluation.weights,
        "template_hash": evaluation.template,
        "engine": evaluation.engine,
    }


def unranked_answer(score: Score) -> dict[str, Any]:
    run = score.evaluation.run
    return {
        "run_id": run.pk,
        "name": run.name,
        "model_id": run.model_id,
        "mean": score.mean,
        "n": score.n,
    }
