"""Store examples that are sent one by one or as a list."""

import uuid
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from datasets.examples.kinds import parse_example, text_hash
from datasets.examples.schema import Errors, ExampleData, InvalidTrace
from datasets.models import Tombstone, Trace
from datasets.services.refusals import InvalidTraces
from datasets.storage.ids import ordered_ids
from datasets.storage.rows import WRITE_BATCH, batches, insert_rows
from datasets.storage.storing import IS_SEALED, WAS_ERASED, keep_from_imports
from datasets.storage.word_index import index_stored


def create_traces(*, items: Iterable[Any], by: User | None) -> list[Trace]:
    """Store examples of any kind (see kinds.parse_example), all or none; those that are stored
    already are returned as they are. The result has the order of ``items``. Raise InvalidTraces."""
    parsed: list[ExampleData] = []
    errors: dict[int, Errors] = {}
    count = 0
    for place, item in enumerate(items):
        try:
            parsed.append(parse_example(item))
        except InvalidTrace as error:
            count += 1
            if len(errors) < InvalidTraces.NAMED:
                errors[place] = error.errors
    if count:
        raise InvalidTraces(errors, count)
    stored: dict[str, Trace] = {}
    since = timezone.now()
    with transaction.atomic():
        for batch in batches(parsed, WRITE_BATCH):
            _insert(batch, by)
            hashes = {trace.content_hash for trace in batch}
            keep_from_imports(Q(content_hash__in=hashes))
            stored |= {
                trace.content_hash: trace
                for trace in Trace.objects.filter(content_hash__in=hashes).order_by()
            }
        gone = {trace.content_hash for trace in stored.values() if trace.erased_at is not None}
        gone |= _said_again(parsed)
        sealed = {trace.content_hash for trace in stored.values() if trace.sealed_at is not None}
        refused = {
            place: {"trace": [f"{WAS_ERASED if trace.content_hash in gone else IS_SEALED}."]}
            for place, trace in enumerate(parsed)
            if trace.content_hash in gone | sealed
        }
        if refused:
            named = dict(islice(refused.items(), InvalidTraces.NAMED))
            raise InvalidTraces(named, len(refused))
        index_stored(since=since, until=timezone.now(), count=len(stored))
    return [stored[trace.content_hash] for trace in parsed]


def _said_again(parsed: Sequence[ExampleData]) -> set[str]:
    """Return the content hashes of examples that say what an erased one said."""
    if not Tombstone.objects.exists():
        return set()
    said = {trace.content_hash: text_hash(trace) for trace in parsed}
    found: set[str] = set()
    for batch in batches(list(set(said.values())), WRITE_BATCH):
        found.update(Tombstone.objects.filter(pk__in=batch).values_list("pk", flat=True))
    return {content for content, text in said.items() if text in found}


def _insert(batch: Sequence[ExampleData], by: User | None) -> None:
    """Insert what is not there yet. In the order of the hash, so that two writers of the same
    traces wait for each other instead of blocking each other.
    """
    rows = {
        data.content_hash: (
            uuid.UUID(int=number),
            data.kind,
            data.prompt,
            data.steps,
            data.final_answer,
            data.meta,
            data.trace_version,
            data.content,
            data.content_hash,
            timezone.now(),
            by and by.pk,
        )
        for data, number in zip(batch, ordered_ids(len(batch)), strict=True)
    }
    columns = [
        "id",
        "kind",
        "prompt",
        "steps",
        "final_answer",
        "meta",
        "trace_version",
        "content",
        "content_hash",
        "created_at",
        "created_by",
    ]
    insert_rows(
        Trace,
        columns,
        [rows[content_hash] for content_hash in sorted(rows)],
        "ON CONFLICT DO NOTHING",
    )
