"""What Prometheus sees: counters kept in the database, so that they are true for the whole system whichever process did the
work, go on across restarts and deletions, and are right on the very next scrape. Gauges are read when they are asked for.
"""

import bisect
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from django.conf import settings
from django.db import IntegrityError, InterfaceError, OperationalError, transaction
from django.db.models import F, Sum
from django.utils import timezone
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from runs.models import Host, Run, RunMode, RunStatus, Tally

logger = logging.getLogger("tunixrt.database")

RUNS, DURATION, WRITES = "runs", "duration_seconds", "db_write_ms"
DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 30, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 604_800)  # seconds
WRITE_BUCKETS = (0.5, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)  # milliseconds
SHARDS = 8

_measured: list[float] = []  # write latencies of this process that are not in the database yet


def count_end(ends: Sequence[tuple[str, float | None]], *, status: str) -> None:
    """Count runs that end with ``status``: (mode, seconds or None) each. Inside the transaction that ends them."""
    additions: dict[tuple[str, str], list[float]] = defaultdict(list)
    for mode, seconds in ends:
        additions[RUNS, f"{status}|{mode}"].append(0.0)
        if seconds is not None:
            additions[DURATION, _bucket(seconds, DURATION_BUCKETS)].append(seconds)
    _add(additions)


@contextmanager
def measured_write(what: str) -> Iterator[None]:
    """Time a database write of the request path; one that is slower than TUNIX_SLOW_WRITE_MS is logged."""
    start = time.perf_counter()
    try:
        yield
    finally:
        milliseconds = (time.perf_counter() - start) * 1000
        _measured.append(milliseconds)
        if milliseconds > settings.TUNIX_SLOW_WRITE_MS:
            logger.warning("slow database write: %s took %.0f ms", what, milliseconds)


def flush_measured() -> None:
    """Bring this process's measurements into the database. Raises what the database raises; nothing is lost then."""
    batch = _measured[:]
    if not batch:
        return
    additions: dict[tuple[str, str], list[float]] = defaultdict(list)
    for milliseconds in batch:
        additions[WRITES, _bucket(milliseconds, WRITE_BUCKETS)].append(milliseconds)
    with transaction.atomic():
        _add(additions)
    del _measured[: len(batch)]


def flush_after_request(**kwargs: object) -> None:
    """After the answer, so that nobody waits for it; kept for the next time if the database is away."""
    try:
        flush_measured()
    except (OperationalError, InterfaceError) as error:
        logger.warning("measurements stay in memory: %s", error)


def _bucket(value: float, bounds: Sequence[float]) -> str:
    index = bisect.bisect_left(bounds, value)
    return "+Inf" if index == len(bounds) else f"{bounds[index]:g}"


def _add(additions: dict[tuple[str, str], list[float]]) -> None:
    shard = os.getpid() % SHARDS
    for (family, label), values in sorted(additions.items()):  # one order for all: no deadlock
        row = Tally.objects.filter(family=family, label=label, shard=shard)
        change = {"count": F("count") + len(values), "total": F("total") + sum(values)}
        if row.update(**change):
            continue
        try:
            with transaction.atomic():
                Tally.objects.create(family=family, label=label, shard=shard, count=len(values), total=sum(values))
        except IntegrityError:  # somebody else made the row meanwhile
            row.update(**change)


class RunCollector:
    """prometheus_client collector: everything is read from the database at the moment of the scrape."""

    def describe(self) -> list[Metric]:
        """Nothing, so that registering asks no database."""
        return []

    def collect(self) -> Iterator[Metric]:
        sums = {
            (row["family"], row["label"]): (row["count"], row["total"])
            for row in Tally.objects.values("family", "label").annotate(count=Sum("count"), total=Sum("total")).order_by()
        }
        ended = CounterMetricFamily("tunix_runs", "Runs that ended, by status and mode.", labels=["status", "mode"])
        for (family, label), (count, _) in sorted(sums.items()):
            if family == RUNS:
                ended.add_metric(label.split("|"), count)
        yield ended
        yield _histogram("tunix_runs_duration_seconds", "Seconds from start to end of a run.", DURATION, DURATION_BUCKETS, sums)
        yield _histogram(
            "tunix_db_write_latency_ms", "Milliseconds of database writes on the request path.", WRITES, WRITE_BUCKETS, sums
        )
        yield from _queue_gauges()
        yield from _host_gauges()


def _histogram(
    name: str, text: str, family: str, bounds: Sequence[float], sums: dict[tuple[str, str], tuple[int, float]]
) -> HistogramMetricFamily:
    cumulative, total = 0, 0.0
    buckets = []
    for label in [*(f"{bound:g}" for bound in bounds), "+Inf"]:
        count, amount = sums.get((family, label), (0, 0.0))
        cumulative += count
        total += amount
        buckets.append((label, cumulative))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=total)


def _queue_gauges() -> Iterable[Metric]:
    depth = GaugeMetricFamily("tunix_queue_depth", "Runs that wait for a worker, by mode.", labels=["mode"])
    age = GaugeMetricFamily("tunix_queue_oldest_pending_seconds", "Age of the run that waits longest, by mode.", labels=["mode"])
    now = timezone.now()
    for mode in RunMode.values:
        pending = Run.objects.filter(status=RunStatus.PENDING, mode=mode)
        depth.add_metric([mode], pending.count())
        oldest = pending.order_by("created_at").values_list("created_at", flat=True).first()
        age.add_metric([mode], max(0.0, (now - oldest).total_seconds()) if oldest else 0.0)
    yield depth
    yield age


def _host_gauges() -> Iterable[Metric]:
    running = GaugeMetricFamily("tunix_runs_executing", "Runs that execute now, by host.", labels=["host"])
    heartbeat = GaugeMetricFamily("tunix_host_heartbeat_age_seconds", "Seconds since a host was heard of.", labels=["host"])
    slots = GaugeMetricFamily("tunix_host_slots", "Trainings that a host runs at once.", labels=["host"])
    canary = GaugeMetricFamily(
        "tunix_host_task_age_seconds", "Seconds since a host's task workers last did a task.", labels=["host"]
    )
    now = timezone.now()
    for host in Host.objects.all():
        running.add_metric([host.name], Run.objects.executing_on(host).count())
        slots.add_metric([host.name], host.slots)
        for gauge, moment in ((heartbeat, host.heartbeat_at), (canary, host.canary_at)):
            if moment is not None:
                gauge.add_metric([host.name], max(0.0, (now - moment).total_seconds()))
    yield from (running, slots, heartbeat, canary)
