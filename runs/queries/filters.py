"""The filter language of the history, the same in the page's search field and in the API's ``q``
(docs/filters.md).

    status:failed model:gemma tag:sweep-3 loss<1.5 after:2026-11-01 "two words"

``parse`` reads it and knows where it is wrong; ``condition`` makes of it what the database is
asked. A million rows are not searched for a word: the few different names of datasets and models
are, by walking their index from name to name, and the runs are then found by those names. A word
that no name holds finds nothing, at once.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import connection
from django.db.models import BooleanField, Case, Q, QuerySet, Value, When
from django.utils import timezone

from runs.models import ACTIVE, TERMINAL, RunMode, RunNameKey, RunStatus, RunTag
from runs.queries.selection import parse_moment, runs_whose_id_begins
from runs.spec.kinds import KINDS, kind_named, kind_names
from runs.spec.naming import after_key, begins_with_sign, holds_word, name_holds, search_key
from tunixrt.numbers import parse_number
from tunixrt.terms import RANGE, Language, Name, Term

NAMES_MAX = 10_000  # different names that are looked through for a part of one
MATCHES_MAX = 200  # of those, names that a query lists
LISTED_MAX = 2000  # runs that a query lists
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|min|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_LOOKUPS = {":": "exact", "=": "exact", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_PRESET = "preset:"  # begins model names, which people type as they stand


def parse(text: str) -> list[Term]:
    """Return the terms of a filter, all of which hold for what it finds. Raise FilterError."""
    return LANGUAGE.parse(text)


def split_terms(text: str) -> list[str]:
    """Return the terms of a filter as they were typed. What cannot be read, from there on, is one
    of them."""
    return LANGUAGE.split(text)


# --- what the names take --------------------------------------------------------------------------


def _text(text: str) -> str:
    return text


def _part_of_name(text: str) -> str:
    if not holds_word(text):
        raise ValueError(
            f"names are found by their words: put a letter or a digit beside {text!r}."
        )
    return text


def _statuses(text: str) -> tuple[str, ...]:
    groups = {"active": ACTIVE, "ended": TERMINAL}
    found: list[str] = []
    for word in text.lower().split(","):
        if word not in groups and word not in RunStatus.values:
            raise ValueError(
                f"{word!r} is no status. There are {', '.join([*RunStatus.values, *groups])}."
            )
        found += groups.get(word, [RunStatus(word)] if word in RunStatus.values else [])
    return tuple(found)


def _mode(text: str) -> str:
    if text.lower() not in RunMode.values:
        raise ValueError(f"{text!r} is no mode. There are {', '.join(RunMode.values)}.")
    return text.lower()


def _kind(text: str) -> str:
    if kind_named(text.lower()) is None:
        raise ValueError(f"{text!r} is no kind. There are {', '.join(kind_names())}.")
    return text.lower()


def _number(text: str) -> float:
    number = parse_number(text)
    if not abs(number) < 1e300:
        raise ValueError(f"{text!r} is no number.")
    return number


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{text!r} is no whole number.")
    return int(text)


def _duration(text: str) -> float:
    span = _SPAN.fullmatch(text.lower())
    if span:
        return float(span[1]) * _SECONDS[span[2]]
    try:
        return _number(text)
    except ValueError as error:
        raise ValueError(f"{error} Units are {', '.join(_SECONDS)}: 90s, 1.5h.") from error


def _moment(text: str) -> datetime:
    """Return the moment that a value names: an ISO date or time, ``today``, ``yesterday``, ``week``
    (its Monday), ``month``, or how long ago: ``24h``, ``7d``."""
    now = timezone.now().astimezone(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {
        "today": today,
        "yesterday": today - timedelta(days=1),
        "week": today - timedelta(days=today.weekday()),
        "month": today.replace(day=1),
    }
    if text.lower() in named:
        return named[text.lower()]
    try:
        if span := _SPAN.fullmatch(text.lower()):
            return now - timedelta(seconds=float(span[1]) * _SECONDS[span[2]])
        return parse_moment(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{text!r} is no date: write 2026-11-01, 2026-11-01T12:00:00Z, today, week, 24h or 7d."
        ) from error


NAMES = {
    "status": Name(_statuses),
    "kind": Name(_kind),
    "mode": Name(_mode),
    "name": Name(_part_of_name),
    "dataset": Name(_text),
    "model": Name(_text),
    "tag": Name(_text),
    "owner": Name(_text),
    "note": Name(_text),
    "after": Name(_moment),
    "before": Name(_moment),
    "loss": Name(_number, RANGE),
    "duration": Name(_duration, RANGE),
    "step": Name(_whole_number, RANGE),
}
LANGUAGE = Language(NAMES, words=(_PRESET,))
_NUMBERS = {"loss": "last_loss", "duration": "duration_seconds", "step": "step"}
_UNINDEXED = frozenset({"note", *_NUMBERS})


# --- what the database is asked -------------------------------------------------------------------


def reads_all(terms: list[Term]) -> bool:
    """Return whether runs may have to be read one by one for what ``terms`` ask: there is no index
    for it."""
    return any(
        term.name in _UNINDEXED or (term.name in ("", "name") and begins_with_sign(term.value))
        for term in terms
    )


def names_kind(terms: list[Term]) -> bool:
    return any(term.name == "kind" for term in terms)


def condition(terms: list[Term], *, by: AbstractBaseUser) -> Q:
    """Return the condition for the runs that all terms describe; ``by`` is who ``owner:me`` means.
    Query the names of datasets and of models when terms want a part of one."""
    names = _Names()
    found = Q()
    for term in terms:
        found &= _term_condition(term, names, by)
    return found


def _term_condition(term: Term, names: "_Names", by: AbstractBaseUser) -> Q:
    match term.name:
        case "status":
            return Q(status__in=term.value) if len(term.value) > 1 else Q(status=term.value[0])
        case "kind":
            return Q(kind=term.value, listed__in=[term.value in KINDS])
        case "mode":
            return Q(mode=term.value)
        case "name":
            return runs_named(term.value)
        case "dataset":
            return names.holding("dataset_key", term.value)
        case "model":
            return names.holding("model_id", term.value)
        case "tag":
            return Q(pk__in=_tags(term.value).values("run"))
        case "owner":
            return Q(owner=by.pk) if term.value == "me" else Q(owner__username=term.value)
        case "note":
            return Q(notes__icontains=term.value) | Q(message__icontains=term.value)
        case "after":
            return Q(created_at__gte=term.value)
        case "before":
            return Q(created_at__lt=term.value)
        case "":
            word = names.holding("dataset_key", term.value) | names.holding("model_id", term.value)
            word |= _listed(_tags(term.value)) | runs_named(term.value)
            by_id = runs_whose_id_begins(term.value)
            return word if by_id is None else word | by_id
        case _:
            return Q((f"{_NUMBERS[term.name]}__{_LOOKUPS[term.operator]}", term.value))


def _tags(name: str) -> QuerySet[RunTag]:
    return RunTag.objects.filter(name=name).order_by()


def runs_named(text: str) -> Q:
    """Return the condition for runs whose name has ``text`` in it from the beginning of a word on:
    a range of an index.

    Signs before its first word are not in the index; they are looked for in the names that the word
    finds.
    """
    key = search_key(text)
    rows = RunNameKey.objects.filter(key__gte=key, key__lt=after_key(key)).order_by()
    if not begins_with_sign(text):
        return _listed(rows)
    found = list(rows.values_list("run", "run__name")[: LISTED_MAX + 1])
    if len(found) <= LISTED_MAX:
        return Q(pk__in={run for run, name in found if name_holds(name, text)})
    return _listed(rows) & Q(name__icontains=text.strip())


def _listed(rows: QuerySet[Any]) -> Q:
    """Return the condition for runs that ``rows`` of another table point at.

    Up to LISTED_MAX are listed by their keys. Where there are more, the newest of them are soon
    found by walking the history; the CASE keeps the database from joining the tables instead, for
    it guesses the length of a range of names badly.
    """
    found = list(rows.values_list("run", flat=True)[: LISTED_MAX + 1])
    if len(found) <= LISTED_MAX:
        return Q(pk__in=found)
    return Q(
        Case(
            When(pk__in=rows.values("run"), then=Value(True)),
            default=Value(False),
            output_field=BooleanField(),
        )
    )


class _Names:
    """The different values of a column of the runs, read once each."""

    def __init__(self) -> None:
        self._read: dict[str, list[str]] = {}

    def holding(self, column: str, part: str) -> Q:
        """Return the condition for runs whose ``column`` has ``part`` in it, in upper or lower
        case."""
        if column not in self._read:
            self._read[column] = different_values(column, NAMES_MAX + 1)
        known = self._read[column]
        found = [name for name in known if part.casefold() in name.casefold()]
        if len(known) > NAMES_MAX or len(found) > MATCHES_MAX:
            return Q((f"{column}__icontains", part))
        return Q((column, found[0])) if len(found) == 1 else Q((f"{column}__in", found))


def different_values(column: str, limit: int) -> list[str]:
    """Return the different values of an indexed column of the runs: one look into the index for
    each, however many rows there are."""
    column = {"dataset_key": "dataset_key", "model_id": "model_id"}[column]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH RECURSIVE names(name) AS (
                SELECT MIN({column}) FROM tunix_runs
                UNION ALL
                SELECT (SELECT MIN({column}) FROM tunix_runs WHERE {column} > names.name)
                FROM names WHERE names.name IS NOT NULL
            )
            SELECT name FROM names WHERE name IS NOT NULL LIMIT %s
            """,  # noqa: S608 - the column is one of the two above
            [limit],
        )
        return [name for (name,) in cursor.fetchall()]
