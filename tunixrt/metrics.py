"""What Prometheus scrapes: what is read from the database, and what the processes of this web
server have counted."""

import os

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

# prometheus_client reads it when it is imported: its values are in files of this folder then.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

# Collectors that read the database: whichever process is asked, the answer is the same.
stored = CollectorRegistry()


def all_metrics() -> bytes:
    """Return the metrics in Prometheus's text format."""
    counted = REGISTRY
    if FOLDER in os.environ:  # of several workers, not only this one
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    return generate_latest(stored) + generate_latest(counted)
