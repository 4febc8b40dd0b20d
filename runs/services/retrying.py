"""Start a new run from an ended one: retry it, or extend it."""

from collections.abc import Callable

from django.contrib.auth.models import User

from runs.models import TERMINAL, Run
from runs.services.access import reread
from runs.services.output_root import root_away
from runs.services.refusals import OutputRootAway, StateConflict
from runs.services.run_requests import InvalidRequest, clean_request
from runs.services.sources import Source, SourceGone, find_source, usable_step
from runs.services.submission import submit_run
from runs.spec.naming import name_of_extension, name_of_retry

FROM_SCRATCH = "There is no checkpoint to resume from: the retry starts from scratch."


def retry_run(*, run: Run, by: User, resume: bool = True) -> Run:
    """Make a new run from an ended one, in a folder of its own; with ``resume`` from the checkpoint
    of ``find_source``, if any.

    A retry of an extension is one as well: without ``resume`` it begins again at the checkpoint
    that is extended.

    Raises:
        StateConflict: the run has not ended, or is a completed training; the checkpoint of an
            extension is gone; checkpoints cannot be read. And what submit_run raises.
    """
    if run.status not in TERMINAL:
        raise StateConflict(f"Only an ended run can be retried; this one is {run.status}.")
    if not run.is_retriable:
        raise StateConflict(
            "This training is completed: a retry would train nothing. Extend it, or clone it to"
            " train again."
        )
    return submit_retry(run, by=by, resume=resume)


def submit_retry(run: Run, *, by: User, resume: bool, automatic: bool = False) -> Run:
    name = name_of_retry(run.name, run.attempt + 1)
    request = clean_request(run.config | {"output_dir": None, "name": name}, of_run=True)

    def submit() -> Run:
        source = find_source(run, from_scratch=not resume)
        if source is None and resume:
            _require_output_root()
        if source is None and run.extend_from_step is not None:
            raise StateConflict(
                f"The checkpoint of step {run.extend_from_step} that this run extends is gone."
                " Clone it to train from scratch."
            )
        retry, _ = submit_run(
            request=request,
            by=by,
            queued=True,
            retry_of=run,
            source=source,
            extend_from_step=run.extend_from_step,
            automatic=automatic,
            warnings=[FROM_SCRATCH] if resume and source is None and not run.dry_run else (),
        )
        return retry

    return _retry_while_source_goes(run, submit)


def extend_run(
    *, run: Run, by: User, num_epochs: int | None = None, max_steps: int | None = None
) -> Run:
    """Make a new run that adds ``num_epochs`` or ``max_steps`` to a completed training, from its
    last checkpoint, in a folder of its own. The learning rate schedule covers the added steps
    alone.

    Raises:
        InvalidRequest: not exactly one of the two, or out of its range.
        StateConflict: the run is no completed training, or has no checkpoint left; checkpoints
            cannot be read. And what submit_run raises.
    """
    if (num_epochs is None) == (max_steps is None):
        raise InvalidRequest(
            {"non_field_errors": ["Give either num_epochs or max_steps: how much to add."]}
        )
    added = (
        {"max_steps": max_steps}
        if num_epochs is None
        else {"num_epochs": num_epochs, "max_steps": None}
    )
    amount, unit = (max_steps, "step") if num_epochs is None else (num_epochs, "epoch")
    name = name_of_extension(run.name, amount or 0, unit)
    request = clean_request(run.config | {"output_dir": None, "name": name} | added, of_run=True)
    if run.dry_run:
        raise StateConflict("A dry run trains nothing, so there is nothing to extend.")
    if not run.is_extensible:
        instead = "Retry it instead." if run.status in TERMINAL else "Wait for its end."
        raise StateConflict(
            f"Only a completed training can be extended; this one is {run.status}. {instead}"
        )

    def submit() -> Run:
        step = None if run.trashed_at else usable_step(run, by=run)
        if step is None:
            _require_output_root()
            raise StateConflict(
                "This run has no checkpoint left to extend it from. Clone it to train from scratch."
            )
        extension, _ = submit_run(
            request=request, by=by, queued=True, source=Source(run, step), extend_from_step=step
        )
        return extension

    return _retry_while_source_goes(run, submit)


def _require_output_root() -> None:
    """Raise OutputRootAway while the output root is away. Call it after a checkpoint was not found,
    which means nothing then."""
    if problem := root_away():
        raise OutputRootAway(problem)


def _retry_while_source_goes(run: Run, submit: Callable[[], Run]) -> Run:
    """Submit a run that resumes from a checkpoint, and look again if that has been removed
    meanwhile. Raise StateConflict."""
    for _ in range(3):
        try:
            return submit()
        except SourceGone:
            reread(run)
        except OSError as error:
            raise StateConflict(
                f"The checkpoints of this run cannot be read right now ({error.strerror or error})."
                " Try again in a moment."
            ) from error
    raise StateConflict("The checkpoints of this run are being removed right now; try again.")
