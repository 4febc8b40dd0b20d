"""What benchmarks.scale asks of a system that is set up: its models need the settings."""

from __future__ import annotations

import statistics
import time
from typing import Any

from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from datasets.models import Trace
from datasets.services.traces import create_traces
from runs.backup.databases import database_bytes
from tunixrt.cursors import Cursor

ROUNDS = 11
WIDE = 100_000  # characters of a large example


def analyse() -> None:
    """Do what autovacuum does within a minute after an import."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def megabytes() -> int:
    """Return the megabytes of the whole database."""
    return round(database_bytes() / 1e6)


def requests(size: int, key: str, first: int) -> dict[str, str]:
    """Return the time that each kind of request takes."""
    user, _ = User.objects.get_or_create(username="reader")
    client = Client(HTTP_HOST="localhost")
    client.force_login(user)
    oldest = Trace.objects.order_by("created_at", "id")[size // 10]
    rare = f"n{first + (size - first) // 2}"
    deep = Cursor(oldest.created_at, oldest.pk).encode()
    asked = {
        "page of the list": "/traces",
        "list": "/api/traces",
        "list, 90% down by cursor": f"/api/traces?cursor={deep}",
        "list, 90% down by offset": f"/api/traces?offset={min(size * 9 // 10, 1_000_000)}",
        "a rare word": f"/api/traces?words={rare}",
        "a common word": "/api/traces?words=w0",
        "two common words": "/api/traces?words=w0 w1",
        "a common and a rare word": f"/api/traces?words=w0 {rare}",
        "a common and no word": "/api/traces?words=w0 nowhere",
        "the beginning of 11 words": "/api/traces?words=w123*",
        "the beginning of 111 words": "/api/traces?words=w12*",
        "the beginning of a rare word": f"/api/traces?words={rare[:-1]}*",
        "a common word, 500 pages down": "/api/traces?words=w0&offset=10000",
        "page of a word": f"/traces?words={rare}",
        "text (q) of a common word": "/api/traces?q=w0 ",
        "text (q) of a rare word": f"/api/traces?q={rare}",
        "an example": f"/api/traces/{oldest.pk}",
        "page of an example": f"/traces/{oldest.pk}",
        "page of a dataset": f"/datasets/{key}",
        "page of a dataset, its end": f"/datasets/{key}?from={size - first - 10}",
    }
    return {name: timed(client, path) for name, path in asked.items()}


def timed(client: Client, path: str) -> str:
    """Send the request ROUNDS times, or for ten seconds; say how it is answered if that is not
    200."""
    times: list[float] = []
    status = 200
    while len(times) < ROUNDS and sum(times) < 10_000:
        start = time.perf_counter()
        response = client.get(path)
        times.append(1000 * (time.perf_counter() - start))
        status = response.status_code
    said = f"{statistics.median(times):.1f} ({max(times):.1f})"
    return said if status == 200 else f"{said}, answered by {status}"


def least(client: Client, path: str) -> float:
    """Return the least milliseconds of processor time over a few times ROUNDS requests; the
    database's own counts where it is SQLite."""
    times = []
    for _ in range(3 * ROUNDS):
        start = time.process_time()
        assert client.get(path).status_code == 200
        times.append(1000 * (time.process_time() - start))
    return round(min(times), 1)


def wide() -> dict[str, float]:
    """Return the least milliseconds of a first page of small examples, and of large ones of each
    kind."""
    client = Client(HTTP_HOST="localhost")
    client.force_login(User.objects.get(username="reader"))
    figures = {}
    for name, length in (("small", 400), (f"{WIDE:,} characters", WIDE)):
        text = ("word " * (length // 5)).strip()
        kinds: dict[str, dict[str, Any]] = {
            "conversations": {
                "messages": [
                    {"role": "user", "content": "Hello"},
                    {"role": "assistant", "content": text},
                ]
            },
            "traces with steps": {
                "prompt": "Hello",
                "steps": [{"i": 0, "type": "thought", "content": text}],
                "final_answer": "x",
            },
            "traces with a prompt": {"prompt": text, "final_answer": "x"},
        }
        for kind, example in kinds.items():
            for number in range(30):
                create_traces(items=[{**example, "meta": {"n": number}}], by=None)
            figures[f"{kind}, {name}: page"] = least(client, "/traces")
            figures[f"{kind}, {name}: API"] = least(client, "/api/traces?limit=25")
    return figures
