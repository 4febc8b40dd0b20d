"""A dry run: checks everything that can be checked at once, writes the manifest, starts nothing."""

from runs import folder as run_folders
from runs.models import Run, RunStatus
from runs.services import DRY_RUN_MESSAGE, DRY_RUN_STDOUT, finish_failed, finish_run, manifest_of, preflight_of, run_folder


def execute_dry_run(run: Run, *, by: str) -> Run:
    """Answer a claimed dry run. Doing it twice does no harm: the second end is refused by the life cycle."""
    request, dataset, preflight = preflight_of(run)
    if not preflight.passed or request is None or dataset is None:
        return finish_failed(run=run, problems=preflight.problems, warnings=preflight.warnings, by=by)
    try:
        folder = run_folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / run_folders.MANIFEST).write_text(manifest_of(run, dataset=dataset, request=request), encoding="utf-8")
    except OSError as error:
        problem = f"The manifest cannot be written: {error.strerror or error}. Check the output root's disk and permissions."
        return finish_failed(run=run, problems=[problem], by=by)
    return finish_run(
        run=run,
        status=RunStatus.COMPLETED,
        reason=DRY_RUN_MESSAGE,
        by=by,
        exit_code=0,
        stdout=DRY_RUN_STDOUT,
        stderr="\n".join(f"warning: {warning}" for warning in preflight.warnings),
    )
