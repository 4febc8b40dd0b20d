"""What the system costs while it does nothing, as its user starts it: ``python -m benchmarks.idle``
(part of make bench-queue).

Starts ``make serve`` on a database of its own, waits until a dry run has completed and everything
has settled, then counts the CPU seconds of every process for a while and its share of memory (PSS).
``--before COMMIT`` does the same with an older commit first, in the same run. Processes of a
PostgreSQL server are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.databases import DATABASES
from benchmarks.served import MARK, ROOT, START_SECONDS, send, serving
from runs.runfolder.processes import processes_with

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
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.idle", description=(__doc__ or "").splitlines()[0]
    )
    add_arguments(parser)
    parser.add_argument("--database", choices=DATABASES, default="sqlite")
    arguments = parser.parse_args()
    for name, figures in measure(arguments.database, arguments).items():
        print(json.dumps({name: figures}, indent=1), flush=True)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--idle-seconds", type=float, default=30.0, help="how long CPU time is counted; default: 30"
    )
    parser.add_argument(
        "--settle-seconds",
        type=float,
        default=15.0,
        help="how long the system is left alone before; default: 15",
    )
    parser.add_argument(
        "--use",
        type=int,
        default=20,
        help="dry runs, and views of every page, before the second look; default: 20",
    )
    parser.add_argument(
        "--before", metavar="COMMIT", help="measure this commit first, with today's environment"
    )


def measure(database: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Print a table for each checkout; return the sums."""
    found = {}
    with contextlib.ExitStack() as stack:
        checkouts = {"idle": ROOT}
        if arguments.before:
            checkouts = {
                f"idle at {arguments.before}": stack.enter_context(checkout(arguments.before))
            } | checkouts
        for name, folder in checkouts.items():
            with used_once(folder, database) as (port, mark):
                found[f"{name}, {database}, fresh"] = look(
                    mark, arguments, f"{folder.name}: {name}, {database}, fresh"
                )
                use(port, arguments.use)
                found[f"{name}, {database}, used"] = look(
                    mark, arguments, f"{name}, {database}, after {arguments.use} of each"
                )
    return found


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Yield the files of a commit in a temporary folder, beside today's environments."""
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tempfile.TemporaryDirectory(prefix="tunixrt-before-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        (Path(folder) / ".venv").symlink_to((ROOT / ".venv").resolve())
        yield Path(folder)


@contextlib.contextmanager
def used_once(folder: Path, database: str) -> Iterator[tuple[int, str]]:
    """``make serve`` of that checkout: its port, and the mark of its processes. It has answered a
    dry run."""
    with (
        tempfile.TemporaryDirectory(prefix="tunixrt-idle-") as data,
        serving(Path(data), database, checkout=folder) as served,
    ):
        _make_dataset(served.port)
        use(served.port, 1)
        yield served.port, served.mark


# --- a little use ---------------------------------------------------------------------------------


def use(port: int, times: int) -> None:
    """Submit so many dry runs through the queue, one after the other, and look at every page as
    often."""
    for _ in range(times):
        submitted = _ask(
            port,
            "POST",
            "/api/tunix/run?mode=async",
            {"dataset_key": DATASET, "model_id": "preset:tiny-llama"},
        )
        run_id = json.loads(submitted)["run_id"]
        give_up = time.monotonic() + START_SECONDS
        while (
            json.loads(_ask(port, "GET", f"/api/tunix/runs/{run_id}/status"))["status"]
            != "completed"
        ):
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
    _ask(
        port,
        "POST",
        "/api/datasets",
        {"name": name, "version": version, "trace_ids": [trace["id"] for trace in made]},
    )


def _ask(port: int, method: str, path: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    return send(port, method, path, data, headers={"Content-Type": "application/json"})


# --- looking --------------------------------------------------------------------------------------


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
            f"{row.pid:7} {row.cpu_seconds:7.3f} {100 * row.cpu_seconds / seconds:13.2f}"
            f" {row.pss / 1e6:8.1f} {row.private / 1e6:12.1f}   {row.command[:90]}"
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
    """Return the CPU time of all threads of a process, ended ones included, from its clock
    (clock_getcpuclockid(3)), which counts nanoseconds."""
    return time.clock_gettime((~pid << 3) | 2)


def _memory(pid: int) -> tuple[int, int]:
    """Return the bytes in memory: shared pages in proportion (PSS), and private alone."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    sizes = {
        name: int(size) * 1024
        for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)
    }
    return sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()
        )
    return "(ended)"


if __name__ == "__main__":
    sys.exit(main())
