"""Stopping the trainings of a container with its attendant.

A keeper outlives everything but its PID namespace: when the first process of a container ends, the
kernel kills all others. Where that follows from the attendant's end, the attendant asks the keepers
to end first, by SIGTERM, and waits for them. Everywhere else the trainings continue without it.
"""

import logging
import os
import signal
import time
from pathlib import Path

from django.conf import settings

from runs.keeper import program as keeper
from runs.runfolder.processes import Process, live_processes, send_signal

logger = logging.getLogger("tunixrt.attendant")

# Init programs that run one command, pass signals on to it, and end when it ends. `docker run
# --init` and `init: true` of a composition are docker-init (tini); Podman's is catatonit.
INITS = frozenset({"tini", "tini-static", "docker-init", "podman-init", "catatonit", "dumb-init"})
INITIAL_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel (include/linux/proc_ns.h)
# for a keeper, after the training's own time: ending what was left behind, writing exit.json
MARGIN_SECONDS = 5.0
POLL_SECONDS = 0.05


def ends_with_attendant() -> bool:
    """Whether the end of this process ends its PID namespace; TUNIX_STOP_WITH_ATTENDANT overrides
    what can be told.

    True for the first process of a namespace and for the command of an init program that exists for
    that command only. False for a shell's command and for a service of a machine, or of a container
    with a process manager, which restarts it at will.
    """
    if settings.TUNIX_STOP_WITH_ATTENDANT is not None:
        return bool(settings.TUNIX_STOP_WITH_ATTENDANT)
    if os.getpid() == 1:
        return True
    return (
        os.getppid() == 1
        and os.readlink("/proc/self/ns/pid") != INITIAL_NAMESPACE
        and _process_name(1) in INITS
    )


def ask_keepers_to_end() -> list[Process]:
    """Send SIGTERM to every keeper of this output root in this PID namespace; return them."""
    keepers = [process for process in live_processes() if _is_keeper(process)]
    for process in keepers:
        send_signal(process, signal.SIGTERM)
    return keepers


def wait_for_keepers(asked: list[Process]) -> None:
    """Wait until no keeper is left, at most as long as a keeper gives its training; asks those that
    have come up meanwhile."""
    give_up = (
        time.monotonic()
        + settings.TUNIX_STOP_WAIT_SECONDS
        + settings.TUNIX_TERM_GRACE_SECONDS
        + MARGIN_SECONDS
    )
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
    """Told by its command line, since keeper.json and the database may be out of reach just now."""
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
