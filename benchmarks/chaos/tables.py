"""What the harness asks of the database, and does to it. ``House.open()`` imports this once it has
made the settings."""

from __future__ import annotations

from collections.abc import Collection

from django.db import InterfaceError, OperationalError
from django.db.models import QuerySet
from django_q.models import OrmQ

from runs.lifecycle import TRANSITIONS
from runs.models import ACTIVE, TERMINAL, Run
from runs.services import deletion, refusals, reservations
from tunixrt import audit

LONGEST_CHAIN = 15  # retries of retries
LATEST = 20
UNSUCCESSFUL = [status for status in TERMINAL if status != "completed"]


def all_runs() -> dict[str, Run]:
    """Return all runs by id, each with its host, events and series."""
    return {str(run.pk): run for run in _with_everything(Run.objects.all())}


def runs_in_trash() -> list[Run]:
    """Return the runs in the trash as ``all_runs`` does, each with its retries and heirs, which a
    purge takes it from."""
    return list(
        _with_everything(Run.objects.filter(trashed_at__isnull=False)).prefetch_related(
            "retries", "heirs"
        )
    )


def _with_everything(runs: QuerySet[Run]) -> QuerySet[Run]:
    return runs.select_related("host").prefetch_related("events", "metric_series")


def to_retry(which: str) -> list[str]:
    """Return the latest trainings that ended without success (``ended``; of these, ``retry``:
    retries) or with (``completed``; of these, ``extend``: without heirs), or ``dry`` runs."""
    runs = Run.objects.visible().filter(attempt__lt=LONGEST_CHAIN, retries=None)
    match which:
        case "dry":
            runs = runs.filter(dry_run=True, status__in=TERMINAL)
        case "completed":
            runs = runs.filter(dry_run=False, status="completed")
        case "extend":
            runs = runs.filter(dry_run=False, status="completed", heirs=None)
        case _:
            runs = runs.filter(dry_run=False, status__in=UNSUCCESSFUL)
    if which == "retry":
        runs = runs.filter(attempt__gt=1)
    return [str(pk) for pk in runs.newest_first().values_list("pk", flat=True)[:LATEST]]


def real_to_retry(seeds: Collection[int]) -> list[str]:
    """Return the trainings with these seeds that ended without success and have not been
    retried."""
    runs = Run.objects.visible().filter(
        config__seed__in=seeds, attempt__lt=LONGEST_CHAIN, retries=None
    )
    ended = runs.filter(dry_run=False, status__in=UNSUCCESSFUL)
    return [str(pk) for pk in ended.values_list("pk", flat=True)]


def forebears_of_active() -> list[str]:
    """Return ended runs that an active run has been made from, over any number of retries."""
    found: set[str] = set()
    layer = set(
        Run.objects.filter(status__in=ACTIVE, retry_of__isnull=False).values_list(
            "retry_of", flat=True
        )
    )
    while layer:
        found |= {str(pk) for pk in layer}
        layer = set(
            Run.objects.filter(pk__in=layer, retry_of__isnull=False).values_list(
                "retry_of", flat=True
            )
        )
    return sorted(found)


def sources_of_pending() -> list[tuple[str, str]]:
    """Return runs whose checkpoints a pending run is to resume from, with their folders."""
    pending = Run.objects.filter(status="pending", resume_from__isnull=False).select_related(
        "resume_from"
    )
    return sorted(
        {
            (str(run.resume_from_id), str(reservations.run_folder(run.resume_from)))
            for run in pending
        }
    )


def purge(run_id: str) -> str:
    """Return ``purged``, ``refused`` for a run that another resumes from, or ``unknown``: the
    database or the disk went away meanwhile, or another process was faster."""
    try:
        deletion.purge_run(run=Run.objects.get(pk=run_id), by=audit.system_user())
    except Run.DoesNotExist:
        return "unknown"
    except refusals.StateConflict as refusal:
        return "refused" if "resumes from" in str(refusal) else "unknown"
    except (OperationalError, InterfaceError, OSError):
        return "unknown"
    return "purged"


def count_active(**which: str | bool) -> int:
    return Run.objects.filter(status__in=ACTIVE, **which).count()


def has_ended(run: Run) -> bool:
    return run.status in TERMINAL


def is_legal(old: str, new: str) -> bool:
    """Return whether a run may go from ``old`` ("": it is being made) to ``new``."""
    return new in TRANSITIONS[old] if old else new == "pending"


def delete_messages() -> int:
    """Delete the messages; return how many there were."""
    return OrmQ.objects.all().delete()[0]


def multiply_messages(*, most: int, copies: int) -> int:
    """Put ``copies`` of the first ``most`` messages behind all the others; how many that are."""
    rows = list(OrmQ.objects.order_by("pk")[:most])
    again = (
        OrmQ(key=row.key, payload=row.payload, lock=row.lock) for row in rows for _ in range(copies)
    )
    OrmQ.objects.bulk_create(again, batch_size=500)
    return len(rows) * copies
