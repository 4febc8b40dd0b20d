"""Real kills: of the launcher, the first process and the keeper, at every moment; and what the lock
then says."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runs.keeper import program as keeper
from runs.runfolder import leftovers, names, records
from runs.runfolder.processes import (
    process_start_time,
    processes_of_run,
    read_process,
    same_process,
)
from runs.tests.launching import ENVIRONMENT, launched_runs, wait_for

# Takes the lock and, at a word, starts the keeper as the server does; then it lives until it is
# killed.
LAUNCHER = """
import os, subprocess, sys, time
sys.path.append(sys.argv[1])
from runs.runfolder import files
lock = os.dup2(files.try_lock(sys.argv[2] + "/lock"), 100)
print("locked", flush=True)
sys.stdin.readline()
process = subprocess.Popen(sys.argv[3:], pass_fds=[lock])
print("started", process.pid, flush=True)
process.wait()
print("returned", process.returncode, flush=True)
time.sleep(60)
"""
LOCK_OF_LAUNCHER = 100

# What the outside sees of a start, in this order (held_keeper.py).
NOT_TAKEN = ("os.fork 1", "os.fork 2", "os.link keeper.json")
TAKEN = ("os.remove 2", "os.fork 3", "os.rename keeper.json", "os.exec 1")

# The first process of a container: starts the keeper, lets the lock go, lives on.
FIRST_OF_CONTAINER = """
import os, subprocess, sys, time
lock = int(sys.argv[1])
print(subprocess.run(sys.argv[2:], pass_fds=[lock]).returncode, flush=True)
os.close(lock)
time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    # as in production: a kill would only cut off what coverage is writing
    yield from launched_runs(tmp_path, flags=keeper.FLAGS)


@pytest.fixture
def launch():
    """Starts a launcher for a run, in a process of its own, and ends it with the test."""
    launchers: list[subprocess.Popen[str]] = []

    def start(training):
        root = str(Path(keeper.__file__).parents[2])
        command = keeper.command(training.path, LOCK_OF_LAUNCHER)
        argv = [sys.executable, "-I", "-c", LAUNCHER, root, str(training.path), *command]
        pipe = subprocess.PIPE
        launcher = subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT
        )
        launchers.append(launcher)
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "locked\n"
        return launcher

    yield start
    for launcher in launchers:
        launcher.kill()
        launcher.communicate()


def kill(process):
    process.kill()
    process.wait()


def start_keeper(launcher):
    """Let the launcher start the keeper; the pid of its first process."""
    launcher.stdin.write("go\n")
    launcher.stdin.flush()
    word, pid = launcher.stdout.readline().split()
    assert word == "started"
    return int(pid)


# --- the launcher


def test_a_launcher_killed_before_it_starts_the_keeper_leaves_the_run_to_the_next(run, launch):
    training = run(["leave", 0])
    launcher = launch(training)
    assert training.is_locked()
    kill(launcher)
    assert not training.is_locked()
    assert training.read(names.KEEPER) is None
    assert training.launch().end()["exit_code"] == 0


def test_a_launcher_killed_after_the_start_leaves_lock_and_training_to_the_keeper(run, launch):
    training = run(["touch", "ready"], ["steps", 100_000, 0.01])
    launcher = launch(training)
    start_keeper(launcher)
    assert launcher.stdout.readline() == f"returned {keeper.STARTED}\n"
    training.wait_for_file("ready")
    kill(launcher)
    assert training.is_locked()
    records.request_stop(training.path, "cancel", "ada")
    assert training.end()["reason"] == "cancel"


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        *(("launcher", moment) for moment in NOT_TAKEN + TAKEN),
        *(("first process", moment) for moment in NOT_TAKEN),
    ],
)
def test_killed_during_the_start_a_run_is_started_once_or_not_at_all(
    run, launch, hold, victim, moment
):
    """Whatever the moment: once the lock is free, the run has ended with its whole output, or can
    be started."""
    held = hold(moment)
    training = run(["say", "once"])
    launcher = launch(training)
    first_process = start_keeper(launcher)
    held.wait()
    if victim == "first process":
        os.kill(first_process, signal.SIGKILL)
        assert launcher.stdout.readline() == f"returned {-signal.SIGKILL}\n"
    kill(launcher)
    held.release()
    wait_for(lambda: not training.is_locked(), "the lock")
    if training.read(names.KEEPER) is None:
        assert (victim, moment) == ("first process", "os.fork 1")
        training.launch()
    assert training.end()["exit_code"] == 0
    assert (training.path / "stdout.log").read_text() == "once\n"


# --- the keeper


def test_a_killed_keeper_takes_the_trainer_with_it_and_frees_the_lock(run):
    training = run(["touch", "ready"], ["sleep", 600]).launch()
    training.wait_for_file("ready")
    keeper_pid, trainer = training.keeper_pid(), training.wait_for_trainer()
    os.kill(keeper_pid, signal.SIGKILL)
    wait_for(lambda: not same_process(trainer["pid"], trainer["start_time"]), "the trainer's death")
    wait_for(lambda: not training.is_locked(), "the lock")
    assert training.read(names.EXIT) is None

    assert leftovers.kill_leftovers(training.path, training.run_id) == []
    record = records.write_lost_exit(training.path, training.run_id, "The keeper was killed.")
    assert training.read(names.EXIT) == record
    assert (record["reason"], record["message"]) == ("lost", "The keeper was killed.")
    assert record["started_at"] == training.read(names.KEEPER)["started_at"]
    training.end()


def test_a_keeper_killed_while_stopped_frees_the_lock_as_well(run):
    training = run(["touch", "ready"], ["sleep", 600]).launch()
    training.wait_for_file("ready")
    os.kill(training.keeper_pid(), signal.SIGSTOP)
    assert training.is_locked()
    os.kill(training.keeper_pid(), signal.SIGKILL)
    wait_for(lambda: not training.is_locked(), "the lock")
    wait_for(lambda: processes_of_run(training.run_id) == [], "the trainer's death")


def test_grandchildren_of_a_killed_keeper_are_found_by_their_environment(run):
    """They outlive the trainer; a session of their own does not hide them, nor do they hold the
    lock."""
    training = run(
        ["child", "first", 600, "session", "stubborn"],
        ["child", "second", 600],
        ["touch", "ready"],
        ["sleep", 600],
    ).launch()
    training.wait_for_file("ready")
    grandchildren = {int((training.path / name).read_text()) for name in ("first", "second")}
    os.kill(training.keeper_pid(), signal.SIGKILL)
    wait_for(lambda: not training.is_locked(), "the lock")
    trainer = training.wait_for_trainer()
    wait_for(lambda: not same_process(trainer["pid"], trainer["start_time"]), "the trainer's death")
    assert {process.pid for process in processes_of_run(training.run_id)} == grandchildren
    assert set(leftovers.kill_leftovers(training.path, training.run_id)) == grandchildren
    assert [pid for pid in grandchildren if process_start_time(pid)] == []
    assert leftovers.kill_leftovers(training.path, training.run_id) == []
    records.write_lost_exit(training.path, training.run_id, "The keeper was killed.")
    assert training.end()["reason"] == "lost"


@pytest.mark.parametrize(
    ("moment", "taken"),
    [("os.fork 2", False), ("os.link keeper.json", False), ("os.remove 2", True)],
)
def test_a_keeper_killed_before_its_word_is_told_to_the_launcher(run, hold, moment, taken):
    """Either it had written keeper.json, and the run is the reconciler's, or the run can be
    launched again."""
    held = hold(moment)
    training = run(["say", "once"])
    lock = training.lock()
    process = subprocess.Popen(
        keeper.command(training.path, lock),
        pass_fds=[lock],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(lock)

    os.kill(held.wait(), signal.SIGKILL)
    _, sentence = process.communicate()
    held.release()

    assert process.returncode == keeper.KILLED
    assert "killed before it could tell" in sentence
    wait_for(lambda: not training.is_locked(), "the lock")
    assert (training.read(names.KEEPER) is not None) is taken
    if taken:
        assert training.read(names.EXIT) is None
        leftovers.kill_leftovers(training.path, training.run_id)
        assert (
            records.write_lost_exit(training.path, training.run_id, "Killed.")["reason"] == "lost"
        )
    else:
        assert training.launch().end()["exit_code"] == 0


def test_in_a_container_numbers_mean_nothing_outside_and_the_lock_tells(run):
    """A namespace of processes of its own: keeper.json has numbers of the inside, which are
    nobody's or a stranger's outside."""
    training = run(["touch", "ready"], ["sleep", 600])
    lock = training.lock()
    keep = keeper.command(training.path, lock, flags=training.flags)
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    apart += [] if os.geteuid() == 0 else ["--map-root-user"]
    first = [sys.executable, "-I", "-S", "-c", FIRST_OF_CONTAINER, str(lock)]
    pipe = subprocess.PIPE
    try:
        container = subprocess.Popen(
            [*apart, *first, *keep],
            pass_fds=[lock],
            env=ENVIRONMENT,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("no `unshare` (util-linux) here")
    finally:
        os.close(lock)
    try:
        assert container.stdout is not None and container.stderr is not None
        code = container.stdout.readline().strip()
        if not code:
            pytest.skip(
                f"this machine does not let us make a namespace: {container.stderr.read().strip()}"
            )
        assert int(code) == keeper.STARTED
        training.wait_for_file("ready")
        record = training.read(names.KEEPER)
        assert not same_process(record["keeper"]["pid"], record["keeper"]["start_time"])
        assert not same_process(record["trainer"]["pid"], record["trainer"]["start_time"])
        assert len(processes_of_run(training.run_id)) >= 1
        assert training.is_locked()
    finally:
        container.kill()
        container.communicate()
    wait_for(lambda: not training.is_locked(), "the lock")
    leftovers.kill_leftovers(training.path, training.run_id)
    assert processes_of_run(training.run_id) == []
    assert records.write_lost_exit(training.path, training.run_id, "Killed.")["reason"] == "lost"


@pytest.mark.parametrize("moment", TAKEN)
def test_a_keeper_killed_at_its_start_never_leaves_an_unrecorded_training(run, hold, moment):
    """From keeper.json on, at every moment: no trainer has run, or it was recorded; and none is
    left running."""
    held = hold(moment)
    training = run(["touch", "ran"], ["sleep", 600])
    lock = training.lock()
    process = subprocess.Popen(
        keeper.command(training.path, lock), pass_fds=[lock], env=ENVIRONMENT
    )
    os.close(lock)
    waiting = held.wait()
    pid = training.keeper_pid()
    # there the trainer waits, in front of its command
    assert (waiting == pid) is (moment != "os.exec 1")
    os.kill(pid, signal.SIGKILL)
    process.wait()
    held.release()
    wait_for(lambda: read_process(pid) is None, "the keeper's death")
    wait_for(lambda: processes_of_run(training.run_id) == [], "the trainer's death")
    wait_for(lambda: not training.is_locked(), "the lock")
    assert not (training.path / "ran").exists()
    recorded = training.read(names.KEEPER)["trainer"]
    assert (recorded is not None) is (moment == "os.exec 1")
    if recorded:
        assert recorded["pid"] == waiting
    records.write_lost_exit(training.path, training.run_id, "The keeper was killed.")
    training.end()
