"""Stopping the trainings of a container with its attendant.

A keeper outlives everything but its PID namespace: when the first process of a container ends, the
kernel kills all others. Where that may follow from the attendant's end, the attendant asks the
keepers to end first, by SIGTERM, and waits for them. Everywhere else the trainings continue without
it.
"""

import logging
import os
import signal
import time
from pathlib import Path

from django.conf import settings

from runs.keeper import program as keeper
from runs.runfolder.processes import Process, live_processes, read_process, send_signal

logger = logging.getLogger("tunixrt.attendant")

# First processes that run a whole system and restart its services, by their names in /proc/1/comm.
# An attendant that one of them runs may end without the namespace. Process managers made for
# containers (s6-overlay, supervisord) are not among them: nothing tells whether their container
# ends with the attendant.
SYSTEM_INITS = frozenset(
    {
        "systemd", "init", "upstart", "openrc-init", "runit", "dinit", "finit", "shepherd", "procd",
        "launchd",
    }
)  # fmt: skip
INITIAL_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel (include/linux/proc_ns.h)
# for a keeper, after the training's own time: ending what was left behind, writing exit.json
MARGIN_SECONDS = 5.0
POLL_SECONDS = 0.05


def ends_with_attendant() -> bool:
    """Return whether the end of this process, the attendant or what runs it, may end its PID
    namespace; TUNIX_STOP_WITH_ATTENDANT overrides the answer.

    True for the first process of a namespace and for what it has started, whatever its name: a
    training that saves needlessly loses nothing, one that is killed does. False for what a system's
    init runs, in the machine's own namespace, and for a process that came into the namespace from
    outside (``docker exec``, a pod that shares its namespace).
    """
    if settings.TUNIX_STOP_WITH_ATTENDANT is not None:
        return bool(settings.TUNIX_STOP_WITH_ATTENDANT)
    if os.getpid() == 1:
        return True
    if os.readlink("/proc/self/ns/pid") == INITIAL_NAMESPACE or _process_name(1) in SYSTEM_INITS:
        return False
    return _comes_from_first_process()


def _comes_from_first_process() -> bool:
    """Return whether process 1 is an ancestor of this one, or whether that cannot be known. The
    parent of a process that came from outside is 0."""
    parent = os.getppid()
    while parent > 1:
        process = read_process(parent)
        if process is None:
            return True
        parent = process.parent
    return parent == 1


def seconds_to_stop() -> float:
    """Return how long the keepers may take to end: as long as each gives its training, and a
    margin."""
    return settings.TUNIX_STOP_WAIT_SECONDS + settings.TUNIX_TERM_GRACE_SECONDS + MARGIN_SECONDS


def ask_keepers_to_end() -> list[Process]:
    """Send SIGTERM to every keeper of this output root in this PID namespace; return them."""
    keepers = [process for process in live_processes() if _is_keeper(process)]
    for process in keepers:
        send_signal(process, signal.SIGTERM)
    return keepers


def wait_for_keepers(asked: list[Process]) -> None:
    """Wait until no keeper is left, at most as long as a keeper gives its training; asks those that
    have come up meanwhile."""
    give_up = time.monotonic() + seconds_to_stop()
    known = {(process.pid, process.start_time) for process in asked}
    while left := [process for process in live_processes() if _is_keeper(process)]:
        if time.monotonic() > give_up:
            logger.error(
                "keepers %s have not ended", ", ".join(str(process.pid) for process in left)
            )
            return
        for process in left:
            if (process.pid, process.start_time) not in known:
                known.add((process.pid, process.start_time))
                send_signal(process, signal.SIGTERM)
        time.sleep(POLL_SECONDS)


def _is_keeper(process: Process) -> bool:
    """Return whether a process is a keeper, by its command line, since keeper.json and the database
    may be out of reach."""
    try:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return False  # it has ended
    program = os.fsencode(os.path.abspath(keeper.__file__))
    root = os.fsencode(settings.TUNIX_OUTPUT_ROOT) + b"/"
    return len(command) > 3 and command[-3] == program and command[-2].startswith(root)


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
