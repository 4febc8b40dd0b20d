"""Write the end of a run."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from runs.lifecycle import transition, transition_together
from runs.models import Run, RunStatus
from runs.services.disk import measure
from runs.services.evaluations import Outcome, store_outcome
from runs.services.preflight import warnings_in
from runs.services.refusals import OutputRootAway
from runs.services.retrying import submit_retry
from runs.services.run_requests import clean_request
from runs.services.submission import submit_run
from runs.services.telemetry import measured_write
from runs.services.webhooks import announce_end
from runs.spec.kinds import EVALUATE
from tunixrt.refusals import Refusal

DRY_RUN_STDOUT = "Dry-run validation passed"
DRY_RUN_MESSAGE = "Dry-run completed successfully. Configuration is valid."


def finish_run(
    *,
    run: Run,
    status: str,
    reason: str,
    by: str,
    lost: bool = False,
    outcome: Outcome | None = None,
    **fields: Any,
) -> Run:
    """Write the end of a run, with the ``outcome`` of an evaluation, put its webhook into the
    outbox, and, if it was ``lost`` and asked for that, retry it.

    Raise TransitionRefused when it has an end already.
    """
    fields.setdefault("message", reason)
    fields.setdefault("completed_at", timezone.now())
    fields.setdefault("duration_seconds", seconds_between(run.started_at, fields["completed_at"]))
    fields.setdefault("disk_bytes", measure(run))
    before = run.status
    try:
        with measured_write("the end of a run"), transaction.atomic():
            if before == RunStatus.RUNNING and status == RunStatus.CANCELLED:
                transition(run, RunStatus.CANCELLING, reason=reason, by=by)
            if lost and before != RunStatus.CANCELLING:
                fields["message"] += _retry_lost(run)
            if status == RunStatus.COMPLETED and not run.dry_run:
                fields["message"] += _evaluate(run)
            transition(run, status, reason=reason, by=by, **fields)
            if outcome is not None:
                store_outcome(run=run, outcome=outcome, status=status)
            announce_end(run)
    except BaseException:
        run.status = before  # the transaction took the step back
        raise
    return run


def finish_together(
    *, runs: Sequence[Run], status: str, reason: str, by: str, **fields: Any
) -> None:
    """Finish runs without files of one status that end alike, as ``finish_run`` does, in one
    transaction. Raise TransitionRefused; then none has ended."""
    started = min((run.started_at for run in runs if run.started_at), default=None)
    fields.setdefault("message", reason)
    fields.setdefault("completed_at", timezone.now())
    fields.setdefault("duration_seconds", seconds_between(started, fields["completed_at"]))
    fields.setdefault("disk_bytes", 0)
    with transaction.atomic():
        transition_together(runs, status, reason=reason, by=by, **fields)
        for run in runs:
            announce_end(run)


def _retry_lost(run: Run) -> str:
    """Retry a run that its host lost, if its request asks for that; return what the message of the
    run says about it.

    The request's ``auto_retry`` bounds how many automatic retries a chain may have; those that
    people asked for do not count.

    Raises:
        OutputRootAway: try again to end the run when the root is back.
    """
    if run.automatic_retries >= run.config.get("auto_retry", 0) or run.dry_run:
        return ""
    try:
        retry = submit_retry(run, by=run.owner, resume=True, automatic=True)
    except OutputRootAway:
        raise
    except Refusal as refusal:
        return f" It is not tried again: {refusal}"  # that must not keep the lost one from its end
    start = f"the last checkpoint of run {retry.resume_from_id}" if retry.resume else "scratch"
    return f" Run {retry.run_id} tries again from {start}."


def _evaluate(run: Run) -> str:
    """Queue the evaluations that the request of a training asked for; what the message of the run
    says about them."""
    said = ""
    for asked in run.config.get("evaluate_on", ()):
        data = {"kind": EVALUATE.name, "dry_run": False, "model_id": f"run:{run.pk}"} | asked
        try:
            evaluation, _ = submit_run(request=clean_request(data), by=run.owner, queued=True)
        except Refusal as refusal:
            said += f" It is not evaluated on {asked['dataset_key']}: {refusal}"
        else:
            said += f" Run {evaluation.run_id} evaluates it on {asked['dataset_key']}."
    return said


def finish_failed(
    *, run: Run, problems: Iterable[str], by: str, warnings: Sequence[str] = ()
) -> Run:
    """Write the end of a run that failed before its process started. It has a reason and no exit
    code."""
    known = dict.fromkeys([*warnings_in(run.summary), *warnings])
    return finish_run(run=run, by=by, **failure(problems, list(known)))


def failure(problems: Iterable[str], warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Return how a run ends that failed before anything was started, as ``finish_run`` takes it."""
    problems = list(problems)
    stderr = "\n".join(
        [
            *(f"error: {problem}" for problem in problems),
            *(f"warning: {warning}" for warning in warnings),
        ]
    )
    return {
        "status": RunStatus.FAILED,
        "reason": " ".join(problems),
        "summary": {"warnings": list(warnings)} if warnings else {},
        "stderr": stderr.encode()[-settings.TUNIX_OUTPUT_MAX_BYTES :].decode(errors="ignore"),
    }


def seconds_between(start: datetime | None, end: datetime) -> float | None:
    return max(0.0, (end - start).total_seconds()) if start else None
