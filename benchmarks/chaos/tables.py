"""What the harness asks of the database, and does to it. ``House.open()`` imports this once it has made the settings."""

from __future__ import annotations

from django_q.models import OrmQ

from runs.lifecycle import TRANSITIONS
from runs.models import ACTIVE, TERMINAL, Run


def all_runs() -> dict[str, Run]:
    """By id, each with its host, events and series."""
    return {str(run.pk): run for run in Run.objects.select_related("host").prefetch_related("events", "metric_series")}


def count_active(**which: str) -> int:
    return Run.objects.filter(status__in=ACTIVE, **which).count()


def has_ended(run: Run) -> bool:
    return run.status in TERMINAL


def is_legal(old: str, new: str) -> bool:
    """Whether a run may go from ``old`` ("": it is being made) to ``new``."""
    return new in TRANSITIONS[old] if old else new == "pending"


def delete_messages() -> int:
    """How many there were."""
    return OrmQ.objects.all().delete()[0]


def multiply_messages(*, most: int, copies: int) -> int:
    """Put ``copies`` of the first ``most`` messages behind all the others; how many that are."""
    rows = list(OrmQ.objects.order_by("pk")[:most])
    again = (OrmQ(key=row.key, payload=row.payload, lock=row.lock) for row in rows for _ in range(copies))
    OrmQ.objects.bulk_create(again, batch_size=500)
    return len(rows) * copies
