"""From a complete staging to traces and a dataset, in transactions short enough for others.

The dataset is there from the start, to hold its name, and is seen only when it is complete.
Examples are stored in the order of the staging (datasets/storage/staging.py), with ids in the order
of time: each batch touches a narrow range of every index (docs/performance.md).
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.utils import timezone

from datasets.examples.kinds import text_hash
from datasets.examples.schema import ExampleData
from datasets.models import UNDER_WAY, Dataset, DatasetItem, Import, Tombstone, Trace
from datasets.storage.ids import ordered_ids
from datasets.storage.staging import Row, Staging
from datasets.storage.word_index import forget, index_stored, postpone
from tunixrt.refusals import Refusal

# Rows of the first transaction; then as many as take TARGET_SECONDS.
BATCH = 2_000
BATCH_MIN, BATCH_MAX = 100, 20_000
BATCH_BYTES = 2 * 1024 * 1024
TARGET_SECONDS = 0.08
# From one transaction to the next at least, as a share of the first: another writer asks for the
# lock of SQLite every now and then, and must find it free.
PAUSE = 0.1
_COLUMNS = (
    *("id", "kind", "prompt", "steps", "final_answer", "content", "meta", "trace_version"),
    *("content_hash", "created_at", "created_by_id", "import_id"),
)

Stored = Callable[[int], None]
WAS_ERASED = "was erased from this system on request and is not stored again"
IS_SEALED = "is in a sealed dataset; no other dataset may have it"
NOT_KEPT = (WAS_ERASED, IS_SEALED)  # reasons to leave a line out and to keep no copy of it
_SEALS = 0x7365616C  # PostgreSQL's advisory locks are numbers; this one spells "seal"


class StoredErased(Refusal):
    """An import would bring back what was erased after it was read."""

    code = "erased"


class StoredSealed(Refusal):
    """A dataset would take an example that was sealed after it was read."""

    code = "sealed"


def store(
    staging: Staging,
    *,
    dataset_id: int,
    import_id: uuid.UUID,
    by_id: int | None,
    skip: int,
    stored: Stored,
) -> None:
    """Store the examples of a staging but the first ``skip``, batch by batch.

    ``stored`` is called within each transaction with the number of examples that are stored then.
    """
    done = skip
    size = BATCH
    rows = staging.rows(skip=skip)
    batch: list[Row] = []
    free_until = 0.0
    while _fill(batch, rows, size):
        time.sleep(max(0.0, free_until - time.monotonic()))
        start = time.monotonic()
        with transaction.atomic():
            store_batch(
                batch,
                kind=staging.about["kind"],
                dataset_id=dataset_id,
                import_id=import_id,
                by_id=by_id,
                is_all=len(batch) == staging.summary.size,
            )
            done += len(batch)
            stored(done)
        end = time.monotonic()
        size = _next_size(len(batch), end - start)
        free_until = end + (end - start) * PAUSE


def _next_size(rows: int, seconds: float) -> int:
    wanted = int(rows * TARGET_SECONDS / max(seconds, 0.001))
    return min(BATCH_MAX, max(BATCH_MIN, min(wanted, rows * 2)))


def _fill(batch: list[Row], rows: Iterator[Row], size: int) -> bool:
    """Replace the rows of ``batch`` by the next ones; return whether there are any."""
    batch.clear()
    total = 0
    for row in rows:
        batch.append(row)
        total += row.size
        if len(batch) == size or total >= BATCH_BYTES:
            break
    return bool(batch)


def store_batch(
    rows: Sequence[Row],
    *,
    kind: str,
    dataset_id: int,
    import_id: uuid.UUID,
    by_id: int | None,
    is_all: bool,
) -> None:
    """Store rows, in the order of a staging, as traces and items; ``is_all`` says that the
    import has no more. Call it in a transaction. Raise StoredErased, StoredSealed."""
    hold_seals()
    moment = timezone.now()
    if not is_all:
        postpone(import_id, since=moment, until=moment, count=len(rows))
    now = connection.ops.adapt_datetimefield_value(moment)
    beside = (now, by_id, import_id.hex)
    traces = [
        (f"{number:032x}", kind, *row.said, row.content_hash, *beside)
        for number, row in zip(ordered_ids(len(rows)), rows, strict=True)
    ]
    insert = _copy if connection.vendor == "postgresql" else _insert
    insert(traces, [(dataset_id, row.position, row.split, row.content_hash) for row in rows])
    if count := _count_erased(rows, kind):
        raise StoredErased(
            f"{count:,} of the examples were erased from this system on request while this import"
            " was under way. Import the file again."
        )
    if count := _count_sealed(rows):
        raise StoredSealed(
            f"{count:,} of the examples are in a sealed dataset; no other dataset may have them."
        )
    if is_all:
        index_stored(since=moment, until=moment, count=len(rows))


def _count_erased(rows: Sequence[Row], kind: str) -> int:
    """Return how many of the rows were erased, by the example or by what it says."""
    erased = Trace.objects.filter(erased_at__isnull=False)
    found: set[str] = set()
    if erased.exists():
        hashes = erased.filter(content_hash__in={row.content_hash for row in rows})
        found.update(hashes.values_list("content_hash", flat=True))
    if Tombstone.objects.exists():
        texts = {row.content_hash: text_hash(row.as_example(kind)) for row in rows}
        gone = set(
            Tombstone.objects.filter(pk__in=set(texts.values())).values_list("pk", flat=True)
        )
        found.update(content for content, text in texts.items() if text in gone)
    return len(found)


def _count_sealed(rows: Sequence[Row]) -> int:
    sealed = Trace.objects.filter(sealed_at__isnull=False)
    if not sealed.exists():
        return 0
    return sealed.filter(content_hash__in={row.content_hash for row in rows}).count()


def hold_seals(*, alone: bool = False) -> None:
    """Until the end of the transaction, let no dataset be sealed while examples are stored in
    another one, nor the other way round; ``alone``: who seals.

    By an advisory lock on PostgreSQL; on SQLite because there is one writer and every transaction
    takes the write lock first.
    """
    if connection.vendor == "postgresql":
        function = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {function}(%s)", [_SEALS])


def _names() -> tuple[str, str, str]:
    quote = connection.ops.quote_name
    return (
        quote(Trace._meta.db_table),
        quote(DatasetItem._meta.db_table),
        ", ".join(map(quote, _COLUMNS)),
    )


def _insert(traces: Sequence[tuple[Any, ...]], places: Sequence[tuple[Any, ...]]) -> None:
    trace_table, item_table, columns = _names()
    values = ", ".join(["%s"] * len(_COLUMNS))
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {trace_table} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING",  # noqa: S608 - our own names
            traces,
        )
        if cursor.rowcount == len(traces):  # all of them are new, and have the ids given here
            cursor.executemany(
                f"INSERT INTO {item_table} (dataset_id, position, split, trace_id)"  # noqa: S608 - our own names
                " VALUES (%s, %s, %s, %s)",
                [(*place[:3], trace[0]) for place, trace in zip(places, traces, strict=True)],
            )
            return
        cursor.executemany(
            f"INSERT INTO {item_table} (dataset_id, position, split, trace_id)"  # noqa: S608 - our own names
            f" SELECT %s, %s, %s, id FROM {trace_table} WHERE content_hash = %s",
            places,
        )


def _copy(traces: Sequence[tuple[Any, ...]], places: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows by COPY into tables of this transaction."""
    trace_table, item_table, columns = _names()
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY TABLE IF NOT EXISTS staged_traces ON COMMIT DELETE ROWS AS"  # noqa: S608 - our own names
            f" SELECT {columns} FROM {trace_table} WITH NO DATA"
        )
        cursor.execute(
            "CREATE TEMPORARY TABLE IF NOT EXISTS staged_places (dataset_id bigint, position"
            " integer, split text, content_hash text) ON COMMIT DELETE ROWS"
        )
        for table, rows in (("staged_traces", traces), ("staged_places", places)):
            with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        # in one order for all writers: no deadlock
        cursor.execute(
            f"INSERT INTO {trace_table} ({columns}) SELECT {columns} FROM staged_traces"  # noqa: S608 - our own names
            " ORDER BY content_hash ON CONFLICT DO NOTHING"
        )
        cursor.execute(
            f"INSERT INTO {item_table} (dataset_id, position, split, trace_id)"  # noqa: S608 - our own names
            f" SELECT dataset_id, position, split, id FROM staged_places JOIN {trace_table}"
            " USING (content_hash) ORDER BY position"
        )
        cursor.execute("DELETE FROM staged_traces; DELETE FROM staged_places")


def discard(
    staging: Staging | None, *, dataset_id: int, import_id: uuid.UUID, keep_name: bool = False
) -> None:
    """Remove what an import has stored, batch by batch: the dataset, unless it is to keep its name,
    and the traces that it brought unless they are used elsewhere. Without a staging the traces
    stay."""
    if Dataset.objects.filter(pk=dataset_id).exists():
        raise ValueError(f"dataset {dataset_id} is complete")
    items = DatasetItem.objects.filter(dataset_id=dataset_id).order_by("position")
    while places := list(items.values_list("position", flat=True)[:BATCH]):
        with transaction.atomic():
            DatasetItem.objects.filter(dataset_id=dataset_id, position__lte=places[-1])._raw_delete(
                connection.alias
            )
    if staging is not None:
        rows = staging.rows()
        batch: list[Row] = []
        while _fill(batch, rows, BATCH // 2):
            _remove_unused({row.content_hash for row in batch}, import_id)
    if not keep_name:
        Dataset.with_incomplete.filter(pk=dataset_id, complete=False).delete()


def _remove_unused(hashes: Iterable[str], import_id: uuid.UUID) -> None:
    brought = Trace.objects.filter(content_hash__in=list(hashes), import_id=import_id)
    while ids := list(brought.filter(items=None).values_list("pk", flat=True)):
        try:
            with transaction.atomic():
                forget(ids)
                Trace.objects.filter(pk__in=ids, import_id=import_id, items=None)._raw_delete(
                    connection.alias
                )
            return
        except IntegrityError:  # another dataset has taken one in the meantime, or it is indexed
            continue


@dataclass(frozen=True)
class Erased:
    """What was erased and must not come back: examples by content hash, and by what they said."""

    contents: frozenset[bytes]
    texts: frozenset[bytes]

    @classmethod
    def read(cls) -> Self:
        rows = Trace.objects.filter(erased_at__isnull=False).order_by()
        hashes = rows.values_list("content_hash", flat=True)
        texts = Tombstone.objects.values_list("pk", flat=True)
        return cls(
            frozenset(map(bytes.fromhex, hashes.iterator())),
            frozenset(map(bytes.fromhex, texts.iterator())),
        )

    def __contains__(self, example: ExampleData) -> bool:
        return (bool(self.contents) and bytes.fromhex(example.content_hash) in self.contents) or (
            bool(self.texts) and bytes.fromhex(text_hash(example)) in self.texts
        )


@dataclass(frozen=True)
class Sealed:
    """Examples of sealed datasets, by content hash: no other dataset takes them."""

    contents: frozenset[bytes]

    @classmethod
    def read(cls) -> Self:
        rows = Trace.objects.filter(sealed_at__isnull=False).order_by()
        hashes = rows.values_list("content_hash", flat=True)
        return cls(frozenset(map(bytes.fromhex, hashes.iterator())))

    def __contains__(self, example: ExampleData) -> bool:
        return bool(self.contents) and bytes.fromhex(example.content_hash) in self.contents


def keep_from_imports(traces: Q) -> None:
    """Make traces outlive the import under way that brought them, since another writer uses them.
    Call it in a transaction."""
    Trace.objects.filter(
        traces,
        import_id__in=Import.objects.filter(state__in=UNDER_WAY).values("pk"),
    ).update(import_id=None)
