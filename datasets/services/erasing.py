"""Erase the content of examples from the database and from the folders of imports. What remains of
an example is a tombstone: its id, kind, content hash and places in datasets.

The files of runs, and the whole of an erasure, are in runs/services/erasing.py. Each function here
may be repeated: an erasure that was interrupted does what is left.
"""

import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, Exists, Func, IntegerField, OuterRef, Q, QuerySet
from django.db.models.functions import Left, Length
from django.utils import timezone

from datasets.examples.kinds import MAX_SUMMARY, text_hash
from datasets.examples.words import composed
from datasets.files import folders
from datasets.models import Dataset, DatasetItem, Import, Split, Tombstone, Trace, TraceWords
from datasets.storage.rows import batches
from datasets.storage.word_index import forget, forget_words

BATCH = 200  # examples of a transaction
REASONS_ERASED = "The reasons were removed when examples of the dataset were erased."
CHECKPOINT_SECONDS = 10.0  # for readers of old versions to end
# Characters of a beginning in one form that are there in whatever form MAX_SUMMARY of it were kept.
_COMPARED = MAX_SUMMARY // 5


def _batches(ids: Sequence[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]


def traces_only_in(dataset: Dataset, *, limit: int) -> list[uuid.UUID]:
    """Return examples, not erased yet, that no other dataset has a place for, nor for another
    example that says the same; ``limit`` at most."""
    elsewhere = DatasetItem.objects.filter(trace=OuterRef("trace")).exclude(dataset=dataset)
    alone = DatasetItem.objects.filter(dataset=dataset, trace__erased_at=None).exclude(
        Exists(elsewhere)
    )
    rows = alone.order_by("trace_id").values_list("trace_id", flat=True).distinct()
    found: list[uuid.UUID] = []
    while ids := list(rows[:limit]):
        shared = {text for text, _ in _said_elsewhere(ids)}
        found += [each.pk for each in _in_batches(ids) if text_hash(each) not in shared]
        if len(found) >= limit or len(ids) < limit:
            break
        rows = rows.filter(trace__gt=ids[-1])
    return found[:limit]


def twins_of(trace_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Return other examples, not erased yet, that say the same as any of the examples. Read all
    traces once: nothing indexes what they say."""
    return [twin for _, twin in _said_elsewhere(trace_ids)]


def _said_elsewhere(trace_ids: Sequence[uuid.UUID]) -> Iterator[tuple[str, uuid.UUID]]:
    """Yield the text hash and the id of each other example that says the same as one of these."""
    known = set(trace_ids)
    said = {text_hash(trace): _beginning(trace.prompt) for trace in _in_batches(trace_ids)}
    beginnings = {beginning[:_COMPARED] for beginning in said.values()}
    # Of a conversation the column has no more of the question. The database compares ASCII alone:
    # other characters have several forms.
    asked = Trace.objects.annotate(
        beginning=Left("prompt", MAX_SUMMARY), beyond_ascii=_Bytes("prompt") - Length("prompt")
    ).filter(Q(beginning__in=set(said.values())) | Q(beyond_ascii__gt=0), erased_at=None)
    rows = asked.order_by("pk").values_list("pk", "beginning").iterator() if said else ()
    alike = (
        pk
        for pk, beginning in rows
        if pk not in known and _beginning(beginning)[:_COMPARED] in beginnings
    )
    for batch in batches(alike, BATCH):
        for trace in _in_batches(batch):
            if (text := text_hash(trace)) in said:
                yield text, trace.pk


def _beginning(prompt: str) -> str:
    return composed(prompt[:MAX_SUMMARY])


class _Bytes(Func):
    """The number of bytes of a text in UTF-8."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "LENGTH(CAST(%(expressions)s AS BLOB))"
        return self.as_sql(compiler, connection, template=template, **context)


def _in_batches(trace_ids: Sequence[uuid.UUID]) -> Iterator[Trace]:
    """Yield those of the examples that are not erased yet."""
    for batch in _batches(trace_ids):
        yield from Trace.objects.filter(pk__in=batch, erased_at=None).order_by("pk")


def datasets_holding(trace_ids: Sequence[uuid.UUID]) -> list[int]:
    """Return the keys of all datasets with places for any of the examples, also of those that an
    import still stores."""
    found: dict[int, None] = {}
    for batch in _batches(trace_ids):
        rows = DatasetItem.objects.filter(trace__in=batch).order_by("dataset_id")
        found.update(dict.fromkeys(rows.values_list("dataset_id", flat=True).distinct()))
    return list(found)


def erase_contents(trace_ids: Sequence[uuid.UUID]) -> None:
    """Remove the content of the examples, in short transactions, and their words from the index,
    and remember what they said; then count the erased examples of their datasets.
    ``remove_old_versions`` does the rest."""
    for batch in _batches(trace_ids):
        with transaction.atomic():
            forget(batch)
            rows = Trace.objects.select_for_update().filter(pk__in=batch, erased_at=None)
            said = {text_hash(trace) for trace in rows.order_by("pk")}
            Tombstone.objects.bulk_create(map(Tombstone, sorted(said)), ignore_conflicts=True)
            Trace.objects.filter(pk__in=batch, erased_at=None).update(
                prompt="",
                steps=[],
                final_answer="",
                content="",
                meta={},
                erased_at=timezone.now(),
            )
    forget_words()
    for dataset_id in datasets_holding(trace_ids):
        _count_erased(dataset_id)


def remove_old_versions() -> str:
    """Remove the row versions from before an erasure from the files of the database; return what
    keeps it from that.

    SQLite has them in its write-ahead log until that is truncated, which waits for the readers of
    older versions; PostgreSQL in the tables until they are vacuumed. Within a transaction that
    happens at its end.
    """
    problems: list[str] = []
    transaction.on_commit(lambda: problems.append(_remove_old_versions()))
    return "".join(problems)


def _remove_old_versions() -> str:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            tables = (connection.ops.quote_name(m._meta.db_table) for m in (Trace, TraceWords))
            cursor.execute(f"VACUUM {', '.join(tables)}")
        return ""
    until = time.monotonic() + CHECKPOINT_SECONDS
    while True:
        with connection.cursor() as cursor:
            busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return ""
        if time.monotonic() >= until:
            return (
                "The write-ahead log of the database may still hold the content, because a reader"
                " (such as a download) started before. Continue when it has ended."
            )
        time.sleep(0.1)


def _count_erased(dataset_id: int) -> None:
    counts = dict(
        DatasetItem.objects.filter(dataset=dataset_id, trace__erased_at__isnull=False)
        .order_by()
        .values_list("split")
        .annotate(places=Count("pk"))
    )
    Dataset.with_incomplete.filter(pk=dataset_id).update(
        erased_size=sum(counts.values()),
        erased_held_out_size=counts.get(Split.HELD_OUT.value, 0),
    )


def imports_with_files(dataset_ids: Collection[int]) -> list[Import]:
    """Return imports of the datasets, also those that failed, whose folder holds lines that were
    left out."""
    keys = Dataset.with_incomplete.filter(pk__in=list(dataset_ids)).values("dataset_key")
    rows = Import.objects.filter(dataset_key__in=keys).order_by("created_at")
    return [row for row in rows if (folders.folder_of(row.pk) / folders.SKIPPED).is_file()]


def erase_skipped_lines(dataset_ids: Collection[int]) -> int:
    """Remove the lines that imports of the datasets have left out, and the reasons, which quote
    them: they come from the same files, and nothing tells which example they are of. Return the
    number of files. Raise OSError."""
    keys = Dataset.with_incomplete.filter(pk__in=list(dataset_ids)).values("dataset_key")
    refused = Import.objects.filter(dataset_key__in=keys).exclude(problem="")
    refused.update(detail={}, problem=REASONS_ERASED)
    rows = imports_with_files(dataset_ids)
    for row in rows:
        (folders.folder_of(row.pk) / folders.SKIPPED).unlink(missing_ok=True)
    return len(rows)


def derived_from(dataset_ids: Collection[int]) -> QuerySet[Dataset]:
    """Return datasets that were made from the datasets, which may hold changed copies of an
    example."""
    return Dataset.objects.filter(Q(parents__in=list(dataset_ids))).distinct()


def known_traces(trace_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Any]:
    """Return id → when it was erased, of those examples that there are."""
    found: dict[uuid.UUID, Any] = {}
    for batch in _batches(trace_ids):
        found.update(Trace.objects.filter(pk__in=batch).values_list("pk", "erased_at"))
    return found
