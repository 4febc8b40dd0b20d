"""How fast runs are claimed, drained and started, on a quiet system: ``python -m benchmarks.queue_speed`` (make bench-queue).

Real servers on a database of their own (benchmarks/chaos/house.py): SQLite, or a PostgreSQL with fsync on. docs/reliability.md
has the figures on record.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.chaos.figures import spread
from benchmarks.chaos.house import MARK, ROOT, House, ask, house, keeper_and_trainer, read_journal, write_plan
from benchmarks.chaos.load import DATASET, call, make_datasets

CLAIM_SECONDS = 4.0
WORKER_COUNTS = (1, 2, 4)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append", help="default: both")
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 1_000_000], help="table sizes for the claims")
    parser.add_argument("--drain-rows", type=int, default=200_000, help="table size for the drain")
    parser.add_argument("--repeats", type=int, default=100, help="requests of each latency")
    arguments = parser.parse_args()
    for database in arguments.database or ["sqlite", "postgresql"]:
        # Django reads its settings once, so each database has a process of its own.
        process = multiprocessing.get_context("fork").Process(target=_measure, args=(database, arguments))
        process.start()
        process.join()
        if process.exitcode:
            return 1
    return 0


def _measure(database: str, arguments: argparse.Namespace) -> None:
    began = os.getloadavg()[0]
    with house(database, 2, None) as built:
        built.open()
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
                    figures[f"claims/s, {workers} workers, {wanted:,} rows"] = round(claims_a_second(workers))
            if wanted == arguments.drain_rows:
                figures[f"dry runs drained/s, 2 task workers, {wanted:,} rows"] = round(drained_a_second(built))
        figures["load average after"] = round(os.getloadavg()[0], 1)
        print(json.dumps(figures, indent=1, ensure_ascii=False), flush=True)


# --- latencies --------------------------------------------------------------------------------------------------------


def latencies(built: House, repeats: int) -> dict[str, Any]:
    """Seconds, as a client sees them on an idle queue: one request after the other."""
    body = {"dataset_key": DATASET, "model_id": "preset:tiny-llama", "num_epochs": 1}
    completed, started, memory = [], [], 0
    for _ in range(repeats):
        completed.append(_until_completed(built, body))
        time.sleep(0.05)
    for seed in range(1, repeats + 1):
        write_plan(built.workshop, {"seed": seed, "kind": "silent", "steps": 1, "pause": 0.05, "code": 0, "output": "text"})
        answer = call(built, "POST", "/api/tunix/run?mode=async", body | {"dry_run": False, "seed": seed})
        run_id = str(answer.run_id)
        _wait(partial(_has_started, built, run_id))
        started.append(read_journal(built.workshop, run_id)["starts"][0] - answer.sent)
        if keeper := keeper_and_trainer(built.output_root / run_id).get("keeper"):
            memory = max(memory, _proportional_bytes(keeper.pid))
        _wait(partial(_is_completed, built, run_id))
    return {
        "async dry run, POST → completed as a poller sees it, s": spread(completed),
        "async POST → training process started, s": spread(started),
        "a keeper, bytes (shared pages in proportion)": memory,
    }


def _has_started(built: House, run_id: str) -> bool:
    return bool(read_journal(built.workshop, run_id)["starts"])


def _is_completed(built: House, run_id: str) -> bool:
    return call(built, "GET", f"/api/tunix/runs/{run_id}/status").status == "completed"


def _until_completed(built: House, body: dict[str, Any]) -> float:
    answer = call(built, "POST", "/api/tunix/run?mode=async", body)
    while not _is_completed(built, str(answer.run_id)):
        time.sleep(0.002)
    return time.time() - answer.sent


def _wait(fact: Callable[[], Any], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > give_up:
            raise TimeoutError("what is measured did not happen")
        time.sleep(0.005)


def _proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except OSError:
        return 0


# --- claims and drain -------------------------------------------------------------------------------------------------


def fill(count: int) -> None:
    """So many ended runs, spread over statuses, datasets and days, by the database itself."""
    from django.db import connection  # noqa: PLC0415 - after django.setup()

    if count <= 0:
        return
    columns = """run_id, dataset_key, model_id, mode, status, exit_code, created_at, started_at, completed_at, duration_seconds,
        stdout, stderr, message, config, output_dir, owner_id, notes, pinned, priority, attempt, automatic_retries, resume,
        request_hash, metrics_offset, summary, supervised"""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM auth_user ORDER BY id LIMIT 1")
        owner = cursor.fetchone()[0]
        if connection.vendor == "sqlite":
            source = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %s)"
            unique, moment = "lower(hex(randomblob(16)))", "datetime('now', '-' || n || ' seconds')"
            yes, no = "1", "0"
        else:
            source = "WITH numbers AS (SELECT generate_series(1, %s) AS n)"
            unique, moment, yes, no = "gen_random_uuid()", "now() - n * interval '1 second'", "true", "false"
        cursor.execute(
            f"""INSERT INTO tunix_runs ({columns}) {source}
            SELECT {unique}, 'set-' || n %% 50, 'preset:tiny-llama', CASE WHEN n %% 3 = 0 THEN 'local' ELSE 'dry-run' END,
            CASE WHEN n %% 7 = 0 THEN 'failed' ELSE 'completed' END, CASE WHEN n %% 7 = 0 THEN 1 ELSE 0 END,
            {moment}, {moment}, {moment}, 1.0, 'Dry-run validation passed', '', '', '{{}}', 'old-' || n || '-' || {unique},
            {owner}, '', {no}, 0, 1, 0, {no}, '', 0, '{{}}', CASE WHEN n %% 3 = 0 THEN {yes} ELSE {no} END
            FROM numbers""",  # noqa: S608 - our own words
            [count],
        )
        cursor.execute("ANALYZE")


def submit(count: int, *, dry_run: bool, queued: bool) -> None:
    from django.contrib.auth.models import User  # noqa: PLC0415

    from runs.requests import clean_request  # noqa: PLC0415
    from runs.services import submit_run  # noqa: PLC0415

    owner = User.objects.order_by("pk").first()
    assert owner is not None
    request = clean_request({"dataset_key": DATASET, "model_id": "preset:tiny-llama", "dry_run": dry_run})
    for _ in range(count):
        submit_run(request=request, by=owner, queued=queued)


def claims_a_second(workers: int) -> float:
    """Single claims, each in its own transaction, by processes that do nothing else."""
    from django.db import connection  # noqa: PLC0415

    from runs.models import Run  # noqa: PLC0415

    submit(max(0, 2500 - Run.objects.filter(status="pending", supervised=True).count()), dry_run=False, queued=False)
    connection.close()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    go = context.Event()
    processes = [context.Process(target=_claimer, args=(go, results)) for _ in range(workers)]
    for process in processes:
        process.start()
    time.sleep(0.5)
    go.set()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    seconds = max(end for _, _, end in found) - min(start for _, start, _ in found)
    return float(sum(count for count, _, _ in found) / seconds)


def _claimer(go: Any, results: Any) -> None:
    from django.db import transaction  # noqa: PLC0415

    from runs.execution.hosts import this_host  # noqa: PLC0415
    from runs.services import claim_run, next_pending  # noqa: PLC0415

    host = this_host()
    count = 0
    go.wait()
    start = time.monotonic()
    while time.monotonic() < start + CLAIM_SECONDS:
        with transaction.atomic():
            waiting = next_pending(supervised=True, limit=1)
            if not waiting:
                break
            claim_run(run=waiting[0], host=host, by="benchmark")
        count += 1
    results.put((count, start, time.monotonic()))


def drained_a_second(built: House, count: int = 3000) -> float:
    """From the first claim to the last end, by one qcluster with two workers and no attendant."""
    from django.db.models import Max, Min  # noqa: PLC0415
    from django_q.models import OrmQ  # noqa: PLC0415

    from runs.models import RunEvent, RunStatus  # noqa: PLC0415

    OrmQ.objects.all().delete()
    before = RunEvent.objects.aggregate(last=Max("pk"))["last"] or 0
    submit(count, dry_run=True, queued=True)
    environment = built.services["attend-alpha"].environment | {MARK: f"{built.folder}:drain"}
    cluster = subprocess.Popen([sys.executable, "manage.py", "qcluster"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
    try:
        ended = RunEvent.objects.filter(pk__gt=before, new=RunStatus.COMPLETED)
        _wait(lambda: ask(ended.count) >= count, 300)
        first = RunEvent.objects.filter(pk__gt=before, new=RunStatus.RUNNING).aggregate(at=Min("at"))["at"]
        last = ended.aggregate(at=Max("at"))["at"]
        return count / float((last - first).total_seconds())
    finally:
        cluster.terminate()
        cluster.wait()


if __name__ == "__main__":
    sys.exit(main())
