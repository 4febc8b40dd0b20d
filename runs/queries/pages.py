"""A page of the run list as the API answers it: the read that is asked most, so nothing is done for
it twice.

The ORM says which runs; but to build such a query, and to make objects of its values, takes Python
several times as long as the answer takes the database. So a selection is compiled once, and values
go into the answer nearly as they come.
"""

import uuid
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connection

from runs.models import Run, RunQuerySet
from runs.queries.selection import Selection
from tunixrt.cursors import Cursor

ROW_FIELDS = (
    "run_id",
    "name",
    "dataset_key",
    "model_id",
    "kind",
    "mode",
    "status",
    "started_at",
    "duration_seconds",
)
FAR = 1_000  # rows; from this offset on the index is walked first
# SQLite counts in 63 bits the rows that are passed over and those that are taken
_OFFSET_MAX = 2**62
_ANY_ROW = Cursor(datetime(2000, 1, 1, tzinfo=UTC), uuid.UUID(int=0))

Row = dict[str, Any]


def read_page(
    selection: Selection,
    *,
    limit: int,
    offset: int = 0,
    cursor: Cursor[uuid.UUID] | None = None,
    oldest_first: bool = False,
) -> tuple[list[Row], Cursor[uuid.UUID] | None]:
    """Return at most ``limit`` rows of ROW_FIELDS, ready for JSON, and where the next page starts:
    None after the last one."""
    if offset >= _OFFSET_MAX:
        return [], None
    # What was typed is seldom typed twice, and may hold queries of its own.
    compile_page = _compiled.__wrapped__ if selection.extra else _compiled
    try:
        sql, parameters = compile_page(
            selection, cursor is not None, oldest_first, limit + 1, offset
        )
    except EmptyResultSet:
        return [], None
    if cursor is not None:
        parameters = parameters[:-3] + _cursor_parameters(cursor)
    with connection.cursor() as database:
        database.execute(sql, parameters)
        found = database.fetchall()
    as_text = str if connection.features.has_native_uuid_field else _dashed
    rows = [
        {
            "run_id": as_text(run_id),
            "name": name,
            "dataset_key": dataset_key,
            "model_id": model_id,
            "kind": kind,
            "mode": mode,
            "status": status,
            "started_at": started_at and _utc(started_at),
            "duration_seconds": duration_seconds,
        }
        for (
            run_id,
            name,
            dataset_key,
            model_id,
            kind,
            mode,
            status,
            started_at,
            duration_seconds,
            _,
        ) in found[:limit]
    ]
    if len(found) <= limit:
        return rows, None
    run_id, *_, created_at = found[limit - 1]
    return rows, Cursor(_utc(created_at), uuid.UUID(str(run_id)))


@lru_cache(maxsize=512)
def _compiled(
    selection: Selection, behind: bool, oldest_first: bool, limit: int, offset: int
) -> tuple[str, tuple[Any, ...]]:
    """Return SQL and parameters; those of a cursor, where rows ``behind`` one are wanted, are the
    last three.

    They are remembered: Django takes 0.25 ms of processor time to build them, and a whole list
    0.56 ms (docs/performance.md).
    """
    after = _ANY_ROW if behind else None
    far = offset >= FAR and selection.tag is None
    runs = _by_index() if far else Run.objects.visible()
    page = selection.in_order(runs, behind=after, oldest_first=oldest_first)
    if far:
        keys = page.values("pk")[offset : offset + limit]
        order = ("created_at", "run_id") if oldest_first else ("-created_at", "-run_id")
        page = Run.objects.filter(pk__in=keys).order_by(*order)
    else:
        page = page[offset : offset + limit]
    return page.values_list(*ROW_FIELDS, "created_at").query.sql_with_params()


def _by_index() -> RunQuerySet:
    """Return the visible runs, for a walk over many of them that reads the index of their order
    alone.

    ``visible`` asks each row whether it is in the trash, which its index does not hold; here the
    trash is listed once, by an index of its own, and rows are read for one page. With 200,000 runs
    ``offset=150000`` costs SQLite an eighth of the processor time, PostgreSQL a ninth
    (docs/performance.md).
    """
    trash = Run.objects.filter(trashed_at__isnull=False).order_by()
    return Run.objects.exclude(pk__in=trash.values("pk"))


def _cursor_parameters(cursor: Cursor[uuid.UUID]) -> tuple[Any, ...]:
    created_at = Run._meta.get_field("created_at").get_db_prep_value(cursor.created_at, connection)
    run_id = Run._meta.get_field("run_id").get_db_prep_value(cursor.key, connection)
    return created_at, created_at, run_id


def _utc(moment: datetime) -> datetime:
    """Return a moment in UTC; SQLite's are UTC and do not say so."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _dashed(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
