"""Request the cancellation of a run."""

from django.contrib.auth.models import User
from django.utils import timezone

from runs.lifecycle import TransitionRefused, transition
from runs.models import TERMINAL, Run, RunStatus
from runs.services.access import reread
from runs.services.finishing import finish_run
from runs.services.refusals import StateConflict
from runs.services.telemetry import measured_write


def request_cancel(*, run: Run, by: User) -> Run:
    """Move a run from pending to cancelled, or from running to cancelling, which the keeper is to
    confirm. Asking again changes nothing.

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
                    run=run,
                    status=RunStatus.CANCELLED,
                    reason=reason,
                    by=by.get_username(),
                    cancel_requested_at=now,
                )
            with measured_write("a cancel request"):
                return transition(
                    run,
                    RunStatus.CANCELLING,
                    reason=reason,
                    by=by.get_username(),
                    cancel_requested_at=now,
                )
        except TransitionRefused:
            reread(run)
    raise StateConflict(f"The run is changing right now ({run.status}); try again.")
