"""Store a new run."""

import hashlib
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone
from django_q.tasks import async_task

from datasets.models import Dataset
from datasets.services.refusals import DatasetNotFound
from runs.lifecycle import Step, insert_ended
from runs.models import Host, Run, RunEngine, RunEvent, RunNameKey, RunStatus, RunTag
from runs.services.access import reread
from runs.services.claiming import claim_reason
from runs.services.disk import require_disk
from runs.services.evaluations import store_evaluation
from runs.services.preflight import warnings_in
from runs.services.preparation import find_dataset
from runs.services.refusals import (
    DatasetArchived,
    DatasetSealed,
    IdempotencyConflict,
    QueueFull,
    RuntimeUnavailable,
)
from runs.services.reservations import require_free_folder, reserve_folder
from runs.services.run_requests import InvalidRequest, RunRequest
from runs.services.runtime import local_runtime
from runs.services.sources import Source, hold_source
from runs.services.subjects import hold_subject, require_subject
from runs.services.telemetry import measured_write
from runs.services.wakeup import wake_attendants
from runs.services.webhooks import announce_end
from runs.spec.kinds import EVALUATE, KINDS
from runs.spec.naming import make_name
from runs.spec.wording import number_text
from tunixrt.addresses import problem_with

SUBMITTED = "submitted"


def submit_run(
    *,
    request: RunRequest,
    by: User,
    queued: bool,
    retry_of: Run | None = None,
    source: Source | None = None,
    extend_from_step: int | None = None,
    automatic: bool = False,
    warnings: Sequence[str] = (),
) -> tuple[Run, bool]:
    """Store a run as ``pending``: ``(run, created)``. With ``queued`` the queue receives it in the
    same transaction. With ``source`` it resumes from that checkpoint, which is protected from the
    same transaction on; with ``extend_from_step`` as well it is an extension. The run keeps
    ``warnings``, and shows them with those that its training writes.

    The same ``client_request_id`` of the same person returns the first run and makes nothing new.

    Raises:
        DatasetNotFound, DatasetArchived, DatasetSealed, IdempotencyConflict, RuntimeUnavailable,
        InvalidRequest (the folder is taken), QuotaExceeded, SourceGone.
        QueueFull: not for an automatic retry, whose run was let in before.
    """
    if found := find_submitted(request=request, by=by):
        return found, False
    dataset = check_submittable(request=request, queued=queued, automatic=automatic)
    if not request.dry_run:
        require_disk(by)
    run = _new_run(
        request=request,
        by=by,
        queued=queued,
        retry_of=retry_of,
        source=source,
        extend_from_step=extend_from_step,
        automatic=automatic,
        warnings=warnings,
    )
    reason = (
        f"submitted; resumes from step {source.step} of run {source.run.run_id}"
        if source
        else SUBMITTED
    )
    try:
        if not request.dry_run:
            require_free_folder(run)
        with measured_write("a new run"), transaction.atomic():
            if queued and not automatic:
                _require_room_in_queue(by)
            if source is not None:
                hold_source(source)
            reserve_folder(run)
            run.save(force_insert=True)
            _store_names(run, request)
            if run.kind == EVALUATE.name and not run.dry_run:
                subject = hold_subject(request.model)
                store_evaluation(run=run, request=request, dataset=dataset, subject=subject, by=by)
            RunEvent.objects.create(
                run=run,
                new=RunStatus.PENDING,
                reason=reason,
                by=by.get_username(),
                at=run.created_at,
            )
            if queued:
                async_task("runs.tasks.launch_pending")
                wake_attendants()
    except (IntegrityError, InvalidRequest):
        # the same request came a moment earlier, and has the folder
        if found := find_submitted(request=request, by=by):
            return found, False
        if retry_of is not None:
            reread(retry_of)
        raise
    return run, True


def new_dry_run(*, request: RunRequest, by: User, host: Host) -> Run:
    """Return a dry run that ``host`` checks in the request; nothing of it is stored."""
    run = _new_run(request=request, by=by, queued=False)
    run.host = host
    run.started_at = run.created_at
    return run


def submit_ended(*, run: Run, request: RunRequest, by: User, status: str) -> tuple[Run, bool]:
    """Store a dry run that has been checked, from its submission to its end, in one transaction:
    ``(run, created)``, as ``submit_run`` does. ``run`` is a ``new_dry_run`` with the columns of its
    end.

    Raises:
        IdempotencyConflict.
    """
    assert run.host is not None and run.started_at is not None and run.completed_at is not None
    name = by.get_username()
    submitted = Step(RunStatus.PENDING, SUBMITTED, name, run.created_at)
    steps = [
        Step(RunStatus.RUNNING, claim_reason(run.host), name, run.started_at),
        Step(status, run.message, "web", run.completed_at),
    ]
    try:
        with measured_write("a dry run"), transaction.atomic():
            insert_ended(run, submitted=submitted, steps=steps)
            _store_names(run, request)
            announce_end(run)
    except IntegrityError:
        if found := find_submitted(request=request, by=by):  # it came a moment earlier
            return found, False
        raise
    return run, True


def _store_names(run: Run, request: RunRequest) -> None:
    RunTag.objects.bulk_create(RunTag.of(run, request.tags))
    RunNameKey.objects.bulk_create(RunNameKey.of(run))


def _new_run(
    *,
    request: RunRequest,
    by: User,
    queued: bool,
    retry_of: Run | None = None,
    source: Source | None = None,
    extend_from_step: int | None = None,
    automatic: bool = False,
    warnings: Sequence[str] = (),
) -> Run:
    """Return the pending run that a request asks for, not yet stored."""
    now = timezone.now()
    run_id = uuid.uuid4()
    return Run(
        run_id=run_id,
        name=request.name or make_name(),
        dataset_key=request.dataset_key,
        model_id=request.model.model_id,
        kind=request.kind,
        engine=RunEngine.LOCAL,
        dry_run=request.dry_run,
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
        summary={"warnings": list(warnings)} if warnings else {},
    )


def _require_room_in_queue(owner: User) -> None:
    """Raise QueueFull if the queue has no room. Call it in the transaction that adds a run: two
    requests at once are counted one after the other."""
    User.objects.select_for_update(no_key=True).get(pk=owner.pk)
    limit = settings.TUNIX_QUEUED_PER_ACCOUNT
    if Run.objects.pending_of(owner)[:limit].count() >= limit:
        raise QueueFull(
            f"You have {limit:,} runs waiting, as many as an account may. Try again when some have"
            " started, or cancel some."
        )


def needs_process(request: RunRequest) -> bool:
    """Return whether a run needs a process. A training does, and a dry run with depth where the
    runtime is: it tokenises the data, with ``smoke`` it runs one step."""
    return not request.dry_run or (_has_depth(request) and local_runtime().available)


def _has_depth(request: RunRequest) -> bool:
    return request.preflight == "full" or request.smoke


def find_submitted(*, request: RunRequest, by: User) -> Run | None:
    """Return the run that this very request made before. Raise IdempotencyConflict if the id was
    used for another body."""
    if request.client_request_id is None:
        return None
    run = Run.objects.filter(owner=by, client_request_id=request.client_request_id).first()
    if run is not None and run.request_hash != _request_hash(request):
        raise IdempotencyConflict(
            f"client_request_id {request.client_request_id!r} was used for another request (run"
            f" {run.run_id})."
        )
    if run is not None and run.trashed_at:
        raise IdempotencyConflict(
            f"The run of client_request_id {request.client_request_id!r} has been deleted (run"
            f" {run.run_id}). Use another id for a new run."
        )
    return run


def check_submittable(*, request: RunRequest, queued: bool, automatic: bool = False) -> Dataset:
    """Decide 404, 409 for an archived dataset or to train on a sealed one, and 501 before anything
    is stored, and 400 for a webhook that cannot work or a run's model that is not there. Stored
    requests keep theirs. An ``automatic`` retry continues a run that was let in before its dataset
    was archived."""
    own = request.webhook_url
    allowed = settings.TUNIX_WEBHOOK_ALLOW_PRIVATE or own == settings.TUNIX_WEBHOOK_URL
    if own and (problem := problem_with(own, allow_private=allowed)):
        raise InvalidRequest({"webhook_url": [problem]})
    dataset = find_dataset(request.dataset_key)
    if dataset is None:
        raise DatasetNotFound(request.dataset_key)
    if dataset.archived_at is not None and not automatic:
        raise DatasetArchived(dataset)
    if dataset.sealed_at is not None and request.kind in KINDS:
        raise DatasetSealed(dataset.dataset_key)
    if (problem := require_subject(request.model).training_problem()) and request.kind in KINDS:
        raise InvalidRequest({"model_id": [problem]})
    if (
        not request.dry_run
        and not local_runtime().available
        and not (queued and runtime_elsewhere())
    ):
        raise RuntimeUnavailable(local_runtime().message)
    return dataset


def runtime_elsewhere() -> bool:
    """Return whether a live host has the training runtime."""
    return Host.objects.alive().exclude(runtime_version="").exists()


def time_limit(request: RunRequest, *, queued: bool) -> float | None:
    """Return the limit in seconds: the request's own within the system's; a run in the request
    never takes longer than that may."""
    limits = [request.timeout_seconds]
    limits.append(
        settings.TUNIX_RUN_TIMEOUT_SECONDS if queued else settings.TUNIX_SYNC_TIMEOUT_SECONDS
    )
    if request.dry_run and _has_depth(request):
        limits.append(settings.TUNIX_DRY_RUN_TIMEOUT_SECONDS)
    return min((limit for limit in limits if limit is not None), default=None)


def run_warnings(
    *,
    summary: Any,
    config: dict[str, Any],
    timeout_seconds: float | None,
    queued_at: datetime | None,
) -> list[str]:
    """Return what is worth knowing about a run, one sentence each: that its time was cut, what was
    known at its submission, and what a dry run or the training found."""
    cut = limit_warning(
        asked=config.get("timeout_seconds"),
        limit=timeout_seconds,
        queued=queued_at is not None,
        dry_run=config.get("dry_run") is True,
    )
    return [*([cut] if cut else []), *warnings_in(summary)]


def limit_warning(
    *, asked: Any, limit: float | None, queued: bool, dry_run: bool = False
) -> str | None:
    """Say that a run got less time than its request asked for, and why; None where it did not."""
    if not isinstance(asked, int | float) or limit is None or asked <= limit:
        return None
    cut = f"timeout_seconds {number_text(asked)} was cut to {number_text(limit)}"
    if queued and dry_run and limit == settings.TUNIX_DRY_RUN_TIMEOUT_SECONDS:
        return f"{cut}: TUNIX_DRY_RUN_TIMEOUT_SECONDS limits every dry run to that."
    if queued:
        return f"{cut}: TUNIX_RUN_TIMEOUT_SECONDS limits every run to that."
    return (
        f"{cut}, TUNIX_SYNC_TIMEOUT_SECONDS, for a run in the request. Queue it (Run Async,"
        " ?mode=async) to give it longer."
    )


def _request_hash(request: RunRequest) -> str:
    return hashlib.sha256(
        orjson.dumps(request.as_config(), option=orjson.OPT_SORT_KEYS)
    ).hexdigest()
