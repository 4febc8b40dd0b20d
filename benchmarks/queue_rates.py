"""How many claims and how many dry runs a second, asked of the database itself."""

from __future__ import annotations

import multiprocessing
import time
import uuid
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Max, Min
from django_q.models import OrmQ

from benchmarks.chaos.house import ask
from benchmarks.chaos.load import DATASET
from runs.execution.hosts import this_host
from runs.execution.workers import Workers
from runs.models import Run, RunEvent, RunStatus
from runs.services.claiming import claim_run, next_pending
from runs.services.run_requests import clean_request
from runs.services.submission import submit_run

CLAIM_SECONDS = 3.0
LINE = 8_000  # waiting trainings, more than are claimed meanwhile
DRAIN_SECONDS = 300.0


def submit(count: int) -> None:
    """Submit dry runs to the queue, each with its message."""
    owner = User.objects.order_by("pk").first()
    assert owner is not None
    request = clean_request({"dataset_key": DATASET, "model_id": "preset:tiny-llama"})
    for _ in range(count):
        submit_run(request=request, by=owner, queued=True)


def line_up(count: int) -> None:
    """Insert this many waiting trainings, with no more of a run than a claim needs."""
    owner = User.objects.order_by("pk").first()
    ids = [uuid.uuid4() for _ in range(count)]
    Run.objects.bulk_create(
        (
            Run(
                run_id=i,
                dataset_key=DATASET,
                model_id="m",
                dry_run=False,
                output_dir=str(i),
                owner=owner,
            )
            for i in ids
        ),
        batch_size=500,
    )


def claims_a_second(workers: int) -> float:
    """Return single claims a second, each in its own transaction, by processes that do nothing
    else."""
    line_up(LINE - Run.objects.filter(status="pending", supervised=True).count())
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


def drained_a_second(count: int = 3000) -> float:
    """Return dry runs a second from the first claim to the last end, by two task workers and no
    attendant."""
    OrmQ.objects.all().delete()
    before = RunEvent.objects.aggregate(last=Max("pk"))["last"] or 0
    submit(count)
    workers = Workers()
    workers.keep()
    try:
        ended = RunEvent.objects.filter(pk__gt=before, new=RunStatus.COMPLETED)
        give_up = time.monotonic() + DRAIN_SECONDS
        while ask(ended.count) < count:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{count} dry runs were not drained in {DRAIN_SECONDS:g} s")
            time.sleep(0.005)
        first = RunEvent.objects.filter(pk__gt=before, new=RunStatus.RUNNING).aggregate(
            at=Min("at")
        )["at"]
        last = ended.aggregate(at=Max("at"))["at"]
        return count / float((last - first).total_seconds())
    finally:
        workers.stop()
