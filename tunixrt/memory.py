"""Give memory back after large requests: what is in cycles waits for the collector, what is freed
for the C library."""

import asyncio
import ctypes
import gc
import sys

AFTER_SECONDS = 10.0

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own


class GiveBack:
    """``soon()`` gives memory back a while later, however often it is asked meanwhile. Used on one
    event loop."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(AFTER_SECONDS, self._begin)

    def _begin(self) -> None:
        self._timer = None
        asyncio.get_running_loop().run_in_executor(None, give_back)


def give_back() -> None:
    """Collect what refers to itself (an error and the frames that it came through hold the body of
    their request), and return what the C library keeps of freed memory."""
    gc.collect()
    if _malloc_trim is not None:
        _malloc_trim(0)


def leave_out_unused_libraries() -> None:
    """Keep Django REST framework from importing optional libraries that it finds but this project
    does not use.

    They take 12 MB of the web server: requests (for its test client), pygments (for its
    documentation pages), and the fields of PostgreSQL, which bring psycopg also where the database
    is SQLite. Call it before Django is set up.
    """
    for name in ("requests", "pygments", "django.contrib.postgres.fields"):
        # None makes importing it an ImportError.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def keep_what_is_loaded() -> None:
    """Exclude from garbage collection what is loaded at the start and never freed: a collection
    then takes milliseconds, and may be frequent."""
    gc.collect()
    gc.freeze()
