"""The engine ``local``: keepers are processes of the host that has claimed the run."""

import logging
import os
import subprocess
from pathlib import Path

from django.conf import settings

from runs.execution.engine import Job, JobState, NotPlaced
from runs.keeper import program as keeper
from runs.runfolder import files, names
from runs.services.output_root import is_missing, root_problem
from runs.services.wakeup import hosts_folder

logger = logging.getLogger("tunixrt.runs")

KEEPER_START_SECONDS = 15.0  # it takes 40 ms


class LocalEngine:
    """Start the keeper as a child of this process. It detaches itself and takes the lock over."""

    def check(self) -> str | None:
        return root_problem()

    def submit(self, job: Job) -> JobState:
        # Noted before the start, so that the keeper is found even if the run is taken away
        # meanwhile.
        (keepers_folder() / job.run_id).write_text(str(job.folder))
        starter = subprocess.Popen(
            keeper.command(job.folder, job.lock),
            pass_fds=[job.lock],
            env=dict(job.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        said = _wait_for(starter, job.run_id)
        if starter.returncode < 0 or starter.returncode == keeper.KILLED:
            logger.warning(
                "run %s: its keeper was killed while it started (%s)",
                job.run_id,
                starter.returncode,
            )
            return JobState.UNKNOWN
        if starter.returncode not in (keeper.STARTED, keeper.TAKEN):
            lines = said.decode("utf-8", "replace").strip().splitlines()
            raise NotPlaced(
                f"its keeper did not start (exit code {starter.returncode}):"
                f" {lines[-1] if lines else 'no reason given'}"
            )
        return JobState.STARTED

    def poll(self, run_id: str) -> JobState:
        """Return UNKNOWN: a keeper whose launcher has gone before it took the run never will."""
        return JobState.UNKNOWN

    def cancel(self, run_id: str) -> None:
        """Do nothing: there is no moment at which a job waits."""

    def adopt(self, run_id: str, folder: Path) -> bool:
        """Return whether this host started the keeper of the run, or whether the run has none."""
        if (keepers_folder() / run_id).exists() or is_missing(folder):
            return True
        lock = files.try_lock(folder / names.LOCK) if folder.is_dir() else None
        if lock is not None:
            os.close(lock)
        return lock is not None


def keepers_folder() -> Path:
    """Return the folder in which this host notes the run folders that it started keepers for."""
    path: Path = hosts_folder() / f"{settings.TUNIX_HOST_NAME}.keepers"
    path.mkdir(exist_ok=True)
    return path


def _wait_for(starter: "subprocess.Popen[bytes]", run_id: str) -> bytes:
    """Wait for the first process of a keeper and return what it said. One that takes too long is
    killed; the keeper may have taken the run all the same."""
    with starter:
        try:
            return starter.communicate(timeout=KEEPER_START_SECONDS)[1]
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("run %s: no word of its keeper: %s", run_id, error)
            starter.kill()
        except BaseException:
            starter.kill()
            raise
    return b""
