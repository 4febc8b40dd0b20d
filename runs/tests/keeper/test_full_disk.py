"""A full disk costs a run its output, never its end: on a real file system of 256 kB
(runs/tests/full_disk.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runs.keeper import program as keeper
from runs.tests.launching import PATIENCE

MOUNT = 'mount -t tmpfs -o size=256k tmpfs "$1" || exit 77; shift; exec "$@"'


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """What full_disk.py found. The mount lives in a namespace of its own and is gone with the
    program."""
    disk = tmp_path_factory.mktemp("disk")
    program = Path(__file__).parents[1] / "full_disk.py"
    namespace = (
        ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    )
    argv = [
        *namespace,
        "sh",
        "-c",
        MOUNT,
        "sh",
        str(disk),
        sys.executable,
        str(program),
        str(program.parents[2]),
        str(disk),
    ]
    try:
        result = subprocess.run(
            argv, capture_output=True, text=True, timeout=4 * PATIENCE, check=False
        )
    except FileNotFoundError:
        pytest.skip("no `unshare` (util-linux) here: a full disk cannot be made")
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip(
            f"this machine does not let us mount a small file system: {result.stderr.strip()}"
        )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_trainer_that_fills_the_disk_has_its_end_written(facts):
    end = facts["output_fills_the_disk"]
    assert 100_000 < end["output"] < 256 * 1024
    assert (end["reason"], end["exit_code"]) == ("exit", 15)


def test_a_run_can_be_cancelled_on_a_full_disk(facts):
    end = facts["cancel"]
    assert end["requested"] == [True, False]
    assert end["reason"] == "cancel"
    assert end["stop"]["by"] == "ada"


def test_the_deadline_holds_on_a_full_disk(facts):
    end = facts["deadline"]
    assert end["reason"] == "timeout"
    assert end["stop"]["by"] == "keeper"


def test_a_deadline_that_no_file_can_tell_goes_straight_to_sigterm(facts):
    end = facts["deadline_without_reservation"]
    assert end["stop"] is None
    assert (end["reason"], end["signal"]) == ("timeout", 15)


def test_a_disk_that_is_full_before_the_start_starts_nothing_and_spoils_nothing(facts):
    start = facts["full_before_the_start"]
    assert start["code"] == keeper.UNUSABLE
    assert "No space left on device" in start["stderr"]
    assert start["left"] == ["command.json", "lock"]
    assert start["after"]["exit_code"] == 0


def test_an_end_that_cannot_be_written_is_kept_until_it_can(facts):
    end = facts["patience"]
    assert end["early"] is None
    assert end["locked"] is True
    assert (end["reason"], end["signal"]) == ("exit", 9)


def test_a_trainer_that_cannot_be_recorded_is_not_started(facts):
    end = facts["room_for_keeper_json_once"]
    assert end["started"] is False
    assert (end["reason"], end["started_at"]) == ("start_failed", None)
    assert "cannot be recorded" in end["message"]


def test_a_shutdown_ends_the_patience(facts):
    end = facts["shutdown_while_patient"]
    assert end["early"] is None
    assert end["reason"] == "lost"
