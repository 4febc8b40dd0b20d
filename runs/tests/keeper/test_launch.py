"""The keeper from launch to a normal end: who owns the run, what the trainer is given, and how an
end is told."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runs.keeper import program as keeper
from runs.keeper.messages import failure_words, oom_kills
from runs.keeper.supervisor import POLL_SECONDS, Command, Supervisor
from runs.runfolder import files, names, records
from runs.runfolder.processes import same_process
from runs.tests.launching import ENVIRONMENT, FLAGS, launched_runs, wait_for
from runs.tests.programs import ROOT


@pytest.fixture
def run(tmp_path):
    yield from launched_runs(tmp_path)


# --- taking the run


def test_the_launcher_hears_of_the_owner_at_once_and_the_run_goes_on(run):
    training = run(["steps", 100_000, 0.01]).launch()
    keeper_file = training.read(names.KEEPER)
    assert keeper_file["run_id"] == training.run_id
    assert keeper_file["host"] == os.uname().nodename
    assert keeper_file["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert same_process(keeper_file["keeper"]["pid"], keeper_file["keeper"]["start_time"])
    assert training.is_locked()
    assert training.read(names.EXIT) is None


def test_the_trainer_is_recorded_before_its_first_instruction(run):
    training = run(["report", "facts.json"]).launch()
    training.end()
    facts = training.read("facts.json")
    assert facts["keeper"]["trainer"]["pid"] == facts["pid"]
    assert facts["keeper"]["started_at"] == training.read(names.EXIT)["started_at"]


def test_what_the_trainer_is_given(run):
    """A session and group of its own, no descriptor of ours, no signal ignored or blocked, the
    environment and the run's id."""
    training = run(["report", "facts.json"])
    lock = training.lock()
    read_end, write_end = os.pipe()

    def ignore_signals():  # a django-q2 worker ignores SIGINT; others block or ignore more
        for name in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(name, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGINT})

    environment = {**ENVIRONMENT, "HF_HOME": "/somewhere", "TUNIXRT_RUN_ID": "another"}
    result = training.start_with(lock, also=[write_end], env=environment, preexec_fn=ignore_signals)
    assert result.returncode == keeper.STARTED, result.stderr
    for descriptor in (lock, read_end, write_end):
        os.close(descriptor)
    assert training.end()["exit_code"] == 0
    facts = training.read("facts.json")
    assert facts["session"] == facts["group"] == facts["pid"]
    assert facts["parent"] == training.keeper_pid()
    assert facts["cwd"] == str(training.path)
    assert facts["environment"]["HF_HOME"] == "/somewhere"
    assert facts["run_id"] == training.run_id
    assert int(facts["signals"]["SigBlk:"], 16) == 0
    # Python itself ignores two signals in every program; 32 and 33 are the C library's own, which
    # no program can set
    ignored = {
        number
        for number in range(1, 65)
        if int(facts["signals"]["SigIgn:"], 16) >> (number - 1) & 1
    }
    assert ignored - {32, 33} == {signal.SIGPIPE, signal.SIGXFSZ}
    outputs = {
        "0": "/dev/null",
        "1": str(training.path / "stdout.log"),
        "2": str(training.path / "stderr.log"),
    }
    assert {
        number: target for number, target in facts["files"].items() if not target.endswith("/fd")
    } == outputs


def test_a_second_keeper_is_refused_while_the_first_runs_and_after(run):
    training = run(["touch", "runs"], ["steps", 100_000, 0.01]).launch()
    training.wait_for_file("runs")
    before = training.read(names.KEEPER)

    descriptor = os.open(training.path / names.LOCK, os.O_RDWR)  # the right file, but not the lock
    refused = training.start_with(descriptor)
    os.close(descriptor)
    assert refused.returncode == keeper.NOT_LOCKED
    assert "lock is not held" in refused.stderr
    assert training.read(names.KEEPER) == before

    records.request_stop(training.path, "cancel", "somebody")
    training.end()
    refused = training.start()
    assert refused.returncode == keeper.TAKEN
    assert "keeper.json is there already" in refused.stderr
    assert training.read(names.KEEPER) == before


@pytest.mark.parametrize("name", [names.KEEPER, names.EXIT])
def test_a_folder_with_a_history_is_not_run_again(run, name):
    training = run(["touch", "started"])
    files.write_json(training.path / name, {"run_id": "earlier"})
    assert training.start().returncode == keeper.TAKEN
    assert not (training.path / "started").exists()
    assert not [entry for entry in os.listdir(training.path) if entry.startswith(".")]
    (training.path / name).unlink()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (None, "command.json is missing."),
        ({"version": 2}, "version must be 1"),
        ({"argv": []}, "argv must be a list of texts"),
        ({"argv": ["python", 3]}, "argv must be a list of texts"),
        ({"argv": "python"}, "argv must be a list of texts"),
        ({"cwd": None}, "cwd must be a text"),
        ({"run_id": ""}, "run_id must be a text"),
        ({"deadline_seconds": -1}, "deadline_seconds must be a number of seconds"),
        ({"deadline_seconds": True}, "deadline_seconds must be a number of seconds"),
        ({"stop_wait_seconds": None}, "stop_wait_seconds must be a number of seconds"),
        ({"term_grace_seconds": "5"}, "term_grace_seconds must be a number of seconds"),
        ("{half a file", "is not JSON"),
    ],
)
def test_a_command_that_cannot_be_used_starts_nothing(run, change, sentence):
    training = run(["touch", "started"])
    path = training.path / names.COMMAND
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        path.write_text(json.dumps({**training.command, **change}))
    result = training.start()
    assert result.returncode == keeper.BAD_COMMAND
    assert sentence in result.stderr
    assert sorted(os.listdir(training.path)) == sorted(
        {names.LOCK, *([] if change is None else [names.COMMAND])}
    )
    assert not training.is_locked()


@pytest.mark.parametrize("arguments", [[], ["folder"], ["folder", "three"], ["folder", "3", "4"]])
def test_wrong_arguments_are_told(arguments):
    program = keeper.command("x", 3, flags=FLAGS)[:-2]
    result = subprocess.run(
        [*program, *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert result.returncode == keeper.USAGE
    assert "usage" in result.stderr


def test_elsewhere_than_on_linux_it_says_what_to_do(monkeypatch, capfd):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keeper.main(["folder", "3"]) == keeper.USAGE
    assert "Local runs need Linux" in capfd.readouterr().err


def test_a_descriptor_of_another_lock_is_refused(run, tmp_path):
    training = run(["touch", "started"])
    os.close(training.lock())
    other = os.open(tmp_path / "other.lock", os.O_RDWR | os.O_CREAT)
    result = training.start_with(other)
    os.close(other)
    assert result.returncode == keeper.NOT_LOCKED
    assert "not the run's lock" in result.stderr
    assert training.read(names.KEEPER) is None


def test_closed_standard_streams_do_no_harm(run):
    """As a daemon without streams starts it: the lock and our pipes must not end up as the
    trainer's output."""
    training = run(["say", "words"], ["report", "facts.json"])
    lock = training.lock()
    argv = keeper.command(training.path, lock, flags=FLAGS)
    shell = " ".join(f"'{argument}'" for argument in argv)
    result = subprocess.run(
        ["sh", "-c", f"exec {shell} 0<&- 1>&- 2>&-"], pass_fds=[lock], env=ENVIRONMENT, check=False
    )
    os.close(lock)
    assert result.returncode == keeper.STARTED
    assert training.end()["exit_code"] == 0
    assert (training.path / "stdout.log").read_bytes() == b"words\n"
    assert set(training.read("facts.json")["files"]) - {"3"} == {"0", "1", "2"}


# --- how the training ended


@pytest.mark.parametrize(
    ("script", "code", "number", "message"),
    [
        ([], 0, None, "The training command completed."),
        ([["leave", 3]], 3, None, "The training command exited with code 3."),
        (
            [["leave", 127]],
            127,
            None,
            "The training command exited with code 127: a program it calls was not found.",
        ),
        (
            [["leave", 126]],
            126,
            None,
            "The training command exited with code 126: a program it calls cannot be executed.",
        ),
        (
            [["leave", 11, "tunix: data: The dataset is empty."]],
            11,
            None,
            "tunix: data: The dataset is empty.",
        ),
        (
            [["leave", 0, "tunix: note: nothing is wrong."]],
            0,
            None,
            "The training command completed.",
        ),
        (
            [
                ["complain", "tunix: early: old."],
                ["complain", "tunix: model: No weights."],
                ["leave", 12, "noise at exit"],
            ],
            12,
            None,
            "tunix: model: No weights.",
        ),
        (
            [["leave", 137]],
            137,
            None,
            (
                "The training command exited with code 137: what a shell says when the program it"
                " runs is killed by signal 9 (SIGKILL)."
            ),
        ),
        (
            [["kill_self", signal.SIGSEGV]],
            None,
            signal.SIGSEGV,
            "The training command was killed by signal 11 (SIGSEGV); a crash in native code.",
        ),
        (
            [["complain", "tunix: step 3"], ["kill_self", signal.SIGTERM]],
            None,
            signal.SIGTERM,
            "The training command was killed by signal 15 (SIGTERM); another program sent it.",
        ),
        (
            [["kill_self", signal.SIGRTMIN + 6]],
            None,
            signal.SIGRTMIN + 6,
            (
                f"The training command was killed by signal {signal.SIGRTMIN + 6}; another program"
                " sent it."
            ),
        ),
        (
            [["spoil", "stderr.log"], ["leave", 9]],
            9,
            None,
            "The training command exited with code 9.",
        ),
    ],
)
def test_the_end_is_told(run, script, code, number, message):
    training = run(["say", "to stdout"], *script).launch()
    record = training.end()
    assert record["run_id"] == training.run_id
    assert (record["exit_code"], record["signal"], record["reason"], record["message"]) == (
        code,
        number,
        "exit",
        message,
    )
    assert record["host"] == os.uname().nodename
    assert record["started_at"] == training.read(names.KEEPER)["started_at"]
    assert record["ended_at"]
    assert record["duration_seconds"] > 0
    assert (training.path / "stdout.log").read_bytes() == b"to stdout\n"


def test_sigkill_from_outside_names_the_two_usual_causes(run):
    training = run(["touch", "runs"], ["sleep", 600]).launch()
    training.wait_for_file("runs")
    os.kill(training.wait_for_trainer()["pid"], signal.SIGKILL)
    record = training.end()
    assert (record["reason"], record["exit_code"], record["signal"]) == ("exit", None, 9)
    assert "signal 9 (SIGKILL)" in record["message"]
    assert "memory" in record["message"]


def test_sigkill_while_the_kernel_was_killing_for_memory_says_so():
    assert oom_kills() >= 0
    with open(os.devnull, "rb") as stderr:
        words = failure_words(-signal.SIGKILL, stderr.fileno(), oom_kills() - 1)
    assert "the kernel ran out of memory meanwhile" in words


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["no-such-program"], "no-such-program: was not found"),
        (["/"], "/: may not be executed"),
        (["./script"], "./script: may not be executed"),
        (["nul\0byte"], "embedded null"),
        (["./broken"], "Exec format error"),
        (["./lost"], "or the interpreter that its first line names"),
    ],
)
def test_a_command_that_cannot_be_executed(run, argv, sentence):
    training = run(argv=argv)
    (training.path / "script").write_text("#!/bin/sh\n")
    for name, content in (("broken", b"\x7fELF nonsense"), ("lost", b"#!/no/such/interpreter\n")):
        (training.path / name).write_bytes(content)
        (training.path / name).chmod(0o755)
    training.launch()
    record = training.end()
    assert record["reason"] == "start_failed"
    assert sentence in record["message"]
    assert (
        record["exit_code"],
        record["signal"],
        record["started_at"],
        record["duration_seconds"],
    ) == (None, None, None, None)


def test_a_working_folder_that_is_missing(run, tmp_path):
    training = run(["touch", "started"], cwd=tmp_path / "nowhere").launch()
    record = training.end()
    assert record["reason"] == "start_failed"
    assert "working folder" in record["message"]


def test_output_is_never_written_through_a_link(run, tmp_path):
    training = run(["say", "words"])
    (tmp_path / "precious").write_text("kept")
    (training.path / "stdout.log").symlink_to(tmp_path / "precious")
    record = training.launch().end()
    assert record["reason"] == "start_failed"
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_keeper_that_runs_out_of_descriptors_still_tells_the_end(run):
    """A fault of the keeper: the trainer's end is known, and written as soon as that is possible.
    Nothing is imported late: the Python that started a long training may have been replaced by
    then."""
    training = run(["touch", "ready"], ["wait", "go"], ["leave", 3]).launch()
    training.wait_for_file("ready")
    pid, trainer = training.keeper_pid(), training.wait_for_trainer()
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 4096))
    (training.path / "go").touch()
    wait_for(lambda: not os.path.exists(f"/proc/{trainer['pid']}"), "the trainer's end")
    assert training.read(names.EXIT) is None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, 4096))
    assert limits[0] > 3
    assert training.end()["exit_code"] == 3


# --- output


def test_much_output_is_kept_byte_for_byte(run):
    training = run(["write", 1, "00ff80f09f98"], ["flood", 50], ["write", 1, "e282"]).launch()
    record = training.end()
    assert record["exit_code"] == 0
    data = (training.path / "stdout.log").read_bytes()
    assert len(data) == 6 + 50 * 2**20 + 2
    assert data[:6] == b"\x00\xff\x80\xf0\x9f\x98"
    assert data[-2:] == b"\xe2\x82"
    assert len(files.read_tail(training.path / "stdout.log").encode()) <= 10_240


def test_a_trainer_that_closes_its_output_is_waited_for(run):
    training = run(["say", "before"], ["close_output"], ["sleep", 0.3], ["leave", 4]).launch()
    record = training.end()
    assert record["exit_code"] == 4
    assert record["duration_seconds"] >= 0.3


# --- what a keeper costs


def test_a_keeper_costs_at_most_12_megabytes(run):
    """Measured with the flags of production, while the trainer runs: resident memory, shared pages
    counted in full."""
    training = run(["touch", "runs"], ["sleep", 600], flags=keeper.FLAGS).launch()
    training.wait_for_file("runs")
    rollup = Path(f"/proc/{training.keeper_pid()}/smaps_rollup").read_text()
    size = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    assert size["Rss:"] <= 12 * 1024, rollup
    assert size["Pss:"] <= 12 * 1024, rollup


WAITING = """
import json, os, pathlib, signal, sys
sys.path.append(sys.argv[1])
from runs.keeper import supervisor
rests, read = [], []

def rest(signals, seconds):
    rests.append(seconds)
    read.append(int(pathlib.Path("/proc/self/io").read_text().split()[1]))
    if len(rests) == 20:
        raise KeyboardInterrupt

signal.sigtimedwait = rest
keeper = supervisor.Supervisor(sys.argv[2], -1, supervisor.Command(sys.argv[2]), os.getpid())
try:
    keeper._wait()
except KeyboardInterrupt:
    print(json.dumps({"rests": rests, "read": read[-1] - read[0]}))
"""


def test_a_waiting_keeper_rests_between_two_looks_and_reads_nothing(run):
    """So it uses next to no processor. Its rests, the calls of the system, are counted."""
    command = [sys.executable, "-I", "-c", WAITING, str(ROOT), str(run(["sleep", 600]).path)]
    waited = json.loads(subprocess.check_output(command, text=True))

    assert waited["rests"] == [POLL_SECONDS] * 20
    assert POLL_SECONDS >= 0.1
    assert waited["read"] < 20 * 150  # what the test itself read to know it


def test_the_duration_is_that_of_the_training_by_a_clock_that_only_goes_on(run):
    training = run(["sleep", 600])
    keeper = Supervisor(str(training.path), -1, Command(str(training.path)), os.getpid())
    assert keeper._record("start_failed", "m")["duration_seconds"] is None

    keeper.started_at, keeper.started = files.timestamp(), 1000.0
    keeper.ended, keeper.status = 1007.2500004, 0

    assert keeper._record("exit", "m")["duration_seconds"] == 7.25


def test_the_command_names_this_interpreter_and_file(tmp_path):
    argv = keeper.command(tmp_path, 7)
    assert argv[0] == sys.executable
    assert argv[1:3] == ["-I", "-S"]
    assert argv[-3:] == [keeper.__file__, str(tmp_path), "7"]


def test_the_keeper_imports_nothing_of_the_server(run):
    """Nor anything heavy: what it imports it carries for days."""
    program = (
        "import sys; sys.path.append(sys.argv[1]); import runs.keeper.program; print(*sys.modules)"
    )
    root = str(Path(keeper.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, *keeper.FLAGS, "-c", program, root],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(result.stdout.split())
    ours = {name for name in modules if name.startswith(("runs", "datasets", "tunixrt"))}
    assert ours == {
        "runs",
        *("runs.keeper", "runs.keeper.program", "runs.keeper.supervisor", "runs.keeper.messages"),
        *("runs.runfolder", "runs.runfolder.files", "runs.runfolder.names"),
        *("runs.runfolder.processes", "runs.runfolder.records"),
    }
    assert not modules & {
        "django",
        "typing",
        "pathlib",
        "subprocess",
        "asyncio",
        "threading",
        "logging",
        "datetime",
        "tempfile",
    }


def test_the_first_process_leaves_no_zombie_and_reports_only_after_keeper_json(run):
    training = run(["sleep", 600])
    lock = training.lock()
    process = subprocess.Popen(
        keeper.command(training.path, lock, flags=FLAGS),
        pass_fds=[lock],
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: process.poll() is not None, "the first process")
    os.close(lock)
    assert process.returncode == keeper.STARTED
    assert training.read(names.KEEPER) is not None
    # init, or whoever adopts orphans here, is the keeper's parent; never the launcher
    assert (
        f"PPid:\t{os.getpid()}\n" not in Path(f"/proc/{training.keeper_pid()}/status").read_text()
    )
