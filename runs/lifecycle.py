"""The life of a run: one table of steps, one function that takes them.

::

    pending ──► running ──► completed | failed | timeout
       │           │
       │           ▼
       │       cancelling ──► cancelled | completed | failed | timeout
       ▼
    cancelled

No arrow leads back: a retry is a new run. This is the only module that writes ``Run.status``.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from runs.models import TERMINAL, Run, RunEvent, RunStatus
from runs.models.counter import DURATION, DURATION_BUCKETS, RUNS, Counter, bucket_label
from tunixrt.refusals import Conflict

S = RunStatus

TRANSITIONS: dict[str, frozenset[str]] = {
    S.PENDING: frozenset({S.RUNNING, S.CANCELLED}),
    S.RUNNING: frozenset({S.COMPLETED, S.FAILED, S.TIMEOUT, S.CANCELLING}),
    S.CANCELLING: frozenset({S.CANCELLED, S.COMPLETED, S.FAILED, S.TIMEOUT}),
    S.COMPLETED: frozenset(),
    S.FAILED: frozenset(),
    S.TIMEOUT: frozenset(),
    S.CANCELLED: frozenset(),
}


class TransitionRefused(Conflict):
    """The table does not allow the step, or another process changed the run first. ``actual`` is
    the status the run has."""

    def __init__(self, run: Run, new: str, actual: str):
        self.run, self.new, self.actual = run, new, actual
        super().__init__(f"Run {run.run_id} is {actual}; it cannot become {new}.")


def transition(run: Run, new: str, *, reason: str, by: str, **fields: Any) -> Run:
    """Take one step of the table, as a guarded UPDATE with its RunEvent in the same transaction.

    ``run.status`` is the status the caller believes in; ``fields`` are written with the step.
    ``completed_at`` of an ending defaults to now. The instance is updated only when the step was
    taken.

    Raises:
        TransitionRefused: nothing was written.
    """
    transition_together([run], new, reason=reason, by=by, **fields)
    return run


def transition_together(
    runs: Sequence[Run], new: str, *, reason: str, by: str, **fields: Any
) -> None:
    """Take the same step with the same fields, as ``transition`` does, for runs of one status, all
    of them or none.

    Raises:
        TransitionRefused: names the first run that is not what the caller believes; nothing was
            written.
    """
    old = runs[0].status
    for run in runs:
        if run.status != old or new not in TRANSITIONS[run.status]:
            raise TransitionRefused(run, new, run.status)
    now = timezone.now()
    if new in TERMINAL:
        fields.setdefault("completed_at", now)
    with transaction.atomic():
        keys = [run.pk for run in runs]
        taken = Run.objects.filter(pk__in=keys, status=old).update(status=new, **fields) == len(
            runs
        )
        if taken:
            RunEvent.objects.bulk_create(
                RunEvent(run=run, old=old, new=new, reason=reason, by=by, at=now) for run in runs
            )
            if new in TERMINAL:
                count_end([(run.mode, fields.get("duration_seconds")) for run in runs], status=new)
        else:
            transaction.set_rollback(True)
    if not taken:
        raise _refusal(runs, old, new)  # after the rollback: no query is allowed before it
    for run in runs:
        run.status = new
        for name, value in fields.items():
            setattr(run, name, value)


@dataclass(frozen=True)
class Step:
    """One change of status, as its event tells it."""

    new: str
    reason: str
    by: str
    at: datetime


def insert_ended(run: Run, *, submitted: Step, steps: Sequence[Step]) -> None:
    """Store a new run that has already taken ``steps``, each of them in the table, and an event for
    each: a dry run in the request is checked before anything of it is stored. Call it in the
    transaction that stores what belongs to the run. ``run`` has the columns of its end, all but
    its status.

    Raises:
        TransitionRefused: a step is not in the table, or the last one is no end; nothing was
            written.
    """
    old = S.PENDING.value
    events = [RunEvent(run=run, new=old, **_told(submitted))]
    for step in steps:
        if step.new not in TRANSITIONS[old]:
            raise TransitionRefused(run, step.new, old)
        events.append(RunEvent(run=run, old=old, new=step.new, **_told(step)))
        old = step.new
    if old not in TERMINAL or submitted.new != S.PENDING:
        raise TransitionRefused(run, old, submitted.new)
    run.status = old
    run.save(force_insert=True)
    RunEvent.objects.bulk_create(events)
    count_end([(run.mode, run.duration_seconds)], status=run.status)


def _told(step: Step) -> dict[str, Any]:
    return {"reason": step.reason, "by": step.by, "at": step.at}


def count_end(ends: Sequence[tuple[str, float | None]], *, status: str) -> None:
    """Count runs that end with ``status``, given as (mode, seconds or None). Call it in the
    transaction that ends them."""
    additions: dict[tuple[str, str], list[float]] = defaultdict(list)
    for mode, seconds in ends:
        additions[RUNS, f"{status}|{mode}"].append(0.0)
        if seconds is not None:
            additions[DURATION, bucket_label(seconds, DURATION_BUCKETS)].append(seconds)
    Counter.objects.add(additions)


def _refusal(runs: Sequence[Run], old: str, new: str) -> TransitionRefused:
    actual = dict(Run.objects.filter(pk__in=[run.pk for run in runs]).values_list("pk", "status"))
    run = next((run for run in runs if actual.get(run.pk) != old), runs[0])
    return TransitionRefused(run, new, actual.get(run.pk, "deleted"))
