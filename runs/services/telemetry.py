"""Measure database writes of the request path."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, transaction

from runs.models.counter import WRITE_BUCKETS, WRITES, Counter, bucket_label

logger = logging.getLogger("tunixrt.database")

FLUSH_SECONDS = 10.0  # a transaction for every write would cost a third of the write
_flushing = threading.Lock()  # two at once would count a measurement twice
_flushed = [time.monotonic()]  # when this process last brought its measurements into the database
_measured: list[float] = []  # write latencies of this process that are not in the database yet


@contextmanager
def measured_write(what: str) -> Iterator[None]:
    """Time a database write of the request path; one that is slower than TUNIX_SLOW_WRITE_MS is
    logged."""
    start = time.perf_counter()
    try:
        yield
    finally:
        milliseconds = (time.perf_counter() - start) * 1000
        _measured.append(milliseconds)
        if milliseconds > settings.TUNIX_SLOW_WRITE_MS:
            logger.warning("slow database write: %s took %.0f ms", what, milliseconds)


def flush_measured() -> None:
    """Write this process's measurements to the database. Database errors propagate; no measurement
    is lost."""
    with _flushing:
        batch = _measured[:]
        if not batch:
            return
        additions: dict[tuple[str, str], list[float]] = defaultdict(list)
        for milliseconds in batch:
            additions[WRITES, bucket_label(milliseconds, WRITE_BUCKETS)].append(milliseconds)
        with transaction.atomic():
            Counter.objects.add(additions)
        del _measured[: len(batch)]
        _flushed[0] = time.monotonic()


def flush_before_scrape() -> None:
    """Store what this process has measured before a scrape; kept for the next time if the database
    is away."""
    try:
        flush_measured()
    except (OperationalError, InterfaceError) as error:
        logger.warning("measurements stay in memory: %s", error)


def keep_flushing() -> None:
    """Flush what this process measures every FLUSH_SECONDS, for as long as it lives: the next
    request and the next scrape may come to another worker."""
    while True:
        time.sleep(FLUSH_SECONDS)
        flush_before_scrape()
        connections.close_all()


def flush_after_request(**kwargs: object) -> None:
    """Flush measurements after a response, so that no request waits for it, every FLUSH_SECONDS."""
    if _measured and time.monotonic() - _flushed[0] >= FLUSH_SECONDS:
        flush_before_scrape()
