"""Stopping: the ladder rung by rung, the deadline, who wins a race, and that nothing stays
behind."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from runs.runfolder import names, records
from runs.runfolder.processes import process_start_time, read_process, same_process
from runs.tests.launching import BEFORE_THE_COMMAND, LaunchedRun, launched_runs, wait_for

DEADLINE = 0.5  # seconds of the training; a test sleeps so long where it has to have passed


@pytest.fixture
def run(tmp_path):
    yield from launched_runs(tmp_path)


def pid_in(training, name):
    return int(training.wait_for_file(name).read_text())


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# --- the ladder


def test_a_cooperative_trainer_stops_by_itself_and_saves(run):
    training = run(["touch", "runs"], ["steps", 100_000, 0.01]).launch()
    training.wait_for_file("metrics.jsonl")
    assert records.request_stop(training.path, "cancel", "ada") is True
    assert records.request_stop(training.path, "timeout", "bob") is False
    record = training.end()
    assert (record["reason"], record["exit_code"], record["signal"]) == ("cancel", 17, None)
    assert record["message"] == "Cancelled by ada; the training stopped by itself (exit code 17)."
    assert (training.path / "saved").exists()


def test_one_that_does_not_look_gets_sigterm_and_time_to_save(run):
    """The grace is the group's: a shell that dies at once on SIGTERM does not cost its child the
    saving, nor a second SIGTERM."""
    script = LaunchedRun.trainer(["save_on_term", 0.5])
    training = run(
        argv=["sh", "-c", 'trap "exit 143" TERM; "$@" & wait', "sh", *script],
        stop_wait=0.05,
        term_grace=20.0,
    )
    training.launch()
    training.wait_for_file("ready")
    records.request_stop(training.path, "cancel", "ada")
    record = training.end()
    assert (record["reason"], record["exit_code"]) == ("cancel", 143)
    assert record["message"] == "Cancelled by ada; the training stopped on SIGTERM (exit code 143)."
    assert (training.path / "saved").exists()
    assert not (training.path / "spoiled").exists()


def test_the_command_of_a_dry_run_is_a_check(run):
    script = 'trap "exit 143" TERM; touch ready; while :; do sleep 0.05; done'
    training = run(argv=["sh", "-c", script, "validate"], stop_wait=0.0, term_grace=20.0).launch()
    training.wait_for_file("ready")
    records.request_stop(training.path, "cancel", "ada")
    assert (
        training.end()["message"]
        == "Cancelled by ada; the check stopped on SIGTERM (exit code 143)."
    )


def test_one_that_ignores_sigterm_is_killed(run):
    training = run(
        ["ignore", "SIGTERM"], ["touch", "ready"], ["sleep", 600], stop_wait=0.05, term_grace=0.2
    ).launch()
    training.wait_for_file("ready")
    records.request_stop(training.path, "cancel", "ada")
    record = training.end()
    assert (record["reason"], record["exit_code"], record["signal"]) == ("cancel", None, 9)
    words = "the training ignored SIGTERM for 0.2 seconds and was killed (signal 9 (SIGKILL))"
    assert record["message"] == f"Cancelled by ada; {words}."


def test_a_stubborn_child_of_a_saving_trainer_is_killed_after_the_grace(run):
    script = (["ignore", "SIGTERM"], ["child", "child", 600, "stubborn"], ["save_on_term", 0.0])
    training = run(*script, stop_wait=0.0, term_grace=3.0).launch()
    training.wait_for_file("ready")
    child = pid_in(training, "child")
    records.request_stop(training.path, "cancel", "ada")
    record = training.end()
    assert (record["reason"], record["exit_code"]) == ("cancel", 17)
    assert process_start_time(child) is None


def test_a_trainer_that_stopped_itself_can_still_be_cancelled(run):
    training = run(["stop_self"], ["sleep", 600], stop_wait=0.05).launch()
    pid = training.wait_for_trainer()["pid"]
    wait_for(lambda: state(pid) == "T", "the trainer's own SIGSTOP")
    records.request_stop(training.path, "cancel", "ada")
    record = training.end()
    assert (record["reason"], record["signal"]) == ("cancel", signal.SIGTERM)


def test_exit_0_is_completed_even_if_a_stop_was_asked_for(run):
    training = run(["touch", "ready"], ["wait", "go", False], ["leave", 0]).launch()
    training.wait_for_file("ready")
    records.request_stop(training.path, "cancel", "ada")
    (training.path / "go").touch()
    record = training.end()
    assert (record["reason"], record["exit_code"]) == ("exit", 0)
    assert (
        record["message"] == "The training command completed. The request to stop it came too late."
    )
    assert training.read(names.STOP) is None


def test_a_stop_that_was_asked_before_the_start_starts_nothing(run):
    training = run(["touch", "started"])
    records.request_stop(training.path, "cancel", "ada")
    record = training.launch().end()
    assert (record["reason"], record["exit_code"], record["started_at"]) == ("cancel", None, None)
    assert record["message"] == "Cancelled by ada before the training started."
    assert not (training.path / "started").exists()


@pytest.mark.parametrize("content", ["", "{half", '["cancel"]', '{"reason": "whim"}', "link"])
def test_a_stop_file_made_by_hand_is_a_cancel(run, content):
    training = run(["touch", "ready"], ["sleep", 600], stop_wait=0.0).launch()
    training.wait_for_file("ready")
    if content == "link":
        (training.path / "stop.json").symlink_to("/nowhere")
    else:
        (training.path / "stop.json").write_text(content)
    record = training.end()
    assert (record["reason"], record["signal"]) == ("cancel", signal.SIGTERM)
    assert "someone on the host" in record["message"]


# --- the deadline


def test_the_deadline_is_a_stop_request_of_the_keeper(run):
    training = run(["steps", 100_000, 0.01], deadline=0.4).launch()
    record = training.end()
    assert (record["reason"], record["exit_code"]) == ("timeout", 17)
    assert (
        record["message"]
        == "Stopped at its time limit of 0.4 seconds; the training stopped by itself (exit code"
        " 17)."
    )
    assert record["duration_seconds"] >= 0.4  # by the keeper's own clock: never before
    assert training.read(names.STOP)["by"] == "keeper"


def test_one_that_completes_after_its_deadline_is_completed_and_no_stop_is_left(run):
    record = (
        training := run(["wait", "stop.json", False], ["leave", 0], deadline=0.2).launch()
    ).end()
    assert (record["reason"], record["exit_code"]) == ("exit", 0)
    assert record["duration_seconds"] >= 0.2
    assert training.read(names.STOP) is None


def test_a_limit_of_the_server_is_a_timeout_too(run):
    training = run(["steps", 100_000, 0.01]).launch()
    training.wait_for_file("metrics.jsonl")
    records.request_stop(training.path, "timeout", "server")
    record = training.end()
    assert record["reason"] == "timeout"
    assert (
        record["message"]
        == "Stopped at its time limit; the training stopped by itself (exit code 17)."
    )


@pytest.mark.parametrize("late", [False, True])
def test_a_cancel_that_came_before_the_deadline_counts(run, hold, late):
    """Whether the deadline passes on the way down the ladder, or has passed when the keeper first
    looks."""
    held = hold(BEFORE_THE_COMMAND)
    script = (["ignore", "SIGTERM"], ["touch", "ready"], ["sleep", 600])
    training = run(*script, deadline=DEADLINE, stop_wait=0.5, term_grace=2 * DEADLINE).launch()
    held.wait()
    records.request_stop(training.path, "cancel", "ada")
    if late:
        time.sleep(DEADLINE)
    held.keep_waiting(training.path, "ready")
    record = training.end()
    assert record["duration_seconds"] > DEADLINE
    assert record["reason"] == "cancel"
    assert training.read(names.STOP)["by"] == "ada"


def test_a_keeper_that_was_stopped_past_the_deadline_acts_when_it_goes_on(run, hold):
    held = hold(BEFORE_THE_COMMAND)
    training = run(["touch", "ready"], ["sleep", 600], deadline=DEADLINE, stop_wait=0.0).launch()
    keeper = held.stop_keeper(training.path)
    training.wait_for_file("ready")
    time.sleep(DEADLINE)
    trainer = training.wait_for_trainer()
    assert same_process(trainer["pid"], trainer["start_time"])
    assert training.is_locked()
    os.kill(keeper, signal.SIGCONT)
    record = training.end()
    assert (record["reason"], record["signal"]) == ("timeout", signal.SIGTERM)
    assert record["duration_seconds"] >= DEADLINE


def test_a_training_that_completed_while_its_keeper_was_stopped_is_completed(run, hold):
    held = hold(BEFORE_THE_COMMAND)
    training = run(["leave", 0], deadline=DEADLINE, stop_wait=0.0).launch()
    keeper = held.stop_keeper(training.path)
    pid = training.wait_for_trainer()["pid"]
    wait_for(lambda: state(pid) == "Z", "the trainer's end")
    time.sleep(DEADLINE)
    assert training.read(names.EXIT) is None
    os.kill(keeper, signal.SIGCONT)
    record = training.end()
    assert (record["reason"], record["exit_code"]) == ("exit", 0)


# --- the host


def test_sigterm_to_the_keeper_lets_the_trainer_save_and_is_nobodys_cancel(run):
    training = run(["save_on_term", 0.2]).launch()
    training.wait_for_file("ready")
    os.kill(training.keeper_pid(), signal.SIGTERM)
    record = training.end()
    assert (record["reason"], record["exit_code"]) == ("host stopped", 17)
    assert record["message"].startswith("Host stopped: its keeper got SIGTERM")
    assert (training.path / "saved").exists()
    assert training.read(names.STOP) is None


def test_a_shutdown_that_reaches_trainer_and_keeper_alike_is_the_hosts(run):
    training = run(["touch", "ready"], ["sleep", 600]).launch()
    training.wait_for_file("ready")
    keeper, trainer = training.keeper_pid(), training.wait_for_trainer()["pid"]
    os.kill(keeper, signal.SIGSTOP)  # so that both are pending, in the worst order
    os.kill(trainer, signal.SIGTERM)
    os.kill(keeper, signal.SIGTERM)
    os.kill(keeper, signal.SIGCONT)
    assert training.end()["reason"] == "host stopped"


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE"])
def test_other_signals_do_not_touch_the_keeper(run, name):
    training = run(["touch", "ready"], ["wait", "go"], ["leave", 5]).launch()
    training.wait_for_file("ready")
    os.kill(training.keeper_pid(), getattr(signal, name))
    (training.path / "go").touch()
    assert training.end()["exit_code"] == 5


# --- nothing stays behind


@pytest.mark.parametrize(
    "options",
    [[], ["session"], ["stubborn"], ["session", "stubborn"], ["nameless", "session"]],
    ids="-".join,
)
def test_no_child_stays_after_a_normal_end(run, options):
    training = run(["child", "child", 600, *options], ["leave", 0], term_grace=0.3).launch()
    child = pid_in(training, "child")
    record = training.end()
    assert (record["reason"], record["exit_code"]) == ("exit", 0)
    assert record["message"].endswith("Processes it had left behind were ended: 1.")
    assert process_start_time(child) is None


def test_a_helper_that_ends_by_itself_is_left_to_it(run, hold):
    """The keeper sleeps until the helper has followed the trainer: a helper that is slow would get
    a SIGTERM, rightly."""
    held = hold(BEFORE_THE_COMMAND)
    training = run(["child", "child", 600, "brief", "talks"], ["leave", 0]).launch()
    keeper = held.stop_keeper(training.path)
    child = pid_in(training, "child")
    wait_for(lambda: state(child) == "Z", "the helper's end")
    os.kill(keeper, signal.SIGCONT)
    record = training.end()
    assert record["message"] == "The training command completed."
    assert (training.path / "stderr.log").read_text() == ""


def test_a_trainer_that_forks_away_has_ended_and_its_output_is_kept(run):
    training = run(["fork_away", 600]).launch()
    record = training.end()
    assert (record["reason"], record["exit_code"]) == ("exit", 0)
    assert process_start_time(pid_in(training, "forked")) is None

    training = run(
        ["child", "child", 600, "session", "talks"], ["say", "from the trainer"], ["leave", 0]
    ).launch()
    training.end()
    assert (training.path / "stdout.log").read_text() == "from the trainer\n"
    assert (training.path / "stderr.log").read_text() == "the child got SIGTERM\n"


def test_a_grandchild_with_a_session_of_its_own_goes_with_a_cancelled_trainer(run):
    training = run(
        ["child", "child", 600, "session", "nameless"],
        ["touch", "ready"],
        ["sleep", 600],
        stop_wait=0.0,
    ).launch()
    training.wait_for_file("ready")
    records.request_stop(training.path, "cancel", "ada")
    assert training.end()["reason"] == "cancel"
    assert process_start_time(pid_in(training, "child")) is None


def test_a_removed_folder_ends_the_training(run):
    training = run(["ignore", "SIGTERM"], ["touch", "ready"], ["sleep", 600]).launch()
    training.wait_for_file("ready")
    keeper, trainer = training.keeper_pid(), training.wait_for_trainer()["pid"]
    shutil.rmtree(training.path)
    wait_for(
        lambda: read_process(trainer) is None and read_process(keeper) is None, "the end of both"
    )
    assert not training.path.exists()
