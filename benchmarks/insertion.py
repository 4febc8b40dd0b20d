"""In what order an import stores its examples: ``python -m benchmarks.insertion``.

Traces and items are inserted into tables like ours (SQLite, the same indexes, batches of 2,000) in
the order of the file with random ids; with ids in the order of time in that order, in the order of
the content hashes, and in runs of positions each in the order of its hashes, as
datasets/storage/storing.py does. The figures are processor seconds, and milliseconds of the longest
transaction. docs/performance.md has them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import sys
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path

BATCH = 2_000
SCHEMA = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -64000;
PRAGMA mmap_size = 268435456; PRAGMA foreign_keys = ON;
CREATE TABLE trace (id CHAR(32) PRIMARY KEY, prompt TEXT, content_hash VARCHAR(64) UNIQUE,
    created_at DATETIME);
CREATE INDEX newest ON trace (created_at DESC, id DESC);
CREATE TABLE item (id INTEGER PRIMARY KEY AUTOINCREMENT, position INTEGER,
    trace_id CHAR(32) REFERENCES trace (id) DEFERRABLE INITIALLY DEFERRED,
    dataset_id INTEGER, UNIQUE (dataset_id, position));
CREATE INDEX by_trace ON item (trace_id);
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.insertion")
    parser.add_argument("--rows", type=int, default=300_000)
    rows = parser.parse_args().rows
    print(json.dumps({name: measure(rows, *how) for name, how in ORDERS.items()}, indent=1))
    return 0


# Whether ids are in the order of time, and how many rows are put into the order of their hashes.
ORDERS = {
    "order of the file, random ids": (False, 1),
    "order of the file, ids by time": (True, 1),
    "order of the hashes, ids by time": (True, 2**63),
    "runs of 200,000 positions, ids by time": (True, 200_000),
}


def measure(rows: int, by_time: bool, run: int) -> dict[str, float]:
    places = [(hashlib.sha256(b"%d" % place).hexdigest(), place) for place in range(rows)]
    places.sort(key=lambda row: (row[1] // run, row))
    text = "x" * 500
    given = [
        (f"{number:032x}" if by_time else uuid.uuid4().hex, text, content_hash, "2026-01-01")
        for number, (content_hash, _) in enumerate(places)
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(sqlite3.connect(Path(folder) / "d", isolation_level=None)) as database,
    ):
        database.executescript(SCHEMA)
        start, longest = time.process_time(), 0.0
        for first in range(0, rows, BATCH):
            begun = time.perf_counter()
            batch = given[first : first + BATCH]
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO trace VALUES (?, ?, ?, ?)", batch)
            database.executemany(
                "INSERT INTO item (dataset_id, trace_id, position) VALUES (1, ?, ?)",
                [
                    (row[0], place)
                    for row, (_, place) in zip(batch, places[first : first + BATCH], strict=True)
                ],
            )
            database.execute("COMMIT")
            longest = max(longest, time.perf_counter() - begun)
        return {
            "processor seconds": round(time.process_time() - start, 1),
            "longest transaction ms": round(1000 * longest),
        }


if __name__ == "__main__":
    sys.exit(main())
