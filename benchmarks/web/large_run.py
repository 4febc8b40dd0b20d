"""One run with much to show: a million measurements and a log of 1 GB."""

from __future__ import annotations

import math
import statistics
import time
import uuid

from benchmarks.chaos.figures import quantile
from benchmarks.chaos.house import House
from benchmarks.chaos.load import call
from runs.models import Run
from runs.services.measurements import take_in_metrics
from runs.services.reservations import run_folder

METRIC_POINTS = 1_000_000
LOG_BYTES = 1 << 30


def measure_large_run(built: House) -> dict[str, str]:
    run_id = _large_run(built)
    return {
        f"curve of {METRIC_POINTS:,} points": _one_by_one(
            built, f"/api/tunix/runs/{run_id}/metrics?name=loss&points=1000"
        ),
        "last 500 lines of a log of 1 GB": _one_by_one(
            built, f"/api/tunix/runs/{run_id}/logs?tail_lines=500"
        ),
        "detail page of that run": _one_by_one(built, f"/runs/{run_id}"),
    }


def _one_by_one(built: House, path: str, times: int = 20) -> str:
    took = []
    for number in range(times + 1):
        began = time.perf_counter()
        answer = call(built, "GET", path)
        if answer.code != 200:
            raise RuntimeError(f"{path} answered {answer.code}: {answer.body}")
        if number:
            took.append(1000 * (time.perf_counter() - began))
        else:
            first = 1000 * (time.perf_counter() - began)
    return (
        f"{statistics.median(took):.0f} ms, p95 {quantile(took, 0.95):.0f} ms, the very first time"
        f" {first:.0f} ms"
    )


def _large_run(built: House) -> uuid.UUID:
    """Make an ended run with a million measurements, recorded as an attendant does, and a log of 1
    GB."""
    run = Run.objects.filter(dry_run=False, status="completed").first()
    assert run is not None
    folder = run_folder(run)
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, METRIC_POINTS + 1):
            loss = (
                4 * math.exp(-step / 200_000)
                + (0.5 if step % 99_991 == 0 else 0)
                + (step * 7919 % 1000) / 5000
            )
            file.write(
                f'{{"time":{1.7e9 + step},"step":{step},"epoch":1,'
                f'"values":{{"loss":{loss:.5f}}}}}\n'
            )
    taken = take_in_metrics(run, folder, to_the_end=True)
    if taken != METRIC_POINTS:
        raise RuntimeError(f"{taken} of {METRIC_POINTS} points came home")
    block = b"".join(
        b"step %07d loss 2.3125 learning_rate 0.0001 tokens_per_second 212.5\n" % number
        for number in range(20_000)
    )
    with (folder / "stdout.log").open("wb") as file:
        while file.tell() < LOG_BYTES:
            file.write(block)
    return run.pk
