"""Which runs, in which order: the filters that history, API and admin share, and pages whose cost
does not grow with depth."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from django.db.models import FilteredRelation, Q
from django.utils.dateparse import parse_date, parse_datetime

from runs.models import RunQuerySet
from runs.spec.kinds import KINDS
from tunixrt.cursors import Cursor

UUID_DIGITS = 32


@dataclass(frozen=True)
class Selection:
    """Filters; None means any. ``after`` ≤ created < ``before``. ``extra``: what was typed
    (runs/queries/filters.py); ``names_kind``: a kind is part of it.

    Where no kind is named, trainings are selected, and their dry runs.
    """

    status: str | None = None
    dataset_key: str | None = None
    kind: str | None = None
    mode: str | None = None
    model_id: str | None = None
    owner: str | None = None
    tag: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    extra: Q = field(default_factory=Q)
    reads_all: bool = False  # ``extra`` may have to read every run
    names_kind: bool = False

    def apply(self, runs: RunQuerySet) -> RunQuerySet:
        exact = {
            "status": self.status,
            "dataset_key": self.dataset_key,
            "kind": self.kind,
            "mode": self.mode,
            "model_id": self.model_id,
        }
        runs = runs.filter(**{name: value for name, value in exact.items() if value is not None})
        if self.kind is not None or not self.names_kind:
            runs = runs.listed(self.kind is None or self.kind in KINDS)
        if self.owner is not None:
            runs = runs.filter(owner__username=self.owner)
        if self.tag is not None:
            runs = runs.annotate(
                tagged=FilteredRelation("tags", condition=Q(tags__name=self.tag))
            ).filter(tagged__isnull=False)
        if self.after is not None:
            runs = runs.filter(created_at__gte=self.after)
        if self.before is not None:
            runs = runs.filter(created_at__lt=self.before)
        return runs.filter(self.extra)

    def in_order(
        self,
        runs: RunQuerySet,
        *,
        behind: Cursor[uuid.UUID] | None = None,
        oldest_first: bool = False,
    ) -> RunQuerySet:
        """Return the selected runs by age, the newest first; ``behind`` a row."""
        # With a tag by the tag's own index, lest the database look for tagged runs among all of
        # them.
        moment, key = (
            ("created_at", "run_id")
            if self.tag is None
            else ("tagged__run_created_at", "tagged__run_id")
        )
        selected = self.apply(runs)
        if behind is not None:
            selected = behind.rows_behind(
                selected, moment=moment, key=key, oldest_first=oldest_first
            )
        return (
            selected.order_by(moment, key)
            if oldest_first
            else selected.order_by(f"-{moment}", f"-{key}")
        )


def runs_whose_id_begins(text: str) -> Q | None:
    """Return the condition for runs whose id begins with these digits, as pages show it, by its
    index; None where ``text`` is no such beginning."""
    digits = text.replace("-", "").lower()
    if not 4 <= len(digits) <= UUID_DIGITS or set(digits) - set("0123456789abcdef"):
        return None
    return Q(
        run_id__range=(
            uuid.UUID(digits.ljust(UUID_DIGITS, "0")),
            uuid.UUID(digits.ljust(UUID_DIGITS, "f")),
        )
    )


def parse_moment(text: str) -> datetime:
    """Return an ISO-8601 date (midnight, UTC) or date and time (UTC unless it says otherwise).
    Raise ValueError."""
    message = "must be a date (2026-11-01) or a date and time (2026-11-01T12:00:00Z)."
    try:
        moment = parse_datetime(text.replace(" ", "+")) or parse_datetime(text)
        if moment is None and (day := parse_date(text)) is not None:
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        if moment is None:
            raise ValueError
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:  # overflow: before the year 1 or after 9999 in UTC
        raise ValueError(message) from error
