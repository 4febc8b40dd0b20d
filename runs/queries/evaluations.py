"""Evaluations as API and pages read them: scores, progress, and items."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import Prefetch

from runs.models import Evaluation, Look, Run, RunQuerySet, Score, Standing
from runs.queries.logs import OffsetPastEnd
from runs.queries.selection import Selection
from runs.runfolder import files, names
from runs.services.access import require_items
from runs.services.evaluations import (
    Measure,
    Outcome,
    interval_of,
    measures,
    parse_item,
    pass_at_k,
    read_outcome,
)
from runs.services.outputs import is_intact as is_intact
from runs.services.reservations import run_folder
from runs.spec import statistics
from tunixrt.cursors import Cursor

PARTIAL_MAX_BYTES = 64 * 2**20  # of items.jsonl, that are read while an evaluation executes
TEXT_MAX = 64 * 2**10  # characters of a text of an item


@dataclass(frozen=True)
class ScoreRow:
    """A score as pages and API show it; ``n``: questions in the mean."""

    label: str
    scorer: dict[str, Any]
    mean: float | None
    low: float | None
    high: float | None
    n: int
    scored: int
    failed: int
    truncated: int
    total: int
    pass_at_k: dict[str, float]
    lower_is_better: bool = False
    standing: str = Standing.PARTIAL.label
    smallest_effect: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def with_evaluations(runs: RunQuerySet) -> RunQuerySet:
    """Load what a list of evaluations shows with a fixed number of queries."""
    scores = Score.objects.defer("values").order_by("id")
    return runs.select_related("evaluation__questions", "owner").prefetch_related(
        Prefetch("evaluation__scores", queryset=scores)
    )


def evaluation_runs(*, subject: UUID | None = None) -> RunQuerySet:
    """Return evaluations that are not in the trash; with ``subject``, those of that run's model."""
    runs = Run.objects.visible().filter(dry_run=False)
    if subject is not None:
        runs = runs.filter(pk__in=Evaluation.objects.filter(subject=subject).values("run"))
    return runs


def read_page(
    chosen: Selection,
    *,
    subject: UUID | None,
    limit: int,
    offset: int = 0,
    cursor: Cursor[UUID] | None = None,
) -> tuple[list[Run], Cursor[UUID] | None]:
    """Return a page of evaluations, the newest first, and where the next one begins."""
    rows = chosen.in_order(with_evaluations(evaluation_runs(subject=subject)), behind=cursor)
    found = list(rows[offset : offset + limit + 1])
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], Cursor(last.created_at, last.run_id)


def score_rows(run: Run) -> list[ScoreRow]:
    """Return the scores of an evaluation: what is stored, or, while it executes, what its items
    say so far."""
    if run.is_terminal:
        return [stored_row(score) for score in run.evaluation.scores.all()]
    return partial_rows(run)


def stored_row(score: Score) -> ScoreRow:
    return ScoreRow(
        label=score.label,
        scorer=score.scorer,
        mean=score.mean,
        low=score.low,
        high=score.high,
        n=score.n,
        scored=score.scored,
        failed=score.failed,
        truncated=score.truncated,
        total=score.total,
        pass_at_k=score.pass_at_k,
        lower_is_better=score.lower_is_better,
        standing=Standing(score.standing).label,
        smallest_effect=smallest_effect(score.n, score.mean, lower_is_better=score.lower_is_better),
    )


def partial_rows(run: Run) -> list[ScoreRow]:
    """Return what the items of an evaluation say so far; nothing where they are too many to count
    them for a page."""
    folder = run_folder(run)
    try:
        if os.stat(folder / names.ITEMS).st_size > PARTIAL_MAX_BYTES:
            return []
        outcome = read_outcome(folder, config=run.config)
    except OSError:
        return []
    return [_partial_row(one, outcome) for one in measures(run.config)]


def _partial_row(measure: Measure, outcome: Outcome) -> ScoreRow:
    values = outcome.by_label[measure.label]
    means = list(values.means.values())
    mean = low = high = None
    if means:
        mean = sum(means) / len(means)
        low, high = interval_of(means, measure)
    return ScoreRow(
        label=measure.label,
        scorer=measure.scorer,
        mean=mean,
        low=low,
        high=high,
        n=len(means),
        scored=values.scored,
        failed=values.failed,
        truncated=outcome.truncated,
        total=values.scored + values.failed,
        pass_at_k=pass_at_k(values) if measure.binary else {},
        lower_is_better=measure.lower_is_better,
        smallest_effect=smallest_effect(len(means), mean, lower_is_better=measure.lower_is_better),
    )


def smallest_effect(n: int, mean: float | None, *, lower_is_better: bool) -> float | None:
    """Return the smallest difference between two models that so many questions show, if the models
    answered different ones: paired comparisons show less (runs/spec/statistics.py)."""
    if mean is None or n == 0 or lower_is_better:
        return None
    return statistics.smallest_effect(n, min(0.95, max(0.05, mean)))


def is_there(evaluation_id: UUID | None) -> bool:
    """Return whether there is such an evaluation that is not in the trash."""
    return (
        evaluation_id is not None
        and Run.objects.visible().filter(pk=evaluation_id, evaluation__isnull=False).exists()
    )


def looks_at(evaluation: Evaluation) -> int:
    """Return how often models of this lineage were evaluated on these questions, whether or not the
    runs are still there."""
    return Look.objects.filter(
        questions=evaluation.questions_id, lineage=evaluation.lineage
    ).count()


def repeats(evaluation: Evaluation) -> bool | None:
    """Return whether an evaluation that was run again has the outputs of its baseline; None where
    it is no such evaluation."""
    before = evaluation.baseline
    if before is None or not evaluation.texts or not before.texts:
        return None
    same = ("weights", "template", "settings_hash", "questions_id")
    if evaluation.source_id is not None or any(
        getattr(evaluation, name) != getattr(before, name) for name in same
    ):
        return None
    return evaluation.texts == before.texts


# --- items ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemPage:
    """``next_offset``: the byte at which the next page begins; None on the last one.
    ``unreadable``: lines that are no item."""

    items: list[dict[str, Any]] = field(default_factory=list)
    next_offset: int | None = None
    unreadable: int = 0


def read_items(run: Run, *, reader: User, offset: int, limit: int) -> ItemPage:
    """Return up to ``limit`` items from byte ``offset`` on, which begins a line, in the order in
    which they were answered.

    Raises:
        SealedItems: they are those of a sealed dataset, and ``reader`` is no operator.
        FileNotFoundError, OffsetPastEnd, BrokenFile.
    """
    require_items(reader, run)
    folder = run_folder(run)
    found: list[dict[str, Any]] = []
    unreadable = 0
    with open(files.open_regular(folder / names.ITEMS), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if offset > size:
            raise OffsetPastEnd(size)
        file.seek(offset)
        position = offset
        while len(found) + unreadable < limit and (line := file.readline()):
            if not line.endswith(b"\n"):
                break  # it is being written
            position = file.tell()
            if (item := parse_item(line)) is None:
                unreadable += 1
            else:
                found.append(item_answer(item))
    return ItemPage(found, position if position < size else None, unreadable)


def find_items(run: Run, hashes: Iterable[str], *, reader: User) -> dict[str, dict[str, Any]]:
    """Return the items of the questions that are asked for, by their hashes.

    One walk over the file; only lines that hold a wanted hash are parsed. Raise SealedItems, as
    ``read_items`` does, and OSError, BrokenFile.
    """
    require_items(reader, run)
    folder = run_folder(run)
    wanted = {one.encode() for one in hashes}
    found: dict[str, dict[str, Any]] = {}
    with open(files.open_regular(folder / names.ITEMS), "rb") as file:
        for line in file:
            if len(found) == len(wanted):
                break
            if not any(one in line for one in wanted):
                continue
            item = parse_item(line)
            if item is not None and item["hash"].encode() in wanted:
                found[item["hash"]] = item_answer(item)
    return found


def item_answer(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item with the fields that API and pages show, and texts of a bounded length."""
    outputs = [output_answer(output) for output in item["outputs"]]
    return {
        "index": _count(item.get("index")),
        "id": _text(item.get("id")),
        "hash": item["hash"],
        "prompt": _messages(item.get("prompt")),
        "rendered": _text(item.get("rendered")),
        "prompt_tokens": _count(item.get("prompt_tokens")),
        "reference": None if item.get("reference") is None else _text(item["reference"]),
        "columns": item["columns"] if isinstance(item.get("columns"), dict) else {},
        "outputs": outputs,
    }


def output_answer(output: dict[str, Any]) -> dict[str, Any]:
    problems = output.get("problems")
    return {
        "text": _text(output.get("text")),
        "tokens": _count(output.get("tokens")),
        "finish_reason": _text(output.get("finish_reason")),
        "seconds": _amount(output.get("seconds")),
        "scores": {str(label)[:128]: _amount(score) for label, score in output["scores"].items()},
        "problems": {
            str(label)[:128]: _text(problem)
            for label, problem in (problems if isinstance(problems, dict) else {}).items()
        },
    }


def _messages(value: Any) -> list[dict[str, Any]]:
    messages = value if isinstance(value, list) else []
    return [
        {"role": _text(one.get("role")), "content": _text(one.get("content"))}
        for one in messages
        if isinstance(one, dict)
    ]


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return files.clean_text(text[:TEXT_MAX])


def _count(value: Any) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if known else None


def _amount(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and abs(value) < 2**53 else None
