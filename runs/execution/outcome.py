"""The end of a run, read from its folder. Everything here works without the database."""

from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings

from runs import folder as run_folders
from runs.models import RunStatus

COMPLETED_MESSAGE = "Training completed."


def read_end(folder: Path) -> dict[str, Any] | None:
    """exit.json, or None while the run has not ended."""
    return run_folders.read_json(folder / run_folders.EXIT)


def outcome(folder: Path, end: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """``(status, reason, columns)`` that the row gets. A zero exit is ``completed`` whatever else was asked of it."""
    status, exit_code = _status(end)
    reason = COMPLETED_MESSAGE if status == RunStatus.COMPLETED else end.get("message") or "The training failed."
    limit = settings.TUNIX_OUTPUT_MAX_BYTES
    return (
        status,
        reason,
        {
            "exit_code": exit_code,
            "message": reason,
            "stdout": run_folders.read_tail(folder / run_folders.STDOUT, limit),
            "stderr": run_folders.read_tail(folder / run_folders.STDERR, limit),
            "completed_at": datetime.fromisoformat(end["ended_at"]),
            "duration_seconds": end.get("duration_seconds"),
            "summary": read_result(folder),
        },
    )


def _status(end: dict[str, Any]) -> tuple[str, int | None]:
    exit_code, signal = end.get("exit_code"), end.get("signal")
    if exit_code == 0:
        return RunStatus.COMPLETED, 0
    if exit_code is None and signal is not None:
        exit_code = -signal  # as subprocess.returncode tells it
    match end.get("reason"):
        case "cancel":
            return RunStatus.CANCELLED, exit_code
        case "timeout":
            return RunStatus.TIMEOUT, None
        case _:
            return RunStatus.FAILED, exit_code


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of the training program; empty when there is none that can be read."""
    try:
        return run_folders.read_json(folder / run_folders.RESULT) or {}
    except run_folders.BrokenFile:
        return {}
