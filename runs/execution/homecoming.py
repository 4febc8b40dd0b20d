"""Bringing the end of a run from its folder into the database. Idempotent: attendant, request and reconciler may all do it."""

from runs import services
from runs.execution.outcome import outcome, read_end
from runs.lifecycle import TransitionRefused
from runs.metrics import take_in_metrics
from runs.models import TERMINAL, Run


def bring_home(run: Run, *, by: str) -> Run:
    """Take the end of a run from its folder into the database, metrics first. Does nothing while it has not ended, or when
    somebody else brought it home."""
    folder = services.run_folder(run)
    end = read_end(folder)
    if end is None or run.status in TERMINAL:
        return run
    take_in_metrics(run, folder, to_the_end=True)
    status, reason, columns = outcome(run, folder, end)
    columns["lost"] = end.get("reason") == "lost"
    try:
        return services.finish_run(run=run, status=status, reason=reason, by=by, **columns)
    except TransitionRefused:
        run.refresh_from_db()
        if run.status in TERMINAL:
            return run
        return services.finish_run(run=run, status=status, reason=reason, by=by, **columns)  # it was being cancelled
