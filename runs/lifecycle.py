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

from typing import Any

from django.db import transaction
from django.utils import timezone

from runs.models import TERMINAL, Run, RunEvent, RunStatus

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


class TransitionRefused(Exception):
    """The step is not in the table, or somebody else was first. ``actual`` is the status the run has."""

    def __init__(self, run: Run, new: str, actual: str):
        self.run, self.new, self.actual = run, new, actual
        super().__init__(f"Run {run.run_id} is {actual}; it cannot become {new}.")


def transition(run: Run, new: str, *, reason: str, by: str, **fields: Any) -> Run:
    """Take one step of the table, as a guarded UPDATE with its RunEvent in the same transaction.

    ``run.status`` is the status the caller believes in; ``fields`` are written with the step. ``completed_at`` of an
    ending defaults to now. The instance is updated only when the step was taken.

    Raises:
        TransitionRefused: nothing was written.
    """
    old = run.status
    if new not in TRANSITIONS[old]:
        raise TransitionRefused(run, new, old)
    if new in TERMINAL:
        fields.setdefault("completed_at", timezone.now())
    with transaction.atomic():
        if Run.objects.filter(pk=run.pk, status=old).update(status=new, **fields) != 1:
            actual = Run.objects.filter(pk=run.pk).values_list("status", flat=True).first() or "deleted"
            raise TransitionRefused(run, new, actual)
        RunEvent.objects.create(run=run, old=old, new=new, reason=reason, by=by, at=timezone.now())
    run.status = new
    for name, value in fields.items():
        setattr(run, name, value)
    return run
