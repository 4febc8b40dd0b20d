"""Exact and near duplicates.

Near duplicates are found by MinHash (Broder, "On the resemblance and containment of documents",
1997): two examples agree in as large a share of the slots of their signatures as their sets of
n-grams have in common. Signatures are cut into bands; only examples that agree in a whole band are
compared.
"""

import contextlib
import os
import sqlite3
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from operator import eq
from typing import ClassVar, Literal

from pydantic import Field
from rensa import RMinHash

from datasets.cleaning.items import Item, Spool, Work
from datasets.cleaning.operation import Operation, StepReport
from datasets.cleaning.scratch import scratch
from datasets.examples.kinds import texts_of_example
from datasets.examples.words import digest, ngrams, normalised, words_of
from datasets.models import Split

Keep = Literal["held_out", "first", "longest"]
_KEEP = (
    "Which of the same examples stays: one that is held out if there is one, the first, or the"
    " longest."
)
SLOTS = 128
_SIGNATURE = SLOTS * 4  # bytes
_SEED = 1
_BATCH, _BATCH_WORDS = 200, 200_000
# Of the examples in one band that were kept, so many are compared: without a limit, many examples
# that agree in a band and are not alike would take quadratic time.
_COMPARED = 50
_MISSED = 0.01  # share of pairs exactly at the threshold that no band finds


def rank(item: Item, keep: Keep) -> int:
    """Return the rank of an example: the higher it is, the rather the example stays."""
    if keep == "longest":
        return sum(len(text) for texts in texts_of_example(item.example) for text in texts)
    return int(keep == "held_out" and item.split == Split.HELD_OUT)


class ExactDuplicates(Operation):
    """Leave out examples that are the same as another one."""

    title: ClassVar = "Leave out exact duplicates"
    operation: Literal["exact_duplicates"] = "exact_duplicates"
    compare: Literal["example", "content", "normalised", "question"] = Field(
        "content",
        description="What is compared: the whole example with meta; question and answer; both"
        " without case, white space and punctuation; or the question alone, in this form.",
    )
    keep: Keep = Field("held_out", description=_KEEP)

    def _key(self, item: Item) -> bytes:
        if self.compare == "example":
            return bytes.fromhex(item.example.content_hash)[:16]
        given, learnt = texts_of_example(item.example)
        if self.compare == "question":
            return digest(normalised(given))
        if self.compare == "normalised":
            return digest(normalised(given) + "\x00" + normalised(learnt))
        return digest("\x00".join([*given, "\x00", *learnt]))

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        with Spool(work) as spool, scratch() as database:
            database.execute(
                "CREATE TABLE best (key BLOB PRIMARY KEY, rank INTEGER, number INTEGER,"
                " place TEXT) WITHOUT ROWID"
            )
            # an example of the training part may be better by length; its place stays as it is
            insert = (
                "INSERT INTO best VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
                " rank = excluded.rank, number = excluded.number, place = excluded.place"
                " WHERE excluded.rank > rank"
            )
            keys = tempfile.TemporaryFile(prefix="tunixrt-clean-")  # noqa: SIM115 - closed below
            with keys:
                for number, item in enumerate(items):
                    spool.add(item)
                    key = self._key(item)
                    keys.write(key)
                    place = report.place(item)
                    database.execute(insert, (key, rank(item, self.keep), number, place))
                keys.seek(0)
                for number, item in enumerate(spool):
                    found = database.execute(
                        "SELECT number, place FROM best WHERE key = ?", (keys.read(16),)
                    ).fetchone()
                    if found[0] == number:
                        yield item
                    else:
                        report.leave_out(item, "the same as another example", f"as {found[1]}")


class NearDuplicates(Operation):
    """Leave out examples that are nearly the same as one that stays."""

    title: ClassVar = "Leave out near duplicates"
    operation: Literal["near_duplicates"] = "near_duplicates"
    threshold: float = Field(
        0.8, ge=0.5, le=1.0, description="Share of n-grams in common from which on one goes."
    )
    ngram: int = Field(3, ge=1, le=20, description="Words of an n-gram.")
    compare: Literal["content", "question"] = Field(
        "content", description="Question and answer, or the question alone."
    )
    keep: Keep = Field("held_out", description=_KEEP)

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        with contextlib.ExitStack() as stack:
            spool = stack.enter_context(Spool(work))
            file = stack.enter_context(tempfile.TemporaryFile(prefix="tunixrt-clean-"))
            ranks = array("Q")
            places = array("Q")
            for batch in self._batches(items, spool, ranks, places):
                for signature in RMinHash.digests_from_token_sets(batch, SLOTS, _SEED):
                    file.write(array("I", signature).tobytes())
            if not ranks:
                return
            file.flush()
            signatures = _Signatures(file.fileno())
            gone = self._find(signatures, ranks, work)
            for number, item in enumerate(spool):
                if not gone.holds(number):
                    yield item
                    continue
                detail = ""
                if (why := gone.why(number)) is not None:
                    parent, position = divmod(places[why[0]], 1 << 32)
                    detail = (
                        f"{why[1]:.0%} like example {position + 1:,} of {report.parents[parent]}"
                    )
                report.leave_out(item, "nearly the same as another example", detail)

    def _batches(
        self, items: Iterable[Item], spool: Spool, ranks: "array[int]", places: "array[int]"
    ) -> Iterator[list[list[str]]]:
        batch: list[list[str]] = []
        size = 0
        for item in items:
            spool.add(item)
            ranks.append(rank(item, self.keep))
            places.append(item.parent << 32 | item.position)
            grams = self._grams(item)
            batch.append(grams)
            size += len(grams)
            if len(batch) == _BATCH or size >= _BATCH_WORDS:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _grams(self, item: Item) -> list[str]:
        given, learnt = texts_of_example(item.example)
        texts = given if self.compare == "question" else [*given, *learnt]
        words = [word for text in texts for word in words_of(text)]
        return list(ngrams(words, self.ngram)) or [" ".join(words)]

    def _find(self, signatures: "_Signatures", ranks: "array[int]", work: Work) -> "_Gone":
        """Return which examples are removed. Go through them by rank and remove each one that is
        like one that stays."""
        rows, bands = banding(self.threshold)
        gone = _Gone(len(ranks))
        order: Iterable[int] = range(len(ranks))
        if self.keep != "first":
            order = sorted(order, key=lambda number: -ranks[number])
        shared = _Shared(len(ranks) * bands)
        for number in range(len(ranks)):
            work.tick()
            for key in _keys(signatures.read(number), rows, bands):
                shared.see(key)
        with scratch() as database:
            database.execute("CREATE TABLE kept (key INTEGER, number INTEGER)")
            database.execute("CREATE INDEX ix_kept ON kept (key, number)")
            for number in order:
                work.tick()
                keys = [
                    key
                    for key in _keys(signatures.read(number), rows, bands)
                    if shared.seen_twice(key)
                ]
                if not keys:
                    continue
                best = self._best(database, signatures, number, keys)
                if best is not None:
                    gone.add(number, *best)
                else:
                    database.executemany(
                        "INSERT INTO kept VALUES (?, ?)", [(key, number) for key in keys]
                    )
        return gone

    def _best(
        self, database: sqlite3.Connection, signatures: "_Signatures", number: int, keys: list[int]
    ) -> tuple[int, float] | None:
        """Return the kept example that is most like this one, if any is alike enough."""
        mine = signatures.slots(number)
        best: tuple[int, float] | None = None
        seen: set[int] = set()
        for key in keys:
            rows = database.execute(
                "SELECT number FROM kept WHERE key = ? ORDER BY number LIMIT ?", (key, _COMPARED)
            )
            for (other,) in rows:
                if other in seen:
                    continue
                seen.add(other)
                share = sum(map(eq, mine, signatures.slots(other))) / SLOTS
                if share >= self.threshold and (best is None or share > best[1]):
                    best = (other, share)
            if best is not None and best[1] == 1:
                break
        return best


class _Gone:
    """Which examples go; of the first thousand also why."""

    NAMED = 1_000

    def __init__(self, count: int):
        self._bits = bytearray(count)
        self._why: dict[int, tuple[int, float]] = {}

    def add(self, number: int, other: int, share: float) -> None:
        self._bits[number] = 1
        if len(self._why) < self.NAMED:
            self._why[number] = (other, share)

    def holds(self, number: int) -> bool:
        return bool(self._bits[number])

    def why(self, number: int) -> tuple[int, float] | None:
        """Return the example that stays instead, and how alike they are."""
        return self._why.get(number)


class _Shared:
    """Tells which numbers were seen twice; of some others it says so too. Most bands belong to one
    example, which therefore needs no database. Two bits for each number and some more."""

    def __init__(self, count: int):
        self._mask = (1 << max(16, (count * 2).bit_length())) - 1
        self._once = bytearray((self._mask + 1) // 8)
        self._twice = bytearray((self._mask + 1) // 8)

    def see(self, key: int) -> None:
        place = key & self._mask
        byte, bit = place >> 3, 1 << (place & 7)
        if self._once[byte] & bit:
            self._twice[byte] |= bit
        else:
            self._once[byte] |= bit

    def seen_twice(self, key: int) -> int:
        place = key & self._mask
        return self._twice[place >> 3] & 1 << (place & 7)


def banding(threshold: float) -> tuple[int, int]:
    """Return the rows of a band and the number of bands: the longest bands that overlook at most
    ``_MISSED`` of the pairs at the threshold."""
    for rows in range(16, 1, -1):
        bands = SLOTS // rows
        if (1 - threshold**rows) ** bands <= _MISSED:
            return rows, bands
    return 1, SLOTS


class _Signatures:
    """Signatures in a file: the system keeps of it what fits beside other programs."""

    def __init__(self, file: int):
        self._file = file

    def read(self, number: int) -> bytes:
        return os.pread(self._file, _SIGNATURE, number * _SIGNATURE)

    def slots(self, number: int) -> "memoryview[int]":
        return memoryview(self.read(number)).cast("I")


def _keys(signature: bytes, rows: int, bands: int) -> list[int]:
    """Return the keys of an example, one for each band; examples that agree in a band share its
    key."""
    length = rows * 4
    return [hash((band, signature[band * length : (band + 1) * length])) for band in range(bands)]
