"""Dry runs: check everything that can be checked at once, write the manifest, start nothing."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from datasets.models import Dataset
from runs.execution.hosts import this_host
from runs.lifecycle import TransitionRefused
from runs.models import TERMINAL, Run, RunStatus
from runs.runfolder import names
from runs.runfolder.tree import remove_tree
from runs.services import submission
from runs.services.finishing import (
    DRY_RUN_MESSAGE,
    DRY_RUN_STDOUT,
    failure,
    finish_failed,
    finish_run,
    finish_together,
    seconds_between,
)
from runs.services.output_root import make_folder
from runs.services.preflight import Preflight, check_request
from runs.services.preparation import find_dataset, run_manifest, run_preflight
from runs.services.reservations import run_folder
from runs.services.run_requests import RunRequest
from runs.services.runtime import local_runtime

logger = logging.getLogger("tunixrt.runs")

NOT_CHECKED = "Not checked: lengths in tokens, steps, memory, and that one step runs."
PASSED: dict[str, Any] = {
    "status": RunStatus.COMPLETED,
    "reason": DRY_RUN_MESSAGE,
    "exit_code": 0,
    "stdout": DRY_RUN_STDOUT,
    "stderr": "",
}


def dry_run_in_request(*, request: RunRequest, by: User) -> tuple[Run, bool]:
    """Check a request and store the dry run with its end: ``(run, created)``.

    The check comes first, since it needs nothing of the run: then one transaction stores the run,
    its three events and what is counted, where a dry run from the queue takes three. The manifest
    is written before that, and removed if the run cannot be stored.

    Raise what ``submit_run`` raises.
    """
    if found := submission.find_submitted(request=request, by=by):
        return found, False
    dataset = submission.check_submittable(request=request, queued=False)
    run = submission.new_dry_run(request=request, by=by, host=this_host())
    passed, problems, warnings = _concluded(
        run, lambda: (request, dataset, check_request(request, dataset))
    )
    end = PASSED | {"summary": _as_summary(warnings)} if passed else failure(problems, warnings)
    run.message = end["reason"]
    run.completed_at = timezone.now()
    run.duration_seconds = seconds_between(run.started_at, run.completed_at)
    run.disk_bytes = 0
    for name in end.keys() - {"status", "reason"}:
        setattr(run, name, end[name])
    folder = run_folder(run)
    try:
        run, created = submission.submit_ended(
            run=run, request=request, by=by, status=end["status"]
        )
    except (OperationalError, InterfaceError):
        raise  # the database may have stored the run, so its manifest stays
    except BaseException:
        _discard(folder)
        raise
    if not created:
        _discard(folder)
    return run, created


def _discard(folder: Path) -> None:
    with suppress(OSError):
        remove_tree(folder)


def answer_dry_run(run: Run, *, by: str) -> Run:
    """Answer a claimed dry run. Idempotent: the life cycle refuses a second end."""
    passed, problems, warnings = _check(run, find=find_dataset)

    def answer() -> Run:
        if passed:
            return finish_run(run=run, by=by, summary=_as_summary(warnings), **PASSED)
        return finish_failed(run=run, problems=problems, warnings=warnings, by=by)

    try:
        return answer()
    except TransitionRefused:
        run.refresh_from_db()
        return run if run.status in TERMINAL else answer()  # it was being cancelled


def answer_dry_runs(runs: Sequence[Run], *, by: str) -> None:
    """Answer claimed dry runs, those that end alike in one transaction."""
    find = cache(find_dataset)
    alike: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        passed, _, warnings = _check(run, find=find)
        if passed:
            alike[tuple(warnings)].append(run)
        else:
            answer_dry_run(run, by=by)
    for same, group in alike.items():
        try:
            finish_together(runs=group, by=by, summary=_as_summary(same), **PASSED)
        except (
            TransitionRefused
        ):  # one was cancelled, or answered by an attendant that thought us gone: each for itself
            for run in group:
                answer_dry_run(run, by=by)


def _check(run: Run, *, find: Callable[[str], Dataset | None]) -> tuple[bool, list[str], list[str]]:
    """Return ``(passed, problems, warnings)`` of a stored run; the manifest of one that passed is
    on disk."""
    return _concluded(run, lambda: run_preflight(run, find=find))


def _concluded(
    run: Run, check: Callable[[], tuple[RunRequest | None, Dataset | None, Preflight]]
) -> tuple[bool, list[str], list[str]]:
    try:
        request, dataset, preflight = check()
    except DatabaseError:
        raise
    except Exception as error:
        # One that cannot be checked must not keep the others of its batch from their answers.
        logger.exception("dry run %s could not be checked", run.run_id)
        return False, [f"The check failed: {type(error).__name__}: {error}"], []
    if not preflight.passed or request is None or dataset is None:
        return False, preflight.problems, preflight.warnings
    try:
        folder = run_folder(run)
        make_folder(folder)
        (folder / names.MANIFEST).write_text(
            run_manifest(run, dataset=dataset, request=request), encoding="utf-8"
        )
    except OSError as error:
        problem = (
            f"The manifest cannot be written: {error.strerror or error}. Check the output root's"
            " disk and permissions."
        )
        return False, [problem], preflight.warnings
    if request.smoke or request.preflight == "full":
        preflight.warnings.append(f"{NOT_CHECKED} {local_runtime().message}")
    return True, [], preflight.warnings


def _as_summary(warnings: Sequence[str]) -> dict[str, Any]:
    return {"warnings": list(warnings)} if warnings else {}
