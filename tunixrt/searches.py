"""Searches that may read every row of a table: few at once, one of each account, and each for a
limited time."""

import contextlib
import math
import threading
import time
from collections.abc import Iterator

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import OperationalError, connection, transaction

from tunixrt.refusals import Busy, InvalidQuery, TooMany

PATIENCE = 0.25  # seconds that a search waits for those before it: most take milliseconds
_STEPS = 10_000  # of SQLite's virtual machine between two looks at the time
_CANCELLED = "57014"  # PostgreSQL's query_canceled


class Searches:
    """Counts those of this process, which answers all requests of a host."""

    def __init__(self, total: int, patience: float = PATIENCE):
        self._total = total
        self._patience = patience
        self._of: set[int] = set()  # accounts
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def one_of(self, account: int) -> Iterator[None]:
        """Count one for as long as the context lasts. Raises TooMany, Busy."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._may_begin(account), self._patience):
                self._refuse(account)
            self._of.add(account)
        try:
            yield
        finally:
            with self._changed:
                self._of.remove(account)
                self._changed.notify_all()

    def _may_begin(self, account: int) -> bool:
        return account not in self._of and len(self._of) < self._total

    def _refuse(self, account: int) -> None:
        wait = math.ceil(settings.TUNIXRT_SEARCH_SECONDS)
        if account in self._of:
            raise TooMany(
                "Another search of yours is still reading the whole table; wait for its end.",
                retry_after=wait,
            )
        raise Busy(
            "Searches of others are reading the whole table; try again in a moment.",
            retry_after=wait,
        )


searches = Searches(settings.TUNIXRT_SEARCHES)


@contextlib.contextmanager
def search(by: AbstractBaseUser, parameter: str, *, reads_all: bool = True) -> Iterator[None]:
    """Run the queries of the context as a search of ``by``; it counts only where it ``reads_all``.
    ``parameter`` asks for it.

    Raises:
        TooMany, Busy: another one has to end first.
        InvalidQuery: it took too long.
    """
    if not reads_all:
        yield
        return
    with searches.one_of(by.pk), time_limit(settings.TUNIXRT_SEARCH_SECONDS, parameter):
        yield


@contextlib.contextmanager
def time_limit(seconds: float, parameter: str) -> Iterator[None]:
    """Stop a query of the context that runs for longer. Raises InvalidQuery."""
    try:
        with (
            _limit_on_sqlite(seconds)
            if connection.vendor == "sqlite"
            else _limit_on_postgresql(seconds)
        ):
            yield
    except OperationalError as error:
        if (
            "interrupted" not in str(error)
            and getattr(error.__cause__, "sqlstate", None) != _CANCELLED
        ):
            raise
        reason = (
            f"This search was stopped after {seconds:g} s. Narrow it, by words that names and tags"
            " hold or by a date."
        )
        raise InvalidQuery({parameter: [reason]}) from error


@contextlib.contextmanager
def _limit_on_sqlite(seconds: float) -> Iterator[None]:
    connection.ensure_connection()
    database = connection.connection
    give_up = time.monotonic() + seconds
    database.set_progress_handler(lambda: time.monotonic() > give_up, _STEPS)
    try:
        yield
    finally:
        database.set_progress_handler(None, 0)


@contextlib.contextmanager
def _limit_on_postgresql(seconds: float) -> Iterator[None]:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, true)", [str(math.ceil(seconds * 1000))]
            )
        yield
