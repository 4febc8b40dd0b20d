"""What differs between two datasets, such as two versions: examples that were added, removed,
changed, or moved to the other part.

Places of the same example are paired by their number among its copies; of what is left, places
with the same first question, then with the same ``id`` in meta, are pairs and count as changed.
Sides are sorted and walked together, so that copies do not multiply; what is compared are 64 bits
of a hash, some tens of bytes for each example.
"""

import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson
from django.db import connection

from datasets.examples.kinds import content_of
from datasets.models import Dataset, DatasetItem, Kind, Split, Trace

CHANGES = ("changed", "removed", "added", "moved")
_CHANGED, _REMOVED, _ADDED, _MOVED = range(4)
_NOWHERE = -1
_POSITION = (1 << 32) - 1
_PLACES = 5_000  # places of one query
_READ = 100  # examples in memory


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


@dataclass(frozen=True)
class After:
    """Where a page begins: behind the change with this number and place."""

    change: int
    place: int

    def encode(self) -> str:
        return f"{CHANGES[self.change]}.{self.place}"


def decode_after(text: str) -> After:
    """Decode the position after which a page starts. Raise ValueError."""
    name, _, place = text.partition(".")
    known = name in CHANGES and place.isascii() and place.isdigit() and len(place) <= 10
    if not known or int(place) > _POSITION:
        raise ValueError("must be the next_cursor of the page before.")
    return After(CHANGES.index(name), int(place))


class Differences:
    """The changes between two datasets as places, by kind and position: 16 bytes for each."""

    def __init__(self, old: Dataset, new: Dataset, rows: Iterable[tuple[int, int, int]]):
        self._old, self._new = old, new
        # one number for each, so that sorting them takes little memory
        ordered = sorted(
            _rank(change, older, newer) << 32 | newer + 1 for change, older, newer in rows
        )
        self._ranks = array("Q", (number >> 32 for number in ordered))
        self._news = array("q", ((number & _POSITION) - 1 for number in ordered))
        ends = [bisect_right(self._ranks, kind << 32 | _POSITION) for kind in range(len(CHANGES))]
        self._blocks = [range(start, end) for start, end in pairwise([0, *ends])]
        counts = {name: len(block) for name, block in zip(CHANGES, self._blocks, strict=True)}
        same = old.size - counts["changed"] - counts["removed"] - counts["moved"]
        self.counts = Counts(**counts, same=same)

    def __len__(self) -> int:
        return len(self._ranks)

    def _row(self, number: int) -> tuple[int, int, int]:
        change, place = divmod(self._ranks[number], 1 << 32)
        return change, _NOWHERE if change == _ADDED else place, self._news[number]

    def page(
        self, *, limit: int, change: str | None = None, after: After | None = None
    ) -> tuple[list[Change], str | None]:
        """Return the next changes, of one kind or of all, and the cursor of the next page."""
        block = range(len(self)) if change is None else self._blocks[CHANGES.index(change)]
        start = block.start
        if after is not None:
            start = max(start, bisect_right(self._ranks, after.change << 32 | after.place))
        last = min(start + limit, block.stop)
        changes = self._filled(range(start, last))
        return changes, changes[-1].cursor if changes and last < block.stop else None

    def __iter__(self) -> Iterator[Change]:
        for start in range(0, len(self), _READ):
            yield from self._filled(range(start, min(start + _READ, len(self))))

    def _filled(self, numbers: Sequence[int]) -> list[Change]:
        rows = [self._row(number) for number in numbers]
        olds = _examples(self._old, [older for _, older, _ in rows if older != _NOWHERE])
        news = _examples(self._new, [newer for _, _, newer in rows if newer != _NOWHERE])
        return [
            Change(
                CHANGES[row[0]],
                None if row[1] == _NOWHERE else olds[row[1]],
                None if row[2] == _NOWHERE else news[row[2]],
                After(row[0], row[2] if row[1] == _NOWHERE else row[1]).encode(),
            )
            for row in rows
        ]


def _rank(change: int, older: int, newer: int) -> int:
    """Return the sort key of a change: by kind, then by position, in the old dataset where the
    example is in it."""
    return change << 32 | (newer if older == _NOWHERE else older)


class _Side:
    """One dataset while it is compared: of every place the position, a hash and the part."""

    def __init__(self, dataset: Dataset, check: Callable[[], None]):
        self.dataset = dataset
        self.positions, self.keys = array("q"), array("q")
        self.held_out = bytearray()
        # itself, not the ORM, which would make an object of every id
        query = (
            f"SELECT position, trace_id, split FROM {DatasetItem._meta.db_table}"  # noqa: S608
            " WHERE dataset_id = %s AND position >= %s ORDER BY position LIMIT %s"
        )
        start = 0
        while True:
            check()
            with connection.cursor() as cursor:
                cursor.execute(query, [dataset.pk, start, _PLACES])
                rows = cursor.fetchall()
            self.positions.extend(position for position, _, _ in rows)
            self.keys.extend(hash(trace_id) for _, trace_id, _ in rows)
            self.held_out.extend(split == Split.HELD_OUT for _, _, split in rows)
            if len(rows) < _PLACES:
                return
            start = rows[-1][0] + 1


def _pairs(mine: "array[int]", others: "array[int]") -> Iterator[tuple[int, int]]:
    """Pair equal keys, the first with the first, and so on, and yield the places of both in their
    arrays; ``_NOWHERE`` where there is no partner."""
    left = array("q", sorted(range(len(mine)), key=mine.__getitem__))
    right = array("q", sorted(range(len(others)), key=others.__getitem__))
    one = two = 0
    while one < len(left) or two < len(right):
        if two == len(right) or (one < len(left) and mine[left[one]] < others[right[two]]):
            yield left[one], _NOWHERE
            one += 1
        elif one == len(left) or mine[left[one]] > others[right[two]]:
            yield _NOWHERE, right[two]
            two += 1
        else:
            yield left[one], right[two]
            one += 1
            two += 1


def compare(old: Dataset, new: Dataset, *, check: Callable[[], None] = lambda: None) -> Differences:
    """Return what differs. ``check`` is called every few thousand examples; it may raise to stop
    the work. Datasets never change, so the last few results are remembered."""
    key = (old.pk, old.fingerprint, new.pk, new.fingerprint)
    if (known := _remembered.get(key)) is not None:
        return known
    found = Differences(old, new, _compare(old, new, check))
    _remembered.put(key, found)
    return found


def _compare(
    old: Dataset, new: Dataset, check: Callable[[], None]
) -> Iterator[tuple[int, int, int]]:
    older, newer = _Side(old, check), _Side(new, check)
    gone, come = array("q"), array("q")
    for one, two in _pairs(older.keys, newer.keys):
        if two == _NOWHERE:
            gone.append(older.positions[one])
        elif one == _NOWHERE:
            come.append(newer.positions[two])
        elif older.held_out[one] != newer.held_out[two]:
            yield _MOVED, older.positions[one], newer.positions[two]
    del older, newer
    for by_id in (False, True):
        gone, gone_keys = _keyed(old, gone, check, by_id=by_id)
        come, come_keys = _keyed(new, come, check, by_id=by_id)
        left, right = array("q"), array("q")
        for one, two in _pairs(gone_keys, come_keys):
            if two == _NOWHERE:
                left.append(gone[one])
            elif one == _NOWHERE:
                right.append(come[two])
            else:
                yield _CHANGED, gone[one], come[two]
        gone, come = left, right
    yield from ((_REMOVED, position, _NOWHERE) for position in gone)
    yield from ((_ADDED, _NOWHERE, position) for position in come)


def _keyed(
    dataset: Dataset, positions: "array[int]", check: Callable[[], None], *, by_id: bool
) -> tuple["array[int]", "array[int]"]:
    """Return positions in their order, and for each a hash of the first question, or of the id in
    meta."""
    ordered, keys = array("q", sorted(positions)), array("q")
    column = "trace__meta" if by_id else "trace__prompt"
    for start in range(0, len(ordered), _READ):
        check()
        wanted = list(ordered[start : start + _READ])
        found = dict(
            DatasetItem.objects.filter(dataset=dataset, position__in=wanted).values_list(
                "position", column
            )
        )
        for position in wanted:
            value = found[position]
            if by_id:
                given = value.get("id")
                # without an id, it is like no other one
                value = (dataset.pk, position) if given is None else orjson.dumps(given)
            elif not value:  # erased: like no other one either
                value = (dataset.pk, position)
            keys.append(hash(value))
    return ordered, keys


class _Remembered:
    """The last results, as long as they are small."""

    COUNT, ROWS = 8, 200_000

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[Any, ...], Differences] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...]) -> Differences | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: tuple[Any, ...], found: Differences) -> None:
        if len(found) > self.ROWS:
            return
        with self._lock:
            self._found[key] = found
            while len(self._found) > self.COUNT:
                self._found.popitem(last=False)


_remembered = _Remembered()


def _examples(dataset: Dataset, positions: list[int]) -> dict[int, Place]:
    items = DatasetItem.objects.filter(dataset=dataset, position__in=positions).select_related(
        "trace"
    )
    return {item.position: Place(item.position, item.split, item.trace) for item in items}


def change_fields(change: Change) -> dict[str, Any]:
    """Return a change as the API and the download show it."""
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
    """Yield all changes, one JSON object a line."""
    for change in compare(old, new):
        yield orjson.dumps(change_fields(change), option=orjson.OPT_APPEND_NEWLINE)
