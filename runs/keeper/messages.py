"""Messages about how a training command ended. Plain Python, for the
keeper."""

from __future__ import annotations

import signal

from runs.runfolder import files, names

LAST_WORD = (  # how our trainer's last line on stderr begins: what is wrong, and how to fix it
    "tunix: "
)
SIGNAL_HINTS: dict[int, str] = {
    signal.SIGABRT: "native code gave up",
    signal.SIGBUS: "often a full disk or a full /dev/shm",
    signal.SIGFPE: "a crash in native code",
    signal.SIGILL: "a program built for another CPU",
    signal.SIGSEGV: "a crash in native code",
    signal.SIGXCPU: "its limit of CPU time",
    signal.SIGXFSZ: "its limit of file size",
}
CODE_HINTS = {126: "a program it calls cannot be executed", 127: "a program it calls was not found"}


def signal_name(number: int) -> str:
    """Return ``signal 9 (SIGKILL)``, or ``signal 40`` for one without a name."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def failure_words(code: int, stderr: int, oom_kills_before: int) -> str:
    """Return why the command failed: its own message on stderr, or else a reason derived from the
    exit code.

    Args:
        code: its exit code, or the negative number of the signal that killed it.
        stderr: a descriptor that reads its stderr. The path may be away with the output root.
    """
    if code < 0:
        return (
            f"The training command was killed by {signal_name(-code)};"
            f" {_signal_hint(-code, oom_kills_before)}."
        )
    try:
        lines = files.read_open_tail(stderr, names.STDERR).split("\n")
    except OSError:
        lines = []
    spoken = [line.strip() for line in lines if line.startswith(LAST_WORD)]
    if spoken:  # not always the very last line: libraries may still print on their way out
        return spoken[-1]
    hint = CODE_HINTS.get(code, "")
    if code - 128 in signal.valid_signals():
        hint = f"what a shell says when the program it runs is killed by {signal_name(code - 128)}"
    return f"The training command exited with code {code}{hint and ': '}{hint}."


def _signal_hint(number: int, oom_kills_before: int) -> str:
    if number != signal.SIGKILL:
        return SIGNAL_HINTS.get(number, "another program sent it")
    if oom_kills() > oom_kills_before:
        return "the kernel ran out of memory meanwhile and killed a process, most likely this one"
    return "another program sent it, or the kernel may have run out of memory"


def oom_kills() -> int:
    """Return how often the kernel has killed for lack of memory since boot (proc(5), /proc/vmstat),
    or 0 where it does not tell."""
    try:
        with open("/proc/vmstat", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"oom_kill ")), 0)
    except OSError:
        return 0


def start_problem(error: BaseException, program: str) -> str:
    """Return a message about why ``program`` could not be executed."""
    reason = str(error)
    if isinstance(error, FileNotFoundError):
        reason = "was not found, or the interpreter that its first line names"
    elif isinstance(error, PermissionError):
        reason = "may not be executed"
    return f"The training command could not be started: {program}: {reason}."
