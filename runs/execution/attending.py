"""Supervise the runs that this host executes: poll live runs, record ended ones, and detect dead
ones.

Every function is idempotent and safe to call concurrently: attendant, request and task share them.
"""

import logging
import os
import time
import uuid
from datetime import timedelta
from pathlib import Path

from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError
from django.db.models import Q
from django.utils import timezone

from runs.execution.dry_run import answer_dry_run
from runs.execution.engine import JobState
from runs.execution.engines import engine_for
from runs.execution.homecoming import bring_home
from runs.execution.hosts import this_host
from runs.execution.launching import note_process, start
from runs.execution.outcome import read_end
from runs.lifecycle import TransitionRefused
from runs.models import EXECUTING, Host, Run, RunStatus
from runs.runfolder import files, leftovers, names, records
from runs.runfolder.processes import boot_id
from runs.services import cancelling, finishing, reservations
from runs.services.measurements import take_in_metrics
from runs.services.output_root import is_missing, root_away

logger = logging.getLogger("tunixrt.runs")

# runs whose folder could not be found, by this process's monotonic clock
_missing_since: dict[uuid.UUID, float] = {}
# jobs that their engine calls started and that have no keeper, by the same clock
_started_since: dict[uuid.UUID, float] = {}

DRY_RUN_PATIENCE = timedelta(seconds=10)  # a dry run that takes longer has lost its process
# a process that the kernel holds back is tried again in the next round; other runs wait meanwhile
KILL_SECONDS = 2.0
# longer than a keeper's, which ends the training when its folder stays away
FOLDER_PATIENCE_SECONDS = 5.0
CANCELLED_BEFORE = "cancelled before the training started"
# An engine that says "started" without a keeper for so long is wrong: the job is submitted again.
JOB_START_SECONDS = 900.0
LOST_MESSAGE = "The training was lost: its keeper was killed."
FOLDER_GONE = "The run's folder is gone: it was removed while the run was executing."


def attend(host: Host | None = None) -> int:
    """Attend every run that this host executes, and dry runs that lost their process on any host;
    return how many there are. An error in one run does not delay the others. While the output
    root is away, nothing is concluded about trainings."""
    ours = Q(host=host or this_host())
    # whichever host claimed it: any host can answer it
    forsaken = Q(supervised=False, started_at__lt=timezone.now() - DRY_RUN_PATIENCE)
    runs = list(Run.objects.executing().filter(ours | forsaken).select_related("retry_of"))
    seen = runs
    if any(run.supervised for run in runs) and root_away():
        _missing_since.clear()
        seen = [run for run in runs if not run.supervised]
    for run in seen:
        try:
            attend_run(run)
        except (OperationalError, InterfaceError):
            raise
        except TransitionRefused as refused:
            logger.info("run %s: %s", run.run_id, refused)
        except OSError as error:  # a file system in trouble
            logger.warning("run %s could not be attended; trying again: %s", run.run_id, error)
        except Exception:
            logger.exception("run %s could not be attended; trying again", run.run_id)
    return len(runs)


def attend_run(run: Run, *, by: str = "attendant") -> Run:
    """Check an executing run of this host, in the order that docs/run-folder.md explains."""
    if not run.supervised:
        return _attend_dry_run(run, by=by)
    folder = reservations.run_folder(run)
    if is_missing(folder):  # its launcher made it before it claimed the run
        since = _missing_since.setdefault(run.pk, time.monotonic())
        if time.monotonic() - since < FOLDER_PATIENCE_SECONDS:
            return run
        run = finishing.finish_failed(run=run, problems=[FOLDER_GONE], by=by)
    _missing_since.pop(run.pk, None)
    if run.is_terminal:
        return run
    lock = files.try_lock(folder / names.LOCK)
    if lock is None:  # alive: its keeper holds the lock
        if run.status == RunStatus.CANCELLING and records.request_stop(folder, "cancel", by):
            _withdraw_if_over(folder)
        if run.process is None:  # its launcher was killed before it could tell
            note_process(run, folder)
        take_in_metrics(run, folder)
        return run
    try:
        run.refresh_from_db(fields=["status"])
        # it ended while we were on our way here; nothing of it may start again
        if run.status not in EXECUTING:
            return run
        if read_end(folder) is not None:
            return bring_home(run, by=by)
        _set_broken_end_aside(folder)
        if not os.path.lexists(folder / names.KEEPER):
            return _start_or_cancel(run, folder, lock, by=by)
        killed = leftovers.kill_leftovers(folder, str(run.run_id), timeout=KILL_SECONDS)
        records.write_lost_exit(folder, str(run.run_id), _lost_message(run, killed))
        return bring_home(run, by=by)
    finally:
        os.close(lock)


def _set_broken_end_aside(folder: Path) -> None:
    """Rename an invalid exit.json. No keeper wrote it, and it must not block the real one."""
    path = folder / names.EXIT
    try:
        files.read_json(path)
    except files.BrokenFile:
        os.rename(path, folder / f"{names.EXIT}.broken-{os.urandom(4).hex()}")


def _start_or_cancel(run: Run, folder: Path, lock: int, *, by: str) -> Run:
    """Start or cancel a run that is claimed and has no keeper: its launcher died in between, or its
    job has yet to start."""
    engine, run_id = engine_for(run), str(run.run_id)
    if run.status == RunStatus.CANCELLING:
        engine.cancel(run_id)
        # A job that starts all the same finds that the run has ended.
        records.write_end(folder, run_id, reason="cancel", message=CANCELLED_BEFORE)
        return finishing.finish_run(
            run=run, status=RunStatus.CANCELLED, reason=CANCELLED_BEFORE, by=by
        )
    state = engine.poll(run_id)
    if state is JobState.STARTED:
        since = _started_since.setdefault(run.pk, time.monotonic())
        if time.monotonic() - since < JOB_START_SECONDS:
            return run
    _started_since.pop(run.pk, None)
    if state is not JobState.WAITING:
        start(run, lock)
    return run


def _attend_dry_run(run: Run, *, by: str) -> Run:
    if run.started_at is None or timezone.now() - run.started_at < DRY_RUN_PATIENCE:
        return run
    return answer_dry_run(run, by=by)


def _lost_message(run: Run, killed: list[int]) -> str:
    if run.process and run.process.get("boot_id") not in (None, boot_id()):
        return "The training was lost: its machine was restarted."
    return LOST_MESSAGE + (f" {len(killed)} processes that it left were ended." if killed else "")


def _withdraw_if_over(folder: Path) -> None:
    """Withdraw a stop request if the run is over. The keeper may have written the end a moment ago;
    where it still holds the lock, the attendant looks again."""
    lock = files.try_lock(folder / names.LOCK)
    if lock is not None:
        records.withdraw_late_stop(folder)
        os.close(lock)


def cancel_run(*, run: Run, by: User) -> Run:
    """Cancel a run: the row first, then the stop request in its folder, which the keeper obeys.
    Raise StateConflict."""
    run = cancelling.request_cancel(run=run, by=by)
    if run.status == RunStatus.CANCELLING and run.supervised:
        folder = reservations.run_folder(run)
        try:
            if folder.is_dir() and records.request_stop(folder, "cancel", by.get_username()):
                _withdraw_if_over(folder)
        except OSError as error:  # the row says it, so the attendant of its host asks again
            logger.warning("run %s: the stop request cannot be written yet: %s", run.run_id, error)
    return run
