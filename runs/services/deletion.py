"""Move runs to the trash and purge them with their files."""

from django.contrib.admin.models import DELETION
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from runs.models import TERMINAL, Run, RunEvent
from runs.runfolder.tree import bytes_below
from runs.services.access import reread
from runs.services.output_root import root_away
from runs.services.refusals import StateConflict
from runs.services.reservations import remove_set_aside, run_folder, set_aside
from runs.services.sources import require_no_heir
from tunixrt.audit import write_log_entry


def trash_run(*, run: Run, by: User) -> None:
    """Put an ended run into the trash: readers no longer see it; its files stay until the purge.

    Raises:
        StateConflict: it has not ended, or an active run resumes from its checkpoints.
    """
    with transaction.atomic():
        if (
            Run.objects.filter(pk=run.pk, status__in=TERMINAL, trashed_at=None).update(
                trashed_at=timezone.now()
            )
            != 1
        ):
            reread(run, ["status", "trashed_at"])
            why = (
                "it is in the trash already."
                if run.trashed_at
                else f"this one is {run.status}. Cancel it first."
            )
            raise StateConflict(f"Only an ended run can be deleted; {why}")
        require_no_heir(run)
        RunEvent.objects.create(
            run=run, reason="moved to the trash", by=by.get_username(), at=timezone.now()
        )
        # The events go with the run; who deleted it is still to be known then.
        write_log_entry(
            by=by, target=run, name=str(run), flag=DELETION, message="moved to the trash"
        )


def purge_run(*, run: Run, by: User) -> int:
    """Remove a trashed run's files, then its row; return the bytes freed.

    Raises:
        StateConflict: it is not in the trash, or the output root is away.
        OSError: files are left; the run stays in the trash.
    """
    if problem := root_away():
        raise StateConflict(problem)
    with transaction.atomic():
        trashed = (
            Run.objects.select_for_update()
            .filter(pk=run.pk, trashed_at__isnull=False, status__in=TERMINAL)
            .first()
        )
        # or a concurrent purge has removed it, and its folder may belong to another run
        if trashed is None:
            raise StateConflict("Only a run in the trash can be purged.")
        require_no_heir(trashed)  # of runs trashed before heirs protected them
        set_aside(trashed)
    freed = remove_set_aside(run)
    with transaction.atomic():
        message = f"deleted with files ({freed:,} bytes)"
        write_log_entry(by=by, target=run, name=str(run), flag=DELETION, message=message)
        # a retry of theirs finds what is left of the chain
        run.heirs.update(resume_from=trashed.resume_from_id)
        run.delete()
    return freed


def folder_bytes(run: Run) -> int:
    """Return the bytes that the files of a run take, links not followed."""
    return bytes_below(run_folder(run))
