"""The metrics that Prometheus reads. Gauges are read from the database when they are asked for."""

from collections.abc import Iterable, Iterator, Sequence

from django.db.models import Sum
from django.utils import timezone
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from runs.models import Counter, Host, Run, RunMode, RunStatus
from runs.models.counter import DURATION, DURATION_BUCKETS, RUNS, WRITE_BUCKETS, WRITES
from runs.services.telemetry import flush_before_scrape


class RunCollector:
    """prometheus_client collector: everything is read from the database at the moment of the
    scrape."""

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering queries no database."""
        return []

    def collect(self) -> Iterator[Metric]:
        flush_before_scrape()
        sums = {
            (row["family"], row["label"]): (row["count"], row["total"])
            for row in Counter.objects.values("family", "label")
            .annotate(count=Sum("count"), total=Sum("total"))
            .order_by()
        }
        ended = CounterMetricFamily(
            "tunix_runs", "Runs that ended, by status and mode.", labels=["status", "mode"]
        )
        for (family, label), (count, _) in sorted(sums.items()):
            if family == RUNS:
                ended.add_metric(label.split("|"), count)
        yield ended
        yield _histogram(
            "tunix_runs_duration_seconds",
            "Seconds from start to end of a run.",
            DURATION,
            DURATION_BUCKETS,
            sums,
        )
        yield _histogram(
            "tunix_db_write_latency_ms",
            "Milliseconds of database writes on the request path.",
            WRITES,
            WRITE_BUCKETS,
            sums,
        )
        yield from _queue_gauges()
        yield from _host_gauges()


def _histogram(
    name: str,
    text: str,
    family: str,
    bounds: Sequence[float],
    sums: dict[tuple[str, str], tuple[int, float]],
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
    depth = GaugeMetricFamily(
        "tunix_queue_depth", "Runs that wait for a worker, by mode.", labels=["mode"]
    )
    age = GaugeMetricFamily(
        "tunix_queue_oldest_pending_seconds",
        "Age of the run that waits longest, by mode.",
        labels=["mode"],
    )
    now = timezone.now()
    for mode in RunMode.values:
        pending = Run.objects.filter(status=RunStatus.PENDING, mode=mode)
        depth.add_metric([mode], pending.count())
        oldest = pending.order_by("created_at").values_list("created_at", flat=True).first()
        age.add_metric([mode], max(0.0, (now - oldest).total_seconds()) if oldest else 0.0)
    yield depth
    yield age


def _host_gauges() -> Iterable[Metric]:
    running = GaugeMetricFamily(
        "tunix_runs_executing", "Runs that execute now, by host.", labels=["host"]
    )
    heartbeat = GaugeMetricFamily(
        "tunix_host_heartbeat_age_seconds", "Seconds since a host was heard of.", labels=["host"]
    )
    slots = GaugeMetricFamily(
        "tunix_host_slots", "Trainings that a host runs at once.", labels=["host"]
    )
    canary = GaugeMetricFamily(
        "tunix_host_task_age_seconds",
        "Seconds since a host's task workers last did a task.",
        labels=["host"],
    )
    now = timezone.now()
    for host in Host.objects.all():
        running.add_metric([host.name], Run.objects.executing_on(host).count())
        slots.add_metric([host.name], host.slots)
        for gauge, moment in ((heartbeat, host.heartbeat_at), (canary, host.canary_at)):
            if moment is not None:
                gauge.add_metric([host.name], max(0.0, (now - moment).total_seconds()))
    yield from (running, slots, heartbeat, canary)
