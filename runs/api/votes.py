"""The API of people's votes. What a voter reads names no model; results do."""

import uuid
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runs.api.evaluations import MessageAnswer, QuestionsAnswer, questions_answer
from runs.api.views import actor
from runs.models import VoteRound
from runs.queries import votes as reading
from runs.services import votes
from tunixrt.api.query import CURSOR, parse_uuid, read_by, read_query, whole
from tunixrt.api.schema import Answer, Path, operation
from tunixrt.cursors import Cursor, decode_uuid_cursor
from tunixrt.reading import Model, read_body, storable
from tunixrt.roles import May, require

described = partial(operation, tag="Votes")
PAGE_DEFAULT, PAGE_MAX = 20, 100
ROUND = {
    "round_id": Path(
        "Id of a round of votes.",
        {"type": "string", "format": "uuid"},
        "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11",
    )
}
GIVES_ROUND = {"round_id": "/id"}
EXAMPLE_HASH = "5c1aab5131c1b95c" * 4
Text = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(storable)]


class RoundBody(Model):
    """Have people vote on the outputs of two evaluations of the same questions."""

    evaluations: Annotated[list[Text], Field(min_length=2, max_length=2)] = Field(
        description="Ids of two complete evaluations."
    )
    seed: Annotated[int, Field(ge=0, le=votes.SEED_MAX)] | None = Field(
        None, description="Of the order of questions and of the sides; null: a new one."
    )


class VoteBody(Model):
    """Say which output is better. A second vote takes the place of the first."""

    question: Text = Field(description="As the next question was named.")
    choice: Literal["1", "2", "0", "s"] = Field(
        description="1: the first output; 2: the second one; 0: a tie; s: skip."
    )


class PreferencesBody(Model):
    """Make a dataset of preference pairs of the votes."""

    name: Text
    version: Text
    per: Literal["question", "vote"] = Field(
        votes.PER_QUESTION,
        description="question: what the majority of its voters has chosen; vote: each vote.",
    )


class SideAnswer(Answer):
    """One of the two evaluations, with its win rate over questions. A tie is half a win."""

    run_id: uuid.UUID | None = Field(description="The evaluation; null: deleted.")
    model_id: str
    wins: int = Field(description="Questions that more votes decided for it.")
    win_rate: float | None
    low: float | None = Field(description="Of the 95 % interval.")
    high: float | None


class RoundAnswer(Answer):
    id: uuid.UUID
    questions: QuestionsAnswer
    sides: list[SideAnswer]
    seed: int
    size: int = Field(description="Questions to vote on.")
    equal: int = Field(description="Questions that are left out: their outputs are the same.")
    decided: int = Field(description="Questions with a vote that is not skipped.")
    ties: int = Field(description="Questions that were decided for neither side.")
    votes: int
    voters: int
    created_at: datetime
    created_by: str


class RoundPage(Answer):
    data: list[RoundAnswer]
    next_cursor: str | None = Field(description="null on the last page")


class AgreementAnswer(Answer):
    n: int = Field(description="Questions that both decided.")
    agreed: int
    kappa: float | None = Field(description="Cohen's; null: there is none.")


class VoterAnswer(Answer):
    voter: str
    votes: int
    first: int
    second: int
    tie: int
    skip: int
    left: int = Field(description="Votes for the output that was shown first, whichever it was.")


class VoterPairAnswer(Answer):
    first: str
    second: str
    agreement: AgreementAnswer


class ResultsAnswer(RoundAnswer):
    """What came of a round."""

    p_value: float | None = Field(description="Exact, that chance alone decided the questions.")
    voter_counts: list[VoterAnswer]
    agreement: list[VoterPairAnswer] = Field(description="Of the voters with the most votes.")
    kappa: float | None = Field(description="The mean of these, by their questions.")


class NextAnswer(Answer):
    """The next question of the account, in an order of its own; question is null at the end."""

    question: str | None
    prompt: list[MessageAnswer]
    outputs: list[str] = Field(description="Two, in an order of the account's own.")
    done: int
    total: int
    gone: int = Field(description="Questions that are left, whose outputs were erased.")


class VoteAnswer(Answer):
    question: str
    choice: Literal["1", "2", "0", "s"]


class PreferencesAnswer(Answer):
    dataset_key: str
    size: int
    left_out: dict[str, int] = Field(description="What has become no example, by the reason.")


class RoundListQuery(Model):
    limit: Annotated[int, whole(1, PAGE_MAX)] = Field(PAGE_DEFAULT, description="Rows of a page.")
    cursor: Annotated[Cursor[uuid.UUID] | None, read_by(decode_uuid_cursor)] = Field(
        None, description=CURSOR
    )


class Rounds(APIView):
    """GET: a page of rounds, newest first. POST: start one."""

    @described(
        "listVoteRounds",
        summary="A page of rounds of votes, newest first",
        query=RoundListQuery,
        answers={200: RoundPage},
    )
    def get(self, request: Request) -> Response:
        query = read_query(RoundListQuery, request)
        rows, following = reading.read_rounds(
            viewer=actor(request), limit=query.limit, behind=query.cursor
        )
        return Response(
            {
                "data": [
                    round_answer(row.round, row.win, votes=row.votes, voters=row.voters)
                    for row in rows
                ],
                "next_cursor": following.encode() if following else None,
            }
        )

    @described(
        "startVoteRound",
        summary="Have people vote on the outputs of two evaluations of the same questions",
        body=RoundBody,
        answers={201: ResultsAnswer},
        refused=(409,),
        example={
            "evaluations": [
                "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11",
                "6a0c2d52-0b5e-4a75-8f43-0f2b8e1f9c22",
            ]
        },
        gives=GIVES_ROUND,
    )
    def post(self, request: Request) -> Response:
        require(actor(request), May.MAKE)
        body = read_body(RoundBody, request.data)
        round = votes.start_round(evaluations=body.evaluations, seed=body.seed, by=actor(request))
        return Response(results_answer(round), status=201)


class RoundDetail(APIView):
    """GET: what came of a round."""

    @described(
        "readVoteRound",
        summary="Results of a round of votes",
        path=ROUND,
        answers={200: ResultsAnswer},
    )
    def get(self, request: Request, round_id: str) -> Response:
        return Response(results_answer(_round(round_id)))


class NextQuestion(APIView):
    """GET: the next question of the account, without the names of the models."""

    @described(
        "nextQuestion",
        summary="The next question to vote on",
        description="Nothing in the answer says which model wrote which output.",
        path=ROUND,
        answers={200: NextAnswer},
        refused=(409,),
    )
    def get(self, request: Request, round_id: str) -> Response:
        require(actor(request), May.MAKE)
        ballot = reading.next_question(_round(round_id), actor(request))
        asked = ballot.asked
        return Response(
            {
                "question": asked.question if asked else None,
                "prompt": asked.prompt if asked else [],
                "outputs": asked.outputs if asked else [],
                "done": ballot.done,
                "total": ballot.total,
                "gone": ballot.gone,
            }
        )


class RoundVotes(APIView):
    """POST: vote on a question."""

    @described(
        "castVote",
        summary="Vote on a question",
        path=ROUND,
        body=VoteBody,
        answers={200: VoteAnswer},
        refused=(404, 409),
        example={"question": EXAMPLE_HASH, "choice": "1"},
    )
    def post(self, request: Request, round_id: str) -> Response:
        require(actor(request), May.MAKE)
        round = _round(round_id)
        body = read_body(VoteBody, request.data)
        votes.cast_vote(round=round, question=body.question, key=body.choice, by=actor(request))
        return Response({"question": body.question, "choice": body.choice})


class RoundDataset(APIView):
    """POST: make a dataset of preference pairs of the votes."""

    @described(
        "makePreferences",
        summary="Make a dataset of preference pairs of the votes",
        description="Ties and skipped questions make no example. No example names a voter.",
        path=ROUND,
        body=PreferencesBody,
        answers={201: PreferencesAnswer},
        refused=(404, 409),
        example={"name": "preferred", "version": "v1"},
    )
    def post(self, request: Request, round_id: str) -> Response:
        require(actor(request), May.MAKE)
        round = _round(round_id)
        body = read_body(PreferencesBody, request.data)
        made = votes.make_preferences(
            round=round, name=body.name, version=body.version, per=body.per, by=actor(request)
        )
        answer = {
            "dataset_key": made.dataset.dataset_key,
            "size": made.dataset.size,
            "left_out": made.left_out,
        }
        return Response(answer, status=201)


def _round(round_id: str) -> VoteRound:
    return votes.find_round(parse_uuid(round_id, "round_id"))


def round_answer(
    round: VoteRound, win: reading.WinRate, *, votes: int, voters: int
) -> dict[str, Any]:
    sides = (
        (round.first_id, round.first_model, win),
        (round.second_id, round.second_model, win.of_second),
    )
    return {
        "id": round.pk,
        "questions": questions_answer(round.questions),
        "sides": [
            {
                "run_id": run_id,
                "model_id": model_id,
                "wins": own.first,
                "win_rate": own.rate,
                "low": own.low,
                "high": own.high,
            }
            for run_id, model_id, own in sides
        ],
        "seed": round.seed,
        "size": round.size,
        "equal": round.equal,
        "decided": win.n,
        "ties": win.tie,
        "votes": votes,
        "voters": voters,
        "created_at": round.created_at,
        "created_by": round.created_by.get_username(),
    }


def results_answer(round: VoteRound) -> dict[str, Any]:
    results = reading.read_results(round)
    win = results.people.win
    known = round_answer(round, win, votes=results.votes, voters=len(results.voters))
    return known | {
        "p_value": win.p_value,
        "voter_counts": [
            {
                "voter": one.voter,
                "votes": one.votes,
                "first": one.first,
                "second": one.second,
                "tie": one.tie,
                "skip": one.skip,
                "left": one.left,
            }
            for one in results.voters
        ],
        "agreement": [
            {"first": one.first, "second": one.second, "agreement": vars(one.agreement)}
            for one in results.pairs
        ],
        "kappa": results.kappa,
    }
