"""The keeper: a small detached program that owns one training process from start to exit.

    python -I -S -X utf8 program.py <run folder> <descriptor of the locked lock file>

The launcher starts it with the trainer's environment and the lock's descriptor (``pass_fds``) and
waits for this first process, which exits with STARTED once keeper.json is there and the run has an
owner, else with a code from below and a sentence on stderr. The owner itself is a grandchild in a
session of its own, so it outlives launcher, worker and terminal. It holds the lock to its end,
starts the trainer, enforces the deadline, obeys stop.json, leaves no descendant behind and writes
exit.json as its last act (runs/keeper/supervisor.py). It needs no database and no network.
docs/run-folder.md tells the whole protocol.

Signals. The keeper ignores SIGHUP, SIGINT, SIGQUIT, SIGUSR1 and SIGUSR2. SIGTERM means that the
host wants it to end (a shutdown, ``docker stop``), which is not a cancellation: it forwards SIGTERM
so that the trainer saves, and the end has the reason ``host stopped``. If the keeper is killed, the
kernel kills the trainer with it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys

# -I leaves the project out of the path; appended, it cannot hide a library
if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from runs.keeper.supervisor import Command, Supervisor
from runs.runfolder import files, names

# How the first process ends. With STARTED a training is under way, after TAKEN and KILLED it may
# be; with the others it is not.
STARTED = 0
USAGE = 2  # wrong arguments, or not Linux
TAKEN = 3  # keeper.json or exit.json is there: the run has, or had, its keeper
NOT_LOCKED = 4  # the descriptor does not hold the run's lock
BAD_COMMAND = 5  # command.json is missing or cannot be used
UNUSABLE = 6  # the folder cannot be written, the disk is full, or the kernel refused something
KILLED = (
    7  # the owner ended without a report: lock and keeper.json show whether it had taken the run
)

# -S: other packages' .pth files stay out and the start takes 10 ms less. utf8: paths and arguments
# whatever the locale.
FLAGS = ("-I", "-S", "-X", "utf8")


def command(
    folder: files.Path, lock: int, python: str = sys.executable, flags: tuple[str, ...] = FLAGS
) -> list[str]:
    """Return the argv that starts a keeper. Run it with ``pass_fds=[lock]``, the trainer's
    environment, and wait for its exit code."""
    return [python, *flags, os.path.abspath(__file__), os.fspath(folder), str(lock)]


class NotTaken(Exception):
    """The keeper does not take the run: an exit code of the first process, and a sentence."""

    def __init__(self, code: int, sentence: str):
        self.code = code
        super().__init__(sentence)


def main(arguments: list[str]) -> int:
    """Check, detach, and tell the launcher whether the run has an owner: the exit code of the first
    process.

    In the detached process, the owner, this returns when the run has ended.
    """
    try:
        folder, lock = prepare(arguments)
        try:
            command = Command(folder)
        except files.BrokenFile as error:
            raise NotTaken(BAD_COMMAND, str(error)) from error
        for name in (names.KEEPER, names.EXIT):
            if os.path.lexists(os.path.join(folder, name)):
                raise NotTaken(TAKEN, f"{name} is there already: the run has, or had, its keeper.")
        report_read, report_write = os.pipe()
        first_pid = os.getpid()
        child = os.fork()
    except NotTaken as refusal:
        return complain(refusal.code, str(refusal))
    except OSError as error:
        return complain(UNUSABLE, f"The keeper cannot start: {error}")
    if child:
        os.close(report_write)
        with open(report_read, "rb") as file:
            report = file.read()
        os.waitpid(child, 0)
        if not report:
            return complain(
                KILLED, "The keeper was killed before it could tell whether it had taken the run."
            )
        return (
            STARTED
            if report[0] == STARTED
            else complain(report[0], report[1:].decode("utf-8", "replace"))
        )
    os.setsid()
    if os.fork():
        os._exit(0)
    own(folder, lock, command, first_pid, report_write)
    return 0


def own(folder: str, lock: int, command: Command, first_pid: int, report: int) -> None:
    """Own the run: take it, report, and keep it to its end, in the detached process."""
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    os.close(null)
    os.chdir("/")
    supervisor: Supervisor | None = None
    answer = bytes([TAKEN]) + b"keeper.json is there already: the run has, or had, its keeper."
    try:
        candidate = Supervisor(folder, lock, command, first_pid)
        if candidate.take():
            supervisor, answer = candidate, bytes([STARTED])
    except OSError as error:
        answer = bytes([UNUSABLE]) + f"The keeper cannot take the run: {error}".encode(
            "utf-8", "replace"
        )
    with contextlib.suppress(OSError):  # the launcher was killed; the run continues
        os.write(report, answer)
    os.close(report)
    if supervisor:
        supervisor.keep()


def prepare(arguments: list[str]) -> tuple[str, int]:
    """Return the folder and a descriptor of its lock, with nothing else open but the standard
    streams. Raise NotTaken or OSError."""
    if sys.platform != "linux":
        raise NotTaken(USAGE, "Local runs need Linux (on Windows: WSL).")
    if len(arguments) != 2 or not arguments[1].isdecimal():
        raise NotTaken(USAGE, "usage: program.py <run folder> <descriptor of the locked lock file>")
    # the launcher may be an interactive process: a Ctrl-C in its terminal must not break the start
    # in two
    signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    )
    # a launcher that ignores it would keep the exit codes from us
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder = os.path.abspath(arguments[0])
    try:
        while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
            pass  # a closed standard stream would be taken by the next file that is opened
        os.close(descriptor)
        lock = fcntl.fcntl(int(arguments[1]), fcntl.F_DUPFD_CLOEXEC, 3)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing new if the descriptor holds it
        if not os.path.samestat(os.fstat(lock), os.lstat(os.path.join(folder, names.LOCK))):
            raise NotTaken(NOT_LOCKED, "The descriptor is not the run's lock.")
    except (OSError, OverflowError) as error:
        raise NotTaken(NOT_LOCKED, f"The run's lock is not held: {error}") from error
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != lock:
            with contextlib.suppress(OSError):  # the one that listed them is gone
                os.close(int(name))
    return folder, lock


def complain(code: int, sentence: str) -> int:
    """Print to stderr why nothing was started; return ``code``."""
    with contextlib.suppress(OSError):
        os.write(2, f"keeper: {sentence}\n".encode("utf-8", "replace"))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
