"""What the system costs while it does nothing, as its user starts it: ``python -m benchmarks.idle`` (part of make bench-queue).

Starts ``make serve`` on a database of its own, waits until a dry run has completed and everything has settled, then counts the
CPU seconds of every process for a while and its share of memory (PSS). ``--before COMMIT`` does the same with an older commit
first, in the same run. Processes of a PostgreSQL server are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.databases import DATABASES
from runs.processes import processes_with, send_signal
from runs.tests.ports import HeldPort
from tunixrt.tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[1]
MARK = "TUNIXRT_IDLE"  # in the environment of all that is started here
OURS = ("TUNIX_", "TUNIXRT_", "DATABASE_URL", "SECRET_KEY", "DEBUG", "ALLOWED_HOSTS", "DJANGO_", "MAKE", "MFLAGS")
START_SECONDS = 300.0
STOP_SECONDS = 30.0
DATASET = "idle-v1"
PAGES = ("/", "/runs/new", "/datasets", "/api/tunix/runs", "/api/datasets", "/admin/", "/metrics")


@dataclass
class Row:
    """One process."""

    pid: int
    command: str
    cpu_seconds: float
    pss: int
    private: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--database", choices=DATABASES, default="sqlite")
    arguments = parser.parse_args()
    for name, figures in measure(arguments.database, arguments).items():
        print(json.dumps({name: figures}, indent=1), flush=True)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="how long CPU time is counted; default: 30")
    parser.add_argument(
        "--settle-seconds", type=float, default=15.0, help="how long the system is left alone before; default: 15"
    )
    parser.add_argument(
        "--use", type=int, default=20, help="dry runs, and views of every page, before the second look; default: 20"
    )
    parser.add_argument("--before", metavar="COMMIT", help="measure this commit first, with today's environment")


def measure(database: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Print a table for each checkout; return the sums."""
    found = {}
    with contextlib.ExitStack() as stack:
        checkouts = {"idle": ROOT}
        if arguments.before:
            checkouts = {f"idle at {arguments.before}": stack.enter_context(checkout(arguments.before))} | checkouts
        for name, folder in checkouts.items():
            with served(folder, database) as (port, mark):
                found[f"{name}, {database}, fresh"] = look(mark, arguments, f"{folder.name}: {name}, {database}, fresh")
                use(port, arguments.use)
                found[f"{name}, {database}, used"] = look(mark, arguments, f"{name}, {database}, after {arguments.use} of each")
    return found


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The files of a commit in a temporary folder, beside today's environments."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory(prefix="tunixrt-before-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        (Path(folder) / ".venv").symlink_to((ROOT / ".venv").resolve())
        yield Path(folder)


@contextlib.contextmanager
def served(folder: Path, database: str) -> Iterator[tuple[int, str]]:
    """``make serve`` of that checkout: its port, and the mark of its processes. It has answered a dry run."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="tunixrt-idle-") as var, contextlib.ExitStack() as stack:
        held = HeldPort()
        stack.callback(held.close)
        port = held.number
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        environment |= {
            MARK: mark,
            "TUNIXRT_ENV_FILE": "/dev/null",
            "TUNIXRT_VAR_DIR": var,
            "TUNIXRT_BIND": f"127.0.0.1:{port}",
        }
        if database == "postgresql":
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunixrt-idle-postgres-")))
            data.chmod(0o755)
            server = PostgresServer(data, durable=True)
            stack.callback(server.remove)
            server.create()
            server.start()
            environment["DATABASE_URL"] = server.url()
        log = Path(var) / "log"
        with log.open("wb") as output:
            # -o: the environment is there; an older checkout may ask for other packages
            process = subprocess.Popen(
                ["make", "-o", "environment", "serve"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            give_up = time.monotonic() + START_SECONDS
            while not _answers(port):
                if time.monotonic() > give_up or process.poll() is not None:
                    raise TimeoutError(f"make serve does not answer:\n{log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.2)
            _make_dataset(port)
            use(port, 1)
            yield port, mark
        finally:
            # What Ctrl-C does in a terminal
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            _end(mark)
            process.wait()


def _end(mark: str) -> None:
    give_up = time.monotonic() + STOP_SECONDS
    while (left := processes_with(MARK, mark)) and time.monotonic() < give_up:
        time.sleep(0.1)
    for process in left:
        print(f"process {process.pid} had to be killed: {_command(process.pid)}", file=sys.stderr)
        send_signal(process, signal.SIGKILL)


# --- a little use -----------------------------------------------------------------------------------------------------


def use(port: int, times: int) -> None:
    """Submit so many dry runs through the queue, one after the other, and look at every page as often."""
    for _ in range(times):
        submitted = _ask(port, "POST", "/api/tunix/run?mode=async", {"dataset_key": DATASET, "model_id": "preset:tiny-llama"})
        run_id = json.loads(submitted)["run_id"]
        give_up = time.monotonic() + START_SECONDS
        while json.loads(_ask(port, "GET", f"/api/tunix/runs/{run_id}/status"))["status"] != "completed":
            if time.monotonic() > give_up:
                raise TimeoutError("a dry run does not complete")
            time.sleep(0.05)
        for page in (*PAGES, f"/runs/{run_id}"):
            _ask(port, "GET", page)


def _make_dataset(port: int) -> None:
    traces = [
        {
            "prompt": f"{number} + 1 =",
            "steps": [{"i": 0, "type": "reasoning", "content": f"{number} + 1"}],
            "final_answer": str(number + 1),
        }
        for number in range(50)
    ]
    made = json.loads(_ask(port, "POST", "/api/traces", traces))
    name, version = DATASET.rsplit("-", 1)
    _ask(port, "POST", "/api/datasets", {"name": name, "version": version, "trace_ids": [trace["id"] for trace in made]})


def _ask(port: int, method: str, path: str, body: object = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status >= 400:
        raise RuntimeError(f"{method} {path} was answered {response.status}: {answer[:500]!r}")
    return answer


def _answers(port: int) -> bool:
    try:
        _ask(port, "GET", "/healthz")
    except (OSError, http.client.HTTPException, RuntimeError):
        return False
    return True


# --- looking ----------------------------------------------------------------------------------------------------------


def look(mark: str, arguments: argparse.Namespace, title: str) -> dict[str, float]:
    """Leave the system alone, then count."""
    time.sleep(arguments.settle_seconds)
    before = {process.pid: _cpu_seconds(process.pid) for process in processes_with(MARK, mark)}
    began, load = time.monotonic(), os.getloadavg()[0]
    time.sleep(arguments.idle_seconds)
    seconds = time.monotonic() - began
    rows = []
    for process in processes_with(MARK, mark):
        pss, private = _memory(process.pid)
        used = _cpu_seconds(process.pid) - before.pop(process.pid, 0.0)
        rows.append(Row(process.pid, _command(process.pid), used, pss, private))
    if before:
        raise RuntimeError(f"processes {sorted(before)} ended meanwhile: this was not idle")
    rows.sort(key=lambda row: row.pid)
    cpu = sum(row.cpu_seconds for row in rows)
    print(f"\n{title}: {seconds:.0f} s, load average {load:.1f}")
    print("    pid   CPU s   % of a core   PSS MB   private MB   command")
    for row in rows:
        print(
            f"{row.pid:7} {row.cpu_seconds:7.3f} {100 * row.cpu_seconds / seconds:13.2f} {row.pss / 1e6:8.1f}"
            f" {row.private / 1e6:12.1f}   {row.command[:90]}"
        )
    total = {
        "CPU seconds": round(cpu, 3),
        "of seconds": round(seconds, 1),
        "% of a core": round(100 * cpu / seconds, 2),
        "PSS, MB": round(sum(row.pss for row in rows) / 1e6, 1),
        "processes": len(rows),
        "load average": round(load, 1),
    }
    print(f"    sum {cpu:7.3f} {total['% of a core']:13.2f} {total['PSS, MB']:8.1f}", flush=True)
    return total


def _cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, ended ones too, in nanoseconds' precision: its clock, clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def _memory(pid: int) -> tuple[int, int]:
    """Bytes in memory: shared pages in proportion (PSS), and private alone."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    return sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "(ended)"


if __name__ == "__main__":
    sys.exit(main())
