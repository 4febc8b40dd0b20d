"""The processes that are left of a run whose keeper is gone."""

from __future__ import annotations

import os
import signal
import time

from runs.runfolder.processes import (
    Process,
    boot_id,
    descendants,
    processes_of_run,
    read_process,
    send_signal,
)
from runs.runfolder.records import read_keeper

TYPE_CHECKING = False  # importing typing would cost a keeper 1 MB
if TYPE_CHECKING:
    from runs.runfolder.files import Path


class StillAlive(RuntimeError):
    """Processes that outlived SIGKILL: another user's, or stuck in the kernel. ``pids`` names
    them."""

    def __init__(self, pids: list[int]):
        self.pids = pids
        super().__init__(f"Processes {', '.join(map(str, pids))} of the run could not be killed.")


def kill_leftovers(folder: Path, run_id: str, *, timeout: float = 10.0) -> list[int]:
    """Kill with SIGKILL all that is left of a run whose keeper is gone, until nothing is; return
    the pids. Raise StillAlive.

    For the holder of the lock. It finds the pids recorded in keeper.json (same boot, same start
    time), their descendants, and every process whose environment names the run. It does not find a
    process that cleared its environment after it had lost its parent.
    """
    killed: set[int] = set()
    give_up = time.monotonic() + timeout
    while left := _leftovers(folder, run_id):
        if time.monotonic() > give_up:
            raise StillAlive(sorted(process.pid for process in left))
        for process in left:
            send_signal(process, signal.SIGKILL)
            killed.add(process.pid)
        time.sleep(0.01)
    return sorted(killed)


def _leftovers(folder: Path, run_id: str) -> list[Process]:
    found = {process.pid: process for process in processes_of_run(run_id)}
    keeper = read_keeper(folder) or {}
    if keeper.get("boot_id") == boot_id():
        for recorded in (keeper.get("trainer"), keeper.get("keeper")):
            if not isinstance(recorded, dict) or not isinstance(pid := recorded.get("pid"), int):
                continue
            process = read_process(pid) if pid > 1 and pid != os.getpid() else None
            if process and process.start_time == recorded.get("start_time"):
                found |= {other.pid: other for other in [process, *descendants(pid)]}
    return list(found.values())
