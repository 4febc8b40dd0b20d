"""Two to ten evaluations of the same questions: in what they differ, and how sure that is.

Everything here comes from the stored scores of questions, paired by the hashes of the questions.
The leftmost evaluation is the baseline. docs/evaluation.md says how to read it.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean
from typing import Any
from uuid import UUID

from django.db.models import Prefetch, prefetch_related_objects

from runs.models import EvaluationSet, Run, Score
from runs.models.evaluation import unpack_hashes, unpack_scores
from runs.queries.compared_items import NO_VALUE, ItemsAway, answered_hashes
from runs.queries.comparison import Line
from runs.spec import statistics
from runs.spec.kinds import EVALUATE
from tunixrt.refusals import Refusal

EVALUATIONS_MIN, EVALUATIONS_MAX = 2, 10
RESAMPLED_MAX = 500  # questions; with more, the normal interval is as good and much cheaper
LETTERS = "ABCDEFGHIJ"
BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
# How two evaluations answered a question.
FIRST, SECOND, BOTH_WRONG, BOTH_RIGHT, EQUAL = (
    "first",
    "second",
    "both_wrong",
    "both_right",
    "equal",
)
RELATIONS = (FIRST, SECOND, BOTH_WRONG, BOTH_RIGHT, EQUAL)
HEADLINE = "weighted"
_TEXT_SHOWN = 120
# Of the request, what says how it is scored or which questions it is about.
_NO_SETTING = frozenset({"part", "limit", "scorers"})

Values = list[float | None]


class NotComparable(Refusal):
    """These evaluations cannot be compared; the sentence says why."""

    status, code, title = 422, "invalid_query", "Not comparable"


@dataclass(frozen=True)
class Entry:
    """An evaluation of a comparison.

    ``why_not``: why it is not compared, or nothing. ``places``: where its stored scores stand among
    the questions of the comparison; None: they are all, in order.
    """

    letter: str
    run: Run
    why_not: str
    places: list[int | None] | None = None
    scores: dict[str, Score] = field(default_factory=dict)

    @property
    def is_partial(self) -> bool:
        return not self.why_not and not self.run.evaluation.complete


@dataclass(frozen=True)
class Mean:
    """The mean of an evaluation over all questions that it has a score for."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    failed: int | None = None
    truncated: int | None = None
    total: int | None = None
    lower_is_better: bool = False


@dataclass(frozen=True)
class Difference:
    """An evaluation against the baseline on the ``n`` questions that both have a score for.

    ``difference``, ``low`` and ``high``: its mean less that of the baseline, with the 95 %
    interval; None: fewer than two questions. ``better_on`` and ``worse_on`` count questions.
    ``smallest_effect``: the smallest difference that so many pairs with this spread show.
    """

    n: int
    mean: float | None = None
    baseline_mean: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    better_on: int = 0
    worse_on: int = 0
    p_value: float | None = None
    method: str = ""
    smallest_effect: float | None = None
    verdict: str = UNDECIDED
    lower_is_better: bool = False


@dataclass(frozen=True)
class Cell:
    """``mean``: None where the scorer did not score it. ``against``: None for the baseline."""

    entry: Entry
    mean: Mean | None = None
    against: Difference | None = None


@dataclass(frozen=True)
class Measured:
    """What one scorer, or several together, say of each evaluation."""

    label: str
    scorer: dict[str, Any]
    hash: str
    lower_is_better: bool
    cells: list[Cell]


@dataclass(frozen=True)
class Comparison:
    """``hashes``: of the questions. ``differing``: settings in which the evaluations differ."""

    entries: list[Entry]
    questions: EvaluationSet
    hashes: list[str]
    differing: list[Line]

    @property
    def baseline(self) -> Entry:
        return self.entries[0]

    def shared_scorers(self) -> list[Score]:
        """Return the baseline's scores by scorers that another one of the evaluations has as
        well."""
        others = [entry.scores for entry in self.entries[1:]]
        return [
            score
            for key, score in self.baseline.scores.items()
            if any(key in scores for scores in others)
        ]

    def values(self, entry: Entry, scorer_hash: str) -> Values | None:
        """Return the score of each question, in the order of ``hashes``; None where there is
        none."""
        score = entry.scores.get(scorer_hash)
        if score is None:
            return None
        stored = unpack_scores(bytes(score.values))
        if entry.places is None:
            return stored
        found: Values = [None] * len(self.hashes)
        for place, value in zip(entry.places, stored, strict=True):
            if place is not None:
                found[place] = value
        return found


# --- which ones -----------------------------------------------------------------------------------


def find_evaluations(ids: Sequence[UUID]) -> tuple[list[Run], list[UUID]]:
    """Return the evaluations with these ids, in their order, and the ids of those that are not
    there. Raise NotComparable for too few or too many ids, and for different questions."""
    if not EVALUATIONS_MIN <= len(ids) <= EVALUATIONS_MAX:
        raise NotComparable(
            f"Choose {EVALUATIONS_MIN} to {EVALUATIONS_MAX} evaluations of the same questions to"
            f" compare; {len(ids)} {'is' if len(ids) == 1 else 'are'} chosen."
        )
    found = {
        run.pk: run
        for run in Run.objects.visible()
        .filter(pk__in=ids, evaluation__isnull=False)
        .select_related("evaluation", "owner")
    }
    runs = [found[one] for one in ids if one in found]
    missing = [one for one in ids if one not in found]
    if len(runs) < EVALUATIONS_MIN:
        raise NotComparable("Fewer than two of these evaluations are still there.")
    prefetch_related_objects(runs, "evaluation__questions")
    sets = {run.evaluation.questions_id: run.evaluation.questions for run in runs}
    if len(sets) > 1:
        named = "; ".join(
            f"{one} with fingerprint {one.fingerprint.removeprefix('sha256:')[:12]}"
            for one in list(sets.values())[:3]
        )
        raise NotComparable(
            f"These evaluations are of different questions: {named}. Choose evaluations of one set."
        )
    scores = Score.objects.order_by("id")
    prefetch_related_objects(runs, Prefetch("evaluation__scores", queryset=scores))
    return runs, missing


def others_of(run: Run, *, limit: int = 10) -> list[Run]:
    """Return the newest other evaluations of the same questions that have ended."""
    return list(
        Run.objects.visible()
        .filter(evaluation__questions=run.evaluation.questions_id, completed_at__isnull=False)
        .exclude(pk=run.pk)
        .order_by("-evaluation__created_at", "-evaluation__run")[:limit]
    )


def compare_evaluations(runs: Sequence[Run]) -> Comparison:
    """Put evaluations of one set beside each other; ``runs`` as ``find_evaluations`` has them."""
    questions = runs[0].evaluation.questions
    answered: dict[UUID, list[str]] = {}
    reasons: dict[UUID, str] = {}
    for run in runs:
        reasons[run.pk] = _why_not(run)
        if reasons[run.pk] or run.evaluation.complete:
            continue
        try:
            answered[run.pk] = answered_hashes(run)
        except ItemsAway as away:
            reasons[run.pk] = f"It has not answered all questions. {away}"
            continue
        if len(answered[run.pk]) != run.evaluation.answered:
            del answered[run.pk]
            reasons[run.pk] = (
                "It has not answered all questions, and its file no longer says which ones:"
                " examples were erased from it."
            )
    hashes = unpack_hashes(questions.hashes) or sorted(
        {one for of in answered.values() for one in of}
    )
    places = {one: place for place, one in enumerate(hashes)}
    entries = []
    for letter, run in zip(LETTERS, runs, strict=False):
        of_run = None
        if run.pk in answered:
            of_run = [places.get(one) for one in answered[run.pk]]
        why_not = reasons[run.pk]
        scores = {} if why_not else {one.scorer_hash: one for one in run.evaluation.scores.all()}
        entries.append(Entry(letter, run, why_not, of_run, scores))
    return Comparison(entries, questions, hashes, _differing(entries))


def _why_not(run: Run) -> str:
    if not run.is_terminal:
        return "It has not ended: its scores take part as soon as it has."
    if run.evaluation.problem:
        return run.evaluation.problem
    return "" if run.evaluation.answered else "It has no outputs."


# --- settings -------------------------------------------------------------------------------------


def _differing(entries: Sequence[Entry]) -> list[Line]:
    """Return what decides outputs or scores and is not the same for all; what is not known of one
    is no difference."""
    runs = [entry.run for entry in entries]
    lines = [
        Line(name, [_shown(run.config.get(name)) for run in runs])
        for name in EVALUATE.parameters
        if name not in _NO_SETTING
    ]
    for label, name in (("chat template", "template"), ("engine", "engine")):
        lines.append(Line(label, [getattr(run.evaluation, name)[:_TEXT_SHOWN] for run in runs]))
    lines += _scorer_lines(entries)
    return [
        line for line in lines if len({repr(value) for value in line.values if value != ""}) > 1
    ]


def _scorer_lines(entries: Sequence[Entry]) -> list[Line]:
    used: dict[str, dict[str, str]] = {}
    for entry in entries:
        for score in entry.scores.values():
            of_name = used.setdefault(str(score.scorer.get("name")), {})
            text = _shown(_scorer_text(score.scorer))
            of_name[entry.letter] = ", ".join(filter(None, [of_name.get(entry.letter), text]))
    return [
        Line(
            f"scorer {name}",
            [by.get(entry.letter, "not used") if entry.scores else "" for entry in entries],
        )
        for name, by in used.items()
    ]


def _scorer_text(scorer: dict[str, Any]) -> str:
    parameters = scorer.get("parameters") or {}
    return ", ".join(
        [
            f"version {scorer.get('version')}",
            *(f"{name} {value}" for name, value in parameters.items()),
            *([f"weight {scorer['weight']:g}"] if scorer.get("weight", 1) != 1 else []),
        ]
    )


def _shown(value: Any) -> Any:
    """Return a value for the banner; of a long text the beginning, and a hash of the whole."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if not isinstance(value, str) or len(value) <= _TEXT_SHOWN:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{value[:_TEXT_SHOWN]} … (SHA-256 {digest[:12]})"


# --- scores ---------------------------------------------------------------------------------------


def measure(comparison: Comparison) -> list[Measured]:
    """Return what each scorer says that the baseline shares with another evaluation."""
    return [_measured(comparison, score) for score in comparison.shared_scorers()]


def _measured(comparison: Comparison, of: Score) -> Measured:
    key, lower = of.scorer_hash, of.lower_is_better
    baseline = comparison.values(comparison.baseline, key) or []
    cells = []
    for entry in comparison.entries:
        score = entry.scores.get(key)
        if score is None:
            cells.append(Cell(entry))
            continue
        mean = Mean(
            score.mean,
            score.low,
            score.high,
            score.n,
            score.failed,
            score.truncated,
            score.total,
            lower,
        )
        against = None
        if entry is not comparison.baseline:
            values = comparison.values(entry, key) or []
            against = difference_of(values, baseline, lower_is_better=lower)
        cells.append(Cell(entry, mean, against))
    return Measured(of.label, of.scorer, key, lower, cells)


def headline(comparison: Comparison) -> Measured | None:
    """Return the weighted mean of all shared scorers, question by question, with the baseline's
    weights; None where there are fewer than two. It takes the questions that each of the scorers
    has a score for."""
    scorers = [score for score in comparison.shared_scorers() if not score.lower_is_better]
    if len(scorers) < 2:
        return None
    weights = {score.scorer_hash: float(score.scorer.get("weight", 1.0)) for score in scorers}
    cells: list[Cell] = []
    baseline: Values = []
    for entry in comparison.entries:
        if not weights.keys() <= entry.scores.keys():
            cells.append(Cell(entry))
            continue
        values = _weighted(comparison, entry, weights)
        known = [value for value in values if value is not None]
        mean = Mean(None, None, None, 0)
        if known:
            low, high = statistics.share_interval(known)
            mean = Mean(fmean(known), low, high, len(known))
        if entry is comparison.baseline:
            baseline = values
            cells.append(Cell(entry, mean))
        else:
            cells.append(Cell(entry, mean, difference_of(values, baseline)))
    label = "Weighted: " + ", ".join(
        f"{score.label} × {weights[score.scorer_hash]:g}" for score in scorers
    )
    return Measured(label, {}, HEADLINE, False, cells)


def _weighted(comparison: Comparison, entry: Entry, weights: dict[str, float]) -> Values:
    total = sum(weights.values())
    columns = [comparison.values(entry, key) or [] for key in weights]
    return [
        None
        if None in row
        else sum(w * value for w, value in zip(weights.values(), row, strict=True)) / total
        for row in zip(*columns, strict=True)
    ]


def difference_of(
    candidate: Sequence[float | None],
    baseline: Sequence[float | None],
    *,
    lower_is_better: bool = False,
) -> Difference:
    """Compare the scores of the same questions, in the same order; questions without a score of
    one of them take no part."""
    pairs = [
        (a, b) for a, b in zip(candidate, baseline, strict=True) if a is not None and b is not None
    ]
    n = len(pairs)
    if n < 2:
        return Difference(n, lower_is_better=lower_is_better)
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    paired = _compare(first, second)
    better, worse = paired.only_first, paired.only_second
    rises = paired.difference > 0
    if lower_is_better:
        better, worse, rises = worse, better, not rises
    verdict = UNDECIDED
    if paired.is_real:
        verdict = BETTER if rises else WORSE
    return Difference(
        n=n,
        mean=fmean(first),
        baseline_mean=fmean(second),
        difference=paired.difference,
        low=paired.interval.low,
        high=paired.interval.high,
        better_on=better,
        worse_on=worse,
        p_value=paired.p_value,
        method=paired.method,
        smallest_effect=statistics.smallest_paired_effect([a - b for a, b in pairs]),
        verdict=verdict,
        lower_is_better=lower_is_better,
    )


def _compare(first: list[float], second: list[float]) -> statistics.Paired:
    if len(first) > RESAMPLED_MAX:
        return statistics.compare(first, second, resamples=0)
    return _compare_few(array("d", first).tobytes(), array("d", second).tobytes())


@lru_cache(maxsize=1024)
def _compare_few(first: bytes, second: bytes) -> statistics.Paired:
    """Return the comparison, remembered since resampling takes a tenth of a second and scores never
    change."""
    return statistics.compare(array("d", first).tolist(), array("d", second).tolist())


# --- questions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairing:
    """Two evaluations question by question. ``places``: of the questions asked for, those with the
    largest difference first; ``counts``: questions of each relation; ``unpaired``: questions that
    one of them has no score for; ``binary``: whether all scores are 0 or 1, for wrong and right."""

    places: list[int]
    counts: dict[str, int]
    unpaired: int
    binary: bool


def pair_questions(
    first: Values, second: Values, *, lower_is_better: bool = False, only: str = ""
) -> Pairing:
    """Pair the scores of two evaluations. ``only``: a relation; empty: all."""
    counts = dict.fromkeys(RELATIONS, 0)
    found: list[tuple[float, int]] = []
    unpaired, binary = 0, not lower_is_better
    for place, (a, b) in enumerate(zip(first, second, strict=True)):
        if a is None or b is None:
            unpaired += 1
            continue
        binary = binary and a in (0, 1) and b in (0, 1)
        relation = relation_of(a, b, lower_is_better=lower_is_better)
        counts[relation] += 1
        if not only or relation == only:
            found.append((-abs(a - b), place))
    return Pairing([place for _, place in sorted(found)], counts, unpaired, binary)


def relation_of(first: float, second: float, *, lower_is_better: bool = False) -> str:
    """Return how two scores of a question stand to each other."""
    if first != second:
        return FIRST if (first > second) != lower_is_better else SECOND
    if lower_is_better or first not in (0, 1):
        return EQUAL
    return BOTH_RIGHT if first == 1 else BOTH_WRONG


# --- slices ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice:
    """The questions with one value of a column. ``n``: all of them, with a score or without.
    ``too_few``: fewer than a leaderboard would rank."""

    value: str
    n: int
    too_few: bool
    cells: list[Cell]


def slices(comparison: Comparison, scorer_hash: str, by_hash: dict[str, str]) -> list[Slice]:
    """Compare the evaluations on the questions with each value of a column, the largest group
    first."""
    places: dict[str, list[int]] = {}
    for place, key in enumerate(comparison.hashes):
        places.setdefault(by_hash.get(key, NO_VALUE), []).append(place)
    columns = [(entry, comparison.values(entry, scorer_hash)) for entry in comparison.entries]
    score = comparison.baseline.scores[scorer_hash]
    ordered = sorted(places.items(), key=lambda one: (-len(one[1]), one[0]))
    return [
        Slice(
            value,
            len(of),
            len(of) < statistics.RANKED_MIN,
            _slice_cells(
                [(entry, _take(column, of)) for entry, column in columns], score.lower_is_better
            ),
        )
        for value, of in ordered
    ]


def _take(column: Values | None, places: Iterable[int]) -> Values | None:
    return None if column is None else [column[place] for place in places]


def _slice_cells(columns: list[tuple[Entry, Values | None]], lower_is_better: bool) -> list[Cell]:
    baseline = columns[0][1] or []
    cells = []
    for number, (entry, column) in enumerate(columns):
        if column is None:
            cells.append(Cell(entry))
            continue
        known = [value for value in column if value is not None]
        mean = Mean(
            fmean(known) if known else None,
            None,
            None,
            len(known),
            lower_is_better=lower_is_better,
        )
        against = None
        if number:
            against = difference_of(column, baseline, lower_is_better=lower_is_better)
        cells.append(Cell(entry, mean, against))
    return cells
