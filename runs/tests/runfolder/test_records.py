"""What the files of a run say about its end and its stop."""

import os
from pathlib import Path

import pytest

from runs.runfolder import files, names, records


@pytest.mark.parametrize(
    ("reason", "order", "stays"),
    [
        ("cancel", (names.STOP, names.EXIT), True),  # obeyed
        ("exit", (names.STOP, names.EXIT), False),  # the command ended by itself
        ("cancel", (names.EXIT, names.STOP), False),  # after the end
        ("lost", (names.EXIT, names.STOP), False),
    ],
)
def test_a_stop_that_was_not_obeyed_is_withdrawn(
    tmp_path: Path, reason: str, order: tuple[str, str], stays: bool
) -> None:
    written = {
        names.EXIT: records.exit_record(run_id="a", reason=reason, message="m"),
        names.STOP: {"reason": "cancel", "by": "somebody"},
    }
    for name in order:
        files.write_json(tmp_path / name, written[name])
    first, second = (os.lstat(tmp_path / name).st_ctime_ns for name in order)
    while first == second:  # the clock of a file system ticks slowly
        files.write_json(tmp_path / order[1], written[order[1]])
        second = os.lstat(tmp_path / order[1]).st_ctime_ns

    records.withdraw_late_stop(tmp_path)

    assert (tmp_path / names.STOP).exists() is stays
    assert (tmp_path / names.EXIT).exists()
