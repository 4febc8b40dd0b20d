"""The leaderboard of a set of questions: who is best at one scorer, and how sure that is.

Rows are scores that the server stored. They are ordered by the worse bound of the interval of the
mean; what a row shows besides is computed for the rows of a page alone.
"""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any
from uuid import UUID

from django.db.models import Avg, Count, Q, QuerySet

from runs.models import Evaluation, EvaluationSet, Look, Score, Standing
from runs.models.evaluation import unpack_scores
from runs.queries.contamination import Contamination, contamination_of
from runs.spec import statistics
from tunixrt.refusals import Missing

PAGE_MAX = 100
SETS_MAX = 200
SCORERS_MAX = 100  # of a set
OTHERS_MAX = 50  # scores below the ranked ones


@dataclass(frozen=True)
class Board:
    """One scorer of one set. ``label``: what evaluations call it most lately."""

    questions: EvaluationSet
    scorer_hash: str
    label: str
    scorer: dict[str, Any]
    lower_is_better: bool


@dataclass(frozen=True)
class Clean:
    """The score without the questions that overlap with what the model has learnt."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Base:
    """The score of the model that a row was trained from, under the same settings, and the paired
    difference of the row from it."""

    run_id: UUID
    mean: float | None
    difference: float
    low: float
    high: float
    is_real: bool


@dataclass
class Row:
    """One place. ``group``: rows of one group differ by no more than chance may make of it."""

    place: int
    score: Score
    group: int
    looks: int
    seeds: int
    seeds_mean: float | None
    contamination: Contamination
    clean: Clean | None = None
    base: Base | None = None
    others: dict[str, float | None] = field(default_factory=dict)

    @property
    def evaluation(self) -> Evaluation:
        return self.score.evaluation


@dataclass(frozen=True)
class Mark:
    """Where a page of a leaderboard begins: behind the row with this bound and evaluation, which
    has the place before ``place``."""

    bound: float
    evaluation: UUID
    place: int

    def encode(self) -> str:
        packed = struct.pack(">d16sI", self.bound, self.evaluation.bytes, self.place)
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode_mark(text: str) -> Mark:
    """Return the mark. Raise ValueError with a sentence."""
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        bound, key, place = struct.unpack(">d16sI", packed)
        if bound != bound:
            raise ValueError
        return Mark(bound, UUID(bytes=key), place)
    except (ValueError, struct.error) as error:
        raise ValueError("is not a cursor of this list.") from error


def sets_with_scores() -> list[EvaluationSet]:
    """Return the sets that have complete evaluations, the newest first."""
    return list(
        EvaluationSet.objects.exclude(hashes=b"")
        .defer("examples")
        .order_by("-created_at", "-pk")[:SETS_MAX]
    )


def boards_of(questions: EvaluationSet) -> list[Board]:
    """Return the scorers of a set, each with the label of its newest score."""
    found: list[Board] = []
    scores = Score.objects.filter(questions=questions).defer("values")
    scores = scores.order_by("scorer_hash", "standing", "-bound", "-evaluation")
    score = scores.first()
    # one look into the index for each scorer, however many scores there are
    while score is not None and len(found) < SCORERS_MAX:
        found.append(
            Board(questions, score.scorer_hash, score.label, score.scorer, score.lower_is_better)
        )
        score = scores.filter(scorer_hash__gt=score.scorer_hash).first()
    return sorted(found, key=lambda board: board.label)


def find_set(key: str) -> EvaluationSet | None:
    return EvaluationSet.objects.filter(key=key.replace("\x00", "")).first()


def boards_for(set_key: str) -> list[Board]:
    """Return the boards of a set. Raise Missing."""
    questions = find_set(set_key)
    boards = boards_of(questions) if questions else []
    if not boards:
        raise Missing(f"No scores of a set {set_key[:64]!r}.")
    return boards


def choose_board(boards: Sequence[Board], scorer: str) -> Board:
    """Return the board of a scorer, given by its hash or label; the first where none is given.
    Raise Missing."""
    if not scorer:
        return boards[0]
    for board in boards:
        if scorer in (board.scorer_hash, board.label):
            return board
    raise Missing(f"No scores by {scorer[:64]!r}. There are {', '.join(b.label for b in boards)}.")


def read_board(
    board: Board, *, limit: int, behind: Mark | None = None, columns: Sequence[str] = ()
) -> tuple[list[Row], Mark | None]:
    """Return a page of ranked rows, and where the next one begins.

    Args:
        columns: hashes of further scorers whose means are shown.
    """
    ranked = _scores(board).filter(standing=Standing.RANKED).order_by("-bound", "-evaluation")
    if behind is not None:
        ranked = ranked.filter(bound__lte=behind.bound).filter(
            Q(bound__lt=behind.bound) | Q(evaluation__lt=behind.evaluation)
        )
    found = list(ranked[: limit + 1])
    first = behind.place if behind else 1
    rows = _rows(board, found[:limit], first, columns)
    if len(found) <= limit:
        return rows, None
    last = found[limit - 1]
    assert last.bound is not None
    return rows, Mark(last.bound, last.evaluation_id, first + limit)


def unranked(board: Board) -> list[Score]:
    """Return scores that take no part in the order because of too few questions, the best first."""
    few = _scores(board).filter(standing=Standing.TOO_FEW)
    return list(few.order_by("-bound", "-evaluation")[:OTHERS_MAX])


def _scores(board: Board) -> QuerySet[Score]:
    return Score.objects.filter(
        questions=board.questions,
        scorer_hash=board.scorer_hash,
        evaluation__run__trashed_at__isnull=True,
    ).select_related(
        "evaluation__run__owner", "evaluation__subject__resume_from", "evaluation__questions"
    )


def _rows(board: Board, scores: list[Score], first: int, columns: Sequence[str]) -> list[Row]:
    evaluations = [score.evaluation for score in scores]
    values = [unpack_scores(score.values) for score in scores]
    looks = _looks(board.questions, evaluations)
    seeds = _seeds(board, evaluations)
    contaminated = contamination_of(evaluations, board.questions)
    bases = _bases(board, evaluations)
    others = _others(evaluations, columns)
    groups = tie_groups(values)
    rows = []
    for number, (score, own) in enumerate(zip(scores, values, strict=True)):
        evaluation = score.evaluation
        count, mean = seeds.get(evaluation.family, (1, score.mean))
        contamination = contaminated[evaluation.pk]
        row = Row(
            place=first + number,
            score=score,
            group=groups[number],
            looks=looks.get(evaluation.lineage, 0),
            seeds=count,
            seeds_mean=mean,
            contamination=contamination,
            others=others.get(evaluation.pk, {}),
        )
        if contamination.places:
            row.clean = _clean(board, own, contamination.places)
        base = bases.get((evaluation.lineage, evaluation.settings_hash))
        if base is not None and evaluation.subject_id is not None:
            row.base = _compare_with(base, own)
        rows.append(row)
    return rows


def tie_groups(values: Sequence[Sequence[float | None]]) -> list[int]:
    """Return the group of each row: a row is in the group before it while it cannot be told from
    the first row of that group, by a paired comparison of the questions that both answered."""
    groups: list[int] = []
    leader: Sequence[float | None] = ()
    for scores in values:
        if groups and not _differ(leader, scores):
            groups.append(groups[-1])
        else:
            groups.append(groups[-1] + 1 if groups else 1)
            leader = scores
    return groups


def _differ(first: Sequence[float | None], second: Sequence[float | None]) -> bool:
    pairs = paired(first, second)
    if len(pairs) < 2:
        return False
    return _compare(pairs).is_real


def paired(
    first: Sequence[float | None], second: Sequence[float | None]
) -> list[tuple[float, float]]:
    """Return the scores of the questions that both have."""
    return [
        (one, other)
        for one, other in zip(first, second, strict=False)
        if one is not None and other is not None
    ]


def _compare(pairs: Sequence[tuple[float, float]]) -> statistics.Paired:
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    return statistics.compare(first, second, resamples=0)


def _looks(questions: EvaluationSet, evaluations: Sequence[Evaluation]) -> dict[str, int]:
    lineages = {one.lineage for one in evaluations}
    counted = (
        Look.objects.filter(questions=questions, lineage__in=lineages)
        .order_by()
        .values("lineage")
        .annotate(count=Count("pk"))
    )
    return {row["lineage"]: row["count"] for row in counted}


def _seeds(board: Board, evaluations: Sequence[Evaluation]) -> dict[str, tuple[int, float | None]]:
    """Return how many evaluations differ in nothing but the seed, and the mean of their means."""
    families = {one.family for one in evaluations if one.family}
    counted = (
        Score.objects.filter(
            scorer_hash=board.scorer_hash,
            evaluation__family__in=families,
            standing__in=[Standing.RANKED, Standing.RESEEDED],
        )
        .order_by()
        .values("evaluation__family")
        .annotate(count=Count("pk"), average=Avg("mean"))
    )
    return {row["evaluation__family"]: (row["count"], row["average"]) for row in counted}


def _bases(board: Board, evaluations: Sequence[Evaluation]) -> dict[tuple[str, str], Score]:
    """Return the scores of the models that others were trained from, by lineage and settings."""
    wanted = {(one.lineage, one.settings_hash) for one in evaluations if one.subject_id}
    found: dict[tuple[str, str], Score] = {}
    for lineage, settings_hash in wanted:
        score = (
            Score.objects.filter(
                questions=board.questions,
                scorer_hash=board.scorer_hash,
                standing=Standing.RANKED,
                evaluation__questions=board.questions,
                evaluation__lineage=lineage,
                evaluation__settings_hash=settings_hash,
                evaluation__subject__isnull=True,
                evaluation__run__trashed_at__isnull=True,
            )
            .order_by("evaluation__created_at")
            .first()
        )
        if score is not None:
            found[lineage, settings_hash] = score
    return found


def _others(
    evaluations: Sequence[Evaluation], columns: Sequence[str]
) -> dict[UUID, dict[str, float | None]]:
    if not columns:
        return {}
    found: dict[UUID, dict[str, float | None]] = {}
    for evaluation, scorer_hash, mean in Score.objects.filter(
        evaluation__in=[one.pk for one in evaluations], scorer_hash__in=columns
    ).values_list("evaluation", "scorer_hash", "mean"):
        found.setdefault(evaluation, {})[scorer_hash] = mean
    return found


def _clean(board: Board, values: Sequence[float | None], places: frozenset[int]) -> Clean:
    kept = [
        value for place, value in enumerate(values) if value is not None and place not in places
    ]
    if not kept:
        return Clean(None, None, None, 0)
    low, high = (
        statistics.normal_interval(kept)
        if board.lower_is_better and len(kept) > 1
        else statistics.share_interval(kept)
    )
    return Clean(fmean(kept), low, high, len(kept))


def _compare_with(base: Score, values: Sequence[float | None]) -> Base | None:
    pairs = paired(values, unpack_scores(base.values))
    if len(pairs) < 2:
        return None
    compared = _compare(pairs)
    return Base(
        base.evaluation_id,
        base.mean,
        compared.difference,
        compared.interval.low,
        compared.interval.high,
        compared.is_real,
    )
