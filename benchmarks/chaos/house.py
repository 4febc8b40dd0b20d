"""The system under test: real programs in a temporary folder, on a database of their own. Nothing
of the developer's is used."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import django
from django.db import InterfaceError, OperationalError, connection

from benchmarks.environment import without_our_settings
from runs.runfolder import names, records
from runs.runfolder.processes import Process, live_processes, read_process, send_signal
from runs.tests.ports import HeldPort
from tunixrt.tests.postgres import PostgresError, PostgresServer

ROOT = Path(__file__).resolve().parents[2]
TRAINER = Path(__file__).with_name("trainer.py")
# runs.execution.workers.NAME, which cannot be imported before Django is set up
TASK_WORKER = "task worker"
MARK = "TUNIXRT_CHAOS"  # in the environment of all that the house starts
SKEW_SOURCE = Path(__file__).with_name("skew.c")
# two seconds on a quiet machine; one that is busy with other things may take a hundred times as
# long
START_SECONDS = 300.0
STOP_SECONDS = 60.0
SKEW_SECONDS = 90

Value = TypeVar("Value")


class Trouble(Exception):
    """The harness itself cannot continue."""


@dataclass
class Limits:
    """Seconds, short enough that a test of minutes reaches all of them."""

    sync: float = 15.0
    stop_wait: float = 1.0
    term_grace: float = 0.5
    host_silent: float = 5.0
    host_lost: float = 20.0


@dataclass
class Service:
    """One program that a service manager would keep alive."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    down_until: float | None = None  # monotonic: when the caretaker may start it again
    started_at: float = 0.0  # monotonic
    # two starts at once would lose sight of one process
    starting: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self.arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.down_until = None
        self.started_at = time.monotonic()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self, *, stays_down: float = 0.0) -> None:
        """Send SIGKILL to the program alone; what it has started continues, as it would in
        production."""
        self.down_until = time.monotonic() + stays_down
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class House:
    database: str
    slots: int
    folder: Path
    disk_megabytes: int | None = (
        None  # a small disk of its own for the output root, where one can be mounted
    )
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.workshop = self.folder / "workshop"
        self.output_root = self.folder / "output"
        for path in (
            self.workshop / "plans",
            self.workshop / "journal",
            self.output_root,
            self.folder / "var",
            self.folder / "log",
        ):
            path.mkdir(mode=0o700, parents=True)
        self.small_disk = self.disk_megabytes is not None and self._mount()
        self.postgres: PostgresServer | None = None
        self.postgres_down_until: float | None = None
        self.postgres_up_since = 0.0
        self.boot_seconds = (
            0.0  # how long the programs take to come up on this machine, as busy as it is
        )
        self.postgres_lock = threading.Lock()
        self.services: dict[str, Service] = {}
        self.skew = (
            0  # seconds that the wall clock of the last host's attendant and task workers is off
        )
        self._held_port = HeldPort()
        self.port = self._held_port.number
        self.url = f"http://127.0.0.1:{self.port}"
        self.care_trouble: list[str] = []  # what could not be started at the first try
        self._caring = threading.Event()
        self._caretaker = threading.Thread(target=self._care, name="caretaker", daemon=True)
        self.hosts = ["alpha", "beta"] if self.database == "postgresql" else ["alpha"]

    # --- coming up

    def open(self) -> None:
        """Start everything and wait until it answers."""
        if self.database == "postgresql":
            data = Path(tempfile.mkdtemp(prefix="postgres-", dir=self.folder))
            self.folder.chmod(0o755)
            data.chmod(0o755)
            # durable: an immediate stop would lose the last commits without it, which no real
            # installation does
            self.postgres = PostgresServer(data, durable=True)
            self.postgres.create()
            self.postgres.start()
        os.environ.update(self.environment("alpha"))
        django.setup()
        # now: models need the settings
        self.tables = importlib.import_module("benchmarks.chaos.tables")
        self._manage("migrate", "--verbosity", "0")
        for host in self.hosts:
            self._add(f"attend-{host}", ["manage.py", "attend"], host)
        if len(self.hosts) > 1 and (library := self._skew_library()):
            self.skew = SKEW_SECONDS
            # keepers and trainers have an environment of their own and the right time
            skewed = {"LD_PRELOAD": library, "TUNIXRT_CHAOS_SKEW": str(self.skew)}
            self.services[f"attend-{self.hosts[-1]}"].environment |= skewed
        self._add("web", ["manage.py", "web"], "alpha")
        began = time.monotonic()
        for service in self.services.values():
            service.start()
        self._caring.set()
        self._caretaker.start()  # a program may fail to come up, too
        self.wait_until_up()
        self.boot_seconds = time.monotonic() - began

    def _add(self, name: str, arguments: list[str], host: str) -> None:
        self.services[name] = Service(
            name, arguments, self.environment(host, name), self.folder / "log" / f"{name}.log"
        )

    def environment(self, host: str, role: str = "harness") -> dict[str, str]:
        environment = without_our_settings()
        environment |= {
            "DJANGO_SETTINGS_MODULE": "tunixrt.settings",
            "PYTHONUNBUFFERED": "1",
            "TUNIXRT_ENV_FILE": "/dev/null",
            "TUNIXRT_VAR_DIR": str(self.folder / "var"),
            "TUNIX_OUTPUT_ROOT": str(self.output_root),
            "SECRET_KEY": "chaos-" + "k" * 50,
            "TUNIX_COMMAND": shlex.join(
                [sys.executable, "-I", "-S", str(TRAINER), str(self.workshop)]
            ),
            "TUNIX_SLOTS": str(self.slots),
            "TUNIX_QUEUED_PER_ACCOUNT": "1000000",  # all runs are one account's
            "TUNIX_HOST_NAME": host,
            "TUNIXRT_BIND": f"127.0.0.1:{self.port}",
            "TUNIXRT_WEB_THREADS": str(self.slots + 4),
            "TUNIXRT_LOG_LEVEL": "INFO",
            "TUNIX_SYNC_TIMEOUT_SECONDS": str(self.limits.sync),
            "TUNIX_STOP_WAIT_SECONDS": str(self.limits.stop_wait),
            "TUNIX_TERM_GRACE_SECONDS": str(self.limits.term_grace),
            "TUNIX_HOST_SILENT_SECONDS": str(self.limits.host_silent),
            "TUNIX_HOST_LOST_SECONDS": str(self.limits.host_lost),
        }
        if self.postgres is not None:
            environment["DATABASE_URL"] = self.postgres.url()
        if role != "harness":
            environment[MARK] = f"{self.folder}:{role}"
        return environment

    def _skew_library(self) -> str | None:
        """Build the library that shifts the wall clock; return None where there is no C
        compiler."""
        library = self.folder / "skew.so"
        try:
            made = subprocess.run(
                ["cc", "-shared", "-fPIC", "-o", library, SKEW_SOURCE, "-ldl"], check=False
            )
        except OSError:
            return None
        return str(library) if made.returncode == 0 else None

    def _manage(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment("alpha"),
            check=True,
        )

    def is_young(self, program: Service | Process) -> bool:
        """Return whether it has only just started. It is then hit rarely, or nothing but starts
        would happen on a slow machine."""
        if isinstance(program, Process):
            age = time.clock_gettime(time.CLOCK_BOOTTIME) - program.start_time / os.sysconf(
                "SC_CLK_TCK"
            )
        else:
            age = time.monotonic() - program.started_at
        return age < 3 * self.boot_seconds

    def wait_until_up(self, seconds: float = START_SECONDS) -> None:
        give_up = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > give_up:
                web = self.services["web"]
                state = (
                    "runs"
                    if web.running
                    else f"ended with {web.process and web.process.returncode}"
                )
                raise Trouble(
                    f"The web server {state} and has not answered for {seconds:g} s (load average"
                    f" {os.getloadavg()[0]:.1f})."
                    f" {'; '.join(self.care_trouble[-3:])}\n{self.said('web')[-3000:]}"
                )
            time.sleep(0.05)

    def answers(self) -> bool:
        return is_up(self.port, "/healthz")

    def said(self, service: str) -> str:
        return self.services[service].log.read_text(errors="replace")

    # --- staying up: what a service manager does

    def _care(self) -> None:
        while self._caring.is_set():
            try:
                self.restart_what_is_due()
            except (
                OSError,
                PostgresError,
            ) as error:  # it tries again; PostgreSQL may need more than a minute to recover
                self.care_trouble.append(f"{type(error).__name__}: {error}")
            time.sleep(0.1)

    def restart_what_is_due(self) -> None:
        now = time.monotonic()
        for service in self.services.values():
            with service.starting:
                if not service.running and (
                    service.down_until is None or now >= service.down_until
                ):
                    # the service manager's control group: nothing of the old one keeps the port
                    if service.name == "web":
                        self.kill_family("web")
                    service.start()
        if (
            self.postgres is not None
            and self.postgres_down_until is not None
            and now >= self.postgres_down_until
        ):
            with self.postgres_lock:
                self.postgres.start()
                self.postgres_down_until, self.postgres_up_since = None, time.monotonic()

    def stop_postgres(self, mode: str, seconds: float) -> None:
        assert self.postgres is not None
        with self.postgres_lock:
            if self.postgres_down_until is None:
                self.postgres.stop(mode)
                self.postgres_down_until = time.monotonic() + seconds

    def restore(self) -> None:
        """End every outage now."""
        for service in self.services.values():
            service.down_until = None
        if self.postgres_down_until is not None:
            self.postgres_down_until = time.monotonic()
        self.free_disk()
        for process in self.processes():
            send_signal(process, signal.SIGCONT)
        for path in self.run_folders():
            for process in keeper_and_trainer(path).values():
                send_signal(process, signal.SIGCONT)

    # --- what is there

    def family(self, role: str) -> list[Process]:
        """Return the live processes that were started as ``role`` or by one of them, by age,
        without keepers and trainers."""
        wanted = f"{MARK}={self.folder}:{role}".encode()
        return sorted(
            (p for p in live_processes() if wanted in environment_of(p.pid)),
            key=lambda p: (p.start_time, p.pid),
        )

    def processes(self) -> list[Process]:
        wanted = f"{MARK}={self.folder}:".encode()
        return [
            p
            for p in live_processes()
            if any(line.startswith(wanted) for line in environment_of(p.pid))
        ]

    def kill_family(self, role: str) -> None:
        for process in self.family(role):
            send_signal(process, signal.SIGKILL)

    def task_workers(self, host: str) -> list[Process]:
        """Return the task workers of a host, by age."""
        return [p for p in self.family(f"attend-{host}") if name_of(p.pid) == TASK_WORKER]

    def run_folders(self) -> list[Path]:
        return [path.parent for path in self.output_root.glob(f"*/{names.LOCK}")]

    def live_runs(self) -> list[tuple[str, dict[str, Process]]]:
        """Return the runs with a living keeper: ``(run id, {"keeper": …, "trainer": …})``."""
        found = []
        for path in self.output_root.glob(f"*/{names.KEEPER}"):
            if not (path.parent / names.EXIT).exists() and "keeper" in (
                pair := keeper_and_trainer(path.parent)
            ):
                found.append((str((records.read_keeper(path.parent) or {}).get("run_id")), pair))
        return sorted(found, key=lambda item: item[0])

    # --- the disk

    def _mount(self) -> bool:
        command = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={self.disk_megabytes}M",
            "tunixrt-chaos",
            str(self.output_root),
        ]
        try:
            return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
        except OSError:
            return False

    def fill_disk(self) -> None:
        path = self.output_root / ".balloon"
        with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
            while True:
                file.write(b"\0" * 64)

    def free_disk(self) -> None:
        (self.output_root / ".balloon").unlink(missing_ok=True)

    # --- going down

    def close(self) -> list[str]:
        """Stop everything in order; returns what did not end as it should."""
        self._caring.clear()
        if self._caretaker.is_alive():
            self._caretaker.join()
        problems = []
        for service in self.services.values():
            if service.running:
                assert service.process is not None
                service.process.terminate()
        for service in self.services.values():
            if service.process is None:
                continue
            try:
                service.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                problems.append(
                    f"{service.name} did not end within {STOP_SECONDS:g} s after SIGTERM"
                )
        give_up = time.monotonic() + STOP_SECONDS / 10
        while self.processes() and time.monotonic() < give_up:  # on their way out
            time.sleep(0.1)
        for process in self.processes():
            problems.append(
                f"process {process.pid} is left:"
                f" {command_line(process.pid).replace(bytes(1), b' ').decode()}"
            )
        return problems

    def remove(self) -> None:
        for process in self.processes():
            send_signal(process, signal.SIGKILL)
        for path in self.run_folders():
            for process in keeper_and_trainer(path).values():
                send_signal(process, signal.SIGKILL)
        if self.postgres is not None:
            self.postgres.remove()
        if self.small_disk:
            subprocess.run(["umount", "-l", str(self.output_root)], check=False)
        self._held_port.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def keeper_and_trainer(path: Path) -> dict[str, Process]:
    """Return those of the processes that keeper.json names which are alive."""
    record = records.read_keeper(path) or {}
    found = {}
    for role in ("keeper", "trainer"):
        named = record.get(role)
        if (
            isinstance(named, dict)
            and (process := read_process(named["pid"]))
            and process.start_time == named["start_time"]
        ):
            found[role] = process
    return found


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def ask(question: Callable[[], Value], patience: float = 30.0) -> Value:
    """Return what the database answers, however often it is restarted meanwhile."""
    give_up = time.monotonic() + patience
    while True:
        try:
            return question()
        except (OperationalError, InterfaceError):
            connection.close()
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)


@dataclass
class Journal:
    """What a trainer has noted of itself; see trainer.py."""

    starts: list[float] = field(default_factory=list)  # times
    wrote: int = 0  # bytes of stdout
    begun: int | None = (
        None  # the step it resumed from, 0 from scratch; None: it did not come so far
    )
    source: Path | None = None  # the folder of the run whose checkpoint that was
    begun_at: float | None = None
    saving: int | None = None  # the newest checkpoint that was about to get its name
    saved: int | None = None  # the newest that has it
    code: int | None = None  # if it came to its end
    ended: float | None = None


def read_journal(workshop: Path, run_id: str) -> Journal:
    found = Journal()
    with contextlib.suppress(FileNotFoundError):
        for line in (workshop / "journal" / run_id).read_text().splitlines():
            word, *values = line.split()
            match word:
                case "start":
                    found.starts.append(float(values[1]))
                case "begin":
                    found.begun, found.begun_at = int(values[0]), float(values[2])
                    found.source = None if values[1] == "-" else Path(values[1])
                case "wrote":
                    found.wrote = int(values[0])
                case "saving":
                    found.saving = int(values[0])
                case "saved":
                    found.saved = int(values[0])
                case "end":
                    found.code, found.ended = int(values[0]), float(values[1])
    return found


def write_plan(workshop: Path, plan: dict[str, Any]) -> None:
    (workshop / "plans" / f"{plan['seed']}.json").write_text(json.dumps(plan))


def is_up(port: int, path: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as server:
        server.settimeout(5)
        server.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return b" 200 " in server.recv(64)
    return False


@contextlib.contextmanager
def house(database: str, slots: int, disk_megabytes: int | None) -> Iterator[House]:
    """Yield a house; remove it with all its processes and files afterwards, also after SIGTERM."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    built = House(database, slots, Path(tempfile.mkdtemp(prefix="tunixrt-chaos-")), disk_megabytes)
    try:
        yield built
    finally:
        built._caring.clear()
        if built._caretaker.is_alive():
            built._caretaker.join()
        built.remove()
