"""Rows of our tables, inserted many at a time."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

from django.db import connections, router
from django.db.models import Field, Model

# A batch of traces is held in memory, and one trace may have MAX_TRACE_BYTES.
READ_BATCH = 100
WRITE_BATCH = 500


def insert_rows(
    model: type[Model], names: Sequence[str], rows: Iterable[Sequence[Any]], ending: str = ""
) -> None:
    """Insert rows as bulk_create does, in half the time: on SQLite an import holds the only write
    lock, so every microsecond per row counts (docs/datasets.md has the figures)."""
    # itself, not the proxy: it is asked for every value
    database = connections[router.db_for_write(model)]
    fields = [cast("Field[Any, Any]", model._meta.get_field(name)) for name in names]
    quote = database.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in fields)
    places = ", ".join(["%s"] * len(fields))
    sql = f"INSERT INTO {quote(model._meta.db_table)} ({columns}) VALUES ({places}) {ending}"  # noqa: S608 - our own names
    prepared = [
        [field.get_db_prep_save(value, database) for field, value in zip(fields, row, strict=True)]
        for row in rows
    ]
    with database.cursor() as cursor:
        cursor.executemany(sql, prepared)


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
