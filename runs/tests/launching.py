"""What the tests of the keeper share: a run folder with a scripted trainer, a launcher, and waiting
for facts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from runs.keeper import program as keeper
from runs.runfolder import files, leftovers, names, records
from runs.runfolder.processes import processes_of_run, same_process

Value = TypeVar("Value")
TRAINER = Path(__file__).with_name("scripted_trainer.py")
HELD_KEEPER = Path(__file__).with_name("held_keeper.py")
# coverage measures a subprocess through site-packages, which -S would leave out
COVERAGE = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
FLAGS = tuple(flag for flag in keeper.FLAGS if flag != "-S") if COVERAGE else keeper.FLAGS
ENVIRONMENT = {"PATH": os.environ["PATH"], **COVERAGE}
PATIENCE = 180.0  # seconds: nothing takes that long on the busiest machine, so what does is a hang
HOUR = 3600.0  # the limit of a run in the request, where a test does not set one


def wait_for(fact: Callable[[], Value | None], what: str) -> Value:
    """Poll until ``fact()`` is true, and return it."""
    until = time.monotonic() + PATIENCE
    while (value := fact()) is None or value is False:
        assert time.monotonic() < until, f"waited {PATIENCE:g} seconds for {what}"
        time.sleep(0.005)
    return value


def bytes_read() -> int:
    """What this thread has read from files so far: a measure of work that no busy machine
    changes."""
    io = dict(line.split(": ") for line in Path("/proc/thread-self/io").read_text().splitlines())
    return int(io["rchar"])


def launched_runs(path: Path, **defaults: Any) -> Iterator[Callable[..., LaunchedRun]]:
    """The body of a fixture: makes runs in fresh folders below ``path``; whatever they started is
    gone afterwards."""
    runs: list[LaunchedRun] = []

    def make(*script: list[Any], **options: Any) -> LaunchedRun:
        runs.append(LaunchedRun(path / f"run {len(runs)}", *script, **{**defaults, **options}))
        return runs[-1]

    try:
        yield make
    finally:
        for run in runs:
            run.clean_up()


# The trainer's process is there and recorded, its keeper waits for the command to start, the
# deadline runs.
BEFORE_THE_COMMAND = "os.exec 1"


class Hold:
    """A moment in the start of a keeper at which it waits for the test: ``held_keeper.py`` tells
    what a moment is.

    ``command`` takes the place of ``keeper.command``. Only the first keeper to get there is held,
    until ``release``.
    """

    def __init__(self, folder: Path, moment: str):
        folder.mkdir()
        self.folder = folder
        self.moment = moment

    def command(
        self,
        path: Path,
        lock: int,
        python: str = sys.executable,
        flags: tuple[str, ...] = keeper.FLAGS,
    ) -> list[str]:
        return [
            python,
            *flags,
            str(HELD_KEEPER),
            str(self.folder),
            self.moment,
            os.fspath(path),
            str(lock),
        ]

    def wait(self) -> int:
        """The pid of the process that has got there; it stays there."""
        wait_for((self.folder / "held").exists, f"the moment {self.moment}")
        return int((self.folder / "held").read_text())

    def started(self, pid: int) -> bool:
        """Whether ``pid`` is a process of the keeper that is held."""
        return os.fsencode(self.folder) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")

    def release(self) -> None:
        (self.folder / "go").touch()

    def stop_keeper(self, path: Path) -> int:
        """Of a training held at ``BEFORE_THE_COMMAND``: SIGSTOP its keeper, let the command start,
        return the keeper's pid."""
        self.wait()
        pid: int = (records.read_keeper(path) or {})["keeper"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        self.release()
        return pid

    def keep_waiting(self, path: Path, name: str) -> None:
        """The same, and the keeper goes on once the command has made the file ``name``: so it meets
        a command that is ready, whatever the clock says."""
        pid = self.stop_keeper(path)
        wait_for((path / name).exists, name)
        os.kill(pid, signal.SIGCONT)


class LaunchedRun:
    """A run folder, and the real keeper on it."""

    def __init__(
        self,
        path: Path,
        *script: list[Any],
        argv: list[str] | None = None,
        cwd: Path | None = None,
        deadline: float | None = None,
        stop_wait: float = 20.0,
        term_grace: float = 20.0,
        flags: tuple[str, ...] = FLAGS,
        command: Callable[..., list[str]] | None = None,
    ):
        path.mkdir(exist_ok=True)
        self.path = path
        self.flags = flags
        self.start_command = command
        self.run_id = str(uuid.uuid4())
        self.command = {
            "version": 1,
            "run_id": self.run_id,
            "argv": argv or self.trainer(*script),
            "cwd": str(cwd or path),
            "deadline_seconds": deadline,
            "stop_wait_seconds": stop_wait,
            "term_grace_seconds": term_grace,
        }
        files.write_json(path / names.COMMAND, self.command)

    @staticmethod
    def trainer(*script: list[Any]) -> list[str]:
        return [sys.executable, "-I", "-S", str(TRAINER), json.dumps(script)]

    def lock(self) -> int:
        return wait_for(lambda: files.try_lock(self.path / names.LOCK), "the lock")

    def start(self, **options: Any) -> subprocess.CompletedProcess[str]:
        """Launch as the server does: take the lock, start the keeper, wait for its first process,
        let the lock go."""
        lock = self.lock()
        try:
            return self.start_with(lock, **options)
        finally:
            os.close(lock)

    def start_with(
        self, lock: int, *, also: list[int] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """``also``: descriptors that a careless launcher passes on besides the lock."""
        options = {"env": ENVIRONMENT, "stderr": subprocess.PIPE, **options}
        argv = (self.start_command or keeper.command)(self.path, lock, flags=self.flags)
        return subprocess.run(
            argv,
            pass_fds=[lock, *(also or [])],
            text=True,
            timeout=PATIENCE,
            check=False,
            **options,
        )

    def launch(self, **options: Any) -> LaunchedRun:
        result = self.start(**options)
        assert result.returncode == keeper.STARTED, result.stderr
        return self

    def read(self, name: str) -> dict[str, Any] | None:
        return files.read_json(self.path / name)

    def wait_for_file(self, name: str) -> Path:
        wait_for((self.path / name).exists, name)
        return self.path / name

    def wait_for_trainer(self) -> dict[str, int]:
        return wait_for(
            lambda: (self.read(names.KEEPER) or {}).get("trainer"), "the trainer's identity"
        )

    def is_locked(self) -> bool:
        lock = files.try_lock(self.path / names.LOCK)
        if lock is not None:
            os.close(lock)
        return lock is None

    def end(self) -> dict[str, Any]:
        """Wait until the keeper is gone; what exit.json says. Nothing of the run may be left
        then."""
        self.wait_for_file(names.EXIT)
        wait_for(lambda: not self.is_locked(), "the keeper's end")
        assert [process.pid for process in processes_of_run(self.run_id)] == []
        assert [name for name in os.listdir(self.path) if name.startswith(".")] == []
        record = self.read(names.EXIT)
        assert record is not None
        return record

    def keeper_pid(self) -> int:
        pid: int = (self.read(names.KEEPER) or {})["keeper"]["pid"]
        return pid

    def clean_up(self) -> None:
        """Whatever the test did: nothing of it may stay on the machine."""
        recorded = (self.read(names.KEEPER) or {}).get("keeper")
        if recorded and same_process(recorded["pid"], recorded["start_time"]):
            os.kill(recorded["pid"], 9)
            wait_for(
                lambda: not same_process(recorded["pid"], recorded["start_time"]),
                "the keeper's death",
            )
        leftovers.kill_leftovers(self.path, self.run_id)
