"""Read the end of a run from its folder. Nothing here needs the database."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from django.conf import settings
from django.utils import timezone

from runs.models import Run, RunStatus
from runs.runfolder import files, names
from runs.services.finishing import DRY_RUN_MESSAGE, DRY_RUN_STDOUT
from runs.services.preflight import text_list, warnings_in
from tunixrt.refusals import shorten

COMPLETED_MESSAGE = "Training completed."
EVALUATED_MESSAGE = "Evaluation completed."
NO_REPORT = "The training command wrote no report, so steps, tokens and memory are not known."
UNREADABLE_REPORT = (
    "The training command wrote a report that cannot be read, so steps, tokens and memory are not"
    " known: {}"
)
UNREADABLE_RESULT = "The training command wrote a result that cannot be read: {}"
# of exit.json: not the training's own doing, so auto_retry applies
LOST_REASONS = (
    "lost",
    "host stopped",
)
RESULT_DEPTH = 16  # of result.json; what lies deeper is left out
SUMMARY_MAX_BYTES = 1_000_000  # of a report or a result, as JSON
_TEXTS = ("warnings", "sentences")  # lists of a report that people read
SMALLEST, LARGEST = -(2**63), 2**63 - 1


def read_end(folder: Path) -> dict[str, Any] | None:
    """Return exit.json, or None while the run has not ended. The trainer can write to the folder
    too, so an invalid file is treated as missing."""
    try:
        return files.read_json(folder / names.EXIT)
    except files.BrokenFile:
        return None


def outcome(run: Run, folder: Path, end: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return ``(status, reason, columns)`` that the row gets. A zero exit is ``completed``, of a
    dry run unless the keeper says that it came too late."""
    status, exit_code = _status(end, must_meet_deadline=run.dry_run)
    if run.dry_run:
        return _dry_run_outcome(run, status, folder, end)
    reason = (
        (COMPLETED_MESSAGE if run.trains else EVALUATED_MESSAGE)
        if status == RunStatus.COMPLETED
        else _text(end.get("message"))
        or f"The {'training' if run.trains else 'evaluation'} failed."
    )
    limit = settings.TUNIX_OUTPUT_MAX_BYTES
    return (
        status,
        reason,
        {
            "exit_code": exit_code,
            "message": reason,
            "stdout": _read_output(folder / names.STDOUT, limit),
            "stderr": _read_output(folder / names.STDERR, limit),
            "completed_at": _moment(end.get("ended_at")),
            "duration_seconds": _seconds(end.get("duration_seconds")),
            "summary": _with_warnings(read_result(folder), warnings_in(run.summary)),
        },
    )


def _dry_run_outcome(
    run: Run, status: str, folder: Path, end: dict[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    """Return the outcome of a dry run with depth, for which the training program wrote a report
    beside its output. A failed one has no exit code, one that passed no stderr: its warnings are in
    the report."""
    passed = status == RunStatus.COMPLETED
    reason = DRY_RUN_MESSAGE if passed else _text(end.get("message")) or "The check failed."
    limit = settings.TUNIX_OUTPUT_MAX_BYTES
    columns = {
        "exit_code": 0 if passed else None,
        "message": reason,
        "stdout": DRY_RUN_STDOUT if passed else "",
        "stderr": "" if passed else _read_output(folder / names.STDERR, limit),
        "completed_at": _moment(end.get("ended_at")),
        "duration_seconds": _seconds(end.get("duration_seconds")),
        "summary": _with_warnings(read_report(folder) if passed else {}, warnings_in(run.summary)),
    }
    return status, reason, columns


def _with_warnings(summary: dict[str, Any], before: list[str]) -> dict[str, Any]:
    """Return ``summary`` with what was known before the start."""
    if not before:
        return summary
    return summary | {"warnings": list(dict.fromkeys(before + text_list(summary.get("warnings"))))}


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report as a summary; programs that know no ``--report`` print it."""
    try:
        report = _read_object(folder / names.PLAN)
    except Unreadable as error:
        return {"warnings": [UNREADABLE_REPORT.format(error)]}
    if not report:
        with suppress(Unreadable):  # it is plain text
            report = _read_object(folder / names.STDOUT)
    return {"preflight": report} if report else {"warnings": [NO_REPORT]}


def _status(end: dict[str, Any], *, must_meet_deadline: bool) -> tuple[str, int | None]:
    exit_code, signal = _whole(end.get("exit_code")), _whole(end.get("signal"))
    if exit_code == 0 and not (must_meet_deadline and end.get("reason") == "timeout"):
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
    """Return result.json of the training command; empty when there is none, a warning when it
    cannot be read."""
    try:
        return _read_object(folder / names.RESULT)
    except Unreadable as error:
        return {"warnings": [UNREADABLE_RESULT.format(error)]}


class Unreadable(Exception):
    """The training command's output cannot be used; the message says why."""


def _read_object(path: Path) -> dict[str, Any]:
    """Return the object in a file of the training command, as it is stored; empty where there is
    none. Raise Unreadable."""
    try:
        value = files.read_json(path) or {}
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror or error}.") from error
    except files.BrokenFile as error:
        raise Unreadable(shorten(str(error).replace(str(path), path.name))) from error
    kept: dict[str, Any] = storable(
        value | {name: text_list(value[name]) for name in _TEXTS if name in value}
    )
    if len(orjson.dumps(kept)) > SUMMARY_MAX_BYTES:
        raise Unreadable(f"{path.name} holds more than {SUMMARY_MAX_BYTES:,} bytes.")
    return kept


def _read_output(path: Path, limit: int) -> str:
    try:
        return files.read_tail(path, limit)
    except (OSError, files.BrokenFile):
        return f"[{path.name} cannot be read]"[:limit]


def _text(value: Any) -> str:
    return files.clean_text(value) if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
        else None
    )


def _seconds(value: Any) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
        else None
    )


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return timezone.now()


def storable(value: Any, depth: int = 0) -> Any:
    """Return JSON as every database and client takes it: no NUL, no half characters, numbers within
    64 bits, no great depth. An untrained byte model does write NUL into its samples."""
    if isinstance(value, str):
        return files.clean_text(value)
    # PostgreSQL makes large floats whole
    if isinstance(value, int | float) and not SMALLEST <= value <= LARGEST:
        return None
    if isinstance(value, dict | list) and depth == RESULT_DEPTH:
        return None
    if isinstance(value, dict):
        return {files.clean_text(name): storable(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item, depth + 1) for item in value]
    return value
