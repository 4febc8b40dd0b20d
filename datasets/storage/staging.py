"""Valid examples on their way to the database, in an SQLite file of their own.

They are read and checked before the database is touched, so that every bad line is known first,
and so that an import that was interrupted while it stored continues where it stood. All examples
are of one kind.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from datasets.examples.schema import ExampleData
from datasets.models import Kind, Split
from datasets.storage.tally import Fingerprint, Lengths

KEPT_MAX = 100  # names of fields that are kept in meta
_BATCH = 500  # rows that are held in memory before they are written
_BATCH_BYTES = 1024 * 1024
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16000;
PRAGMA mmap_size = {mapped};
PRAGMA user_version = {version};
CREATE TABLE staged (
    position INTEGER PRIMARY KEY, hash BLOB NOT NULL, split TEXT NOT NULL, prompt TEXT NOT NULL,
    steps TEXT NOT NULL, final_answer TEXT NOT NULL, content TEXT NOT NULL, meta TEXT NOT NULL,
    version TEXT NOT NULL, size INTEGER NOT NULL, run INTEGER AS (position / {run})
);
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# Of the form and the order: a staging of another version is made again.
_VERSION = 2
# Examples are stored in runs of so many positions, each in the order of its hashes: of the indexes
# by hash and by position, a transaction changes a part only (docs/performance.md).
_RUN = 200_000
_MAPPED = 2**31 - 1  # bytes of the file that are read without a copy, the most that SQLite allows
_NAMED_OVERLAPS = 20


class NotComplete(Exception):
    """The staging was interrupted before it was complete, or its file is damaged."""


@dataclass(frozen=True)
class Summary:
    """What a dataset says about its examples."""

    kind: str
    size: int
    held_out_size: int
    stats: dict[str, Any]
    fingerprint: str


class Row(NamedTuple):
    """An example as it is stored; ``steps`` and ``meta`` are JSON, ``size`` is about how many bytes
    it has."""

    position: int
    content_hash: str
    split: str
    prompt: str
    steps: str
    final_answer: str
    content: str
    meta: str
    version: str
    size: int

    @property
    def said(self) -> tuple[Any, ...]:
        """From ``prompt`` to ``version``."""
        return self[3:9]

    def as_example(self, kind: str) -> ExampleData:
        return ExampleData(
            kind=kind,
            prompt=self.prompt,
            steps=orjson.loads(self.steps),
            final_answer=self.final_answer,
            content=self.content,
            meta=orjson.loads(self.meta),
            trace_version=self.version,
            content_hash=self.content_hash,
            size=self.size,
        )


@dataclass
class Filling:
    """A staging that is being filled: ``add`` every example, then ``complete``.

    Attributes:
        kind: of all examples.
        kept: the fields that a training does not see, in the order in which they came; the first
            KEPT_MAX.
        named_parts: how many examples name their part.
    """

    path: Path
    kind: str = Kind.TRACE.value
    size: int = 0
    kept: dict[str, None] = field(default_factory=dict)
    lengths: Lengths = field(default_factory=Lengths)
    named_parts: int = 0

    def __post_init__(self) -> None:
        self.path.unlink(missing_ok=True)
        self._file = sqlite3.connect(self.path, isolation_level=None)
        self._file.executescript(_SCHEMA.format(version=_VERSION, mapped=_MAPPED, run=_RUN))
        self._file.execute("BEGIN")
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(self, example: ExampleData, split: str | None) -> None:
        """Add an example, and the part it is in, if that is known. Raise OSError without room."""
        self._rows.append(
            (
                self.size,
                bytes.fromhex(example.content_hash),
                split or Split.TRAIN.value,
                example.prompt,
                orjson.dumps(example.steps).decode() if example.steps else "[]",
                example.final_answer,
                example.content,
                orjson.dumps(example.meta).decode() if example.meta else "{}",
                example.trace_version,
                example.size,
            )
        )
        self._bytes += example.size
        self.size += 1
        if example.meta and len(self.kept) < KEPT_MAX:
            self.kept.update(dict.fromkeys(islice(example.meta, KEPT_MAX)))
        self.named_parts += split is not None
        self.lengths.add(example)
        if len(self._rows) == _BATCH or self._bytes >= _BATCH_BYTES:
            self._write()

    def _write(self) -> None:
        with no_room():
            self._file.executemany(
                "INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._rows
            )
        self._rows.clear()
        self._bytes = 0

    def complete(self, *, held_out: int | None, about: dict[str, Any]) -> "Staging":
        """Draw the held-out part, if ``held_out`` examples are to be, and end the staging.

        Those with the smallest content hashes are held out, so that the same data always give the
        same part. Copies of an example stay together, so a few more can be drawn than asked for.
        """
        self._write()
        with no_room():
            if held_out is not None:
                self._file.execute(
                    "UPDATE staged SET split = ? WHERE substr(hash, 1, 8) <="
                    " (SELECT substr(hash, 1, 8) FROM staged ORDER BY hash LIMIT 1 OFFSET ?)",
                    [Split.HELD_OUT, held_out - 1],
                )
            self._file.execute("CREATE INDEX in_order ON staged (run, hash, position)")
            about = {"kind": self.kind, "size": self.size} | self._summed() | about
            self._file.executemany(
                "INSERT INTO about VALUES (?, ?)",
                [(name, orjson.dumps(value).decode()) for name, value in about.items()],
            )
            self._file.execute("COMMIT")
            self._file.close()
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return Staging(self.path)

    def _summed(self) -> dict[str, Any]:
        fingerprint = Fingerprint()
        held_out_size = 0
        for content_hash, split in self._file.execute(
            "SELECT lower(hex(hash)), split FROM staged ORDER BY position"
        ):
            fingerprint.add(content_hash, split)
            held_out_size += split == Split.HELD_OUT
        return {
            "held_out_size": held_out_size,
            "stats": self.lengths.as_stats(held_out_size),
            "fingerprint": str(fingerprint),
        }

    def close(self) -> None:
        self._file.close()


class Staging:
    """A complete staging. Raises NotComplete if it is none."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with closing(self._open()) as file:
                if file.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                    raise NotComplete("it is of another version")
                self.about: dict[str, Any] = {
                    name: orjson.loads(value)
                    for name, value in file.execute("SELECT name, value FROM about")
                }
        except sqlite3.Error as error:
            raise NotComplete(str(error)) from error
        if "fingerprint" not in self.about:
            raise NotComplete("it ends too early")

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, isolation_level=None)
        file.execute(f"PRAGMA mmap_size = {_MAPPED}")
        return file

    @property
    def summary(self) -> Summary:
        return Summary(
            **{
                name: self.about[name]
                for name in ("kind", "size", "held_out_size", "stats", "fingerprint")
            }
        )

    def rows(self, *, skip: int = 0) -> Iterator[Row]:
        """Yield the examples in the order in which they are stored, but the first ``skip``."""
        with closing(self._open()) as file:
            yield from map(
                Row._make,
                file.execute(
                    "SELECT position, lower(hex(hash)), split, prompt, steps, final_answer,"
                    " content, meta, version, size FROM staged ORDER BY run, hash, position"
                    " LIMIT -1 OFFSET ?",
                    [skip],
                ),
            )

    def in_both_parts(self) -> list[int]:
        """Return the first positions of examples that stand in both parts."""
        if self.about["held_out_size"] in (0, self.about["size"]):
            return []
        with closing(self._open()) as file:
            return sorted(
                position
                for (position,) in file.execute(
                    "SELECT min(position) FROM staged GROUP BY hash HAVING min(split) <>"
                    " max(split) LIMIT ?",
                    [_NAMED_OVERLAPS],
                )
            )


@contextmanager
def no_room() -> Iterator[None]:
    """Raise OSError for a full disk, as for other files."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
