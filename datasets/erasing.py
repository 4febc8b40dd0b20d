"""Erase the content of examples from the database and from the folders of imports. What remains of
an example is a tombstone: its id, kind, content hash and places in datasets.

The files of runs, and the whole of an erasure, are in runs/services/erasing.py. Each function here
may be repeated: an erasure that was interrupted does what is left.
"""

import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from datasets import folders
from datasets.models import Dataset, DatasetItem, Import, Split, Trace

BATCH = 200  # examples of a transaction


def _batches(ids: Sequence[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]


def traces_only_in(dataset: Dataset, *, limit: int) -> list[uuid.UUID]:
    """Return examples, not erased yet, that no other dataset has a place for; ``limit`` at most."""
    elsewhere = DatasetItem.objects.filter(trace=OuterRef("trace")).exclude(dataset=dataset)
    alone = DatasetItem.objects.filter(dataset=dataset, trace__erased_at=None).exclude(
        Exists(elsewhere)
    )
    return list(alone.order_by("trace_id").values_list("trace_id", flat=True).distinct()[:limit])


def datasets_holding(trace_ids: Sequence[uuid.UUID]) -> list[int]:
    """Return the keys of all datasets with places for any of the examples, also of those that an
    import still stores."""
    found: dict[int, None] = {}
    for batch in _batches(trace_ids):
        rows = DatasetItem.objects.filter(trace__in=batch).order_by("dataset_id")
        found.update(dict.fromkeys(rows.values_list("dataset_id", flat=True).distinct()))
    return list(found)


def erase_contents(trace_ids: Sequence[uuid.UUID]) -> None:
    """Remove the content of the examples, in short transactions; then count the erased examples of
    their datasets."""
    for batch in _batches(trace_ids):
        with transaction.atomic():
            Trace.objects.filter(pk__in=batch, erased_at=None).update(
                prompt="",
                steps=[],
                final_answer="",
                content="",
                meta={},
                erased_at=timezone.now(),
            )
    for dataset_id in datasets_holding(trace_ids):
        _count_erased(dataset_id)


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
    """Remove the lines that imports of the datasets have left out: they come from the same files,
    and nothing tells whose they are. Returns the number of files. Raises OSError."""
    rows = imports_with_files(dataset_ids)
    for row in rows:
        (folders.folder_of(row.pk) / folders.SKIPPED).unlink(missing_ok=True)
    return len(rows)


def derived_from(dataset_ids: Collection[int]) -> QuerySet[Dataset]:
    """Datasets that were made from the datasets, which may hold changed copies of an example."""
    return Dataset.objects.filter(Q(parents__in=list(dataset_ids))).distinct()


def known_traces(trace_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Any]:
    """Return id → when it was erased, of those examples that there are."""
    found: dict[uuid.UUID, Any] = {}
    for batch in _batches(trace_ids):
        found.update(Trace.objects.filter(pk__in=batch).values_list("pk", "erased_at"))
    return found
