"""What differs between two datasets, such as two versions: examples that were added, removed,
changed, or moved to the other part.

The database compares: places of the same example are paired by their number among its copies; of
what is left, places with the same first question, then with the same ``id`` in meta, are pairs and
count as changed. Every step sorts and joins, so that copies do not multiply.
"""

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from django.db import connection

from datasets.examples import content_of
from datasets.models import Dataset, DatasetItem, Kind, Trace

CHANGES = ("changed", "removed", "added", "moved")
_READ = 100  # pairs of examples in memory
_PLACES = struct.Struct("<Bii")
_ID = {"sqlite": "json_extract(t.meta, '$.id')", "postgresql": "t.meta ->> 'id'"}


@dataclass(frozen=True)
class Counts:
    """``same``: examples at the same number among their copies, in the same part."""

    changed: int
    removed: int
    added: int
    moved: int
    same: int

    @property
    def any(self) -> bool:
        return bool(self.changed or self.removed or self.added or self.moved)


@dataclass(frozen=True)
class Place:
    """Where one dataset has an example; ``None`` stands for: nowhere."""

    position: int
    split: str
    trace: Trace


@dataclass(frozen=True)
class Change:
    change: str
    old: Place | None
    new: Place | None
    cursor: str


def _sql() -> str:
    """Rows ``(change, place, old position, new position)``; its parameters are the two datasets."""
    item, trace = DatasetItem._meta.db_table, Trace._meta.db_table

    def numbered(name: str) -> str:
        return f"""{name} AS MATERIALIZED (
            SELECT position, trace_id, split,
                ROW_NUMBER() OVER (PARTITION BY trace_id ORDER BY position) AS copy
            FROM {item} WHERE dataset_id = %s)"""  # noqa: S608 - our own names

    def alone(name: str, mine: str, other: str) -> str:
        return f"""{name} AS MATERIALIZED (
            SELECT m.position, t.prompt, {_ID[connection.vendor]} AS given_id,
                ROW_NUMBER() OVER (PARTITION BY t.prompt ORDER BY m.position) AS copy
            FROM {mine} m LEFT JOIN {other} o ON o.trace_id = m.trace_id AND o.copy = m.copy
            JOIN {trace} t ON t.id = m.trace_id WHERE o.position IS NULL)"""  # noqa: S608

    def without_partner(name: str, mine: str, column: str) -> str:
        return f"""{name} AS MATERIALIZED (
            SELECT m.position, m.given_id,
                ROW_NUMBER() OVER (PARTITION BY m.given_id ORDER BY m.position) AS copy
            FROM {mine} m LEFT JOIN asked p ON p.{column} = m.position
            WHERE p.{column} IS NULL)"""  # noqa: S608

    def unpaired(name: str, mine: str, column: str) -> str:
        return f"""{name} AS (
            SELECT m.position FROM {mine} m LEFT JOIN known p ON p.{column} = m.position
            WHERE p.{column} IS NULL)"""  # noqa: S608

    return f"""
        WITH {numbered("older")}, {numbered("newer")},
        {alone("gone", "older", "newer")}, {alone("come", "newer", "older")},
        asked AS MATERIALIZED (
            SELECT g.position AS old_position, c.position AS new_position
            FROM gone g JOIN come c ON c.prompt = g.prompt AND c.copy = g.copy),
        {without_partner("still_gone", "gone", "old_position")},
        {without_partner("still_come", "come", "new_position")},
        known AS MATERIALIZED (
            SELECT g.position AS old_position, c.position AS new_position
            FROM still_gone g JOIN still_come c ON c.given_id = g.given_id AND c.copy = g.copy),
        {unpaired("removed", "still_gone", "old_position")},
        {unpaired("added", "still_come", "new_position")},
        moved AS (
            SELECT o.position AS old_position, n.position AS new_position
            FROM older o JOIN newer n ON n.trace_id = o.trace_id AND n.copy = o.copy
            WHERE n.split <> o.split),
        found(change, place, old_position, new_position) AS (
            SELECT 0, old_position, old_position, new_position FROM asked
            UNION ALL SELECT 0, old_position, old_position, new_position FROM known
            UNION ALL SELECT 1, position, position, NULL FROM removed
            UNION ALL SELECT 2, position, NULL, position FROM added
            UNION ALL SELECT 3, old_position, old_position, new_position FROM moved)
    """  # noqa: S608 - our own names


def count_changes(old: Dataset, new: Dataset) -> Counts:
    with connection.cursor() as cursor:
        cursor.execute(
            f"{_sql()} SELECT change, COUNT(*) FROM found GROUP BY change",  # noqa: S608
            [old.pk, new.pk],
        )
        found = {CHANGES[change]: count for change, count in cursor.fetchall()}
    counts = {name: found.get(name, 0) for name in CHANGES}
    same = old.size - counts["changed"] - counts["removed"] - counts["moved"]
    return Counts(**counts, same=same)


@dataclass(frozen=True)
class After:
    """Where a page begins: behind the change with this number and place."""

    change: int
    place: int

    def encode(self) -> str:
        return f"{CHANGES[self.change]}.{self.place}"


def decode_after(text: str) -> After:
    """Raises ValueError."""
    name, _, place = text.partition(".")
    if name not in CHANGES or not (place.isascii() and place.isdigit() and len(place) <= 10):
        raise ValueError("must be the next_cursor of the page before.")
    return After(CHANGES.index(name), int(place))


def read_changes(
    old: Dataset, new: Dataset, *, limit: int, change: str | None = None, after: After | None = None
) -> tuple[list[Change], str | None]:
    """A page of changes, by kind and position, and the cursor of the next one."""
    conditions, values = [], []
    if change is not None:
        conditions.append("change = %s")
        values.append(CHANGES.index(change))
    if after is not None:
        conditions.append("(change > %s OR (change = %s AND place > %s))")
        values += [after.change, after.change, after.place]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"{_sql()} SELECT * FROM found {where} ORDER BY change, place LIMIT %s",  # noqa: S608
            [old.pk, new.pk, *values, limit + 1],
        )
        rows = cursor.fetchall()
    changes = _filled(old, new, [(row[0], row[2], row[3]) for row in rows[:limit]])
    return changes, changes[-1].cursor if len(rows) > limit else None


def all_changes(old: Dataset, new: Dataset) -> Iterator[Change]:
    """All changes in the order of ``read_changes``, in constant memory: the places are noted in a
    temporary file first, so that no query stays open while a slow reader takes its time."""
    with tempfile.TemporaryFile(prefix="tunixrt-diff-") as file:
        with connection.chunked_cursor() as cursor:
            cursor.execute(
                f"{_sql()} SELECT * FROM found ORDER BY change, place",  # noqa: S608
                [old.pk, new.pk],
            )
            while rows := cursor.fetchmany(1_000):
                for change, _, older, newer in rows:
                    file.write(
                        _PLACES.pack(
                            change, -1 if older is None else older, -1 if newer is None else newer
                        )
                    )
        file.seek(0)
        while piece := file.read(_PLACES.size * _READ):
            places = [
                (change, older if older >= 0 else None, newer if newer >= 0 else None)
                for change, older, newer in _PLACES.iter_unpack(piece)
            ]
            yield from _filled(old, new, places)


def _filled(
    old: Dataset, new: Dataset, places: list[tuple[int, int | None, int | None]]
) -> list[Change]:
    olds = _examples(old, [older for _, older, _ in places if older is not None])
    news = _examples(new, [newer for _, _, newer in places if newer is not None])
    return [
        Change(
            CHANGES[change],
            None if older is None else olds[older],
            None if newer is None else news[newer],
            After(change, newer if older is None else older).encode(),  # type: ignore[arg-type]
        )
        for change, older, newer in places
    ]


def _examples(dataset: Dataset, positions: list[int]) -> dict[int, Place]:
    items = DatasetItem.objects.filter(dataset=dataset, position__in=positions).select_related(
        "trace"
    )
    return {item.position: Place(item.position, item.split, item.trace) for item in items}


def change_fields(change: Change) -> dict[str, Any]:
    """A change as the API and the download say it."""
    return {
        "change": change.change,
        "old": _fields(change.old),
        "new": _fields(change.new),
    }


def _fields(place: Place | None) -> dict[str, Any] | None:
    if place is None:
        return None
    trace = place.trace
    fields = {
        "position": place.position,
        "split": place.split,
        "id": str(trace.pk),
        "kind": trace.kind,
    }
    if trace.kind == Kind.TRACE:
        return fields | {
            "prompt": trace.prompt,
            "steps": trace.steps,
            "final_answer": trace.final_answer,
            "meta": trace.meta,
        }
    return (
        fields
        | content_of(trace)
        | {"final_answer": trace.final_answer or None, "meta": trace.meta}
    )


def change_lines(old: Dataset, new: Dataset) -> Iterator[bytes]:
    """All changes, one JSON object a line."""
    for change in all_changes(old, new):
        yield orjson.dumps(change_fields(change), option=orjson.OPT_APPEND_NEWLINE)
