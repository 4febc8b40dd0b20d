"""Cursors: where the next page of a list starts, at a cost that does not grow with depth."""

import base64
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from django.db.models import Model, Q, QuerySet

NUMBER_MAX_DIGITS = 18  # what a 64-bit key surely holds

Key = TypeVar("Key", uuid.UUID, int)
Rows = TypeVar("Rows", bound=QuerySet[Model])


@dataclass(frozen=True)
class Cursor(Generic[Key]):
    """The last row of a page of a list ordered by creation, then by key.

    The next page starts behind that row, whatever has been added in front of it meanwhile. The row
    itself need not exist any more.
    """

    created_at: datetime
    key: Key

    def encode(self) -> str:
        text = f"{self.created_at.astimezone(UTC).isoformat()}|{self.key}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def rows_behind(
        self,
        rows: Rows,
        *,
        moment: str = "created_at",
        key: str = "pk",
        oldest_first: bool = False,
    ) -> Rows:
        """Return the rows behind this one; ``moment`` and ``key`` are the fields of the order."""
        further = "gt" if oldest_first else "lt"
        # The first condition alone bounds the index scan; the rest only decides among rows of the
        # same moment.
        return rows.filter((f"{moment}__{further}e", self.created_at)).filter(
            Q((f"{moment}__{further}", self.created_at)) | Q((f"{key}__{further}", self.key))
        )


def decode_uuid_cursor(text: str) -> Cursor[uuid.UUID]:
    """Return the cursor of a list whose keys are UUIDs. Raise ValueError with a sentence."""
    return Cursor(*_decode(text, uuid.UUID))


def decode_number_cursor(text: str) -> Cursor[int]:
    """Return the cursor of a list whose keys are numbers. Raise ValueError with a sentence."""
    return Cursor(*_decode(text, _read_number))


def _decode(text: str, read_key: Callable[[str], Any]) -> tuple[datetime, Any]:
    try:
        padded = text + "=" * (-len(text) % 4)
        created_at, key = base64.urlsafe_b64decode(padded).decode().split("|")
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC), read_key(key)
    except (ValueError, OverflowError) as error:  # overflow: before the year 1 or after 9999 in UTC
        raise ValueError("is not a cursor of this list.") from error


def _read_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= NUMBER_MAX_DIGITS):
        raise ValueError
    return int(text)
