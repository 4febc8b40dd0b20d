"""Runs as the API shows them."""

from datetime import UTC, datetime
from typing import Any

from django.db import InterfaceError, OperationalError, connection

from runs.models import Run

STATUS_FIELDS = ("run_id", "status", "queued_at", "started_at", "completed_at", "exit_code")
FULL_FIELDS = (
    "run_id", "status", "mode", "dataset_key", "model_id", "output_dir", "exit_code", "stdout", "stderr",
    "duration_seconds", "started_at", "completed_at", "message",
    "created_at", "queued_at", "config", "priority", "attempt", "notes", "pinned", "timeout_seconds", "resume",
    "step", "total_steps", "last_loss", "summary", "client_request_id",
)  # fmt: skip


def full_answer(run: Run) -> dict[str, Any]:
    """Everything about a run; ``POST`` and ``GET`` answer the same."""
    answer = {name: _plain(getattr(run, name)) for name in FULL_FIELDS}
    answer["retry_of"] = str(run.retry_of_id) if run.retry_of_id else None
    return answer | _related(run)


def _related(run: Run) -> dict[str, Any]:
    """What stands in other tables. If the database went away while a run was executed in the request, its end goes first."""
    try:
        return {
            "owner": run.owner.get_username(),
            "tags": [tag.name for tag in run.tags.all()],
            "host": run.host.name if run.host else None,
        }
    except (OperationalError, InterfaceError):
        connection.close()
        return {"owner": None, "tags": sorted(run.config.get("tags", [])), "host": None}


def short_answer(run: Run) -> dict[str, Any]:
    """What a poller needs and nothing heavy."""
    return {name: _plain(getattr(run, name)) for name in STATUS_FIELDS}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return value
