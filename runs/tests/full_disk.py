"""Runs on a disk that is really full: a program of its own, because it needs a small file system
that nobody else sees.

    python full_disk.py <project> <folder>

prints one JSON object: a line of facts for every case.

test_keeper_full_disk.py starts it in a mount namespace with a small tmpfs on the folder.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

sys.path.append(sys.argv[1])

from runs.runfolder import names, records
from runs.tests.launching import BEFORE_THE_COMMAND, Hold, LaunchedRun, launched_runs, wait_for

Make = Callable[..., LaunchedRun]


def fill(disk: Path) -> Path:
    """Take every byte that is left; remove the file to give them back."""
    path = disk / "full"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except OSError:
        return path
    finally:
        os.close(descriptor)


def output_fills_the_disk(disk: Path, make: Make) -> dict:
    run = make(["flood", 50]).launch()
    return {**run.end(), "output": (run.path / names.STDOUT).stat().st_size}


def cancel(disk: Path, make: Make) -> dict:
    run = make(["touch", "ready"], ["steps", 100_000, 0.01]).launch()
    run.wait_for_file("ready")
    fill(disk)
    first, second = (records.request_stop(run.path, "cancel", "ada") for _ in range(2))
    return {**run.end(), "requested": [first, second], "stop": run.read(names.STOP)}


def deadline(disk: Path, make: Make) -> dict:
    run = make(["touch", "ready"], ["steps", 100_000, 0.01], deadline=0.5).launch()
    run.wait_for_file("ready")
    fill(disk)
    return {**run.end(), "stop": run.read(names.STOP)}


def deadline_without_reservation(disk: Path, make: Make) -> dict:
    """Somebody removed what was put aside for stop.json: no file can tell the trainer, SIGTERM
    does."""
    with tempfile.TemporaryDirectory() as aside:
        held = Hold(Path(aside) / "hold", BEFORE_THE_COMMAND)
        run = make(
            ["touch", "ready"], ["sleep", 600], deadline=0.5, stop_wait=25, command=held.command
        ).launch()
        keeper = held.stop_keeper(run.path)
        run.wait_for_file("ready")
        (run.path / ".stop.json.reserved").unlink()
        fill(disk)
        os.kill(keeper, 18)  # SIGCONT
        return {**run.end(), "stop": run.read(names.STOP)}


def full_before_the_start(disk: Path, make: Make) -> dict:
    run = make(["touch", "started"])
    os.close(run.lock())
    full = fill(disk)
    refused = run.start()
    left = sorted(os.listdir(run.path))
    full.unlink()
    return {
        "code": refused.returncode,
        "stderr": refused.stderr,
        "left": left,
        "after": run.launch().end(),
    }


def room_for_keeper_json_once(disk: Path, make: Make) -> dict:
    """The keeper can take the run, but not record the trainer: then none may run."""
    run = make(["touch", "started"])
    os.close(run.lock())
    full = fill(disk)
    pages_for_reservations_and_keeper_json = 5
    os.truncate(
        full,
        full.stat().st_size - pages_for_reservations_and_keeper_json * os.sysconf("SC_PAGE_SIZE"),
    )
    return {**run.launch().end(), "started": (run.path / "started").exists()}


def shutdown_while_patient(disk: Path, make: Make) -> dict:
    """The host wants to go down while an end cannot be written: the keeper goes too, the run is the
    reconciler's."""
    run = make(["touch", "ready"], ["sleep", 600]).launch()
    run.wait_for_file("ready")
    for name in (".exit.json.reserved", ".stop.json.reserved"):
        (run.path / name).unlink()
    full = fill(disk)
    os.kill(run.wait_for_trainer()["pid"], 9)
    time.sleep(0.3)
    os.kill(run.keeper_pid(), 15)
    wait_for(lambda: not run.is_locked(), "the keeper's end")
    early = run.read(names.EXIT)
    full.unlink()
    records.write_lost_exit(run.path, run.run_id, "The host was shut down.")
    return {**run.end(), "early": early}


def patience(disk: Path, make: Make) -> dict:
    """Nothing put aside and no room: the end is kept until there is."""
    run = make(["touch", "ready"], ["sleep", 600]).launch()
    run.wait_for_file("ready")
    for name in (".exit.json.reserved", ".stop.json.reserved"):
        (run.path / name).unlink()
    full = fill(disk)
    trainer = run.wait_for_trainer()["pid"]
    os.kill(trainer, 9)
    wait_for(lambda: not os.path.exists(f"/proc/{trainer}"), "the trainer's end")
    time.sleep(0.3)
    early, locked = run.read(names.EXIT), run.is_locked()
    full.unlink()
    return {**run.end(), "early": early, "locked": locked}


CASES = (
    output_fills_the_disk, cancel, deadline, deadline_without_reservation, full_before_the_start,
    room_for_keeper_json_once, patience, shutdown_while_patient,
)  # fmt: skip

if __name__ == "__main__":
    facts = {}
    for case in CASES:
        disk = Path(sys.argv[2])
        with contextmanager(launched_runs)(disk) as make:
            facts[case.__name__] = case(disk, make)
        for path in sorted(disk.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    print(json.dumps(facts))
