"""What people and workers may ask for. Each function is atomic, keyword-only and says by whom; pages, API, admin, tasks and
commands call the same ones. Processes and files are the business of ``runs.execution``, one layer above.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from django.conf import settings
from django.contrib.admin.models import DELETION
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from django_q.tasks import async_task

from datasets.models import Dataset
from datasets.services import DatasetNotFound
from runs.disk import measure, require_disk
from runs.lifecycle import TransitionRefused, transition, transition_together
from runs.models import TERMINAL, Host, Run, RunEvent, RunMode, RunNameKey, RunStatus, RunTag
from runs.output_root import root_away
from runs.preflight import Preflight, check_request, warnings_in
from runs.requests import PRIORITY_RANGE, InvalidRequest, RunRequest, clean_request
from runs.reservations import remove_set_aside, require_free_folder, reserve_folder, set_aside
from runs.reservations import run_folder as run_folder
from runs.runfolder import files, names
from runs.runfolder.checkpoints import complete_steps, first_difference, make_identity, read_identity
from runs.runfolder.tree import bytes_below
from runs.runtime import local_runtime
from runs.spec.manifest import (
    DATASET_FORMAT,
    ManifestError,
    build_manifest,
    dump_manifest,
    number_text,
    parameter_defaults,
    parse_manifest,
)
from runs.spec.naming import make_name, name_of_extension, name_of_retry
from runs.telemetry import measured_write
from runs.wakeup import wake_attendants
from runs.webhooks import announce_end
from tunixrt.addresses import problem_with
from tunixrt.audit import system_user as system_user
from tunixrt.audit import write_log_entry
from tunixrt.refusals import Conflict, Missing, NotHere, Refusal, TooMany

DRY_RUN_STDOUT = "Dry-run validation passed"
DRY_RUN_MESSAGE = "Dry-run completed successfully. Configuration is valid."
MANIFEST_MAX_BYTES = 2**20  # of one that is read again: the training program may have written to it


class RuntimeUnavailable(NotHere):
    """No host that could take the run has the training runtime."""


class IdempotencyConflict(Conflict):
    """The same client_request_id came with a different body."""


class StateConflict(Conflict):
    """What was asked cannot be done to a run in its status."""


# --- going on from another run's checkpoint ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A complete checkpoint of an ended run, which another run can go on from."""

    run: Run
    step: int


class OutputRootAway(StateConflict):
    """Whether there is a checkpoint cannot be told right now: the output root is away."""


class RunGone(Missing):
    """A run was purged while something was done with it."""


class QueueFull(TooMany):
    """Somebody has as many runs waiting as one account may."""


class SourceGone(Exception):
    """A checkpoint was removed after it had been found."""


def find_source(run: Run, *, anew: bool = False) -> Source | None:
    """The newest checkpoint of ``run``, or else of the nearest run that it goes on from; None where there is none.

    Only complete checkpoints of the same training count. A run in the trash is passed over, since its files may be purged at any
    moment. A run that was started from scratch ends the search: what is older was left behind on purpose. An extension has no use
    for checkpoints before the one that it extends; ``anew``, that one alone will do, and for any other run none.

    Raises:
        OSError: a folder cannot be read.
    """
    if run.mode != RunMode.LOCAL or (anew and run.extend_from_step is None):
        return None
    candidate: Run | None = run
    while candidate is not None:
        step = None if candidate.trashed_at else _usable_step(candidate, by=run)
        if step is not None and (not anew or step == run.extend_from_step):
            return Source(candidate, step)
        candidate = candidate.resume_from if candidate.resume else None
    return None


def _usable_step(run: Run, *, by: Run) -> int | None:
    """The step of the newest complete checkpoint of ``run`` if the run ``by`` can go on from it."""
    folder = run_folder(run) / names.CHECKPOINTS
    steps = complete_steps(folder)
    identity = read_identity(folder) if steps else None
    wanted = make_identity(model_id=by.model_id, training=parameter_defaults() | by.config)
    if identity is None or first_difference(identity, wanted) is not None or steps[-1] < (by.extend_from_step or 0):
        return None
    return steps[-1]


def _hold(source: Source) -> None:
    """Keep trash and removals away from ``source`` until the transaction ends: then the heir is there to be seen.

    Raises:
        SourceGone: one of them was faster.
    """
    there = Run.objects.select_for_update().filter(pk=source.run.pk, trashed_at=None).values_list("pk", flat=True)
    if not list(there) or source.step not in complete_steps(run_folder(source.run) / names.CHECKPOINTS):
        raise SourceGone(f"The checkpoint of step {source.step} of run {source.run.run_id} has just been removed.")


def require_no_heir(run: Run) -> None:
    """Refuse to remove checkpoints that an active run goes on from. In the transaction that holds the row of ``run``.

    Raises:
        StateConflict: names the heir.
    """
    if (heir := run.active_heir()) is not None:
        raise StateConflict(f"Run {heir.run_id} goes on from the checkpoints of this run and has not ended yet.")


def problem_with_source(run: Run) -> str | None:
    """Why ``run``, which is to resume, cannot: its source is gone. Starting from scratch instead would be another training."""
    if not run.resume:
        return None
    if run.resume_from is None:
        gone = "The run whose checkpoint this one was to go on from has been deleted."
    else:
        try:
            if _usable_step(run.resume_from, by=run) is not None:
                return None
            gone = f"Run {run.resume_from.run_id} no longer has the checkpoint that this run was to go on from."
        except OSError as error:
            return f"The checkpoints of run {run.resume_from.run_id} cannot be read ({error.strerror or error}). Retry it later."
    if run.extend_from_step is not None:
        return gone
    return f"{gone} Retry this run: it then starts from what is left, or from scratch."


# --- submitting -------------------------------------------------------------------------------------------------------


def submit_run(
    *,
    request: RunRequest,
    by: User,
    queued: bool,
    claim_for: Host | None = None,
    retry_of: Run | None = None,
    source: "Source | None" = None,
    extend_from_step: int | None = None,
    automatic: bool = False,
) -> tuple[Run, bool]:
    """Store a run as ``pending``: ``(run, created)``. With ``queued`` the queue learns of it in the same transaction; with
    ``claim_for`` it is claimed in the same transaction, so that no worker can come between. With ``source`` it goes on from that
    checkpoint, which is protected from the same transaction on; with ``extend_from_step`` as well it is an extension.

    The same ``client_request_id`` of the same person returns the first run and makes nothing new.

    Raises:
        DatasetNotFound, IdempotencyConflict, RuntimeUnavailable, InvalidRequest (the folder is taken), QuotaExceeded, SourceGone.
        QueueFull: not for an automatic retry, whose run was let in before.
    """
    if found := find_submitted(request=request, by=by):
        return found, False
    check_submittable(request=request, queued=queued)
    if not request.dry_run:
        require_disk(by)
    now = timezone.now()
    run_id = uuid.uuid4()
    run = Run(
        run_id=run_id,
        name=request.name or make_name(),
        dataset_key=request.dataset_key,
        model_id=request.model.model_id,
        mode=RunMode.DRY_RUN if request.dry_run else RunMode.LOCAL,
        status=RunStatus.PENDING,
        created_at=now,
        queued_at=now if queued else None,
        supervised=needs_process(request),
        config=request.as_config(),
        output_dir=request.output_dir or str(run_id),
        owner=by,
        notes=request.notes,
        priority=request.priority,
        timeout_seconds=time_limit(request, queued=queued),
        client_request_id=request.client_request_id,
        request_hash=_request_hash(request),
        retry_of=retry_of,
        attempt=retry_of.attempt + 1 if retry_of else 1,
        automatic_retries=retry_of.automatic_retries + automatic if retry_of else 0,
        resume=source is not None,
        resume_from=source.run if source else None,
        extend_from_step=extend_from_step,
    )
    reason = f"submitted; goes on from step {source.step} of run {source.run.run_id}" if source else "submitted"
    try:
        if not request.dry_run:
            require_free_folder(run)
        with measured_write("a new run"), transaction.atomic():
            if queued and not automatic:
                _require_room_in_queue(by)
            if source is not None:
                _hold(source)
            reserve_folder(run)
            run.save(force_insert=True)
            RunTag.objects.bulk_create(RunTag.of(run, request.tags))
            RunNameKey.objects.bulk_create(RunNameKey.of(run))
            RunEvent.objects.create(run=run, new=RunStatus.PENDING, reason=reason, by=by.get_username(), at=now)
            if queued:
                async_task("runs.tasks.launch_pending")
                wake_attendants()
            if claim_for is not None:
                claim_run(run=run, host=claim_for, by=by.get_username())
    except (IntegrityError, InvalidRequest):
        if found := find_submitted(request=request, by=by):  # the same request came a moment earlier, and has the folder
            return found, False
        if retry_of is not None:
            reread(retry_of)
        raise
    return run, True


def reread(run: Run, fields: list[str] | None = None) -> None:
    """Read a run anew. Raises RunGone if it has been purged meanwhile."""
    try:
        run.refresh_from_db(fields=fields)
    except Run.DoesNotExist:
        raise RunGone(f"Run not found: {run.run_id}. It has just been deleted.") from None


def _require_room_in_queue(owner: User) -> None:
    """In the transaction that adds a run: two requests at once are counted one after the other. Raises QueueFull."""
    User.objects.select_for_update(no_key=True).get(pk=owner.pk)
    limit = settings.TUNIX_QUEUED_PER_ACCOUNT
    if Run.objects.pending_of(owner)[:limit].count() >= limit:
        raise QueueFull(
            f"You have {limit:,} runs waiting, as many as an account may. Try again when some have started, or cancel some."
        )


def needs_process(request: RunRequest) -> bool:
    """A training does, and a dry run with depth where the runtime is: it tokenises the data, with ``smoke`` it runs one step."""
    with_depth = request.preflight == "full" or request.smoke
    return not request.dry_run or (with_depth and local_runtime().available)


def find_submitted(*, request: RunRequest, by: User) -> Run | None:
    """The run that this very request made before. Raises IdempotencyConflict if the id was used for another body."""
    if request.client_request_id is None:
        return None
    run = Run.objects.filter(owner=by, client_request_id=request.client_request_id).first()
    if run is not None and run.request_hash != _request_hash(request):
        raise IdempotencyConflict(
            f"client_request_id {request.client_request_id!r} was used for another request (run {run.run_id})."
        )
    return run


def check_submittable(*, request: RunRequest, queued: bool) -> Dataset:
    """Decide 404 and 501 before anything is stored, and 400 for a webhook that cannot work. Stored requests keep theirs."""
    own = request.webhook_url
    allowed = settings.TUNIX_WEBHOOK_ALLOW_PRIVATE or own == settings.TUNIX_WEBHOOK_URL
    if own and (problem := problem_with(own, allow_private=allowed)):
        raise InvalidRequest({"webhook_url": [problem]})
    dataset = find_dataset(request.dataset_key)
    if dataset is None:
        raise DatasetNotFound(request.dataset_key)
    if not request.dry_run and not local_runtime().available and not (queued and runtime_elsewhere()):
        raise RuntimeUnavailable(local_runtime().message)
    return dataset


def runtime_elsewhere() -> bool:
    """Has any live host the training runtime?"""
    return Host.objects.alive().exclude(runtime_version="").exists()


def time_limit(request: RunRequest, *, queued: bool) -> float | None:
    """Seconds: the request's own limit within the system's; a run in the request never takes longer than that may."""
    system = settings.TUNIX_RUN_TIMEOUT_SECONDS if queued else settings.TUNIX_SYNC_TIMEOUT_SECONDS
    limits = [limit for limit in (request.timeout_seconds, system) if limit is not None]
    return min(limits, default=None)


def warnings_of_run(
    *, summary: Any, config: dict[str, Any], timeout_seconds: float | None, queued_at: datetime | None
) -> list[str]:
    """Return what is worth knowing about a run, one sentence each: what a dry run found, and that its time was cut."""
    cut = limit_warning(asked=config.get("timeout_seconds"), limit=timeout_seconds, queued=queued_at is not None)
    return [*([cut] if cut else []), *warnings_in(summary)]


def limit_warning(*, asked: Any, limit: float | None, queued: bool) -> str | None:
    """Say that a run got less time than its request asked for, and why; None where it did not."""
    if not isinstance(asked, int | float) or limit is None or asked <= limit:
        return None
    cut = f"timeout_seconds {number_text(asked)} was cut to {number_text(limit)}"
    if queued:
        return f"{cut}: TUNIX_RUN_TIMEOUT_SECONDS limits every run to that."
    return f"{cut}, TUNIX_SYNC_TIMEOUT_SECONDS, for a run in the request. Queue it (Run Async, ?mode=async) to give it longer."


def _request_hash(request: RunRequest) -> str:
    return hashlib.sha256(orjson.dumps(request.as_config(), option=orjson.OPT_SORT_KEYS)).hexdigest()


# --- the start of a run -----------------------------------------------------------------------------------------------


def claim_run(*, run: Run, host: Host, by: str) -> Run:
    """Take a pending run for ``host``. Raises TransitionRefused when somebody else was first: a run starts at most once."""
    return transition(run, RunStatus.RUNNING, reason=f"claimed by {host.name}", by=by, host=host, started_at=timezone.now())


def next_pending(*, supervised: bool, limit: int) -> list[Run]:
    """The pending runs of one kind in their order; on PostgreSQL those that no other worker has its hands on. In a transaction:
    the caller claims them in it (SQLite: it holds the one write lock meanwhile)."""
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
                runs, RunStatus.RUNNING, reason=f"claimed by {host.name}", by=by, host=host, started_at=timezone.now()
            )
    return runs


def request_of(run: Run) -> RunRequest:
    """The request that a run was made from. Raises InvalidRequest if today's rules refuse it."""
    return clean_request(run.config, of_run=True)


def manifest_of(run: Run, *, dataset: Dataset, request: RunRequest) -> str:
    """The manifest as YAML. Paths are relative to the run's folder, but for the model and a checkpoint to go on from."""
    resume_from = str(run_folder(run.resume_from) / names.CHECKPOINTS) if run.resume_from else None
    return dump_manifest(
        build_manifest(
            run_id=str(run.run_id),
            dataset={
                "key": dataset.dataset_key,
                "path": names.DATASET,
                "format": DATASET_FORMAT,
                "fingerprint": dataset.fingerprint,
                "examples": dataset.size - dataset.held_out_size,
                "held_out": dataset.held_out_size,
            },
            model={
                "id": run.model_id,
                "path": str(request.model.path) if request.model.path else None,
                "revision": _pinned_revision(run),
            },
            training=request.training,
            resume_from=resume_from,
            extend_from_step=run.extend_from_step,
        )
    )


def _pinned_revision(run: Run) -> str | None:
    """The commit of the hub model that the run before has trained: whose checkpoint is gone on from, or which is tried again."""
    for before in (run.resume_from, run.retry_of):
        if before is None or before.model_id != run.model_id:
            continue
        try:
            with open(files.open_regular(run_folder(before) / names.MANIFEST), "rb") as file:
                section = parse_manifest(file.read(MANIFEST_MAX_BYTES).decode())["model"]
        except (OSError, files.BrokenFile, UnicodeDecodeError, ManifestError):
            continue
        if section["id"] == run.model_id and re.fullmatch(r"[0-9a-f]{40}", section["revision"] or ""):
            return str(section["revision"])
    return None


def find_dataset(dataset_key: str) -> Dataset | None:
    return Dataset.objects.filter(dataset_key=dataset_key).first()


def preflight_of(
    run: Run, *, find: Callable[[str], Dataset | None] = find_dataset
) -> tuple[RunRequest | None, Dataset | None, Preflight]:
    """Check a stored run again, right before it is executed. ``find`` looks datasets up by key."""
    preflight = Preflight()
    try:
        request = request_of(run)
    except InvalidRequest as error:
        preflight.problems.append(f"The request is no longer valid: {error}")
        return None, None, preflight
    dataset = find(run.dataset_key)
    if dataset is None:
        preflight.problems.append(f"Dataset not found: {run.dataset_key}")
        return request, None, preflight
    preflight = check_request(request, dataset)
    if problem := problem_with_source(run):
        preflight.problems.append(problem)
    return request, dataset, preflight


# --- the end of a run -------------------------------------------------------------------------------------------------


def finish_run(*, run: Run, status: str, reason: str, by: str, lost: bool = False, **fields: Any) -> Run:
    """Write the end of a run, put its webhook into the outbox, and, if it was ``lost`` and asked for that, retry it.

    Raises TransitionRefused when it has an end already.
    """
    fields.setdefault("message", reason)
    fields.setdefault("completed_at", timezone.now())
    fields.setdefault("duration_seconds", _seconds_between(run.started_at, fields["completed_at"]))
    fields.setdefault("disk_bytes", measure(run))
    before = run.status
    try:
        with measured_write("the end of a run"), transaction.atomic():
            if before == RunStatus.RUNNING and status == RunStatus.CANCELLED:
                transition(run, RunStatus.CANCELLING, reason=reason, by=by)
            if lost and before != RunStatus.CANCELLING:
                fields["message"] += _retry_lost(run)
            transition(run, status, reason=reason, by=by, **fields)
            announce_end(run)
    except BaseException:
        run.status = before  # the transaction took the step back
        raise
    return run


def finish_together(*, runs: Sequence[Run], status: str, reason: str, by: str, **fields: Any) -> None:
    """``finish_run`` for runs without files of one status that end alike, in one transaction. Raises TransitionRefused; then none
    has ended."""
    started = min((run.started_at for run in runs if run.started_at), default=None)
    fields.setdefault("message", reason)
    fields.setdefault("completed_at", timezone.now())
    fields.setdefault("duration_seconds", _seconds_between(started, fields["completed_at"]))
    fields.setdefault("disk_bytes", 0)
    with transaction.atomic():
        transition_together(runs, status, reason=reason, by=by, **fields)
        for run in runs:
            announce_end(run)


def _retry_lost(run: Run) -> str:
    """Retry a run that its host lost, if its request asked for that; what the message of the run says about it.

    The request's ``auto_retry`` bounds how many automatic retries a chain may have; those that people asked for do not count.

    Raises:
        OutputRootAway: try again to end the run when the root is back.
    """
    if run.automatic_retries >= run.config.get("auto_retry", 0) or run.mode != RunMode.LOCAL:
        return ""
    try:
        retry = _submit_retry(run, by=run.owner, resume=True, automatic=True)
    except OutputRootAway:
        raise
    except Refusal as refusal:
        return f" It is not tried again: {refusal}"  # that must not keep the lost one from its end
    start = f"the last checkpoint of run {retry.resume_from_id}" if retry.resume else "scratch"
    return f" Run {retry.run_id} tries again from {start}."


def finish_failed(*, run: Run, problems: Iterable[str], by: str, warnings: Sequence[str] = ()) -> Run:
    """A run that failed before anything was started: says exactly why, has no exit code."""
    reason = " ".join(problems)
    summary = {"warnings": list(warnings)} if warnings else {}
    stderr = "\n".join([*(f"error: {problem}" for problem in problems), *(f"warning: {warning}" for warning in warnings)])
    return finish_run(
        run=run,
        status=RunStatus.FAILED,
        reason=reason,
        by=by,
        summary=summary,
        stderr=stderr.encode()[-settings.TUNIX_OUTPUT_MAX_BYTES :].decode(errors="ignore"),
    )


def _seconds_between(start: datetime | None, end: datetime) -> float | None:
    return max(0.0, (end - start).total_seconds()) if start else None


# --- stopping, trying again, tidying up -------------------------------------------------------------------------------


def request_cancel(*, run: Run, by: User) -> Run:
    """Pending → cancelled at once; running → cancelling, and the keeper is to confirm. Asking again changes nothing.

    Raises:
        StateConflict: the run has ended.
    """
    for _ in range(3):  # between reading and writing the run may take a step of its own
        if run.status in TERMINAL:
            raise StateConflict(f"The run has ended already: it is {run.status}.")
        if run.status == RunStatus.CANCELLING:
            return run
        now = timezone.now()
        reason = f"cancelled by {by.get_username()}"
        try:
            if run.status == RunStatus.PENDING:
                return finish_run(
                    run=run, status=RunStatus.CANCELLED, reason=reason, by=by.get_username(), cancel_requested_at=now
                )
            with measured_write("a cancel request"):
                return transition(run, RunStatus.CANCELLING, reason=reason, by=by.get_username(), cancel_requested_at=now)
        except TransitionRefused:
            reread(run)
    raise StateConflict(f"The run is changing right now ({run.status}); try again.")


def retry_run(*, run: Run, by: User, resume: bool = True) -> Run:
    """A new run from an ended one, in a folder of its own; with ``resume`` from the checkpoint of ``find_source``, if any.

    A retry of an extension is one as well: without ``resume`` it begins again at the checkpoint that is extended.

    Raises:
        StateConflict: the run has not ended, or is a completed training; the checkpoint of an extension is gone; checkpoints
            cannot be read. And what submit_run raises.
    """
    if run.status not in TERMINAL:
        raise StateConflict(f"Only an ended run can be retried; this one is {run.status}.")
    if not run.is_retriable:
        raise StateConflict("This training is completed: a retry would train nothing. Extend it, or clone it to train again.")
    return _submit_retry(run, by=by, resume=resume)


def _submit_retry(run: Run, *, by: User, resume: bool, automatic: bool = False) -> Run:
    name = name_of_retry(run.name, run.attempt + 1)
    request = clean_request(run.config | {"output_dir": None, "name": name}, of_run=True)

    def submit() -> Run:
        source = find_source(run, anew=not resume)
        if source is None and resume:
            _require_output_root()
        if source is None and run.extend_from_step is not None:
            raise StateConflict(
                f"The checkpoint of step {run.extend_from_step} that this run extends is gone. Clone it to train from scratch."
            )
        retry, _ = submit_run(
            request=request,
            by=by,
            queued=True,
            retry_of=run,
            source=source,
            extend_from_step=run.extend_from_step,
            automatic=automatic,
        )
        return retry

    return _with_checkpoints_of(run, submit)


def extend_run(*, run: Run, by: User, num_epochs: int | None = None, max_steps: int | None = None) -> Run:
    """A new run that adds ``num_epochs`` or ``max_steps`` to a completed training, from its last checkpoint, in a folder of its
    own. The learning rate schedule covers the added steps alone.

    Raises:
        InvalidRequest: not exactly one of the two, or out of its range.
        StateConflict: the run is no completed training, or has no checkpoint left; checkpoints cannot be read. And what
            submit_run raises.
    """
    if (num_epochs is None) == (max_steps is None):
        raise InvalidRequest({"non_field_errors": ["Give either num_epochs or max_steps: how much to add."]})
    added = {"max_steps": max_steps} if num_epochs is None else {"num_epochs": num_epochs, "max_steps": None}
    amount, unit = (max_steps, "step") if num_epochs is None else (num_epochs, "epoch")
    name = name_of_extension(run.name, amount or 0, unit)
    request = clean_request(run.config | {"output_dir": None, "name": name} | added, of_run=True)
    if run.mode == RunMode.DRY_RUN:
        raise StateConflict("A dry run trains nothing, so there is nothing to extend.")
    if not run.is_extensible:
        instead = "Retry it instead." if run.status in TERMINAL else "Wait for its end."
        raise StateConflict(f"Only a completed training can be extended; this one is {run.status}. {instead}")

    def submit() -> Run:
        step = None if run.trashed_at else _usable_step(run, by=run)
        if step is None:
            _require_output_root()
            raise StateConflict("This run has no checkpoint left to extend it from. Clone it to train from scratch.")
        extension, _ = submit_run(request=request, by=by, queued=True, source=Source(run, step), extend_from_step=step)
        return extension

    return _with_checkpoints_of(run, submit)


def _require_output_root() -> None:
    """Asked after a checkpoint was not found: while the output root is away, that means nothing. Raises OutputRootAway."""
    if problem := root_away():
        raise OutputRootAway(problem)


def _with_checkpoints_of(run: Run, submit: Callable[[], Run]) -> Run:
    """Submit a run that goes on from a checkpoint, and look again if that has been removed meanwhile. Raises StateConflict."""
    for _ in range(3):
        try:
            return submit()
        except SourceGone:
            reread(run)
        except OSError as error:
            raise StateConflict(
                f"The checkpoints of this run cannot be read right now ({error.strerror or error}). Try again in a moment."
            ) from error
    raise StateConflict("The checkpoints of this run are being removed right now; try again.")


def set_priority(*, run: Run, by: User, priority: int) -> Run:
    """Move a pending run up or down the queue. Raises StateConflict, InvalidRequest."""
    low, high = PRIORITY_RANGE
    if not low <= priority <= high:
        raise InvalidRequest({"priority": [f"This field must lie between {low} and {high}."]})
    with transaction.atomic():
        if Run.objects.filter(pk=run.pk, status=RunStatus.PENDING).update(priority=priority) != 1:
            reread(run, ["status"])
            raise StateConflict(f"Only a pending run can be moved in the queue; this one is {run.status}.")
        RunEvent.objects.create(run=run, reason=f"priority {run.priority} → {priority}", by=by.get_username(), at=timezone.now())
    run.priority = priority
    return run


def trash_run(*, run: Run, by: User) -> None:
    """Put an ended run into the trash: gone for readers, its files until the purge.

    Raises:
        StateConflict: it has not ended, or an active run goes on from its checkpoints.
    """
    with transaction.atomic():
        if Run.objects.filter(pk=run.pk, status__in=TERMINAL, trashed_at=None).update(trashed_at=timezone.now()) != 1:
            reread(run, ["status", "trashed_at"])
            why = "it is in the trash already." if run.trashed_at else f"this one is {run.status}. Cancel it first."
            raise StateConflict(f"Only an ended run can be deleted; {why}")
        require_no_heir(run)
        RunEvent.objects.create(run=run, reason="moved to the trash", by=by.get_username(), at=timezone.now())
        # The events go with the run; who deleted it is still to be known then.
        write_log_entry(by=by, target=run, name=str(run), flag=DELETION, message="moved to the trash")


def purge_run(*, run: Run, by: User) -> int:
    """Remove a trashed run's files, then its row; return the bytes freed.

    Raises:
        StateConflict: it is not in the trash, or the output root is away.
        OSError: files are left; the run stays in the trash.
    """
    if problem := root_away():
        raise StateConflict(problem)
    with transaction.atomic():
        trashed = Run.objects.select_for_update().filter(pk=run.pk, trashed_at__isnull=False, status__in=TERMINAL).first()
        if trashed is None:  # or somebody else has purged it, and its folder may be another run's by now
            raise StateConflict("Only a run in the trash can be purged.")
        require_no_heir(trashed)  # of runs trashed before heirs protected them
        set_aside(trashed)
    freed = remove_set_aside(run)
    with transaction.atomic():
        message = f"deleted with files ({freed:,} bytes)"
        write_log_entry(by=by, target=run, name=str(run), flag=DELETION, message=message)
        run.heirs.update(resume_from=trashed.resume_from_id)  # a retry of theirs finds what is left of the chain
        run.delete()
    return freed


def folder_bytes(run: Run) -> int:
    """Bytes that the files of a run take, links not followed."""
    return bytes_below(run_folder(run))


def annotate_run(
    *,
    run: Run,
    by: User,
    name: str | None = None,
    tags: tuple[str, ...] | None = None,
    notes: str | None = None,
    pinned: bool | None = None,
) -> Run:
    """Update name, tags, notes and pin; None leaves one as it is. Raises RunGone."""
    with transaction.atomic():
        if not list(Run.objects.select_for_update(no_key=True).filter(pk=run.pk).values_list("pk")):
            reread(run)
        if tags is not None:
            run.tags.exclude(name__in=tags).delete()
            RunTag.objects.bulk_create(RunTag.of(run, tags), ignore_conflicts=True)
        given = {field: value for field, value in (("name", name), ("notes", notes), ("pinned", pinned)) if value is not None}
        for field, value in given.items():
            setattr(run, field, value)
        if given:
            run.save(update_fields=list(given))
        if name is not None:
            run.name_keys.all().delete()
            RunNameKey.objects.bulk_create(RunNameKey.of(run))
        changed = [*(["tags"] if tags is not None else []), *given]
        if changed:
            RunEvent.objects.create(run=run, reason=f"{', '.join(changed)} changed", by=by.get_username(), at=timezone.now())
    return run
