"""Record the end of a run from its folder in the database. Idempotent: attendant, request and
reconciler may all do it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runs.execution.outcome import LOST_REASONS, outcome, read_end
from runs.keeper.messages import LAST_WORD
from runs.lifecycle import TransitionRefused
from runs.models import TERMINAL, Run
from runs.runfolder import names
from runs.services import finishing, reservations
from runs.services.access import sealed_dataset
from runs.services.evaluations import read_outcome
from runs.services.measurements import take_in_metrics
from runs.spec.kinds import EVALUATE

REASON_WITHHELD = (
    "It failed. What the training program said may quote examples, and the dataset is sealed: an"
    " operator reads it in the log."
)


def bring_home(run: Run, *, by: str) -> Run:
    """Record the end of a run from its folder in the database, metrics first. Do nothing if the run
    has not ended or its end is already recorded.

    Raises:
        OSError: the folder cannot be read right now; nothing was written but metrics. To be tried
            again.
    """
    try:
        with _held(reservations.run_folder(run)) as folder:
            return _bring_home(run, folder, by=by)
    except FileNotFoundError:
        return run


def _bring_home(run: Run, folder: Path, *, by: str) -> Run:
    end = read_end(folder)
    if end is None or run.status in TERMINAL:
        return run
    take_in_metrics(run, folder, to_the_end=True)
    status, reason, columns = outcome(run, folder, end)
    if reason.startswith(LAST_WORD) and sealed_dataset(run) is not None:
        reason = columns["message"] = REASON_WITHHELD
    columns["lost"] = end.get("reason") in LOST_REASONS
    if run.kind == EVALUATE.name and not run.dry_run:
        columns["outcome"] = read_outcome(folder, config=run.config)
    # a file system in trouble: what was read since may be incomplete, and an end is final
    if read_end(folder) != end:
        raise OSError(errno.ESTALE, f"{names.EXIT} of run {run.run_id} went away while it was read")
    try:
        return finishing.finish_run(run=run, status=status, reason=reason, by=by, **columns)
    except TransitionRefused:
        run.refresh_from_db()
        if run.status in TERMINAL:
            return run
        # it was being cancelled
        return finishing.finish_run(run=run, status=status, reason=reason, by=by, **columns)


@contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """Yield a path that leads to ``folder`` as it is now, even if it is renamed or unmounted
    meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
