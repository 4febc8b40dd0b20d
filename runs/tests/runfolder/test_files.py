"""The run folder: files that are whole or not there, the lock, the end of the output, and what is
left of a run."""

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runs.runfolder import files, leftovers, records
from runs.runfolder.processes import (
    boot_id,
    descendants,
    process_start_time,
    processes_of_run,
    read_process,
    same_process,
)
from runs.tests.launching import PATIENCE, bytes_read, wait_for

# --- text and time


def test_timestamps_are_utc_with_microseconds():
    assert files.timestamp(0) == "1970-01-01T00:00:00.000000Z"
    assert files.timestamp(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", files.timestamp())


def test_clean_text_is_what_a_database_takes():
    assert files.clean_text("a\0b\ud800c\udfffd é 😀") == "a\ufffdb\ufffdc\ufffdd é 😀"


TEXTS = {
    "ascii": b"line of output\n" * 900,
    "two bytes": "é".encode() * 6000,
    "three bytes": "€".encode() * 5000,
    "four bytes": "😀".encode() * 3000,
    "mixed": "aé€😀\n".encode() * 1500,
    "nul": b"\0" * 11000,
    "invalid": b"\xff\xfe\x80" * 4000,
    "continuation bytes only": b"\x80" * 11000,
    "half at the end": "€".encode() * 4000 + b"\xe2\x82",
    "surrogates": b"\xed\xa0\x80" * 4000,
    "over-long": b"\xc0\x80" * 6000,
    "random": random.Random(1).randbytes(15000),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_tail_is_valid_and_within_its_limit_wherever_it_is_cut(tmp_path, name):
    path = tmp_path / "stdout.log"
    data = TEXTS[name]
    for length in [*range(40), *range(10_230, 10_260), len(data)]:
        path.write_bytes(data[:length])
        for limit in (10_240, 7, 3, 1) if length < 40 else (10_240,):
            tail = files.read_tail(path, limit)
            encoded = tail.encode()  # fails on a lone surrogate
            assert len(encoded) <= limit
            assert "\0" not in tail
            whole = data[:length].decode("utf-8", "replace").replace("\0", "\ufffd")
            if len(whole.encode()) <= limit and length <= limit:
                assert tail == whole
            else:
                kept = re.sub(r"\A\[earlier output cut; all of it is in stdout\.log\]\n", "", tail)
                assert whole.endswith(kept)
                # as much as fits: at most a notice and the halves of two characters are missing
                assert len(encoded) >= limit - 6


def test_the_tail_of_a_gigabyte_costs_nothing(tmp_path):
    path = tmp_path / "stderr.log"
    with open(path, "wb") as file:
        file.truncate(2**30)
        file.seek(0, os.SEEK_END)
        file.write(b"x" * 10_000 + b"tunix: data: nothing.\n")
    before = bytes_read()
    tail = files.read_tail(path)
    assert bytes_read() - before < 2 * files.OUTPUT_MAX_BYTES
    assert tail.startswith("[earlier output cut; all of it is in stderr.log]\n")
    assert tail.endswith("xtunix: data: nothing.\n")


def test_the_tail_of_nothing_is_empty(tmp_path):
    assert files.read_tail(tmp_path / "stdout.log") == ""
    (tmp_path / "stdout.log").touch()
    assert files.read_tail(tmp_path / "stdout.log") == ""
    (tmp_path / "stdout.log").write_text("words")
    assert files.read_tail(tmp_path / "stdout.log", 0) == ""


# --- files


def hostile(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.with_name("other").write_text('{"a": 1}')
        path.symlink_to(path.with_name("other"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link"])
def test_only_regular_files_are_read_and_reading_never_blocks(tmp_path, kind):
    hostile(tmp_path / "file", kind)
    for read in (files.read_json, files.read_tail, files.open_regular):
        with pytest.raises(files.BrokenFile, match="not a regular file"):
            read(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "too large a number"),
        (b'{"a": ' * 100_000, "not JSON"),
        (b"[1]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'"' + b"x" * files.JSON_MAX_BYTES + b'"', "larger than"),
    ],
)
def test_a_broken_file_says_why(tmp_path, content, reason):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(files.BrokenFile, match=reason):
        files.read_json(tmp_path / "result.json")


def test_json_goes_there_and_back(tmp_path):
    value = {"text": "é\0\ud800", "number": 1.5, "none": None, "list": [1, True]}
    assert files.read_json(tmp_path / "result.json") is None
    files.write_json(tmp_path / "result.json", value)
    assert files.read_json(tmp_path / "result.json") == value
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / "result.json", {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "result.json", {"new": float("nan")})
    assert files.read_json(tmp_path / "result.json") == {"old": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_readers_see_the_old_or_the_new_file_never_half_a_one(tmp_path):
    path = tmp_path / "keeper.json"
    files.write_json(path, {"n": 0, "filler": "x" * 20_000})
    stop = threading.Event()
    problems: list[object] = []

    def read():
        while not stop.is_set():
            try:
                value = files.read_json(path)
            except files.BrokenFile as error:
                problems.append(error)
            else:
                if value is None or len(value["filler"]) != 20_000:
                    problems.append(value)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        files.write_json(path, {"n": number, "filler": "x" * 20_000})
    stop.set()
    reader.join()
    assert problems == []


def test_a_link_in_place_of_a_file_is_replaced_not_followed(tmp_path):
    (tmp_path / "precious").write_text("kept")
    for name in ("exit.json", ".exit.json.reserved"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    files.write_json(tmp_path / "exit.json", {"a": 1})
    assert (tmp_path / "precious").read_text() == "kept"
    assert files.read_json(tmp_path / "exit.json") == {"a": 1}
    assert sorted(os.listdir(tmp_path)) == ["exit.json", "precious"]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_spoilt_reservation_does_not_prevent_the_write(tmp_path, kind):
    hostile(tmp_path / ".exit.json.reserved", kind)
    files.write_json(tmp_path / "exit.json", {"a": 1})
    assert files.read_json(tmp_path / "exit.json") == {"a": 1}


def test_reserving_through_a_link_is_refused(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".exit.json.reserved").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        files.reserve(tmp_path / "exit.json")
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_write_uses_up_its_reservation(tmp_path):
    files.reserve(tmp_path / "exit.json")
    reserved = os.stat(tmp_path / ".exit.json.reserved")
    assert reserved.st_size == files.RESERVED_BYTES
    assert reserved.st_blocks * 512 >= files.RESERVED_BYTES
    files.write_json(tmp_path / "exit.json", {"a": 1})
    assert os.stat(tmp_path / "exit.json").st_ino == reserved.st_ino
    # nothing of the zeros is left
    assert json.loads((tmp_path / "exit.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["exit.json"]


def test_a_file_that_cannot_be_put_in_place_leaves_nothing(tmp_path):
    (tmp_path / "exit.json").mkdir()
    with pytest.raises(OSError, match=r"exit\.json"):
        files.write_json(tmp_path / "exit.json", {"a": 1})
    assert os.listdir(tmp_path) == ["exit.json"]
    with pytest.raises(FileNotFoundError):
        files.write_json(tmp_path / "missing" / "exit.json", {"a": 1})


def test_of_many_who_create_a_file_one_does(tmp_path):
    for round_ in range(5):
        path = tmp_path / f"stop{round_}.json"
        barrier = threading.Barrier(16, timeout=PATIENCE)
        made: list[int] = []

        def create(number, path=path, barrier=barrier, made=made):
            barrier.wait()
            if files.create_json_once(path, {"by": number}):
                made.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert files.read_json(path) == {"by": made[0]}
    assert len(os.listdir(tmp_path)) == 5


@pytest.mark.parametrize("times", range(7))
def test_cleaning_up_at_the_same_moment_does_not_lose_a_stop_request(tmp_path, monkeypatch, times):
    """So often in a row the cleaner comes between writing and linking: five times are an error,
    never a silent loss."""
    link, cleaned = os.link, []

    def link_behind_the_cleaner(*arguments, **options):
        if len(cleaned) < times:
            files.remove_temporary_files(tmp_path)
            cleaned.append(True)
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", link_behind_the_cleaner)
    if times < 5:
        assert records.request_stop(tmp_path, "cancel", "ada") is True
        assert (files.read_json(tmp_path / "stop.json") or {})["by"] == "ada"
    else:
        with pytest.raises(FileNotFoundError):
            records.request_stop(tmp_path, "cancel", "ada")
    assert len(cleaned) == min(times, 5)


def test_cleaning_up_removes_our_leftovers_only(tmp_path):
    ours = [".exit.json.0123abcd", ".stop.json.reserved", ".result.json.ffffffff"]
    others = [
        ".exit.json.reserved",
        ".hidden",
        ".exit.json.bak",
        "exit.json.0123abcd",
        "stdout.log",
        ".env.0123abcd",
    ]
    for name in (*ours, *others):
        (tmp_path / name).touch()
    files.remove_temporary_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


# --- the lock


def test_the_lock_has_one_holder_and_is_free_when_the_last_descriptor_is_closed(tmp_path):
    first = files.try_lock(tmp_path / "lock")
    assert first is not None
    assert files.try_lock(tmp_path / "lock") is None
    copy = os.dup(first)
    os.close(first)
    assert files.try_lock(tmp_path / "lock") is None
    os.close(copy)
    again = files.try_lock(tmp_path / "lock")
    assert again is not None
    assert os.get_inheritable(again) is False
    os.close(again)


def test_the_lock_is_not_taken_through_a_link(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        files.try_lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_no_lock_without_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.try_lock(tmp_path / "missing" / "lock")


@pytest.mark.parametrize("made_again", [False, True])
def test_a_lock_on_a_removed_file_is_no_lock(tmp_path, monkeypatch, made_again):
    """The folder may be purged between open and flock: whoever gets a lock has it on the file that
    is there."""
    path = tmp_path / "lock"
    flock = fcntl.flock

    def flock_behind_a_purge(descriptor, operation):
        path.unlink()
        if made_again:
            path.touch()
        flock(descriptor, operation)

    with monkeypatch.context() as purging:
        purging.setattr(fcntl, "flock", flock_behind_a_purge)
        assert files.try_lock(path) is None
    lock = files.try_lock(path)
    assert lock is not None
    os.close(lock)


# --- what is written


def test_a_stop_request_is_made_once(tmp_path):
    assert records.request_stop(tmp_path, "cancel", "ada\0") is True
    assert records.request_stop(tmp_path, "timeout", "bob") is False
    request = files.read_json(tmp_path / "stop.json")
    assert request is not None
    assert (request["reason"], request["by"]) == ("cancel", "ada\ufffd")
    assert request["at"].endswith("Z")
    with pytest.raises(ValueError, match="reason must be one of cancel, timeout"):
        records.request_stop(tmp_path, "whim", "ada")


def test_a_lost_end_never_replaces_a_real_one(tmp_path):
    real = records.exit_record(run_id="r", reason="exit", message="Done.", exit_code=0)
    files.write_json(tmp_path / "exit.json", real)
    assert records.write_lost_exit(tmp_path, "r", "The keeper is gone.") == real
    assert files.read_json(tmp_path / "exit.json") == real


def test_a_lost_end_knows_host_and_start_from_the_keeper_and_cleans_up(tmp_path):
    files.write_json(
        tmp_path / "keeper.json", {"host": "gpu-1", "started_at": "2025-01-01T00:00:00.000000Z"}
    )
    for name in ("exit.json", "stop.json"):
        files.reserve(tmp_path / name)
    record = records.write_lost_exit(tmp_path, "r", "The host was restarted.")
    assert (record["host"], record["started_at"]) == ("gpu-1", "2025-01-01T00:00:00.000000Z")
    assert (
        record["reason"],
        record["exit_code"],
        record["signal"],
        record["duration_seconds"],
    ) == ("lost", None, None, None)
    assert sorted(os.listdir(tmp_path)) == ["exit.json", "keeper.json"]


def test_a_lost_end_is_written_whatever_keeper_json_holds(tmp_path):
    (tmp_path / "keeper.json").write_text("{half")
    assert records.write_lost_exit(tmp_path, "r", "Gone.")["host"] == os.uname().nodename


# --- processes


@pytest.fixture
def process():
    """Starts processes that are gone after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(argv, **options):
        started.append(subprocess.Popen(argv, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()
        if each.stdout:
            each.stdout.close()


def test_a_process_is_known_by_pid_and_start(process):
    sleeper = process(["sleep", "600"])
    start = process_start_time(sleeper.pid)
    assert start is not None
    assert same_process(sleeper.pid, start)
    assert not same_process(sleeper.pid, start - 1)
    assert not same_process(2**22 + 1, start)


def test_an_unreaped_zombie_is_not_alive(process):
    sleeper = process(["sleep", "600"])
    start = process_start_time(sleeper.pid)
    assert start is not None
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    os.kill(sleeper.pid, 0)  # it answers all the same
    assert not same_process(sleeper.pid, start)
    assert read_process(sleeper.pid) is None


def test_a_process_whose_first_thread_has_ended_is_alive(process):
    program = """if True:
        import ctypes, threading, time
        threading.Thread(target=time.sleep, args=(60,)).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    threaded = process([sys.executable, "-I", "-S", "-c", program])
    stat = Path(f"/proc/{threaded.pid}/stat")
    wait_for(
        lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "the end of the first thread"
    )
    assert read_process(threaded.pid) is not None


def test_a_name_with_spaces_and_parentheses_is_read_right(process, tmp_path):
    program = tmp_path / "a) (b 1"
    program.symlink_to("/bin/sleep")
    sleeper = process([str(program), "60"])
    wait_for(lambda: "a) (b 1" in Path(f"/proc/{sleeper.pid}/stat").read_text(), "exec")
    found = read_process(sleeper.pid)
    assert found is not None
    assert (found.parent, found.group) == (os.getpid(), os.getpgid(0))


def test_descendants_are_found_through_sessions(process):
    shell = process(
        ["sh", "-c", "setsid sh -c 'sleep 60 & echo; wait' & wait"], stdout=subprocess.PIPE
    )
    assert shell.stdout is not None
    shell.stdout.readline()
    found = descendants(shell.pid)
    assert len(found) == 2
    for each in found:
        os.kill(each.pid, signal.SIGKILL)


def test_processes_of_a_run_are_known_by_their_environment(process):
    environment = {"PATH": os.environ["PATH"], "TUNIXRT_RUN_ID": "run-1"}
    ours = process(["sleep", "600"], env=environment, start_new_session=True)
    process(["sleep", "600"], env={**environment, "TUNIXRT_RUN_ID": "run-10"})
    process(["sleep", "600"], env={"PATH": os.environ["PATH"], "OTHER": "TUNIXRT_RUN_ID=run-1"})
    assert [found.pid for found in processes_of_run("run-1")] == [ours.pid]


def recorded(tmp_path, sleeper, **changes):
    identity = {
        "pid": sleeper.pid,
        "start_time": process_start_time(sleeper.pid),
        "pgid": sleeper.pid,
        **changes,
    }
    files.write_json(
        tmp_path / "keeper.json",
        {"boot_id": boot_id(), "keeper": {"pid": 2**22 + 1}, "trainer": identity},
    )


def test_a_recorded_process_that_still_lives_is_killed_with_its_children(process, tmp_path):
    shell = process(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE)
    child = int(shell.stdout.readline())
    recorded(tmp_path, shell)
    assert leftovers.kill_leftovers(tmp_path, "run-1") == sorted([shell.pid, child])
    assert shell.wait() == -signal.SIGKILL
    wait_for(
        lambda: process_start_time(child) is None, "the end of the child, which nobody waits for"
    )


@pytest.mark.parametrize("change", ["start", "boot", "number", "nothing", "broken"])
def test_a_process_that_only_has_the_same_number_is_left_alone(process, tmp_path, change):
    innocent = process(["sleep", "600"])
    start = process_start_time(innocent.pid)
    assert start is not None
    recorded(tmp_path, innocent, **({"start_time": start - 1} if change == "start" else {}))
    content = json.loads((tmp_path / "keeper.json").read_text())
    if change == "boot":
        content["boot_id"] = "another boot"
    elif change == "number":
        content["trainer"]["pid"] = str(innocent.pid)
    elif change == "nothing":
        content["trainer"] = None
    (tmp_path / "keeper.json").write_text("{half" if change == "broken" else json.dumps(content))
    assert leftovers.kill_leftovers(tmp_path, "run-1") == []
    assert same_process(innocent.pid, start)


def test_killing_leftovers_never_means_oneself(tmp_path):
    me = {"pid": os.getpid(), "start_time": process_start_time(os.getpid())}
    files.write_json(
        tmp_path / "keeper.json",
        {"boot_id": boot_id(), "keeper": me, "trainer": {"pid": 1, "start_time": 1}},
    )
    assert leftovers.kill_leftovers(tmp_path, "run-1") == []


def test_what_cannot_be_killed_in_time_is_named(process, tmp_path):
    sleeper = process(["sleep", "600"], env={"TUNIXRT_RUN_ID": "run-2", "PATH": os.environ["PATH"]})
    wait_for(lambda: processes_of_run("run-2"), "exec")
    with pytest.raises(leftovers.StillAlive, match=str(sleeper.pid)) as caught:
        leftovers.kill_leftovers(tmp_path, "run-2", timeout=-1)
    assert caught.value.pids == [sleeper.pid]
    assert leftovers.kill_leftovers(tmp_path, "run-2") == [sleeper.pid]
