"""Commands of this project as processes that a test starts, and the end of all that they started.
Needs no Django."""

import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from runs.runfolder import leftovers, records
from runs.runfolder.processes import live_processes, processes_of_run, same_process
from runs.tests.launching import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parents[2]
MARK = "TUNIXRT_TEST_MARK"


class Program:
    """A command of this project as a process in a session of its own. Its environment is marked, so
    all it starts is found."""

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        within: Sequence[str] = (),
        *,
        instead: dict[str, str] | None = None,
        **environment: str,
    ):
        """``within``: a command that runs it, such as ``unshare``. ``environment`` comes on top of
        ours, or of what is given ``instead`` of it."""
        self.mark = str(uuid.uuid4())
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*within, sys.executable, *arguments],
                cwd=ROOT,
                env={
                    **(os.environ if instead is None else instead),
                    **environment,
                    MARK: self.mark,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end: {self.said()}") from None

    def family(self) -> list[int]:
        """Pids of the live processes that carry its mark."""
        wanted = f"{MARK}={self.mark}".encode()
        return [process.pid for process in live_processes() if wanted in _environment(process.pid)]

    def kill(self) -> None:
        """SIGKILL for it and all that it has started, keepers and trainings excepted: those have an
        environment of their own."""
        while pids := self.family():
            for pid in pids:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
        self.process.wait(PATIENCE)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def end_keeper(path: Path) -> None:
    """Kill the keeper of this run folder and all that it started."""
    record = records.read_keeper(path) or {}
    keeper, run_id = record.get("keeper"), record.get("run_id")
    if not isinstance(keeper, dict) or not isinstance(run_id, str):
        return  # a test's own invention
    if isinstance(keeper.get("start_time"), int) and same_process(
        keeper["pid"], keeper["start_time"]
    ):
        os.kill(keeper["pid"], 9)
        wait_for(
            lambda: not same_process(keeper["pid"], keeper["start_time"]), "the keeper's death"
        )
    leftovers.kill_leftovers(path, run_id)
    wait_for(lambda: not processes_of_run(run_id), "the end of a training's processes")
