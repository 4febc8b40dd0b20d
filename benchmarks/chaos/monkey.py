"""What is killed, stopped, lost and filled. The seed decides which and in which order; the machine
decides what can be hit."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.chaos.house import House, ask, command_line
from benchmarks.chaos.load import REAL_COMMAND
from runs.runfolder import names
from runs.runfolder.checkpoints import complete_steps
from runs.runfolder.processes import Process, same_process

TRIES = 5
QUEUE_FILL = 2_000  # messages
DISK_SECONDS = 20.0  # between two full disks
DISK_AFTER_SECONDS = 1.0  # what has seen a full disk may say so a moment later
POSTGRES_SECONDS = 8.0  # it is left alone for so long after a start, or nothing else would happen
CATCH_UP_SECONDS = 2.0
SPARED_SHARE = 0.95  # of the strikes at a program that has just come up


@dataclass
class Deed:
    """Something that was done. ``kills``: how many processes got SIGKILL."""

    at: float
    kind: str
    what: str
    run_id: str | None = None
    kills: int = 0
    until: float | None = None

    def __str__(self) -> str:
        until = f" until {self.until:.2f}" if self.until else ""
        return f"{self.at:.2f}{until} {self.kind}: {self.what}"


@dataclass
class Monkey:
    house: House
    seed: int
    pace: float  # actions a second, on average
    deeds: list[Deed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed * 7919 + 3)
        # SIGSTOPped keepers and when they continue
        self.stopped: list[tuple[float, Process, Deed]] = []
        self.disk_full: tuple[float, Deed] | None = None  # when it is to be free again
        self.disk_spared_until = 0.0
        weights: dict[Callable[[], Deed | list[Deed] | None], float] = {
            self.trainer: 24,
            self.keeper: 20,
            self.real_training: 5,
            self.all_trainers: 3,
            self.all_keepers: 3,
            self.stop_keeper: 6,
            self.term_keeper: 2,
            self.task_worker: 20,
            self.all_task_workers: 5,
            self.term_task_worker: 3,
            self.attendant: 8,
            self.attendant_and_task_workers: 3,
            self.term_attendant: 2,
            self.second_attendant: 1,
            self.web: 6,
            self.term_web: 1,
            self.lose_messages: 6,
            self.double_messages: 6,
            self.fill_queue: 1,
        }
        if self.house.postgres is not None:
            weights |= {
                self.postgres_fast: 2.0,
                self.postgres_immediate: 2.0,
                self.postgres_long: 0.5,
            }
        if self.house.small_disk:
            weights[self.full_disk] = 1
        self.weights = weights

    def run(self, seconds: float) -> None:
        """Disturb the system for this long."""
        due = time.monotonic()
        give_up = due + seconds
        while time.monotonic() < give_up:
            # what took long is made up for: waiting for a database or a process to end must not
            # slow the torment down
            due = max(due + self.random.expovariate(self.pace), time.monotonic() - CATCH_UP_SECONDS)
            time.sleep(max(0.0, due - time.monotonic()))
            self.relent()
            self.strike()
        self.relent(everything=True)

    def strike(self) -> None:
        for _ in range(TRIES):  # what was drawn may not be there, or may have been hit a moment ago
            done = self.random.choices(list(self.weights), list(self.weights.values()))[0]()
            if done:
                self.deeds += done if isinstance(done, list) else [done]
                return

    def relent(self, *, everything: bool = False) -> None:
        """Continue stopped keepers and free the disk when their time has come."""
        now = time.time()
        for item in list(self.stopped):
            if everything or now >= item[0]:
                if same_process(item[1].pid, item[1].start_time):
                    os.kill(item[1].pid, signal.SIGCONT)
                item[2].until = now
                self.stopped.remove(item)
        if self.disk_full is not None and (everything or now >= self.disk_full[0]):
            self.house.free_disk()
            self.disk_full[1].until = time.time() + DISK_AFTER_SECONDS
            self.disk_full = None

    # --- helpers

    def _signal(self, process: Process, number: int) -> int:
        """Send the signal; return 1 if the process was there to be hit."""
        if not same_process(process.pid, process.start_time):
            return 0
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return 0
        return 1

    def _kill_one(
        self, kind: str, process: Process, what: str, run_id: str | None = None
    ) -> Deed | None:
        at = time.time()
        return (
            Deed(at, kind, what, run_id, kills=1) if self._signal(process, signal.SIGKILL) else None
        )

    def _kill_all(self, kind: str, processes: list[Process], what: str) -> Deed | None:
        at = time.time()
        kills = sum(self._signal(process, signal.SIGKILL) for process in processes)
        return Deed(at, kind, what, kills=kills) if kills else None

    def _runs(self, role: str) -> list[tuple[str, Process]]:
        """Return what can be hit. A real training takes so long to begin that most are spared until
        they have a checkpoint."""
        return [
            (run_id, pair[role])
            for run_id, pair in self.house.live_runs()
            if role in pair
            and not (self._has_nothing_yet(run_id, pair) and int(run_id[:2], 16) % 4)
        ]

    @staticmethod
    def _is_real(pair: dict[str, Process]) -> bool:
        return "trainer" in pair and REAL_COMMAND[-1].encode() in command_line(pair["trainer"].pid)

    def _has_nothing_yet(self, run_id: str, pair: dict[str, Process]) -> bool:
        return self._is_real(pair) and not complete_steps(
            self.house.output_root / run_id / names.CHECKPOINTS
        )

    def _pick_run(self, role: str) -> tuple[str, Process] | None:
        runs = self._runs(role)
        return self.random.choice(runs) if runs else None

    def _host(self) -> str:
        return self.random.choice(self.house.hosts)

    def _spared(self, program: str | Process) -> bool:
        found = self.house.services[program] if isinstance(program, str) else program
        return self.house.is_young(found) and self.random.random() < SPARED_SHARE

    def _task_workers(self) -> tuple[str, list[Process]]:
        """Return a host and its task workers; none if they have just started and are spared."""
        host = self._host()
        workers = self.house.task_workers(host)
        return host, [] if workers and self._spared(workers[0]) else workers

    def _outage(self) -> float:
        """Return the seconds until the service manager starts it again: mostly at once."""
        return self.random.choice((0.0, 0.0, 0.0, 0.5, 2.0, 6.0))

    # --- runs

    def trainer(self) -> Deed | None:
        if (found := self._pick_run("trainer")) is None:
            return None
        return self._kill_one("trainer", found[1], f"pid {found[1].pid}", found[0])

    def keeper(self) -> Deed | None:
        if (found := self._pick_run("keeper")) is None:
            return None
        return self._kill_one("keeper", found[1], f"pid {found[1].pid}", found[0])

    def real_training(self) -> Deed | None:
        """Kill the keeper or the trainer of a real training that has a checkpoint to resume
        from."""
        pairs = [(run_id, pair) for run_id, pair in self.house.live_runs() if self._is_real(pair)]
        saved = [
            (run_id, pair) for run_id, pair in pairs if not self._has_nothing_yet(run_id, pair)
        ]
        if not saved:
            return None
        run_id, pair = self.random.choice(saved)
        role = self.random.choice(("keeper", "trainer"))
        return self._kill_one(role, pair[role], f"pid {pair[role].pid}, true training", run_id)

    def all_trainers(self) -> list[Deed]:
        """Kill all trainers at once, as the kernel does for lack of memory."""
        return self._all("trainer")

    def all_keepers(self) -> list[Deed]:
        """Kill all keepers at once, as a broad ``pkill`` does."""
        return self._all("keeper")

    def _all(self, role: str) -> list[Deed]:
        runs = self._runs(role)
        done = [
            self._kill_one(role, process, f"pid {process.pid}, one of {len(runs)} at once", run_id)
            for run_id, process in runs
        ]
        return [deed for deed in done if deed is not None]

    def stop_keeper(self) -> Deed | None:
        if (found := self._pick_run("keeper")) is None:
            return None
        run_id, keeper = found
        seconds = self.random.choice((0.3, 1.0, 3.0, 6.0))
        deed = Deed(
            time.time(),
            "keeper SIGSTOP",
            f"pid {keeper.pid} for {seconds:g} s",
            run_id,
            until=time.time() + seconds,
        )
        if not self._signal(keeper, signal.SIGSTOP):
            return None
        self.stopped.append((time.time() + seconds, keeper, deed))
        return deed

    def term_keeper(self) -> Deed | None:
        if (found := self._pick_run("keeper")) is None:
            return None
        at = time.time()
        return (
            Deed(at, "keeper SIGTERM", f"pid {found[1].pid}", found[0])
            if self._signal(found[1], signal.SIGTERM)
            else None
        )

    # --- task workers

    def task_worker(self) -> Deed | None:
        host, workers = self._task_workers()
        if not workers:
            return None
        worker = self.random.choice(workers)
        return self._kill_one("task worker", worker, f"{host}, pid {worker.pid}")

    def all_task_workers(self) -> Deed | None:
        host, workers = self._task_workers()
        return self._kill_all("all task workers", workers, host)

    def term_task_worker(self) -> Deed | None:
        host, workers = self._task_workers()
        if not workers or not self._signal(worker := self.random.choice(workers), signal.SIGTERM):
            return None
        return Deed(time.time(), "task worker SIGTERM", f"{host}, pid {worker.pid}")

    def attendant(self) -> Deed | None:
        return self._kill_service(f"attend-{self._host()}", "attendant")

    def attendant_and_task_workers(self) -> Deed | None:
        """Kill the attendant and its task workers, as stopping a container or the service of a
        machine does; keepers are in sessions of their own."""
        host = self._host()
        if self._spared(f"attend-{host}"):
            return None
        self.house.services[f"attend-{host}"].down_until = time.monotonic() + (
            seconds := self._outage()
        )
        return self._kill_all(
            "attendant and task workers",
            self.house.family(f"attend-{host}"),
            f"{host}, back after {seconds:g} s",
        )

    def term_attendant(self) -> Deed | None:
        name = f"attend-{self._host()}"
        service = self.house.services[name]
        if not service.running or service.process is None or self._spared(service.name):
            return None
        service.process.terminate()
        return Deed(time.time(), "attendant SIGTERM", name)

    def second_attendant(self) -> Deed | None:
        """Start a second attendant, which has to wait for its turn and takes over when the first is
        killed."""
        host = self._host()
        service = self.house.services[f"attend-{host}"]
        with service.starting:
            if not service.running or service.process is None or self._spared(service.name):
                return None
            first = service.process
            service.start()
        first.kill()
        first.wait()
        return Deed(time.time(), "attendant, second one there", host, kills=1)

    # --- web and database

    def _kill_service(self, name: str, kind: str) -> Deed | None:
        service = self.house.services[name]
        if not service.running or self._spared(name):
            return None
        seconds = self._outage()
        at = time.time()
        service.kill(stays_down=seconds)
        return Deed(at, kind, f"{name}, back after {seconds:g} s", kills=1)

    def web(self) -> Deed | None:
        """Kill the whole server, as a service manager's control group does."""
        if self._spared("web"):
            return None
        self.house.services["web"].down_until = time.monotonic() + (seconds := self._outage())
        return self._kill_all("web server", self.house.family("web"), f"back after {seconds:g} s")

    def term_web(self) -> Deed | None:
        service = self.house.services["web"]
        if not service.running or service.process is None or self._spared(service.name):
            return None
        service.process.terminate()
        return Deed(time.time(), "web server SIGTERM", "web")

    def _stop_postgres(self, mode: str, seconds: float) -> Deed | None:
        if (
            self.house.postgres_down_until is not None
            or time.monotonic() - self.house.postgres_up_since < POSTGRES_SECONDS
        ):
            return None
        at = time.time()
        self.house.stop_postgres(mode, seconds)
        return Deed(
            at,
            f"PostgreSQL {mode}",
            f"away for {seconds:g} s",
            kills=int(mode == "immediate"),
            until=at + seconds,
        )

    def postgres_fast(self) -> Deed | None:
        return self._stop_postgres("fast", self.random.choice((0.0, 0.5, 2.0)))

    def postgres_immediate(self) -> Deed | None:
        return self._stop_postgres("immediate", self.random.choice((0.0, 0.5, 2.0)))

    def postgres_long(self) -> Deed | None:
        """Stop the database for longer than every time limit of a run."""
        return self._stop_postgres("fast", 8.0)

    # --- messages and disk

    def lose_messages(self) -> Deed | None:
        if self.house.postgres_down_until is not None:
            return None
        count = ask(self.house.tables.delete_messages, patience=60)
        return Deed(time.time(), "messages lost", f"{count}") if count else None

    def double_messages(self) -> Deed | None:
        return self._multiply_messages("messages tripled", most=20, copies=2)

    def fill_queue(self) -> Deed | None:
        return self._multiply_messages("queue filled", most=1, copies=QUEUE_FILL)

    def _multiply_messages(self, kind: str, *, most: int, copies: int) -> Deed | None:
        if self.house.postgres_down_until is not None:
            return None
        count = ask(
            lambda: self.house.tables.multiply_messages(most=most, copies=copies), patience=60
        )
        return Deed(time.time(), kind, f"{count} more") if count else None

    def full_disk(self) -> Deed | None:
        if self.disk_full is not None or time.time() < self.disk_spared_until:
            return None
        seconds = self.random.choice((0.5, 1.5, 3.0))
        at = time.time()
        self.house.fill_disk()
        # until it is free, whatever comes between
        deed = Deed(at, "disk full", f"for {seconds:g} s", until=math.inf)
        self.disk_full = at + seconds, deed
        self.disk_spared_until = at + DISK_SECONDS
        return deed

    # --- what was done

    def by_kind(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for deed in self.deeds:
            entry = found.setdefault(deed.kind, {"times": 0, "kills": 0})
            entry["times"] += 1
            entry["kills"] += deed.kills
        return found

    def to_run(self, run_id: str, *kinds: str) -> list[Deed]:
        return [
            deed
            for deed in self.deeds
            if deed.run_id == run_id and (not kinds or deed.kind in kinds)
        ]

    def around(self, start: float, end: float, *kinds: str) -> list[Deed]:
        """Return the actions whose time touches ``start`` to ``end``."""
        return [
            deed
            for deed in self.deeds
            if (not kinds or deed.kind in kinds)
            and deed.at <= end
            and (deed.until or deed.at) >= start
        ]
