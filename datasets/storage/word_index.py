"""The index of the words of examples: PostgreSQL's full text search, FTS5 of SQLite.

Both get the same words (datasets/examples/words.py) and only look them up: their own ways to split
a text differ from each other, and depend on the locale of the database. To index an example takes
as long as to import it. A few are indexed in the transaction that stores them; more become a
backlog, and a process of its own works on it (``manage.py index_words``, started by an attendant).

Call the functions that write within a transaction. All writers lock backlogs before examples, so
that none waits for the other in a circle: an entry in the index locks its example.
"""

import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from django.db import connection, transaction
from django.db.models import F, QuerySet, Sum
from django.db.models.functions import Greatest, Least

from datasets.examples.kinds import texts_of_example
from datasets.examples.schema import HasContent
from datasets.examples.words import SearchWord, distinct_words
from datasets.models import UNDER_WAY, Import, Kind, Trace, TraceWords, WordBacklog
from tunixrt.cursors import Cursor

FTS_TABLE = "datasets_word_index"  # of SQLite
GIN_INDEX = "ix_tracewords_words"  # of PostgreSQL
AT_ONCE = 200  # examples that are indexed by the transaction that stores them
# The rest of an example is not searched. A tsvector has at most 1 MiB.
CHARACTERS_MAX = 200_000
WORDS_MAX = 5_000
# Of one transaction, which holds the write lock of SQLite.
BATCH, BATCH_CHARACTERS = 200, 500_000
_READ = 50  # examples in memory at once, of which each may be large
PAUSE = 0.1  # between two transactions, as a share of the first one
_MERGED_PAGES = 200  # of one transaction
NUMBER_MAX = 2**63 - 1
# How many examples a search looks at first on PostgreSQL, and how much more each time after that.
WINDOW, WINDOW_GROWTH = 10_000, 4
_COLUMNS = ("id", "kind", "prompt", "steps", "final_answer", "content", "created_at", "erased_at")


# --- Writing --------------------------------------------------------------------------------------


def words_of_example(example: HasContent) -> list[str]:
    """Return the words that an example is found by."""
    if example.kind == Kind.TRACE:
        texts = [example.prompt, *(step["content"] for step in example.steps)]
    else:
        given, learnt = texts_of_example(example)
        texts = [*given, *learnt]
    text = "\n".join([*texts, example.final_answer])
    return distinct_words(text[:CHARACTERS_MAX])[:WORDS_MAX]


def index_stored(*, since: datetime, until: datetime, count: int) -> None:
    """Index the examples, about ``count``, that this transaction stored between two moments: now
    if they are few, else later."""
    if count > AT_ONCE:
        postpone(uuid.uuid4(), since=since, until=until, count=count)
        return
    stored = Trace.objects.filter(created_at__gte=since, created_at__lte=until)
    rows = stored.order_by("created_at", "id").values_list(*_COLUMNS, named=True)
    _insert((row.id, words_of_example(row)) for row in rows if row.erased_at is None)


def postpone(batch_id: uuid.UUID, *, since: datetime, until: datetime, count: int) -> None:
    """Let a process index examples that were stored between two moments. While ``batch_id`` is an
    import that is under way, they wait."""
    updated = WordBacklog.objects.filter(pk=batch_id).update(
        since=Least("since", since), until=Greatest("until", until), left=F("left") + count
    )
    if not updated:
        WordBacklog.objects.create(pk=batch_id, since=since, until=until, left=count)


def _insert(rows: Iterable[tuple[uuid.UUID, Sequence[str]]]) -> None:
    """Insert words of examples that are not erased and have none yet."""
    quote, postgresql = connection.ops.quote_name, connection.vendor == "postgresql"
    table, traces = quote(TraceWords._meta.db_table), quote(Trace._meta.db_table)
    words = "%s::tsvector" if postgresql else "%s"
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} (trace_id, words) SELECT id, {words} FROM {traces}"  # noqa: S608 - our own names
            " WHERE id = %s AND erased_at IS NULL ON CONFLICT DO NOTHING",
            [
                (" ".join(found), trace_id if postgresql else trace_id.hex)
                for trace_id, found in rows
            ],
        )


def forget(trace_ids: Collection[uuid.UUID]) -> None:
    """Remove examples from the index, at the beginning of the transaction that erases or deletes
    them.

    What works on a backlog has read some of them, perhaps: it ends its transaction first, and sees
    in the next one that they are erased.
    """
    list(WordBacklog.objects.select_for_update().order_by("pk"))
    TraceWords.objects.filter(trace__in=trace_ids)._raw_delete(connection.alias)


def forget_words() -> None:
    """Remove the words of erased examples from the pages of the index: a deletion leaves them there
    until they are merged. Call it outside a transaction.

    On PostgreSQL that is what VACUUM and ``rebuild`` do.
    """
    if connection.vendor == "postgresql":
        return
    pages = -_MERGED_PAGES  # a negative number: of all there is, whatever its size
    while _merge(pages):
        pages = _MERGED_PAGES


def rebuild() -> bool:
    """Build the index of PostgreSQL again, without the words that no example has any more; return
    whether this is PostgreSQL. Readers and writers continue meanwhile. Call it outside a
    transaction."""
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        # what an interrupted call left behind
        cursor.execute(
            "SELECT quote_ident(relname) FROM pg_class JOIN pg_index ON indexrelid = pg_class.oid"
            " WHERE NOT indisvalid AND relname LIKE %s",
            [f"{GIN_INDEX}\\_cc%"],
        )
        for (left,) in cursor.fetchall():
            cursor.execute(f"DROP INDEX CONCURRENTLY {left}")
        cursor.execute(f"REINDEX INDEX CONCURRENTLY {GIN_INDEX}")
    return True


def _merge(pages: int) -> bool:
    """Merge about so many pages of the index in a transaction; return whether more are left."""
    start = time.monotonic()
    with transaction.atomic(), connection.cursor() as cursor:
        before = _total_changes()
        cursor.execute(
            f"INSERT INTO {FTS_TABLE} ({FTS_TABLE}, rank) VALUES ('merge', %s)",  # noqa: S608 - our own names
            [pages],
        )
        changed = _total_changes() - before
    time.sleep((time.monotonic() - start) * PAUSE)
    return changed >= 2  # as FTS5 documents it


def _total_changes() -> int:
    database: Any = connection.connection
    return int(database.total_changes)


# --- The backlog ----------------------------------------------------------------------------------


def ready_backlogs() -> QuerySet[WordBacklog]:
    """Return backlogs, the oldest first, without those of imports that are under way."""
    under_way = Import.objects.filter(state__in=UNDER_WAY).values("pk")
    return WordBacklog.objects.exclude(pk__in=under_way).order_by("since", "pk")


def waiting_count() -> int:
    """Return about how many examples are not indexed yet."""
    return WordBacklog.objects.aggregate(left=Sum("left"))["left"] or 0


def work_off() -> int:
    """Index all that waits, in short transactions; return how many examples were looked at."""
    count = 0
    while (backlog := ready_backlogs().first()) is not None:
        count += _index_batch(backlog)
    return count


def _index_batch(backlog: WordBacklog) -> int:
    """Index the next examples of a backlog, unless another process has."""
    rows = list(islice(_rows_behind(backlog), BATCH))
    is_last = not rows
    start = time.monotonic()
    with transaction.atomic():
        same = WordBacklog.objects.filter(pk=backlog.pk, after_id=backlog.after_id)
        if not same.select_for_update().exists():
            return 0
        if is_last:
            same.delete()
            return 0
        _insert((row.id, row.words) for row in rows)
        same.update(
            after_at=rows[-1].created_at,
            after_id=rows[-1].id,
            left=Greatest(F("left") - len(rows), 0),
        )
    time.sleep((time.monotonic() - start) * PAUSE)
    return len(rows)


@dataclass(frozen=True, slots=True)
class _Row:
    id: uuid.UUID
    created_at: datetime
    words: list[str]


def _rows_behind(backlog: WordBacklog) -> Iterator[_Row]:
    """Yield the examples that come next, read before the transaction that indexes them."""
    traces = Trace.objects.filter(created_at__lte=backlog.until).order_by("created_at", "id")
    after_at, after_id, characters = backlog.after_at, backlog.after_id, 0
    while characters < BATCH_CHARACTERS:
        # one lower bound: of two, SQLite would use the first, and read all that is done each time
        if after_at is None or after_id is None:
            rows = traces.filter(created_at__gte=backlog.since)
        else:
            rows = Cursor(after_at, after_id).rows_behind(traces, oldest_first=True)
        chunk = list(rows.values_list(*_COLUMNS, named=True)[:_READ])
        for row in chunk:
            words = words_of_example(row)
            characters += sum(map(len, words))
            yield _Row(row.id, row.created_at, words)
        if len(chunk) < _READ:
            return
        after_at, after_id = chunk[-1].created_at, chunk[-1].id


# --- Reading --------------------------------------------------------------------------------------


def find(
    words: Sequence[SearchWord],
    *,
    archived: bool = False,
    before: int | None,
    limit: int,
    offset: int,
) -> list[tuple[int, uuid.UUID]]:
    """Return number and id of examples that have all of the words, the last indexed first: those in
    use, or those ``archived``, with numbers less than ``before``; none that is sealed."""
    search = _find_on_postgresql if connection.vendor == "postgresql" else _find_on_sqlite
    shown = f"archived_at IS {'NOT ' if archived else ''}NULL AND sealed_at IS NULL"
    with connection.cursor() as cursor:
        rows = search(cursor, words, shown, NUMBER_MAX if before is None else before, limit, offset)
    return [(number, uuid.UUID(str(trace_id))) for number, trace_id in rows]


def _find_on_sqlite(
    cursor: Any, words: Sequence[SearchWord], shown: str, before: int, limit: int, offset: int
) -> list[tuple[int, Any]]:
    """Find examples with FTS5, which yields the greatest rowid first and stops at the limit."""
    asked = " AND ".join(f'"{word.text}"{" *" if word.is_prefix else ""}' for word in words)
    cursor.execute(
        f"SELECT number, trace_id FROM {FTS_TABLE}"  # noqa: S608 - our own names
        f" CROSS JOIN datasets_tracewords ON number = {FTS_TABLE}.rowid"
        " CROSS JOIN datasets_trace ON datasets_trace.id = trace_id"
        f" WHERE {FTS_TABLE} MATCH %s AND {FTS_TABLE}.rowid < %s AND {shown}"
        f" ORDER BY {FTS_TABLE}.rowid DESC LIMIT %s OFFSET %s",
        [asked, before, limit, offset],
    )
    return list(cursor.fetchall())


def _find_on_postgresql(
    cursor: Any, words: Sequence[SearchWord], shown: str, before: int, limit: int, offset: int
) -> list[tuple[int, Any]]:
    """Find examples with GIN, which yields all that match, in no order. To find the last ones,
    PostgreSQL would read either all matches or, from the end, examples until enough match, and it
    cannot estimate which is less: so look for all matches in a window at the end, then in the next
    and larger one."""
    asked = " & ".join(f"'{word.text}'{':*' if word.is_prefix else ''}" for word in words)
    cursor.execute("SELECT min(number), max(number) FROM datasets_tracewords")
    first, last = cursor.fetchone()
    if last is None:
        return []
    found: list[tuple[int, Any]] = []
    end, width = min(before, last + 1), WINDOW
    while end > first and len(found) < offset + limit:
        start = max(end - width, first)
        cursor.execute(
            "WITH matching AS MATERIALIZED (SELECT number, trace_id FROM datasets_tracewords"  # noqa: S608 - our own names
            " WHERE words @@ %s::tsquery AND number >= %s AND number < %s)"
            " SELECT number, trace_id FROM matching JOIN datasets_trace ON id = trace_id"
            f" WHERE {shown} ORDER BY number DESC LIMIT %s",
            [asked, start, end, offset + limit - len(found)],
        )
        found += cursor.fetchall()
        end, width = start, width * WINDOW_GROWTH
    return found[offset:]
