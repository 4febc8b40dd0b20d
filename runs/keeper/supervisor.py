"""The life of a run's keeper: take the run, start the trainer, watch it, leave nothing behind,
write exit.json.

``runs/keeper/program.py`` starts this in a detached process and defines what a keeper is;
docs/run-folder.md describes the protocol. Standard library only, single-threaded: the kernel's
parent-death signal and the blocked signals belong to one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import time

from runs.keeper.messages import failure_words, oom_kills, signal_name, start_problem
from runs.runfolder import files, names, records
from runs.runfolder.processes import (
    RUN_ID_VARIABLE,
    boot_id,
    descendants,
    process_start_time,
    processes_of_run,
    send_signal,
)

TYPE_CHECKING = False  # see runs/runfolder/files.py
if TYPE_CHECKING:
    from typing import Any, NoReturn

# how late stop.json and the deadline are noticed at most; the trainer's end is noticed at once
POLL_SECONDS = 0.1
FOLDER_POLL_SECONDS = 1.0
FOLDER_GONE_SECONDS = (
    2.0  # a folder that stays away this long has been removed; a network file system may blink
)
WRITE_AGAIN_SECONDS = 1.0  # between attempts to write exit.json
SETTLE_SECONDS = (
    0.2  # what a finished trainer left behind may end by itself: helpers of libraries do
)
LEFTOVER_SECONDS = 2.0  # and what it then gets between SIGTERM and SIGKILL, at most
MESSAGE_CHARACTERS = 1000

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36


class StartFailed(Exception):
    """The run has a keeper, but the training command could not be started."""


class Command:
    """command.json, checked. Raises BrokenFile with a sentence, OSError."""

    def __init__(self, folder: str):
        value = files.read_json(os.path.join(folder, names.COMMAND))
        if value is None:
            raise files.BrokenFile("command.json is missing.")
        if value.get("version") != records.VERSION:
            raise files.BrokenFile(f"command.json: version must be {records.VERSION}.")
        argv = value.get("argv")
        if (
            not isinstance(argv, list)
            or not argv
            or not all(isinstance(item, str) for item in argv)
        ):
            raise files.BrokenFile("command.json: argv must be a list of texts, first the program.")
        self.argv: list[str] = argv
        self.run_id = self._text(value, "run_id")
        self.cwd = self._text(value, "cwd")
        self.deadline = (
            math.inf
            if value.get("deadline_seconds") is None
            else self._seconds(value, "deadline_seconds")
        )
        # completed after it was stopped there: timeout
        self.must_meet_deadline = value.get("must_meet_deadline") is True
        self.stop_wait = self._seconds(value, "stop_wait_seconds")
        self.term_grace = self._seconds(value, "term_grace_seconds")

    @staticmethod
    def _text(value: dict[str, Any], name: str) -> str:
        text = value.get(name)
        if not isinstance(text, str) or not text:
            raise files.BrokenFile(f"command.json: {name} must be a text.")
        return text

    @staticmethod
    def _seconds(value: dict[str, Any], name: str) -> float:
        seconds = value.get(name)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
            raise files.BrokenFile(f"command.json: {name} must be a number of seconds, 0 or more.")
        return float(seconds)


def _seconds(count: float) -> str:
    return f"{count:,.15g} second{'' if count == 1 else 's'}"


class Supervisor:
    """The owner of one run, in the detached process."""

    def __init__(self, folder: str, lock: int, command: Command, first_pid: int):
        self.folder = folder
        self.folder_stat = os.stat(folder)
        self.marker = files.find_marker(folder)
        self.folder_seen = time.monotonic()
        self.lock = lock
        self.command = command
        self.first_pid = first_pid
        self.pid = os.getpid()
        self.prctl = ctypes.CDLL(None, use_errno=True).prctl
        self.outputs: list[int] = []
        self.oom_kills = oom_kills()
        # the trainer
        self.trainer: dict[str, int] | None = None
        self.status: int | None = None  # as waitpid() gives it
        self.started_at: str | None = None
        self.started = self.ended = (
            0.0  # monotonic: neither a suspended host nor a changed clock is training time
        )
        # why and how far it has been stopped
        self.stop: dict[str, Any] | None = None
        self.host_stops = False
        self.folder_gone = False
        self.term_at = self.kill_at = math.inf
        self.grace = command.term_grace
        self.term_sent = self.kill_sent = False
        self.leftovers = 0

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    # --- taking the run

    def take(self) -> bool:
        """Become the run's owner: write keeper.json, or return False if it is there. Raise
        OSError."""
        for number in (
            signal.SIGHUP,
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGUSR1,
            signal.SIGUSR2,
        ):
            signal.signal(number, signal.SIG_IGN)
        self._set_process_control(PR_SET_CHILD_SUBREAPER, 1)
        reserved = [self.path(name) for name in (names.EXIT, names.STOP)]
        taken = False
        try:
            for path in reserved:  # so that a full disk prevents neither the end nor a cancel
                files.reserve(path)
            taken = files.create_json_once(self.path(names.KEEPER), self._identity())
        finally:
            if not taken:
                for path in reserved:
                    files.release(path)
        return taken

    def _identity(self) -> dict[str, Any]:
        return {
            "version": records.VERSION,
            "run_id": self.command.run_id,
            "host": os.uname().nodename,
            "boot_id": boot_id(),
            "keeper": {"pid": self.pid, "start_time": process_start_time(self.pid)},
            "trainer": self.trainer,
            "started_at": self.started_at,
        }

    def _set_process_control(self, option: int, value: int) -> None:
        if self.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl({option}): {os.strerror(number)}")

    # --- the whole life

    def keep(self) -> None:
        """Start the trainer, wait for its end, end every descendant, and write exit.json."""
        try:
            record = self._train()
        except Exception as error:  # noqa: BLE001 - whatever fails in the keeper must not cost the run its end
            with contextlib.suppress(Exception):
                self._clear_away()
            words = f"The keeper failed: {type(error).__name__}: {error}"
            record = self._record("lost", words) if self.status is None else self._decide()
        for descriptor in self.outputs:
            with contextlib.suppress(OSError):  # the disk is full or broken; the end is worth more
                os.fsync(descriptor)
        # ended by itself: no stop was obeyed, so no stop request may remain beside the end
        if record["reason"] == "exit":
            records.withdraw_stop(self.folder)
        self._write_exit(record)

    def _train(self) -> dict[str, Any]:
        self._look_for_stop()
        if self.stop:
            return self._record(
                self.stop["reason"], f"{self._stop_words()} before the training started."
            )
        try:
            self._start()
        except StartFailed as error:
            self._clear_away()
            # nothing of the command has run
            self.started_at, self.status, self.leftovers = (
                None,
                None,
                0,
            )
            return self._record("start_failed", str(error))
        self._wait()
        # what counts is what was asked while the trainer lived, so look before the time that
        # clearing away takes
        self._look_for_stop()
        self._clear_away()
        return self._decide()

    # --- starting

    def _start(self) -> None:
        """Start the trainer; it is recorded in keeper.json before its first instruction. Raise
        StartFailed."""
        try:
            null = os.open(os.devnull, os.O_RDONLY)
            for name in (names.STDOUT, names.STDERR):
                # read as well: the keeper looks for the last message of the training
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
                self.outputs.append(os.open(self.path(name), flags, files.FILE_MODE))
                os.set_blocking(self.outputs[-1], True)
            go_read, go_write = os.pipe()
            problem_read, problem_write = os.pipe()
            pid = os.fork()
        except OSError as error:
            raise StartFailed(f"The training cannot be started: {error}") from error
        if pid == 0:
            os.close(go_write)  # else the child would wait for itself
            self._become_trainer(null, go_read, problem_write)
        for descriptor in (null, go_read, problem_write):
            os.close(descriptor)
        self.trainer = {"pid": pid, "start_time": process_start_time(pid) or 0, "pgid": pid}
        self.started_at, self.started = files.timestamp(), time.monotonic()
        try:
            # after a power cut it is enough that the run had a keeper
            files.write_json(self.path(names.KEEPER), self._identity(), durable=False)
            os.write(go_write, b"go")
        except OSError as error:
            raise StartFailed(f"The start of the training cannot be recorded: {error}") from error
        finally:
            os.close(go_write)  # without a "go" the child ends
        with open(problem_read, "rb") as file:  # closed by exec
            problem = file.read()
        if problem:
            raise StartFailed(problem.decode("utf-8", "replace"))

    def _become_trainer(self, null: int, go: int, problem: int) -> NoReturn:
        """Wait for "go" in the forked child, then execute the command. Never return."""
        try:
            os.close(self.lock)
            os.setsid()
            self._set_process_control(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self.pid or not os.read(go, 1):
                os._exit(1)  # the keeper is gone, or has decided against it
            try:
                os.chdir(self.command.cwd)
            except (OSError, ValueError) as error:
                raise StartFailed(
                    f"The working folder of the training cannot be entered: {error}"
                ) from error
            for target, descriptor in enumerate((null, *self.outputs)):
                os.dup2(descriptor, target)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            environment = {**os.environ, RUN_ID_VARIABLE: self.command.run_id}
            os.execvpe(self.command.argv[0], self.command.argv, environment)
        except BaseException as error:  # noqa: BLE001 - a copy of the keeper must not continue here
            sentence = (
                str(error)
                if isinstance(error, StartFailed)
                else start_problem(error, self.command.argv[0])
            )
            os.write(problem, sentence.encode("utf-8", "replace"))
        finally:
            os._exit(127)

    # --- waiting and stopping

    def _wait(self) -> None:
        """Wait until the trainer has ended. Meanwhile obey stop.json, the deadline and the host,
        and escalate the signals."""
        while not self._trainer_has_ended():
            now = time.monotonic()
            if self.stop is None:
                self._look_for_stop(deadline_passed=now >= self.started + self.command.deadline)
                if self.stop is not None:
                    self.term_at = min(self.term_at, now + self.command.stop_wait)
            if self.host_stops:
                self.term_at = min(self.term_at, now)
            if self._folder_is_gone(now):
                self.kill_at = now
            self._climb(now)
            due = (
                math.inf if self.stop else self.started + self.command.deadline,
                *self._rungs_ahead(),
            )
            self._rest(min(POLL_SECONDS, max(0.001, min(due) - now)))

    def _climb(self, now: float) -> None:
        """Escalate after the trainer's own stop: SIGTERM to the process group, then SIGKILL."""
        if now >= self.term_at and not self.term_sent:
            self.term_sent = True
            # SIGTERM is the first that it hears, so it has the time for its next step as well
            if self.stop is None:
                self.grace += self.command.stop_wait
            self.kill_at = min(self.kill_at, now + self.grace)
            # a stopped process cannot act on SIGTERM
            for number in (
                signal.SIGTERM,
                signal.SIGCONT,
            ):
                self._signal_group(number)
        if now >= self.kill_at:
            self.kill_sent = True
            self._signal_group(signal.SIGKILL)
            self._kill_descendants()

    def _rungs_ahead(self) -> list[float]:
        if self.kill_sent:
            return []
        return [self.kill_at if self.term_sent else min(self.term_at, self.kill_at)]

    def _look_for_stop(self, *, deadline_passed: bool = False) -> None:
        """Take up stop.json, written here if the deadline has passed. An unreadable one (``touch``)
        is a manual cancellation."""
        if self.stop is None and deadline_passed:
            try:
                # another process may have written one: it takes precedence
                records.request_stop(self.folder, "timeout", "keeper")
            except OSError:  # the trainer cannot be told by a file: on to SIGTERM
                self.stop = {"reason": "timeout", "by": "keeper"}
                self.term_at = time.monotonic()
        if self.stop is None and os.path.lexists(self.path(names.STOP)):
            try:
                stop = files.read_json(self.path(names.STOP)) or {}
            except (OSError, files.BrokenFile):
                stop = {}
            reason = stop.get("reason")
            by = str(stop.get("by") or "someone on the host")[:200]
            self.stop = {"reason": reason if reason in records.STOP_REASONS else "cancel", "by": by}

    def _folder_is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.folder), self.folder_stat)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a file system in trouble is not a removed folder

    def _folder_is_gone(self, now: float) -> bool:
        """Return whether the folder has been removed or moved away; look about once a second, and
        wait in case it comes back."""
        if now >= self.folder_seen + FOLDER_POLL_SECONDS:
            if self._folder_is_there() or self._root_is_away():
                self.folder_seen = now
            elif now >= self.folder_seen + FOLDER_GONE_SECONDS:
                self.folder_gone = True
        return self.folder_gone

    def _root_is_away(self) -> bool:
        """Return whether the whole output root was unmounted or moved, which removes nothing and
        may be undone."""
        if self.marker is None or os.path.exists(self.marker):
            return False
        return os.fstat(self.lock).st_nlink > 0  # else all was removed

    def _trainer_has_ended(self) -> bool:
        self._reap()
        return self.status is not None

    def _reap(self) -> bool:
        """Collect every child that has ended, adopted ones too; False once there is no child, hence
        no descendant, left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if self.trainer and pid == self.trainer["pid"]:
                self.status, self.ended = status, time.monotonic()

    def _rest(self, seconds: float) -> None:
        """Wait until a child ends, SIGTERM arrives or the time is over. Both signals are blocked,
        so none is missed."""
        received = signal.sigtimedwait((signal.SIGCHLD, signal.SIGTERM), seconds)
        if received and received.si_signo == signal.SIGTERM:
            self.host_stops = True

    def _signal_group(self, number: int) -> None:
        """Signal the trainer's whole group at once. Only while the trainer is not collected: until
        then its number is its own."""
        if self.trainer and self.status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.trainer["pgid"], number)

    # --- leaving nothing behind

    def _clear_away(self) -> None:
        """End every descendant: what a trainer leaves behind gets a moment, SIGTERM, a grace, and
        SIGKILL until none is left."""
        if not self.kill_sent and not self._all_end_by(time.monotonic() + SETTLE_SECONDS):
            until = time.monotonic() + min(LEFTOVER_SECONDS, self.command.term_grace)
            for process in descendants(self.pid):
                if self.trainer and self.term_sent and process.group == self.trainer["pgid"]:
                    # it has had its SIGTERM and keeps its grace; a second one could break off the
                    # saving that the first began
                    until = max(until, self.kill_at)
                    continue
                self.leftovers += 1
                for number in (signal.SIGTERM, signal.SIGCONT):
                    send_signal(process, number)
            self._all_end_by(until)
        pause = 0.01
        while self._kill_descendants() or self._reap():
            self._rest(pause)
            # only the kernel can hold one back now, and it may take its time
            pause = min(1.0, pause * 1.5)

    def _all_end_by(self, moment: float) -> bool:
        while self._reap():
            left = moment - time.monotonic()
            if left <= 0:
                return False
            self._rest(min(POLL_SECONDS, left))
        return True

    def _kill_descendants(self) -> bool:
        """Send SIGKILL to every descendant and every process whose environment names the run;
        return whether there was one."""
        found = [*descendants(self.pid), *processes_of_run(self.command.run_id)]
        found = [process for process in found if process.pid != self.first_pid]
        for process in found:
            send_signal(process, signal.SIGKILL)
        return bool(found)

    # --- the end

    def _decide(self) -> dict[str, Any]:
        """Return what the end was. Exit 0 is an end of its own, also when a stop had been asked
        for; not so where the command had to meet its deadline and was stopped at it."""
        assert self.status is not None
        if signal.SIGTERM in signal.sigpending():
            self.host_stops = (
                True  # a shutdown signals everybody, and the trainer may have been faster
            )
        code = os.waitstatus_to_exitcode(self.status)
        if (
            code == 0
            and self.command.must_meet_deadline
            and self.stop
            and self.stop["reason"] == "timeout"
        ):
            return self._record(
                "timeout", f"{self._stop_words()}; the command completed only after that."
            )
        if code == 0:
            message = "The training command completed."
            if self.stop:
                message += " The request to stop it came too late."
            return self._record("exit", message)
        if self.stop:
            return self._record(
                self.stop["reason"], f"{self._stop_words()}; {self._how_it_ended(code)}."
            )
        if self.host_stops:
            words = (
                "Host stopped: its keeper got SIGTERM (a shutdown, or the container was stopped)"
            )
            return self._record("host stopped", f"{words}; {self._how_it_ended(code)}.")
        if self.folder_gone:
            return self._record("lost", "The run's folder was removed while it was running.")
        return self._record("exit", failure_words(code, self.outputs[-1], self.oom_kills))

    def _stop_words(self) -> str:
        assert self.stop is not None
        if self.stop["reason"] == "cancel":
            return f"Cancelled by {self.stop['by']}"
        if self.command.deadline < math.inf and self.stop["by"] == "keeper":
            return f"Stopped at its time limit of {_seconds(self.command.deadline)}"
        return "Stopped at its time limit"

    def _how_it_ended(self, code: int) -> str:
        end = f"exit code {code}" if code > 0 else signal_name(-code)
        # a dry run's command checks
        what = "the check" if "validate" in self.command.argv else "the training"
        if self.kill_sent:
            return f"{what} ignored SIGTERM for {_seconds(self.grace)} and was killed ({end})"
        if self.term_sent:
            return f"{what} stopped on SIGTERM ({end})"
        return f"{what} stopped by itself ({end})"

    def _record(self, reason: str, message: str) -> dict[str, Any]:
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        if self.leftovers:
            message += f" Processes it had left behind were ended: {self.leftovers}."
        duration = self.ended - self.started if self.started_at and self.ended else None
        return records.exit_record(
            run_id=self.command.run_id,
            reason=reason,
            message=message[:MESSAGE_CHARACTERS],
            started_at=self.started_at,
            duration_seconds=duration if duration is None else round(duration, 6),
            exit_code=code if code is not None and code >= 0 else None,
            signal_number=-code if code is not None and code < 0 else None,
        )

    def _write_exit(self, record: dict[str, Any]) -> None:
        """Write exit.json, however long the disk refuses; only a removed folder or the host's
        SIGTERM ends the retries."""
        self.folder_seen = time.monotonic()
        while not self._folder_is_gone(time.monotonic()):
            try:
                if self._folder_is_there():
                    files.remove_temporary_files(self.folder)
                    files.write_json(self.path(names.EXIT), record)
                    break
            except OSError:
                pass
            if signal.sigtimedwait((signal.SIGTERM,), WRITE_AGAIN_SECONDS):
                return
        with contextlib.suppress(OSError, files.BrokenFile):  # asked for while the end was written
            records.withdraw_late_stop(self.folder)
