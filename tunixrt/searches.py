"""Searches that may read every row of a table: few at once, one of each account, and each for a
limited time."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import OperationalError, connection, transaction

from tunixrt.refusals import Busy, InvalidQuery, Refusal, TooMany
from tunixrt.shares import AllTaken, OwnTaken, Shares

PATIENCE = 0.25  # seconds that a search waits for those before it: most take milliseconds
AGAIN = 0.01  # seconds between two tries: the end of one in another worker is not told
_STEPS = 10_000  # of SQLite's virtual machine between two looks at the time
_CANCELLED = "57014"  # PostgreSQL's query_canceled


class Searches:
    """Counts the searches of a web server."""

    def __init__(self, total: int, patience: float = PATIENCE):
        self._total = total
        self._patience = patience
        self._shares = Shares("searches")

    @contextlib.contextmanager
    def one_of(self, account: int) -> Iterator[None]:
        """Count one for as long as the context lasts. Raise TooMany, Busy."""
        release = self._take(account)
        try:
            yield
        finally:
            release()

    def _take(self, account: int) -> Callable[[], None]:
        give_up = time.monotonic() + self._patience
        while True:
            try:
                return self._shares.take(f"account {account}", total=self._total, each=1)
            except AllTaken as taken:
                if time.monotonic() >= give_up:
                    raise _refusal(taken) from None
            time.sleep(AGAIN)


def _refusal(taken: AllTaken) -> Refusal:
    wait = math.ceil(settings.TUNIXRT_SEARCH_SECONDS)
    if isinstance(taken, OwnTaken):
        return TooMany(
            "Another search of yours is still reading the whole table; wait for its end.",
            retry_after=wait,
        )
    return Busy(
        "Searches of others are reading the whole table; try again in a moment.", retry_after=wait
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
    """Stop a query of the context that runs for longer. Raise InvalidQuery."""
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


def deadline(parameter: str) -> Callable[[], None]:
    """Return a function that raises InvalidQuery once a search has taken as long as it may: for
    work of our own between many short queries."""
    give_up = time.monotonic() + settings.TUNIXRT_SEARCH_SECONDS

    def check() -> None:
        if time.monotonic() > give_up:
            raise InvalidQuery({parameter: [_stopped(settings.TUNIXRT_SEARCH_SECONDS)]})

    return check


def _stopped(seconds: float) -> str:
    return f"This was stopped after {seconds:g} s. Ask for less, or download all of it."


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
