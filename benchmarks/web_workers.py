"""What more processes of the web server bring: ``python -m benchmarks.web_workers``.

The list over sixteen connections as fast as it goes, on SQLite, by a server of one process and one
of two, in turns. docs/performance.md has the figures on record.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.environment import without_our_settings
from benchmarks.http_load import get, put_load
from runs.runfolder.processes import descendants
from runs.tests.ports import HeldPort

ROOT = Path(__file__).resolve().parents[1]
LIST, CONNECTIONS, WARM_UP = "/api/tunix/runs", 16, 2.0
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.web_workers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunixrt-workers-") as folder:
        environment = without_our_settings() | {
            "TUNIXRT_ENV_FILE": os.devnull,
            "TUNIXRT_VAR_DIR": folder,
        }
        manage = [sys.executable, "manage.py"]
        subprocess.run([*manage, "migrate", "-v0"], cwd=ROOT, env=environment, check=True)
        for _ in range(options.rounds):
            for workers in options.workers:
                environment["TUNIXRT_WEB_WORKERS"] = str(workers)
                with _server(environment) as (process, port):
                    print(f"{workers}: {_measure(process, port, options.seconds)}", flush=True)
    return 0


@contextmanager
def _server(environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """Start a web server and yield its pid and port, once each of its processes has had
    requests."""
    held = HeldPort()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "web"],
        cwd=ROOT,
        env=environment | {"TUNIXRT_BIND": held.address},
        stderr=subprocess.DEVNULL,
    )
    try:
        workers = int(environment["TUNIXRT_WEB_WORKERS"])
        while _listening(held.number) < workers:
            time.sleep(0.1)
        put_load(held.number, get(LIST), seconds=WARM_UP, connections=CONNECTIONS)
        yield process.pid, held.number
    finally:
        process.terminate()
        process.wait()
        held.close()


def _listening(port: int) -> int:
    """Return how many sockets listen on the port: one for each worker."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def _measure(pid: int, port: int, seconds: float) -> str:
    before = _processor_seconds(pid)
    load = put_load(port, get(LIST), seconds=seconds, connections=CONNECTIONS)
    cost = 1000 * (_processor_seconds(pid) - before) / len(load.milliseconds)
    memory = sum(_megabytes(process.pid) for process in descendants(pid)) + _megabytes(pid)
    return (
        f"{load.a_second:,.0f} a second, {load.spread()} ms, {cost:.2f} ms of processor time a"
        f" request, {memory:.0f} MB, load average {os.getloadavg()[0]:.1f}"
    )


def _processor_seconds(pid: int) -> float:
    """Return the processor time of the server's processes so far, in seconds."""
    stats = [Path(f"/proc/{process.pid}/stat").read_text() for process in descendants(pid)]
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def _megabytes(pid: int) -> float:
    """Return the memory of a process in MB, with what it shares in proportion (PSS)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if "Pss:" in line) / 1024


if __name__ == "__main__":
    sys.exit(main())
