"""Retention: move old runs to the trash by age and number, empty the trash, and report the bytes
freed."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.utils import timezone

from runs.models import TERMINAL, Run, RunQuerySet
from runs.services import deletion
from runs.services.refusals import StateConflict

logger = logging.getLogger("tunixrt.retention")


@dataclass
class Pruned:
    """What was done, or with ``dry_run`` would be: runs put into the trash, runs removed
    permanently, bytes freed."""

    trashed: int = 0
    purged: int = 0
    bytes_freed: int = 0


def prune_runs(
    *,
    by: User,
    max_age: timedelta | None = None,
    keep_newest: int | None = None,
    trash_age: timedelta | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Put what is too old or too many into the trash, and empty what has been there for
    ``trash_age`` (TUNIX_TRASH_HOURS). Pinned and active runs stay, so do those an active run
    resumes from. ``max_age`` and ``keep_newest`` of None keep everything."""
    pruned = Pruned()
    trash_before = timezone.now() - (
        timedelta(hours=settings.TUNIX_TRASH_HOURS) if trash_age is None else trash_age
    )
    for run in Run.objects.filter(trashed_at__lte=trash_before).iterator():
        try:
            pruned.bytes_freed += (
                deletion.folder_bytes(run) if dry_run else deletion.purge_run(run=run, by=by)
            )
        except (OSError, StateConflict) as error:
            logger.warning("run %s stays in the trash: %s", run.run_id, error)
            continue
        pruned.purged += 1
    for run in _expired(max_age, keep_newest):
        if not dry_run:
            try:
                deletion.trash_run(run=run, by=by)
            except StateConflict:
                continue
        pruned.trashed += 1
    return pruned


def _expired(max_age: timedelta | None, keep_newest: int | None) -> Iterator[Run]:
    ended: RunQuerySet = (
        Run.objects.visible()
        .filter(status__in=TERMINAL, pinned=False)
        .exclude(pk__in=Run.objects.needed())
    )
    seen = set()
    if max_age is not None:
        for run in ended.filter(completed_at__lt=timezone.now() - max_age).iterator():
            seen.add(run.pk)
            yield run
    if keep_newest is not None:
        boundary = (
            Run.objects.visible()
            .newest_first()
            .values_list("created_at", flat=True)[keep_newest : keep_newest + 1]
            .first()
        )
        if boundary is not None:
            yield from (
                run
                for run in ended.filter(created_at__lte=boundary).iterator()
                if run.pk not in seen
            )
