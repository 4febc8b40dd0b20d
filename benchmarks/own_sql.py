"""What SQL of our own brings, beside plain Django: ``python -m benchmarks.own_sql``.

A history in which almost everything has ended, then reads whose conditions are written in SQL
(``RawSQL``), with ``IN``, and as the project has them; and the same traces stored by
``insert_rows`` and by ``bulk_create``. In turns; of all rounds the least counts.
docs/performance.md has the figures on record.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import django

from benchmarks.databases import new_system, on_each_database, parser_for
from benchmarks.history import fill

EXECUTING, PENDING, FAILED_SHOWN, WAITING = 20, 1_000, 10, 50
ROUNDS, TRACES = 20, 5_000


def main() -> int:
    parser = parser_for("benchmarks.own_sql", __doc__ or "")
    parser.add_argument("--rows", type=int, default=200_000, help="ended runs")
    return on_each_database(measure, parser.parse_args())


def measure(database: str, arguments: argparse.Namespace) -> None:
    with new_system(database, "sql") as (_, environment):
        os.environ.update(environment)
        django.setup()
        _fill(arguments.rows)
        reads = {name: _in_turns(sides) for name, sides in _reads().items()}
        figures = {"database": database, "ended runs": arguments.rows, "reads": reads}
        figures |= {"traces": TRACES, "seconds to store them": _stored()}
        print(json.dumps(figures, indent=1, ensure_ascii=False), flush=True)


def _fill(rows: int) -> None:
    """Insert a history of one account and one host, active runs, and webhooks that were
    delivered."""
    from django.contrib.auth.models import User  # noqa: PLC0415 - models need the settings
    from django.db import connection  # noqa: PLC0415
    from django.utils import timezone  # noqa: PLC0415

    from runs.models import Host, Run, RunStatus, WebhookDelivery  # noqa: PLC0415

    owner = User.objects.create_user("measured")
    host = Host.objects.create(name="measured", slots=EXECUTING)
    fill(rows)
    Run.objects.update(host=host)
    now = timezone.now()
    active = dict.fromkeys(range(EXECUTING), RunStatus.RUNNING)
    active |= dict.fromkeys(range(EXECUTING, EXECUTING + PENDING), RunStatus.PENDING)
    Run.objects.bulk_create(
        Run(
            dataset_key="sums-v1",
            model_id="preset:tiny-llama",
            dry_run=False,
            owner=owner,
            status=status,
            output_dir=f"active-{number}",
            host=host if status == RunStatus.RUNNING else None,
            started_at=now if status == RunStatus.RUNNING else None,
        )
        for number, status in active.items()
    )
    runs = list(Run.objects.order_by("-created_at")[: rows // 4])
    WebhookDelivery.objects.bulk_create(
        WebhookDelivery(
            run=run,
            url="https://example.org/",
            payload={},
            state="waiting" if number < WAITING else "delivered",
        )
        for number, run in enumerate(runs)
    )
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("VACUUM ANALYZE")


def _reads() -> dict[str, dict[str, Any]]:
    """Return reads by name, each with its condition in SQL, with IN, and as the project has it."""
    from django.contrib.auth.models import User  # noqa: PLC0415 - models need the settings
    from django.db.models import BooleanField  # noqa: PLC0415
    from django.db.models.expressions import RawSQL  # noqa: PLC0415

    from runs.models import Host, Run, WebhookDelivery  # noqa: PLC0415

    def in_sql(column: str, *values: str) -> RawSQL:
        """Return the condition in the very words of the index."""
        words = " OR ".join(f"{column} = '{value}'" for value in values)
        return RawSQL(f"({words})", (), output_field=BooleanField())

    status, state = '"tunix_runs"."status"', '"runs_webhookdelivery"."state"'
    runs, owner, host = Run.objects, User.objects.get(), Host.objects.get()
    executing, failed = ("running", "cancelling"), ("failed", "timeout")
    last = runs.visible().filter(status="failed").order_by("-completed_at")
    deliveries = WebhookDelivery.objects.order_by()
    return {
        "executing": {
            "SQL": runs.filter(in_sql(status, *executing)),
            "IN": runs.filter(status__in=executing),
            "ours": runs.executing(),
        },
        "executing on a host": {
            "SQL": runs.filter(in_sql(status, *executing), host=host),
            "IN": runs.filter(status__in=executing, host=host),
            "ours": runs.executing_on(host),
        },
        "pending of an account": {
            "SQL": runs.filter(in_sql(status, "pending"), owner=owner).order_by(),
            "IN": runs.filter(status__in=["pending"], owner=owner).order_by(),
            "ours": runs.pending_of(owner),
        },
        "failed last": {
            "SQL": last.filter(in_sql(status, *failed))[:FAILED_SHOWN],
            "IN": last.filter(status__in=failed)[:FAILED_SHOWN],
            "ours": runs.visible().failed("failed")[:FAILED_SHOWN],
        },
        "waiting webhooks": {
            "SQL": deliveries.filter(in_sql(state, "waiting")),
            "IN": deliveries.filter(state__in=["waiting"]),
            "ours": deliveries.filter(state="waiting"),
        },
    }


def _in_turns(sides: dict[str, Any]) -> dict[str, str]:
    """Return the least milliseconds of each side, and the index by which its rows are found."""
    least = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for name, rows in sides.items():
            began = time.perf_counter()
            found = len(rows.values_list("pk"))
            least[name] = min(least[name], 1000 * (time.perf_counter() - began))
            assert found
    return {name: f"{least[name]:.2f} ms, {_index(rows)}" for name, rows in sides.items()}


def _index(rows: Any) -> str:
    names = re.findall(r"\b(?:ix|uq)_\w+|Seq Scan|SCAN \w+", rows.values_list("pk").explain())
    return ", ".join(dict.fromkeys(names)) or "no index"


def _stored() -> dict[str, float]:
    """Return the least seconds that storing traces takes each way, in one transaction."""
    from django.db import transaction  # noqa: PLC0415 - models need the settings
    from django.utils import timezone  # noqa: PLC0415 - models need the settings

    from datasets.models import Trace  # noqa: PLC0415
    from datasets.storage.rows import insert_rows  # noqa: PLC0415

    names = ["id", "kind", "prompt", "steps", "final_answer", "meta", "trace_version", "content"]
    names += ["content_hash", "created_at", "created_by"]

    def make() -> list[tuple[Any, ...]]:
        steps = [{"thought": "add", "action": None, "observation": None}]
        now = timezone.now()
        return [
            (
                *(uuid.uuid4(), "trace", "What is 1 + 1?", steps, "2", {}, "1.0", ""),
                *(uuid.uuid4().hex * 2, now, None),
            )
            for _ in range(TRACES)
        ]

    def by_rows(rows: list[tuple[Any, ...]]) -> None:
        insert_rows(Trace, names, rows, "ON CONFLICT DO NOTHING")

    def by_objects(rows: list[tuple[Any, ...]]) -> None:
        attributes = [*names[:-1], "created_by_id"]
        Trace.objects.bulk_create(
            [Trace(**dict(zip(attributes, row, strict=True))) for row in rows],
            ignore_conflicts=True,
        )

    sides: dict[str, Callable[[list[tuple[Any, ...]]], None]] = {
        "insert_rows": by_rows,
        "bulk_create": by_objects,
    }
    least = dict.fromkeys(sides, float("inf"))
    for _ in range(5):
        for name, store in sides.items():
            rows = make()
            began = time.perf_counter()
            with transaction.atomic():
                store(rows)
            least[name] = min(least[name], time.perf_counter() - began)
    return {name: round(seconds, 3) for name, seconds in least.items()}


if __name__ == "__main__":
    sys.exit(main())
