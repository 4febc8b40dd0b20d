"""How fast runs are claimed, drained and started, and what the idle system costs: ``python -m
benchmarks.queue_speed`` (make bench-queue).

Real servers on a database of their own (benchmarks/chaos/house.py): SQLite, or a PostgreSQL with
fsync on. docs/reliability.md has the figures on record.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Self

from benchmarks import idle
from benchmarks.chaos.figures import spread
from benchmarks.chaos.house import House, house, keeper_and_trainer, read_journal, write_plan
from benchmarks.chaos.load import DATASET, make_datasets
from benchmarks.databases import on_each_database, parser_for
from benchmarks.history import fill
from runs.runfolder import records

WORKER_COUNTS = (1, 2, 4)


def main() -> int:
    parser = parser_for("benchmarks.queue_speed", __doc__ or "")
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[1_000, 1_000_000], help="table sizes for the claims"
    )
    parser.add_argument("--drain-rows", type=int, default=200_000, help="table size for the drain")
    parser.add_argument("--repeats", type=int, default=100, help="requests of each latency")
    idle.add_arguments(parser)
    return on_each_database(measure, parser.parse_args())


def measure(database: str, arguments: argparse.Namespace) -> None:
    for name, cost in idle.measure(database, arguments).items():
        print(json.dumps({name: cost}), flush=True)
    began, started = os.getloadavg()[0], time.monotonic()
    with house(database, 2, None) as built:
        built.hosts = ["alpha"]
        built.open()
        from benchmarks import queue_rates  # noqa: PLC0415 - its models need the settings that open() has made

        make_datasets(built)
        figures: dict[str, Any] = {"database": database, "load average before": round(began, 1)}
        figures |= latencies(built, arguments.repeats)
        built.close()
        rows = 0
        for wanted in sorted({*arguments.rows, arguments.drain_rows}):
            fill(wanted - rows)
            rows = max(rows, wanted)
            if wanted in arguments.rows:
                for workers in WORKER_COUNTS:
                    figures[f"claims/s, {workers} workers, {wanted:,} rows"] = round(
                        queue_rates.claims_a_second(workers)
                    )
            if wanted == arguments.drain_rows:
                figures[f"dry runs drained/s, 2 task workers, {wanted:,} rows"] = round(
                    queue_rates.drained_a_second()
                )
        figures["seconds"] = round(time.monotonic() - started)
        figures["load average after"] = round(os.getloadavg()[0], 1)
        print(json.dumps(figures, indent=1, ensure_ascii=False), flush=True)


# --- latencies ------------------------------------------------------------------------------------

WARM_UP = 5
POLL_SECONDS = 0.005
PAUSE_SECONDS = 0.1  # between two requests, so that each finds the queue idle


def latencies(built: House, repeats: int) -> dict[str, Any]:
    """Return seconds as a client of the HTTP API sees them on an idle queue: one request after the
    other, over one connection."""
    body = {"dataset_key": DATASET, "model_id": "preset:tiny-llama", "num_epochs": 1}
    completed, started, spoke = [], [], []
    memory: dict[str, int] = {}
    with Client(built) as client:
        for _ in range(WARM_UP):
            client.complete(body)
        for _ in range(repeats):
            time.sleep(PAUSE_SECONDS)
            completed.append(client.complete(body))
        for seed in range(1, repeats + 1):
            plan = {
                "seed": seed,
                "kind": "silent",
                "steps": 1,
                "pause": 0.05,
                "code": 0,
                "output": "text",
            }
            write_plan(built.workshop, plan)
            time.sleep(PAUSE_SECONDS)
            sent = time.time()
            run_id = client.submit(body | {"dry_run": False, "seed": seed})
            _wait(partial(_has_started, built, run_id))
            record = records.read_keeper(built.output_root / run_id) or {}
            started.append(datetime.fromisoformat(record["started_at"]).timestamp() - sent)
            spoke.append(read_journal(built.workshop, run_id).starts[0] - sent)
            if keeper := keeper_and_trainer(built.output_root / run_id).get("keeper"):
                for name, size in _memory(keeper.pid).items():
                    memory[name] = max(memory.get(name, 0), size)
            client.wait_until_completed(run_id)
    return {
        "async dry run, POST → completed as a poller sees it, s": spread(completed),
        "async POST → training process started, s": spread(started),
        "async POST → first line of the training program, a Python one, s": spread(spoke),
        "a keeper, MB at most (Pss: shared pages in proportion)": {
            name: round(size / 1e6, 1) for name, size in memory.items()
        },
    }


class Client:
    """A client that submits and polls."""

    def __init__(self, built: House):
        self.connection = http.client.HTTPConnection("127.0.0.1", built.port, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body)
        self.connection.request(method, path, data, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        if response.status not in (200, 202):
            raise RuntimeError(f"{method} {path} was answered {response.status}: {answer}")
        return answer

    def submit(self, body: dict[str, Any]) -> str:
        return str(self.ask("POST", "/api/tunix/run?mode=async", body)["run_id"])

    def complete(self, body: dict[str, Any]) -> float:
        sent = time.monotonic()
        self.wait_until_completed(self.submit(body))
        return time.monotonic() - sent

    def wait_until_completed(self, run_id: str) -> None:
        while self.ask("GET", f"/api/tunix/runs/{run_id}/status")["status"] != "completed":
            time.sleep(POLL_SECONDS)


def _has_started(built: House, run_id: str) -> bool:
    return bool(read_journal(built.workshop, run_id).starts)


def _wait(fact: Callable[[], Any], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > give_up:
            raise TimeoutError("what is measured did not happen")
        time.sleep(0.005)


def _memory(pid: int) -> dict[str, int]:
    """Return the bytes of a process: all that it has mapped and in memory, that with shared pages
    in proportion, and its own alone."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("Rss", "Pss"):
                found[name] = int(value.split()[0]) * 1024
            elif name in ("Private_Clean", "Private_Dirty"):
                found["private"] = found.get("private", 0) + int(value.split()[0]) * 1024
    return found


if __name__ == "__main__":
    sys.exit(main())
