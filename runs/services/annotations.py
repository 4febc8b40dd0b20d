"""Name, tags, notes, pin and priority of a run."""

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from runs.models import Run, RunEvent, RunNameKey, RunStatus, RunTag
from runs.services.access import reread
from runs.services.refusals import StateConflict
from runs.services.run_requests import PRIORITY_RANGE, InvalidRequest


def set_priority(*, run: Run, by: User, priority: int) -> Run:
    """Move a pending run up or down the queue. Raise StateConflict, InvalidRequest."""
    low, high = PRIORITY_RANGE
    if not low <= priority <= high:
        raise InvalidRequest({"priority": [f"This field must lie between {low} and {high}."]})
    with transaction.atomic():
        if Run.objects.filter(pk=run.pk, status=RunStatus.PENDING).update(priority=priority) != 1:
            reread(run, ["status"])
            raise StateConflict(
                f"Only a pending run can be moved in the queue; this one is {run.status}."
            )
        RunEvent.objects.create(
            run=run,
            reason=f"priority {run.priority} → {priority}",
            by=by.get_username(),
            at=timezone.now(),
        )
    run.priority = priority
    return run


def annotate_run(
    *,
    run: Run,
    by: User,
    name: str | None = None,
    tags: tuple[str, ...] | None = None,
    notes: str | None = None,
    pinned: bool | None = None,
) -> Run:
    """Update name, tags, notes and pin; None leaves a field unchanged. Raise RunGone."""
    with transaction.atomic():
        if not list(Run.objects.select_for_update(no_key=True).filter(pk=run.pk).values_list("pk")):
            reread(run)
        if tags is not None:
            run.tags.exclude(name__in=tags).delete()
            RunTag.objects.bulk_create(RunTag.of(run, tags), ignore_conflicts=True)
        given = {
            field: value
            for field, value in (("name", name), ("notes", notes), ("pinned", pinned))
            if value is not None
        }
        for field, value in given.items():
            setattr(run, field, value)
        if given:
            run.save(update_fields=list(given))
        if name is not None:
            run.name_keys.all().delete()
            RunNameKey.objects.bulk_create(RunNameKey.of(run))
        changed = [*(["tags"] if tags is not None else []), *given]
        if changed:
            RunEvent.objects.create(
                run=run,
                reason=f"{', '.join(changed)} changed",
                by=by.get_username(),
                at=timezone.now(),
            )
    return run
