"""From a pending run to a keeper that owns its training."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connection, transaction

from datasets.services.exports import write_jsonl
from runs.execution.dry_run import answer_dry_runs, dry_run_in_request
from runs.execution.engine import Job, JobState, NotPlaced
from runs.execution.engines import ENGINES, engine_for
from runs.execution.environment import trainer_environment
from runs.execution.homecoming import bring_home
from runs.execution.hosts import this_host
from runs.execution.outcome import outcome, read_end, storable
from runs.lifecycle import TransitionRefused
from runs.models import TERMINAL, Host, Run, RunStatus
from runs.runfolder import files, names, records
from runs.services import claiming, finishing, preparation, reservations, submission
from runs.services.output_root import make_folder, root_away, root_problem
from runs.services.outputs import OutputsGone, bring_outputs
from runs.services.reservations import has_been_run
from runs.services.run_requests import RunRequest
from runs.services.runtime import local_runtime, tunix_command
from runs.services.wakeup import hosts_folder, wake_attendant
from runs.spec.kinds import DEFAULT_KIND, EVALUATE, KINDS, kind_named
from tunixrt.refusals import Conflict

logger = logging.getLogger("tunixrt.runs")

DRY_RUN_BATCH = 50
LAUNCH_SECONDS = 40.0  # one task launches for at most this long; its time limit is 60 s
USED = (
    "The run's folder holds files of another run, put there while this one was waiting. Submit it"
    " with another folder."
)
LOOK_SECONDS = 1.0  # how often a waiting request asks the database


class CannotStart(Conflict):
    """This host cannot take a run in the request right now; the message says why and what to do."""


class NoFreeSlot(CannotStart):
    def __init__(self) -> None:
        super().__init__("Every slot of this host is training. Use ?mode=async to queue the run.")


class RootUnusable(CannotStart):
    """The output root is full, away, or cannot be written."""


@contextmanager
def launch_lock() -> Iterator[None]:
    """Hold the lock under which slots of this host are counted and taken: one launcher at a time,
    in all processes."""
    path = hosts_folder() / f"{settings.TUNIX_HOST_NAME}.launch"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def free_slots(host: Host) -> int:
    return settings.TUNIX_SLOTS - Run.objects.executing_on(host).filter(supervised=True).count()


# --- in the request -------------------------------------------------------------------------------


def run_in_request(*, request: RunRequest, by: User) -> tuple[Run, bool]:
    """Submit, execute and wait: ``(run, created)``. A training is owned by its keeper all the same,
    so it continues, and its result is recorded, if this process dies.

    Raises:
        CannotStart: nothing was stored. And what submit_run raises.
    """
    if not submission.needs_process(request):
        return dry_run_in_request(request=request, by=by)
    if found := submission.find_submitted(request=request, by=by):
        return found, False
    submission.check_submittable(request=request, queued=False)
    if problem := ENGINES["local"].check():
        raise RootUnusable(problem)
    host = this_host()
    with launch_lock():
        if found := submission.find_submitted(request=request, by=by):
            return found, False
        if free_slots(host) < 1:
            raise NoFreeSlot
        run, created = submission.submit_run(request=request, by=by, queued=False)
        if not created:
            return run, False
        try:
            lock = _claim_locked(run, host, by="web")
        except TransitionRefused:  # another host took it out of the queue first: wait for that one
            lock = None
    if lock is not None:
        # cancelled meanwhile: the attendant ends it
        with (
            _closing(lock),
            suppress(TransitionRefused),
        ):
            start(run, lock)
    return wait_for(run), True


def wait_for(run: Run) -> Run:
    """Wait for the end of a started run and record it; if the database is away, answer from the
    run's folder."""
    folder = reservations.run_folder(run)
    patience = (
        (run.timeout_seconds or 0)
        + settings.TUNIX_STOP_WAIT_SECONDS
        + settings.TUNIX_TERM_GRACE_SECONDS
        + 10
    )
    give_up = time.monotonic() + patience
    look = time.monotonic() + LOOK_SECONDS
    pause = 0.01
    while (
        run.status not in TERMINAL
        and (end := _end_if_readable(folder)) is None
        and time.monotonic() < give_up
    ):
        time.sleep(pause)
        pause = min(pause * 1.3, 0.25)
        # not every end leaves an exit.json: another host may have found the dataset gone
        if time.monotonic() >= look:
            look = time.monotonic() + LOOK_SECONDS
            try:
                run.refresh_from_db()
            except (OperationalError, InterfaceError):
                connection.close()  # the next look finds a new one
    if run.status in TERMINAL:
        return run
    try:
        run.refresh_from_db()
        return bring_home(run, by="web")
    except (OperationalError, InterfaceError) as error:
        logger.warning("run %s: its end is on disk, the database is away: %s", run.run_id, error)
        if end is not None:
            run.status, _, columns = outcome(run, folder, end)
            for name, value in columns.items():
                setattr(run, name, value)
        return run
    except OSError as error:
        logger.warning("run %s: its end cannot be read yet: %s", run.run_id, error)
        return run


def _end_if_readable(folder: Path) -> dict[str, Any] | None:
    try:
        return read_end(folder)
    except OSError:  # a file system in trouble: the training continues
        return None


# --- from the queue -------------------------------------------------------------------------------


def launch_pending(seconds: float = LAUNCH_SECONDS) -> int:
    """Claim and start what this host can take now, for at most so long; returns how many runs.
    Idempotent: tasks and the attendant call it repeatedly, and claimed runs are not found again."""
    if root_problem():
        return 0
    host = this_host()
    give_up = time.monotonic() + seconds
    launched = 0
    while _launch_one(host):
        launched += 1
    while time.monotonic() < give_up and (
        runs := claiming.claim_dry_runs(host=host, limit=DRY_RUN_BATCH, by="queue")
    ):
        answer_dry_runs(runs, by="queue")
        launched += len(runs)
    return launched


def _launch_one(host: Host) -> bool:
    """Start the next local run if one waits and a slot is free; False when there is nothing to
    do."""
    if (
        not Run.objects.filter(status=RunStatus.PENDING, supervised=True).exists()
        or not local_runtime().available
    ):
        return False
    with launch_lock():
        if free_slots(host) < 1:
            return False
        lock = None
        try:
            with transaction.atomic():
                waiting = claiming.next_pending(supervised=True, limit=1)
                if not waiting:
                    return False
                run = waiting[0]
                lock = _claim_locked(run, host, by="queue")
        except TransitionRefused:
            return False  # cancelled or taken this moment: the next round looks again
        except BaseException:
            if lock is not None:
                # The commit failed, or its result is unknown. A lock that we kept would look like a
                # live keeper forever.
                os.close(lock)
            raise
    if lock is not None:
        # cancelled meanwhile: the attendant ends it
        with (
            _closing(lock),
            suppress(TransitionRefused),
        ):
            start(run, lock)
    return True


# --- one run --------------------------------------------------------------------------------------


def _claim_locked(run: Run, host: Host, *, by: str) -> int | None:
    """Take the run's lock, then the run: alive = lock held, from before the claim. None: the run
    has failed already."""
    folder = reservations.run_folder(run)
    lock = None
    try:
        make_folder(folder)
        lock = files.try_lock(folder / names.LOCK)
        problem = USED if lock is not None and has_been_run(folder) else None
    except OSError as error:
        if away := root_away():
            raise TransitionRefused(run, "running", f"waiting: {away}") from error
        problem = _unwritable(folder, error)
    if problem:
        if lock is not None:
            os.close(lock)
        claiming.claim_run(run=run, host=host, by=by)
        finishing.finish_failed(run=run, problems=[problem], by=by)
        return None
    if lock is None:
        raise TransitionRefused(run, "running", "held by another launcher")
    try:
        claiming.claim_run(run=run, host=host, by=by)
    except BaseException:
        os.close(lock)
        raise
    return lock


def start(run: Run, lock: int) -> None:
    """Write what the training needs and start its keeper, which inherits ``lock``. A run that
    cannot be started ends ``failed`` with the reason; what is left for the attendant to try again
    is an absent database (DatabaseError), an absent output root, and a run that was cancelled
    meanwhile (TransitionRefused)."""
    try:
        _start(run, lock)
    except (DatabaseError, TransitionRefused):
        raise
    except OSError as error:
        _fail_to_start(run, [_unwritable(reservations.run_folder(run), error)])
    except Exception as error:
        logger.exception("run %s could not be started", run.run_id)
        _fail_to_start(run, [f"The run could not be started: {error}"])


def _fail_to_start(run: Run, problems: list[str], warnings: Sequence[str] = ()) -> None:
    if away := root_away():
        logger.warning("run %s is started later: %s", run.run_id, away)
    else:
        with suppress(OSError):  # what a launcher that was killed has left behind
            files.remove_temporary_files(reservations.run_folder(run))
        finishing.finish_failed(run=run, problems=problems, warnings=warnings, by="launcher")


def _start(run: Run, lock: int) -> None:
    request, dataset, preflight = preparation.run_preflight(run)
    if not preflight.passed or request is None or dataset is None:
        _fail_to_start(run, preflight.problems, preflight.warnings)
        return
    if run.dry_run and (warnings := preflight.lasting_warnings):
        run.summary = {"warnings": warnings}
        run.save(update_fields=["summary"])
    folder = reservations.run_folder(run)
    write_jsonl(dataset, folder / names.DATASET)
    outputs_from = None
    if run.kind == EVALUATE.name and not run.dry_run:
        try:
            outputs_from = bring_outputs(run, request, folder)
        except OutputsGone as gone:
            _fail_to_start(run, [str(gone)], preflight.warnings)
            return
    manifest = preparation.run_manifest(
        run, dataset=dataset, request=request, outputs_from=outputs_from
    )
    (folder / names.MANIFEST).write_text(manifest, encoding="utf-8")
    # no keeper yet: written again
    files.write_json(folder / names.COMMAND, _command(run, folder), durable=False)
    # Until here, and if this raises, nothing has been started. Afterwards lock and files tell, not
    # what we believe.
    job = Job(str(run.run_id), folder, trainer_environment(run), lock)
    try:
        state = engine_for(run).submit(job)
    except NotPlaced as refusal:
        _fail_to_start(run, [f"The run could not be started: {refusal}"])
        return
    if state is JobState.STARTED:
        try:
            note_process(run, folder)
        except DatabaseError as error:  # the training runs; its attendant stores this later
            logger.warning("run %s: its processes are not stored yet: %s", run.run_id, error)
    wake_attendant()  # which looks more often from now on


def note_process(run: Run, folder: Path) -> None:
    """Store who the keeper and the trainer are, as keeper.json tells."""
    try:
        run.process = storable(records.read_keeper(folder))
    except OSError as error:
        logger.warning("run %s: keeper.json cannot be read: %s", run.run_id, error)
    else:
        Run.objects.filter(pk=run.pk).update(process=run.process)


def _arguments(run: Run) -> list[str]:
    if not run.dry_run:
        kind = kind_named(run.kind) or KINDS[DEFAULT_KIND]
        return [kind.command, "--config", names.MANIFEST]
    smoke = ["--smoke"] if run.config.get("smoke") else []
    return ["validate", "--config", names.MANIFEST, "--report", names.PLAN, *smoke]


def _command(run: Run, folder: Path) -> dict[str, Any]:
    return {
        "version": records.VERSION,
        "run_id": str(run.run_id),
        "argv": [*tunix_command(), *_arguments(run)],
        "cwd": str(folder),
        "deadline_seconds": run.timeout_seconds,
        "must_meet_deadline": run.dry_run,
        "stop_wait_seconds": settings.TUNIX_STOP_WAIT_SECONDS,
        "term_grace_seconds": settings.TUNIX_TERM_GRACE_SECONDS,
    }


def _unwritable(folder: Path, error: OSError) -> str:
    return (
        f"The run's folder {folder.name} cannot be written: {error.strerror or error}."
        " Check the output root's permissions and free space."
    )


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
