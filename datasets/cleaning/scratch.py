"""A temporary database for what does not fit into memory."""

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator

CACHE_KB = 32 * 1024


@contextlib.contextmanager
def scratch() -> Iterator[sqlite3.Connection]:
    """Yield an empty SQLite database in a temporary file that no other program sees. It is neither
    durable nor shared."""
    with tempfile.TemporaryDirectory(prefix="tunixrt-clean-") as folder:
        path = os.path.join(folder, "scratch.sqlite3")
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            database.execute("BEGIN")
            yield database
        finally:
            database.close()
