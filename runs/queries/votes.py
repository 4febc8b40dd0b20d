"""Rounds of votes as pages and API read them: the next question of a voter, and what came of all
votes.

A question counts once, whatever the number of its voters: their votes are averaged first, a tie is
half a win, and skipped questions do not count.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import Avg, Case, Count, FloatField, Value, When

from runs.models import Choice, Evaluation, Judgement, JudgementState, Run, Vote, VoteRound
from runs.models.vote import SIDES
from runs.queries.evaluations import TEXT_MAX
from runs.runfolder import files
from runs.services.judgements import verdicts_by_question
from runs.services.votes import (
    Pair,
    PairGone,
    QuestionNotFound,
    count_choices,
    left_side,
    majority,
    questions_of,
    read_pairs,
    voting_order,
)
from runs.spec import statistics
from runs.spec.evaluation import GENERATE
from tunixrt.cursors import Cursor

LOOKED_AT = 8  # questions that are read at once to find one whose outputs are there
VOTERS_MAX = 20  # whose agreement is shown
OTHERS_MAX = 20  # evaluations that a form offers
JUDGES_MAX = 20  # that are shown beside people
OF_FIRST = {Choice.FIRST.value: 1.0, Choice.TIE.value: 0.5, Choice.SECOND.value: 0.0}


# --- voting ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlindQuestion:
    """A question as a voter sees it. ``chosen``: the key of the voter's vote, if there is one."""

    question: str
    prompt: list[dict[str, str]]
    outputs: list[str]
    chosen: str = ""


@dataclass(frozen=True)
class Ballot:
    """What a voter is asked next; ``asked`` is None at the end. ``previous``: the question of the
    voter's latest vote; ``gone``: questions that are left and whose outputs are not there."""

    asked: BlindQuestion | None
    done: int
    total: int
    previous: str = ""
    gone: int = 0


def next_question(round: VoteRound, voter: User) -> Ballot:
    """Return the next question of a voter. Raises what ``read_pairs`` raises if any is left."""
    voted = _voted(round, voter)
    left = [one for one in voting_order(round, voter.pk) if one not in voted]
    asked = None
    for start in range(0, len(left), LOOKED_AT):
        some = left[start : start + LOOKED_AT]
        pairs = read_pairs(round, some)
        if pairs:
            asked = _blind(round, voter, next(pairs[one] for one in some if one in pairs))
            break
    previous = max(voted, key=lambda one: voted[one].at, default="")
    gone = len(left) if asked is None else 0
    return Ballot(asked, len(voted), round.size, previous, gone)


def question_again(round: VoteRound, voter: User, question: str) -> Ballot:
    """Return a question that the voter may have voted on. Raises QuestionNotFound, PairGone."""
    if question not in questions_of(round):
        raise QuestionNotFound
    pair = read_pairs(round, [question]).get(question)
    if pair is None:
        raise PairGone
    voted = _voted(round, voter)
    return Ballot(_blind(round, voter, pair, voted.get(question)), len(voted), round.size)


def _voted(round: VoteRound, voter: User) -> dict[str, Vote]:
    return {vote.question: vote for vote in round.votes.filter(voter=voter)}


def _blind(round: VoteRound, voter: User, pair: Pair, vote: Vote | None = None) -> BlindQuestion:
    left = left_side(round, voter.pk, pair.question)
    outputs = [pair.first, pair.second] if left == SIDES[0] else [pair.second, pair.first]
    chosen = ""
    if vote is not None:
        sides = {left: "1", SIDES[1 - SIDES.index(left)]: "2"}
        chosen = sides.get(vote.choice, {"tie": "0", "skip": "s"}.get(vote.choice, ""))
    prompt = [
        {"role": _shown(one.get("role")), "content": _shown(one.get("content"))}
        for one in pair.prompt
    ]
    return BlindQuestion(pair.question, prompt, [_shown(text) for text in outputs], chosen)


def _shown(value: Any) -> str:
    return files.clean_text(value[:TEXT_MAX]) if isinstance(value, str) else ""


# --- what came of it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class WinRate:
    """How often the first evaluation's output is the better one, over questions; a tie is half a
    win. ``p_value``: exact, that chance alone decided the questions that are no tie."""

    rate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    first: int = 0
    second: int = 0
    tie: int = 0
    p_value: float | None = None

    @property
    def of_second(self) -> "WinRate":
        """The same from the other side."""
        if self.rate is None or self.low is None or self.high is None:
            return self
        return WinRate(
            1 - self.rate, 1 - self.high, 1 - self.low, self.n,
            self.second, self.first, self.tie, self.p_value,
        )  # fmt: skip


def win_rate(of_first: Iterable[float]) -> WinRate:
    """Return the win rate over questions, each of which has the share of the first side."""
    shares = list(of_first)
    if not shares:
        return WinRate()
    low, high = statistics.share_interval(shares)
    first, second = sum(one > 0.5 for one in shares), sum(one < 0.5 for one in shares)
    return WinRate(
        rate=fmean(shares),
        low=low,
        high=high,
        n=len(shares),
        first=first,
        second=second,
        tie=len(shares) - first - second,
        p_value=statistics.mcnemar(first, second),
    )


@dataclass(frozen=True)
class Agreement:
    """How far two raters agree on the questions that both decided. ``kappa`` is Cohen's; None:
    there is none, as nothing is common, or chance alone would make them agree always."""

    n: int
    agreed: int
    kappa: float | None


def agreement(first: Mapping[str, str], second: Mapping[str, str]) -> Agreement:
    """Compare two raters' verdicts (``first``, ``second`` or ``tie``) by question."""
    common = sorted(first.keys() & second.keys())
    one, other = [first[key] for key in common], [second[key] for key in common]
    agreed = sum(a == b for a, b in zip(one, other, strict=True))
    return Agreement(len(common), agreed, statistics.kappa(one, other) if common else None)


@dataclass(frozen=True)
class Rater:
    """Who or what says which output is better: all voters together, or a judge. ``with_people``:
    agreement with what the majority of the voters says of each question."""

    name: str
    win: WinRate
    with_people: Agreement | None = None


def beside_people(round: VoteRound, name: str, verdicts: Mapping[str, str]) -> Rater:
    """Return another rater of the outputs of a round, to be shown beside the people.

    Args:
        verdicts: ``first``, ``second`` or ``tie`` by the hash of the question; those of questions
            that the round does not have are left out.
    """
    known = questions_of(round)
    own = {key: one for key, one in verdicts.items() if key in known and one in OF_FIRST}
    people = {key: majority(counts) for key, counts in count_choices(round).items()}
    return Rater(name, win_rate(OF_FIRST[one] for one in own.values()), agreement(own, people))


def judges_beside_people(round: VoteRound) -> list[Rater]:
    """Return the judges that have compared the two evaluations of a round in pairs."""
    sides = [round.first_id, round.second_id]
    done = Judgement.objects.filter(
        evaluation__in=sides, against__in=sides, state=JudgementState.DONE
    ).order_by("created_at")
    return [
        beside_people(round, f"judge:{one.judge}", verdicts_by_question(one, first=round.first_id))
        for one in done[:JUDGES_MAX]
    ]


@dataclass(frozen=True)
class VoterCounts:
    """The votes of one person. ``left``: how many of those for a side were for the one that was
    shown first, by which a habit is noticed."""

    voter: str
    first: int = 0
    second: int = 0
    tie: int = 0
    skip: int = 0
    left: int = 0

    @property
    def votes(self) -> int:
        return self.first + self.second + self.tie + self.skip


@dataclass(frozen=True)
class VoterPair:
    first: str
    second: str
    agreement: Agreement


@dataclass(frozen=True)
class Results:
    """Everything that came of a round. ``kappa``: the mean over pairs of voters, by their common
    questions."""

    round: VoteRound
    people: Rater
    voters: list[VoterCounts] = field(default_factory=list)
    pairs: list[VoterPair] = field(default_factory=list)
    kappa: float | None = None

    @property
    def votes(self) -> int:
        return sum(one.votes for one in self.voters)


def read_results(round: VoteRound) -> Results:
    """Return what came of all votes of a round."""
    by_voter: dict[str, dict[str, str]] = {}
    counts: dict[str, Counter[str]] = {}
    votes = round.votes.order_by("voter__username", "question")
    for voter, question, choice, left in votes.values_list(
        "voter__username", "question", "choice", "left"
    ):
        own = counts.setdefault(voter, Counter())
        own[choice] += 1
        own["left"] += choice == left
        if choice in OF_FIRST:
            by_voter.setdefault(voter, {})[question] = choice
    most = sorted(by_voter, key=lambda one: (-len(by_voter[one]), one))[:VOTERS_MAX]
    pairs = [
        VoterPair(one, other, agreement(by_voter[one], by_voter[other]))
        for one, other in combinations(sorted(most), 2)
    ]
    shown = [pair for pair in pairs if pair.agreement.n]
    return Results(
        round=round,
        people=Rater("People", win_rate(_shares(by_voter.values()))),
        voters=[VoterCounts(voter, **dict(own)) for voter, own in counts.items()],
        pairs=shown,
        kappa=_mean_kappa(shown),
    )


def _shares(verdicts: Iterable[Mapping[str, str]]) -> list[float]:
    """Return the share of the first side of each question, over its voters."""
    found: dict[str, list[float]] = {}
    for own in verdicts:
        for question, choice in own.items():
            found.setdefault(question, []).append(OF_FIRST[choice])
    return [fmean(found[question]) for question in sorted(found)]


def _mean_kappa(pairs: Iterable[VoterPair]) -> float | None:
    known = [
        (pair.agreement.kappa, pair.agreement.n)
        for pair in pairs
        if pair.agreement.kappa is not None
    ]
    if not known:
        return None
    return sum(kappa * n for kappa, n in known) / sum(n for _, n in known)


# --- lists ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundRow:
    """A round in a list. ``decided``: questions with a vote that is not skipped; ``own``: votes of
    the one who looks."""

    round: VoteRound
    win: WinRate
    voters: int
    votes: int
    own: int

    @property
    def decided(self) -> int:
        return self.win.n


def read_rounds(
    *, viewer: User, limit: int, behind: Cursor[UUID] | None = None
) -> tuple[list[RoundRow], Cursor[UUID] | None]:
    """Return a page of rounds, the newest first, and where the next one begins."""
    rounds = VoteRound.objects.select_related(
        "questions", "created_by", "first__run", "second__run"
    )
    if behind is not None:
        rounds = behind.rows_behind(rounds)
    found = list(rounds.order_by("-created_at", "-id")[: limit + 1])
    shown = found[:limit]
    following = Cursor(shown[-1].created_at, shown[-1].pk) if shown and len(found) > limit else None
    return _rows(shown, viewer), following


def _rows(rounds: list[VoteRound], viewer: User) -> list[RoundRow]:
    of_round = Vote.objects.filter(round__in=rounds).order_by()
    score = Case(
        *(When(choice=choice, then=Value(share)) for choice, share in OF_FIRST.items()),
        output_field=FloatField(),
    )
    shares: dict[UUID, list[float]] = {}
    means = of_round.exclude(choice=Choice.SKIP).values("round", "question")
    for key, share in means.annotate(share=Avg(score)).values_list("round", "share"):
        shares.setdefault(key, []).append(share)
    counts = {
        key: (votes, voters)
        for key, votes, voters in of_round.values("round")
        .annotate(votes=Count("pk"), voters=Count("voter", distinct=True))
        .values_list("round", "votes", "voters")
    }
    own = dict(
        of_round.filter(voter=viewer)
        .values("round")
        .annotate(votes=Count("pk"))
        .values_list("round", "votes")
    )
    rows = []
    for round in rounds:
        votes, voters = counts.get(round.pk, (0, 0))
        win = win_rate(shares.get(round.pk, ()))
        rows.append(RoundRow(round, win, voters, votes, own.get(round.pk, 0)))
    return rows


def others_to_vote_on(run: Run) -> list[Evaluation]:
    """Return the newest evaluations that ``run``, an evaluation, can be voted on with."""
    evaluation = run.evaluation
    if not evaluation.complete or run.config["method"] != GENERATE:
        return []
    found = (
        Evaluation.objects.filter(
            questions=evaluation.questions_id, complete=True, run__trashed_at=None
        )
        .exclude(pk=evaluation.pk)
        .select_related("run")
        .order_by("-created_at", "-run")
    )
    return [one for one in found[:OTHERS_MAX] if one.run.config["method"] == GENERATE]
