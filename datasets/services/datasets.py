"""Make datasets: their names, what they say of themselves, and their examples in order."""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Q

from datasets.examples.schema import Errors
from datasets.models import TRAINING_FORMATS, Dataset, DatasetItem, Kind, Split, Trace
from datasets.services.refusals import (
    NAMED_IDS,
    DatasetExists,
    DatasetNotFound,
    InvalidDataset,
    UnknownTraces,
)
from datasets.storage.rows import READ_BATCH, WRITE_BATCH, batches, insert_rows
from datasets.storage.staging import Summary
from datasets.storage.storing import hold_seals, keep_from_imports
from datasets.storage.tally import Fingerprint, Lengths
from tunixrt.readable import name_problem
from tunixrt.reading import UNSTORABLE, UNSTORABLE_TEXT

MAX_NAME = 200
MAX_VERSION = 55
MAX_DESCRIPTION = 10_000
MAX_LICENCE = 200
MAX_SOURCE = 1_000
_WORD = re.compile(r"[A-Za-z0-9._-]+")


def get_dataset(key: str) -> Dataset:
    """Return the dataset. Raise DatasetNotFound, also for a key that no dataset can have."""
    if _WORD.fullmatch(key) and len(key) <= 256:
        dataset = Dataset.objects.filter(dataset_key=key).first()
        if dataset is not None:
            return dataset
    raise DatasetNotFound(key)


def check_identity(*, name: Any, version: Any, description: Any = "") -> str:
    """Return the dataset key of a name and version. Raise InvalidDataset, or DatasetExists when the
    key is taken."""
    errors: Errors = {}
    for field, value, limit in (("name", name, MAX_NAME), ("version", version, MAX_VERSION)):
        if not isinstance(value, str) or not value:
            errors[field] = ["This field is required and must be text."]
        elif len(value) > limit:
            errors[field] = [f"Has {len(value)} characters; the limit is {limit}."]
        elif not _WORD.fullmatch(value) or ".." in value:
            errors[field] = [
                "May hold letters (A-Z, a-z), digits, dots, underscores and hyphens, but no two"
                " dots in a row."
            ]
    if problem := description_problem(description):
        errors["description"] = [problem]
    if errors:
        raise InvalidDataset(errors)
    key = f"{name}-{version}"
    complete = (
        Dataset.with_incomplete.filter(dataset_key=key).values_list("complete", flat=True).first()
    )
    if complete is not None:
        raise DatasetExists(key, under_way=not complete)
    return key


def description_problem(value: Any) -> str:
    """Return why ``value`` cannot be a description, in a sentence; empty if it can."""
    if not isinstance(value, str):
        return "Must be text."
    if len(value) > MAX_DESCRIPTION:
        return f"Has {len(value):,} characters; the limit is {MAX_DESCRIPTION:,}."
    if UNSTORABLE_TEXT.search(value):
        return UNSTORABLE
    return ""


def check_origin(*, licence: Any, source: Any) -> None:
    """Raise InvalidDataset if licence or source cannot be stored."""
    errors: Errors = {}
    for field, value, limit in (("licence", licence, MAX_LICENCE), ("source", source, MAX_SOURCE)):
        if not isinstance(value, str):
            errors[field] = ["Must be text."]
        elif len(value) > limit:
            errors[field] = [f"Has {len(value):,} characters; the limit is {limit:,}."]
        elif value and (problem := name_problem(value)):
            errors[field] = [f"{problem[:1].upper()}{problem[1:]}."]
    if errors:
        raise InvalidDataset(errors)


def create_dataset(
    *,
    name: str,
    version: str,
    trace_ids: Sequence[uuid.UUID | str],
    held_out_ids: Iterable[uuid.UUID | str] = (),
    description: str = "",
    provenance: dict[str, Any] | None = None,
    by: User | None,
) -> Dataset:
    """Make a dataset of stored traces, in the order of ``trace_ids``; none at all is allowed.
    ``held_out_ids`` says which of them are held out from training. A trace that is named twice
    counts twice.

    A sealed example is unknown here to all: a dataset that took it would be sealed as well.

    Raise InvalidDataset, UnknownTraces (naming the ids), DatasetExists.
    """
    check_identity(name=name, version=version, description=description)
    ids = _uuids("trace_ids", trace_ids)
    held_out = set(_uuids("held_out_ids", held_out_ids))
    if strangers := held_out.difference(ids):
        named = ", ".join(str(item) for item in islice(sorted(strangers), NAMED_IDS))
        raise InvalidDataset({"held_out_ids": [f"Not among trace_ids: {named}."]})

    lengths, fingerprint, unknown = Lengths(), Fingerprint(), []
    erased: list[uuid.UUID] = []
    archived: list[uuid.UUID] = []
    kinds: dict[str, uuid.UUID] = {}  # an example of each
    for batch in batches(ids, READ_BATCH):
        traces = Trace.objects.in_bulk(batch)
        for trace_id in batch:
            trace = traces.get(trace_id)
            if trace is None or trace.sealed_at is not None:
                unknown.append(trace_id)
                continue
            if trace.erased_at is not None:
                erased.append(trace_id)
                continue
            if trace.archived_at is not None:
                archived.append(trace_id)
                continue
            lengths.add(trace)
            kinds.setdefault(trace.kind, trace_id)
            fingerprint.add(
                trace.content_hash, Split.HELD_OUT if trace_id in held_out else Split.TRAIN
            )
    if unknown:
        raise UnknownTraces(list(dict.fromkeys(unknown)))
    if erased:
        named = ", ".join(str(item) for item in islice(dict.fromkeys(erased), NAMED_IDS))
        raise InvalidDataset({"trace_ids": [f"The content of these was erased: {named}."]})
    if archived:
        named = ", ".join(str(item) for item in islice(dict.fromkeys(archived), NAMED_IDS))
        reason = f"These are archived; leave them out, or take them out of the archive: {named}."
        raise InvalidDataset({"trace_ids": [reason]})
    if len(kinds) > 1:
        named = ", ".join(f"{trace_id} is a {kind}" for kind, trace_id in kinds.items())
        raise InvalidDataset({"trace_ids": [f"A dataset has examples of one kind: {named}."]})

    held_out_size = sum(trace_id in held_out for trace_id in ids)
    kind = next(iter(kinds), Kind.TRACE.value)
    summary = Summary(
        kind, len(ids), held_out_size, lengths.as_stats(held_out_size), str(fingerprint)
    )
    places = (
        (trace_id, Split.HELD_OUT if trace_id in held_out else Split.TRAIN) for trace_id in ids
    )
    with transaction.atomic():
        hold_seals()
        for batch in batches(ids, WRITE_BATCH):
            keep_from_imports(Q(pk__in=batch))
            sealed = Trace.objects.filter(pk__in=batch, sealed_at__isnull=False)
            if found := list(sealed.values_list("pk", flat=True)):  # in the meantime
                raise UnknownTraces(found)
        dataset = insert_dataset(
            name=name,
            version=version,
            description=description,
            summary=summary,
            provenance=provenance or {"source": "traces"},
            by=by,
        )
        _insert_items(dataset, 0, places)
    return dataset


def _uuids(field: str, values: Iterable[Any]) -> list[uuid.UUID]:
    parsed: list[uuid.UUID] = []
    bad: list[str] = []
    for value in values:
        try:
            parsed.append(value if isinstance(value, uuid.UUID) else uuid.UUID(value))
        except (ValueError, AttributeError, TypeError):
            bad.append(repr(value)[:60])
            if len(bad) == NAMED_IDS:
                break
    if bad:
        raise InvalidDataset({field: [f"Not a trace id (UUID): {', '.join(bad)}."]})
    return parsed


def insert_dataset(
    *,
    name: str,
    version: str,
    description: str = "",
    summary: Summary | None = None,
    provenance: Mapping[str, Any] | None = None,
    licence: str = "",
    source: str = "",
    by: User | None,
) -> Dataset:
    """Insert a dataset without its examples; without a ``summary`` one that only holds its name
    until it is complete. Raise DatasetExists."""
    dataset = Dataset(
        dataset_key=f"{name}-{version}",
        name=name,
        version=version,
        description=description,
        licence=licence,
        source=source,
        provenance=dict(provenance or {}),
        complete=summary is not None,
        size=0,
        created_by=by,
    )
    if summary is not None:
        describe(dataset, summary)
    try:
        with transaction.atomic():
            dataset.save(force_insert=True)
    except IntegrityError as error:
        raise DatasetExists(
            dataset.dataset_key,
            under_way=not Dataset.objects.filter(dataset_key=dataset.dataset_key).exists(),
        ) from error
    return dataset


def describe(dataset: Dataset, summary: Summary) -> None:
    """Set what a dataset says about its examples."""
    dataset.kind = summary.kind
    dataset.format = TRAINING_FORMATS[Kind(summary.kind)]
    dataset.size = summary.size
    dataset.held_out_size = summary.held_out_size
    dataset.fingerprint = summary.fingerprint
    dataset.stats = summary.stats


def _insert_items(dataset: Dataset, start: int, places: Iterable[tuple[uuid.UUID, str]]) -> None:
    rows = (
        (dataset.pk, trace_id, position, split)
        for position, (trace_id, split) in enumerate(places, start=start)
    )
    insert_rows(DatasetItem, ["dataset", "trace", "position", "split"], rows)
