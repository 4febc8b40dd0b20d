"""Processes of this host, as /proc shows them. Standard library, Linux only; shared by keeper and
server."""

from __future__ import annotations

import contextlib
import os

RUN_ID_VARIABLE = "TUNIXRT_RUN_ID"


class Process:
    """One process from /proc/<pid>/stat. ``start_time`` is in clock ticks since boot; it tells
    reused pids apart."""

    __slots__ = ("group", "parent", "pid", "start_time")

    def __init__(self, pid: int, parent: int, group: int, start_time: int):
        self.pid = pid
        self.parent = parent
        self.group = group
        self.start_time = start_time


def read_process(pid: int) -> Process | None:
    """Return the live process ``pid``, or None: no such process, or a zombie that its parent has
    not collected yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # the command name stands in parentheses and may itself hold spaces and parentheses
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    state, threads = fields[0], int(fields[17])
    if state in (b"Z", b"X") and threads <= 1:  # with more, only the first thread has ended
        return None
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[19]))


def process_start_time(pid: int) -> int | None:
    """Return the clock ticks from boot to the start of the live process ``pid`` (field 22 of its
    stat, proc(5)); None if there is none."""
    process = read_process(pid)
    return process.start_time if process else None


def same_process(pid: int, start_time: int) -> bool:
    """Return whether ``pid`` is alive and is still the process that started at ``start_time``."""
    return process_start_time(pid) == start_time


def boot_id() -> str:
    """Return the kernel's id of this boot of the host."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().decode("ascii").strip()


def live_processes() -> list[Process]:
    """Return every live process that is visible to this one."""
    return [
        process
        for name in os.listdir("/proc")
        if name.isdigit() and (process := read_process(int(name)))
    ]


def descendants(pid: int) -> list[Process]:
    """Return the live descendants of ``pid``."""
    children: dict[int, list[Process]] = {}
    for process in live_processes():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [pid]
    while waiting:
        family = children.pop(waiting.pop(), [])
        found += family
        waiting += [process.pid for process in family]
    return found


def processes_of_run(run_id: str) -> list[Process]:
    """Return the live processes, other than this one, that were started with
    TUNIXRT_RUN_ID=``run_id`` in their environment."""
    return processes_with(RUN_ID_VARIABLE, run_id)


def processes_with(variable: str, value: str) -> list[Process]:
    """Return the live processes, other than this one, that were started with ``variable``=``value``
    in their environment."""
    wanted = f"{variable}={value}".encode()
    found = []
    for process in live_processes():
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            continue  # ended meanwhile, or another user's
        if process.pid != os.getpid() and wanted in environment.split(b"\0"):
            found.append(process)
    return found


def processes_holding(target: str) -> list[Process]:
    """Return the live processes, other than this one, that have something open that /proc/<pid>/fd
    shows as ``target``."""
    return [
        process
        for process in live_processes()
        if process.pid != os.getpid() and has_open(process.pid, target)
    ]


def has_open(pid: int, target: str) -> bool:
    """Return whether a descriptor of process ``pid`` leads to ``target``, as a link of
    /proc/<pid>/fd shows it. Return False where this process may not look."""
    try:
        return any(
            _link_target(f"/proc/{pid}/fd/{name}") == target
            for name in os.listdir(f"/proc/{pid}/fd")
        )
    except OSError:
        return False  # another user's, or ended


def _link_target(link: str) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None  # closed meanwhile


def send_signal(process: Process, signal_number: int) -> None:
    """Signal ``process`` if it is still the same one. One that is gone or may not be signalled is
    left alone."""
    if same_process(process.pid, process.start_time):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal_number)
