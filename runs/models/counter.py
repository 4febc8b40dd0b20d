"""Counters kept in the database, for Prometheus.

They are true for the whole system whichever process did the work, continue across restarts and
deletions, and are right on the very next scrape.
"""

import bisect
import os
from collections.abc import Mapping, Sequence
from itertools import chain

from django.db import connection, models

RUNS, DURATION, WRITES = "runs", "duration_seconds", "db_write_ms"  # families
# seconds
DURATION_BUCKETS = (
    0.01,
    0.05,
    0.1,
    0.5,
    1,
    5,
    15,
    30,
    60,
    300,
    900,
    3600,
    14_400,
    43_200,
    86_400,
    604_800,
)
WRITE_BUCKETS = (0.5, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)  # milliseconds
SHARDS = 8


def bucket_label(value: float, bounds: Sequence[float]) -> str:
    """Return the label of the histogram bucket that ``value`` falls into: its upper bound."""
    index = bisect.bisect_left(bounds, value)
    return "+Inf" if index == len(bounds) else f"{bounds[index]:g}"


class CounterQuerySet(models.QuerySet["Counter"]):
    def add(self, additions: Mapping[tuple[str, str], Sequence[float]]) -> None:
        """Add the observed values of each ``(family, label)``, all by one statement. Call it inside
        a transaction."""
        shard = os.getpid() % SHARDS
        rows = [  # in one order for all writers: no deadlock
            (family, label, shard, len(values), sum(values))
            for (family, label), values in sorted(additions.items())
        ]
        if not rows:
            return
        table = connection.ops.quote_name(self.model._meta.db_table)
        places = ", ".join(["(%s, %s, %s, %s, %s)"] * len(rows))
        with connection.cursor() as cursor:
            cursor.execute(  # bulk_create can replace what is there, not add to it
                f"INSERT INTO {table} (family, label, shard, count, total) VALUES {places}"  # noqa: S608 - our own names
                " ON CONFLICT (family, label, shard) DO UPDATE"
                f" SET count = {table}.count + excluded.count,"
                f" total = {table}.total + excluded.total",
                list(chain.from_iterable(rows)),
            )


class Counter(models.Model):
    """A counter that outlives processes and deleted runs. ``shard`` spreads writers over rows;
    readers add them up."""

    family = models.CharField(max_length=64)
    label = models.CharField(max_length=128)
    shard = models.PositiveSmallIntegerField(default=0)
    count = models.BigIntegerField(default=0)
    total = models.FloatField(default=0)

    objects = CounterQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["family", "label", "shard"], name="uq_tally")
        ]

    def __str__(self) -> str:
        return f"{self.family} {self.label}"
