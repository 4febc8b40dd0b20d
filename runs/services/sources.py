"""The checkpoint of another run that a run resumes from."""

from dataclasses import dataclass

from runs.models import ACTIVE, Baseline, Run
from runs.runfolder import names
from runs.runfolder.checkpoints import (
    complete_steps,
    first_difference,
    make_identity,
    read_identity,
)
from runs.runfolder.items import complete_lines
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.spec.kinds import KINDS


@dataclass(frozen=True)
class Source:
    """A complete checkpoint of an ended run, which another run can resume from."""

    run: Run
    step: int


class SourceGone(Exception):
    """A checkpoint was removed after it had been found."""


def find_source(run: Run, *, from_scratch: bool = False) -> Source | None:
    """Return the newest checkpoint of ``run``, or else of the nearest run that it resumes from;
    None where there is none.

    Only complete checkpoints of the same training count. A run in the trash is skipped, since its
    files may be purged at any moment. A run that was started from scratch ends the search: what is
    older was left behind on purpose. An extension has no use for checkpoints before the one that it
    extends. With ``from_scratch``, an extension accepts that checkpoint only, and any other run
    none.

    Raises:
        OSError: a folder cannot be read.
    """
    if run.dry_run or (from_scratch and run.extend_from_step is None):
        return None
    candidate: Run | None = run
    while candidate is not None:
        step = None if candidate.trashed_at else usable_step(candidate, by=run)
        if step is not None and (not from_scratch or step == run.extend_from_step):
            return Source(candidate, step)
        candidate = candidate.resume_from if candidate.resume else None
    return None


def usable_step(run: Run, *, by: Run) -> int | None:
    """Return the step of the newest complete checkpoint of ``run`` if the run ``by`` can resume
    from it; of an evaluation, how many questions it has answered."""
    if not run.trains:
        return complete_lines(run_folder(run) / names.ITEMS) or None
    folder = run_folder(run) / names.CHECKPOINTS
    steps = complete_steps(folder)
    identity = read_identity(folder) if steps else None
    wanted = make_identity(model_id=by.model_id, training=KINDS[by.kind].defaults() | by.config)
    if (
        identity is None
        or first_difference(identity, wanted) is not None
        or steps[-1] < (by.extend_from_step or 0)
    ):
        return None
    return steps[-1]


def hold_source(source: Source) -> None:
    """Keep trash and removals away from ``source`` until the transaction ends: then the new run is
    there to be seen.

    Raises:
        SourceGone: the checkpoint was removed concurrently.
    """
    there = (
        Run.objects.select_for_update()
        .filter(pk=source.run.pk, trashed_at=None)
        .values_list("pk", flat=True)
    )
    if not list(there) or not _is_there(source):
        raise SourceGone(
            f"The checkpoint of step {source.step} of run {source.run.run_id} has just been"
            " removed."
        )


def _is_there(source: Source) -> bool:
    folder = run_folder(source.run)
    if not source.run.trains:
        return complete_lines(folder / names.ITEMS) >= source.step
    return source.step in complete_steps(folder / names.CHECKPOINTS)


def require_no_heir(run: Run) -> None:
    """Refuse to remove files that an active run resumes from, or evaluates. In the transaction that
    holds the row of ``run``.

    Raises:
        StateConflict: names the run that needs them.
    """
    baseline = Baseline.objects.filter(evaluation=run.pk).order_by("name").first()
    if baseline is not None:
        raise StateConflict(f"This evaluation is the baseline {baseline.name}. Delete that first.")
    evaluation = run.evaluations.filter(run__status__in=ACTIVE).order_by().first()
    if evaluation is not None:
        raise StateConflict(
            f"Run {evaluation.run_id} evaluates the model of this run and has not ended yet."
        )
    if (heir := run.active_heir()) is not None:
        raise StateConflict(
            f"Run {heir.run_id} resumes from the checkpoints of this run and has not ended yet."
        )


def problem_with_source(run: Run) -> str | None:
    """Return why ``run``, which is to resume, cannot: its source is gone. Starting from scratch
    instead would be another training."""
    if not run.resume:
        return None
    if run.resume_from is None:
        gone = "The run whose checkpoint this one was to resume from has been deleted."
    else:
        try:
            if usable_step(run.resume_from, by=run) is not None:
                return None
            gone = (
                f"Run {run.resume_from.run_id} no longer has the checkpoint that this run was to go"
                " on from."
            )
        except OSError as error:
            return (
                f"The checkpoints of run {run.resume_from.run_id} cannot be read"
                f" ({error.strerror or error}). Retry it later."
            )
    if run.extend_from_step is not None:
        return gone
    return f"{gone} Retry this run: it then starts from what is left, or from scratch."
