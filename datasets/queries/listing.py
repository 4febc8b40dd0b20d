"""Pages of traces and datasets, newest first, without ever counting them."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from django.db import connection
from django.db.models import Func, IntegerField, Model, Q, QuerySet
from django.db.models.functions import Left

from datasets.examples.words import SearchWord
from datasets.models import Dataset, DatasetItem, Import, Trace
from datasets.storage.word_index import find
from tunixrt.cursors import Cursor
from tunixrt.refusals import InvalidQuery

# Deeper pages are not offered by number: the database would read and drop every row before. A
# cursor goes any depth.
OFFSET_MAX = 1_000_000
FOUND_OFFSET_MAX = 10_000  # of what is found by words
SHOWN_CHARACTERS = 200  # of a text in a list; a page shows fewer
# In cursors of lists whose order is a number alone.
_NO_MOMENT = datetime.fromtimestamp(0, UTC)

AnyModel = TypeVar("AnyModel", bound=Model)


@dataclass(frozen=True)
class Page(Generic[AnyModel]):
    """``next_cursor``: None on the last page."""

    rows: list[AnyModel]
    next_cursor: str | None


def take_page(
    rows: QuerySet[AnyModel], *, limit: int, offset: int = 0, cursor: Cursor[Any] | None = None
) -> Page[AnyModel]:
    """Return one page of models with ``created_at``, newest first, in one query, which asks for one
    row more than it shows."""
    rows = rows.order_by("-created_at", "-pk")
    if cursor is not None:
        rows = cursor.rows_behind(rows)
    found: list[Any] = list(rows[offset : offset + limit + 1])
    more = len(found) > limit
    found = found[:limit]
    return Page(found, Cursor(found[-1].created_at, found[-1].pk).encode() if more else None)


def search_traces(text: str | None, *, archived: bool = False) -> QuerySet[Trace]:
    """Examples whose prompt, final answer or content holds the text, or the one with this id: those
    in use, or those ``archived``. Sealed ones are in no list; who may read them finds them in their
    datasets."""
    traces = Trace.objects.filter(archived_at__isnull=not archived, sealed_at__isnull=True)
    if not text:
        return traces
    if is_id(text):
        return traces.filter(pk=uuid.UUID(text))
    return traces.filter(_contains(text))


def search_examples(dataset: Dataset, text: str) -> QuerySet[DatasetItem]:
    """Return the items of a dataset, in their order, whose example has the text in question or
    answer."""
    items = dataset.items.select_related("trace").order_by("position")
    return items.filter(_contains(text, "trace__")) if text else items


def _contains(text: str, to_trace: str = "") -> Q:
    fields = ("prompt", "final_answer", "content")
    return Q(*((f"{to_trace}{field}__icontains", text) for field in fields), _connector=Q.OR)


def is_id(text: str) -> bool:
    """Return whether a search asks for the example with this id."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def shortened(traces: QuerySet[Trace]) -> QuerySet[Trace]:
    """Return examples with no more than a list shows, however large they are: the beginnings of
    prompt and answer as ``shown_prompt`` and ``shown_answer``, and ``step_count``."""
    length = "jsonb_array_length" if connection.vendor == "postgresql" else "json_array_length"
    return traces.only("kind", "created_at", "erased_at", "archived_at").annotate(
        shown_prompt=Left("prompt", SHOWN_CHARACTERS),
        shown_answer=Left("final_answer", SHOWN_CHARACTERS),
        step_count=Func("steps", function=length, output_field=IntegerField()),
    )


def find_traces(
    words: list[SearchWord],
    *,
    archived: bool = False,
    limit: int,
    offset: int = 0,
    cursor: Cursor[Any] | None = None,
    traces: QuerySet[Trace] | None = None,
) -> Page[Trace]:
    """Return one page of examples, out of ``traces``, that have all of the words, the last indexed
    first: those in use, or those ``archived``. Raise InvalidQuery for a cursor of another list, or
    an offset that is too deep."""
    if cursor is not None and not isinstance(cursor.key, int):
        raise InvalidQuery({"cursor": ["belongs to a list that was not searched by words."]})
    if offset > FOUND_OFFSET_MAX:
        reason = f"must be at most {FOUND_OFFSET_MAX:,} with words; use cursor."
        raise InvalidQuery({"offset": [reason]})
    if not words:
        return Page([], None)
    before = cursor.key if cursor is not None else None
    found = find(words, archived=archived, before=before, limit=limit + 1, offset=offset)
    more = len(found) > limit
    found = found[:limit]
    known = (Trace.objects.all() if traces is None else traces).in_bulk([row[1] for row in found])
    rows = [known[trace_id] for _, trace_id in found if trace_id in known]
    return Page(rows, Cursor(_NO_MOMENT, found[-1][0]).encode() if more else None)


def filter_imports(state: str | None) -> QuerySet[Import]:
    """Return imports, or those in one state if that is given."""
    return Import.objects.filter(state=state) if state else Import.objects.all()


def search_datasets(text: str | None, *, archived: bool = False) -> QuerySet[Dataset]:
    """Return datasets whose key or description holds the text: those in use, or those
    ``archived``."""
    datasets = Dataset.objects.filter(archived_at__isnull=not archived)
    return (
        datasets.filter(Q(dataset_key__icontains=text) | Q(description__icontains=text))
        if text
        else datasets
    )
