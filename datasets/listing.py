"""Pages of traces and datasets, newest first, without ever counting them."""

import base64
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from django.db.models import Model, Q, QuerySet

from datasets.models import Dataset, Trace

# Deeper pages are not offered by number: the database would read and drop every row before. A
# cursor goes any depth.
OFFSET_MAX = 1_000_000

AnyModel = TypeVar("AnyModel", bound=Model)


@dataclass(frozen=True)
class Cursor:
    """The last row of a page: the next page starts behind it, whatever has been added in front
    meanwhile."""

    created_at: datetime
    pk: Any

    def encode(self) -> str:
        text = f"{self.created_at.astimezone(UTC).isoformat()}|{self.pk}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decoder(cls, read_pk: Callable[[str], Any]) -> "Callable[[str], Cursor]":
        """Reads a cursor whose row is named by ``read_pk``. What it returns raises ValueError."""

        def decode(text: str) -> Cursor:
            try:
                created_at, pk = (
                    base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().split("|")
                )
                moment = datetime.fromisoformat(created_at)
                if moment.tzinfo is None:
                    raise ValueError
                return cls(moment.astimezone(UTC), read_pk(pk))
            except (ValueError, OverflowError) as error:
                raise ValueError("is not a cursor of this list.") from error

        return decode

    def apply(self, rows: QuerySet[AnyModel]) -> QuerySet[AnyModel]:
        # The first condition alone bounds the index scan; the rest only decides among rows of the
        # same moment.
        behind = Q(created_at__lt=self.created_at) | Q(pk__lt=self.pk)
        return rows.filter(created_at__lte=self.created_at).filter(behind)


def _read_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError
    return int(text)


decode_trace_cursor = Cursor.decoder(uuid.UUID)
decode_dataset_cursor = Cursor.decoder(_read_number)


@dataclass(frozen=True)
class Page(Generic[AnyModel]):
    """``next_cursor``: None on the last page."""

    rows: list[AnyModel]
    next_cursor: str | None


def take_page(
    rows: QuerySet[AnyModel], *, limit: int, offset: int = 0, cursor: Cursor | None = None
) -> Page[AnyModel]:
    """One page of models with ``created_at``, newest first; one query, which asks for one row more
    than it shows."""
    rows = rows.order_by("-created_at", "-pk")
    if cursor is not None:
        rows = cursor.apply(rows)
    found: list[Any] = list(rows[offset : offset + limit + 1])
    more = len(found) > limit
    found = found[:limit]
    return Page(found, Cursor(found[-1].created_at, found[-1].pk).encode() if more else None)


def search_traces(text: str | None) -> QuerySet[Trace]:
    """Traces whose prompt or final answer holds the text, or the one with this id."""
    traces = Trace.objects.all()
    if not text:
        return traces
    try:
        return traces.filter(pk=uuid.UUID(text))
    except ValueError:
        return traces.filter(Q(prompt__icontains=text) | Q(final_answer__icontains=text))


def search_datasets(text: str | None) -> QuerySet[Dataset]:
    """Datasets whose key or description holds the text."""
    datasets = Dataset.objects.all()
    return (
        datasets.filter(Q(dataset_key__icontains=text) | Q(description__icontains=text))
        if text
        else datasets
    )
