"""Pages of traces and datasets, newest first, without ever counting them."""

import uuid
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db.models import Model, Q, QuerySet

from datasets.models import Dataset, Import, Trace
from tunixrt.cursors import Cursor

# Deeper pages are not offered by number: the database would read and drop every row before. A
# cursor goes any depth.
OFFSET_MAX = 1_000_000

AnyModel = TypeVar("AnyModel", bound=Model)


@dataclass(frozen=True)
class Page(Generic[AnyModel]):
    """``next_cursor``: None on the last page."""

    rows: list[AnyModel]
    next_cursor: str | None


def take_page(
    rows: QuerySet[AnyModel], *, limit: int, offset: int = 0, cursor: Cursor[Any] | None = None
) -> Page[AnyModel]:
    """One page of models with ``created_at``, newest first; one query, which asks for one row more
    than it shows."""
    rows = rows.order_by("-created_at", "-pk")
    if cursor is not None:
        rows = cursor.rows_behind(rows)
    found: list[Any] = list(rows[offset : offset + limit + 1])
    more = len(found) > limit
    found = found[:limit]
    return Page(found, Cursor(found[-1].created_at, found[-1].pk).encode() if more else None)


def search_traces(text: str | None) -> QuerySet[Trace]:
    """Examples whose prompt, final answer or content holds the text, or the one with this id."""
    traces = Trace.objects.all()
    if not text:
        return traces
    try:
        return traces.filter(pk=uuid.UUID(text))
    except ValueError:
        return traces.filter(
            Q(prompt__icontains=text) | Q(final_answer__icontains=text) | Q(content__icontains=text)
        )


def filter_imports(state: str | None) -> QuerySet[Import]:
    """Imports, those in one state if that is given."""
    return Import.objects.filter(state=state) if state else Import.objects.all()


def search_datasets(text: str | None, *, archived: bool = False) -> QuerySet[Dataset]:
    """Datasets whose key or description holds the text: those in use, or those ``archived``."""
    datasets = Dataset.objects.filter(archived_at__isnull=not archived)
    return (
        datasets.filter(Q(dataset_key__icontains=text) | Q(description__icontains=text))
        if text
        else datasets
    )
