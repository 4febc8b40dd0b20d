"""The records in a run folder: stop.json, keeper.json and exit.json."""

from __future__ import annotations

import os

from runs.runfolder import files, names

TYPE_CHECKING = False  # importing typing would cost a keeper 1 MB
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
STOP_REASONS = ("cancel", "timeout")


def request_stop(folder: files.Path, reason: str, by: str) -> bool:
    """Ask the run to stop, ``reason`` cancel or timeout: return True for the first request, False
    if there was one. Raise OSError."""
    if reason not in STOP_REASONS:
        raise ValueError(f"reason must be one of {', '.join(STOP_REASONS)}, not {reason!r}")
    return files.create_json_once(
        os.path.join(folder, names.STOP),
        {"reason": reason, "by": files.clean_text(by), "at": files.timestamp()},
    )


def withdraw_stop(folder: files.Path) -> None:
    """Remove the stop request. For the holder of the lock, before it writes an end that is no
    stop."""
    files.unlink(os.path.join(folder, names.STOP))


def withdraw_late_stop(folder: files.Path) -> None:
    """Remove a stop request that was not obeyed, since it would record a stop that did not happen:
    one that came after the run's end, or one after which the command still ended by itself. For the
    holder of the lock."""
    paths = [os.path.join(folder, name) for name in (names.EXIT, names.STOP)]
    try:
        end, stop = (os.lstat(path).st_ctime_ns for path in paths)
    except FileNotFoundError:
        return
    reason = (files.read_json(paths[0]) or {}).get("reason")
    # Written in the same tick of the file system's clock, the end itself tells whether it was
    # obeyed.
    if reason == "exit" or stop > end or (stop == end and reason not in STOP_REASONS):
        files.unlink(paths[1])


def exit_record(
    *,
    run_id: str,
    reason: str,
    message: str,
    started_at: str | None = None,
    ended_at: str | None = None,
    duration_seconds: float | None = None,
    exit_code: int | None = None,
    signal_number: int | None = None,
    host: str | None = None,
) -> dict[str, Any]:
    """Return the content of exit.json. ``reason``: exit, cancel, timeout, lost, host stopped or
    start_failed."""
    return {
        "version": VERSION,
        "run_id": run_id,
        "exit_code": exit_code,
        "signal": signal_number,
        "reason": reason,
        "message": files.clean_text(message),
        "started_at": started_at,
        "ended_at": ended_at or files.timestamp(),
        "duration_seconds": duration_seconds,
        "host": host or os.uname().nodename,
    }


def write_end(folder: files.Path, run_id: str, *, reason: str, message: str) -> dict[str, Any]:
    """Write the end of a run that has no keeper, unless its end is written; return what exit.json
    then holds.

    For the holder of the lock, after ``kill_leftovers``. When the run ended is unknown:
    ``duration_seconds`` is null.
    """
    keeper = read_keeper(folder) or {}
    path = os.path.join(folder, names.EXIT)
    record = exit_record(
        run_id=run_id,
        reason=reason,
        message=message,
        started_at=keeper.get("started_at"),
        host=keeper.get("host"),
    )
    files.remove_temporary_files(folder)
    files.create_json_once(path, record)
    return files.read_json(path) or record


def write_lost_exit(folder: files.Path, run_id: str, message: str) -> dict[str, Any]:
    """Write the end of a run whose keeper is gone, as ``write_end`` does."""
    return write_end(folder, run_id, reason="lost", message=message)


def read_keeper(folder: files.Path) -> dict[str, Any] | None:
    """Return keeper.json, or None if it is missing or broken (nothing that it names can be trusted
    then)."""
    try:
        return files.read_json(os.path.join(folder, names.KEEPER))
    except files.BrokenFile:
        return None
