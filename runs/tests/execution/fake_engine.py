"""An engine on another machine, as a bad one behaves: its jobs are processes that nobody waits for.

Each job is a real program that takes the lock of its run folder and starts the real keeper, as a
job of a cluster does on a shared output root. What the engine says about it depends on its fault.
"""

import os
import subprocess
import sys
from pathlib import Path

from runs.execution.engine import Job, JobState, NotPlaced
from runs.keeper import program as keeper
from runs.tests.programs import ROOT

# Wait for the word to start and for the lock, then be the keeper. A run that has one, or an end,
# is left alone.
JOB = """
import os, sys, time
sys.path.append(sys.argv[1])
from runs.runfolder import files
folder, go = sys.argv[2], sys.argv[3]
while not os.path.exists(go):
    time.sleep(0.01)
while (lock := files.try_lock(folder + "/lock")) is None:
    if os.path.exists(folder + "/keeper.json") or os.path.exists(folder + "/exit.json"):
        sys.exit(0)
    time.sleep(0.01)
os.set_inheritable(lock, True)
os.execv(sys.executable, [sys.executable, *sys.argv[4:], folder, str(lock)])
"""

FAULTS = ("none", "loses replies", "answers late", "lies", "forgets", "starts late")


class FakeEngine:
    """``fault`` is one of ``FAULTS``. ``go`` is the file that lets jobs start."""

    def __init__(self, fault: str, folder: Path) -> None:
        self.fault = fault
        self.go = folder / "go"
        self.refusal = ""
        self.submitted: list[str] = []
        self.cancelled: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._polls = 0
        if fault != "starts late":
            self.go.touch()

    def check(self) -> str | None:
        return None

    def submit(self, job: Job) -> JobState:
        if self.refusal:
            raise NotPlaced(self.refusal)
        self.submitted.append(job.run_id)
        if self.fault == "lies" and len(self.submitted) == 1:
            return JobState.STARTED  # nothing was
        program = os.path.abspath(keeper.__file__)
        argv = [sys.executable, "-I", "-S", "-c", JOB, str(ROOT), str(job.folder), str(self.go)]
        argv += [*keeper.FLAGS, program]
        process = subprocess.Popen(
            argv,
            env=dict(job.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.processes.append(process)
        return JobState.UNKNOWN if self.fault == "loses replies" else JobState.WAITING

    def poll(self, run_id: str) -> JobState:
        self._polls += 1
        if self.fault in ("loses replies", "forgets") or run_id not in self.submitted:
            return JobState.UNKNOWN
        if self.fault == "answers late" and self._polls < 5:
            return JobState.WAITING
        return JobState.WAITING if self.fault == "starts late" else JobState.STARTED

    def cancel(self, run_id: str) -> None:
        """Promise it, and do nothing: the job may start all the same."""
        self.cancelled.append(run_id)

    def adopt(self, run_id: str, folder: Path) -> bool:
        return True

    def close(self) -> None:
        """End jobs that still wait. Keepers have detached themselves and end with their runs."""
        for process in self.processes:
            process.kill()
            process.wait()
