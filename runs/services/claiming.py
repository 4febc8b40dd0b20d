"""Take pending runs for a host."""

from django.db import connection, transaction
from django.utils import timezone

from runs.lifecycle import transition, transition_together
from runs.models import Host, Run, RunStatus


def claim_reason(host: Host) -> str:
    return f"claimed by {host.name}"


def claim_run(*, run: Run, host: Host, by: str) -> Run:
    """Take a pending run for ``host``. Raise TransitionRefused if another worker has claimed it: a
    run starts at most once."""
    return transition(
        run,
        RunStatus.RUNNING,
        reason=claim_reason(host),
        by=by,
        host=host,
        started_at=timezone.now(),
    )


def next_pending(*, supervised: bool, limit: int) -> list[Run]:
    """Return the pending runs of one kind in their order, on PostgreSQL without those that another
    worker has locked. Call it in a transaction in which the caller claims them (on SQLite it holds
    the one write lock meanwhile)."""
    pending = Run.objects.pending_in_order(supervised=supervised)
    if connection.features.has_select_for_update_skip_locked:
        pending = pending.select_for_update(skip_locked=True, of=("self",))
    return list(pending[:limit])


def claim_dry_runs(*, host: Host, limit: int, by: str) -> list[Run]:
    """Claim up to ``limit`` pending dry runs that need no process, at once."""
    if not Run.objects.filter(status=RunStatus.PENDING, supervised=False).exists():
        return []  # before the transaction: on SQLite that would lock every writer out
    with transaction.atomic():
        runs = next_pending(supervised=False, limit=limit)
        if runs:
            transition_together(
                runs,
                RunStatus.RUNNING,
                reason=claim_reason(host),
                by=by,
                host=host,
                started_at=timezone.now(),
            )
    return runs
