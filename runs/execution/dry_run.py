"""Dry runs: check everything that can be checked at once, write the manifest, start nothing."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from django.db import Error as DatabaseError

from datasets.models import Dataset
from runs.lifecycle import TransitionRefused
from runs.models import TERMINAL, Run, RunStatus
from runs.runfolder import names
from runs.services.finishing import (
    DRY_RUN_MESSAGE,
    DRY_RUN_STDOUT,
    finish_failed,
    finish_run,
    finish_together,
)
from runs.services.output_root import make_folder
from runs.services.preparation import find_dataset, manifest_of, preflight_of
from runs.services.reservations import run_folder
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


def answer_dry_run(run: Run, *, by: str) -> Run:
    """Answer a claimed dry run. Doing it twice does no harm: the second end is refused by the life
    cycle."""
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
    """``(passed, problems, warnings)``; the manifest of one that passed is on disk."""
    try:
        request, dataset, preflight = preflight_of(run, find=find)
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
            manifest_of(run, dataset=dataset, request=request), encoding="utf-8"
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
