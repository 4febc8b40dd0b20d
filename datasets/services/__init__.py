"""What people and programs may ask of traces and datasets. Writes are keyword-only, atomic and take
``by``."""

import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from django.contrib.auth.models import User
from django.db import IntegrityError, connections, router, transaction
from django.db.models import Field, Model, Q
from django.utils import timezone

from datasets.examples.kinds import example_line, parse_example, text_hash, training_line
from datasets.examples.schema import Errors, ExampleData, InvalidTrace
from datasets.files import parquet
from datasets.models import (
    TRAINING_FORMATS,
    Dataset,
    DatasetItem,
    Kind,
    Split,
    Tombstone,
    Trace,
)
from datasets.storage.ids import ordered_ids
from datasets.storage.staging import Summary
from datasets.storage.storing import WAS_ERASED, keep_from_imports
from datasets.storage.tally import Fingerprint, Lengths
from datasets.storage.word_index import index_stored
from tunixrt.readable import name_problem
from tunixrt.reading import UNSTORABLE, UNSTORABLE_TEXT
from tunixrt.refusals import Conflict, Missing, NotHere, Refusal

# A batch of traces is held in memory, and one trace may have MAX_TRACE_BYTES.
READ_BATCH = 100
WRITE_BATCH = 500
MAX_NAME = 200
MAX_VERSION = 55
MAX_DESCRIPTION = 10_000
MAX_LICENCE = 200
MAX_SOURCE = 1_000
NAMED_IDS = 20  # unknown ids named in a sentence
LISTED_IDS = 1_000  # unknown ids listed in an answer
_WORD = re.compile(r"[A-Za-z0-9._-]+")


class DatasetNotFound(Missing):
    def __init__(self, key: str):
        self.key = key
        super().__init__(f"Dataset not found: {key}")


class DatasetExists(Conflict):
    def __init__(self, key: str, *, under_way: bool = False):
        self.key = key
        super().__init__(
            f"Dataset {key} is being imported: choose another name or version, or cancel the"
            " import."
            if under_way
            else f"Dataset {key} exists already. Datasets never change: choose another name or"
            " version."
        )


class UnknownTraces(Refusal):
    def __init__(self, ids: Sequence[Any]):
        self.ids = [str(item) for item in ids]
        more = f" and {len(ids) - NAMED_IDS} more" if len(ids) > NAMED_IDS else ""
        sentence = f"Unknown trace ids: {', '.join(self.ids[:NAMED_IDS])}{more}."
        super().__init__(sentence, messages={"trace_ids": [sentence]})

    @property
    def extra(self) -> dict[str, Any]:
        return {"unknown_trace_ids": self.ids[:LISTED_IDS]}


class InvalidDataset(Refusal):
    """``errors``: field → what is wrong with it."""

    def __init__(self, errors: Errors):
        self.errors = errors
        super().__init__(messages=errors)


class InvalidTraces(Refusal):
    """``errors``: place in the list → field → what is wrong with it; the first hundred places."""

    NAMED = 100

    def __init__(self, errors: dict[int, Errors], count: int):
        self.errors = errors
        self.count = count
        places = {
            f"[{place}].{name}": reasons
            for place, found in errors.items()
            for name, reasons in found.items()
        }
        super().__init__(messages=places)

    @property
    def of_the_first(self) -> Refusal:
        """The same for a client that sent one trace, not a list."""
        return Refusal(messages=self.errors[0])


# --- Traces ---------------------------------------------------------------------------------------


def create_traces(*, items: Iterable[Any], by: User | None) -> list[Trace]:
    """Store examples of any kind (see examples.parse_example), all or none; those that are stored
    already are returned as they are. The result has the order of ``items``. Raises InvalidTraces.
    """
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
        for batch in _batches(parsed, WRITE_BATCH):
            _insert(batch, by)
            hashes = {trace.content_hash for trace in batch}
            keep_from_imports(Q(content_hash__in=hashes))
            stored |= {
                trace.content_hash: trace
                for trace in Trace.objects.filter(content_hash__in=hashes).order_by()
            }
        gone = {trace.content_hash for trace in stored.values() if trace.erased_at is not None}
        gone |= _said_again(parsed)
        erased = {
            place: {"trace": [f"{WAS_ERASED}."]}
            for place, trace in enumerate(parsed)
            if trace.content_hash in gone
        }
        if erased:
            named = dict(islice(erased.items(), InvalidTraces.NAMED))
            raise InvalidTraces(named, len(erased))
        index_stored(since=since, until=timezone.now(), count=len(stored))
    return [stored[trace.content_hash] for trace in parsed]


def _said_again(parsed: Sequence[ExampleData]) -> set[str]:
    """Return the content hashes of examples that say what an erased one said."""
    if not Tombstone.objects.exists():
        return set()
    said = {trace.content_hash: text_hash(trace) for trace in parsed}
    found: set[str] = set()
    for batch in _batches(list(set(said.values())), WRITE_BATCH):
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
    _insert_rows(
        Trace,
        columns,
        [rows[content_hash] for content_hash in sorted(rows)],
        "ON CONFLICT DO NOTHING",
    )


def _insert_rows(
    model: type[Model], names: Sequence[str], rows: Iterable[Sequence[Any]], ending: str = ""
) -> None:
    """What bulk_create does, in half the time: on SQLite an import holds the only write lock, so
    every microsecond a row counts (docs/datasets.md has the figures).
    """
    # itself, not the proxy: it is asked for every value
    database = connections[router.db_for_write(model)]
    fields = [cast("Field[Any, Any]", model._meta.get_field(name)) for name in names]
    quote = database.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in fields)
    places = ", ".join(["%s"] * len(fields))
    sql = f"INSERT INTO {quote(model._meta.db_table)} ({columns}) VALUES ({places}) {ending}"  # noqa: S608 - our own names
    prepared = [
        [field.get_db_prep_save(value, database) for field, value in zip(fields, row, strict=True)]
        for row in rows
    ]
    with database.cursor() as cursor:
        cursor.executemany(sql, prepared)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


# --- Datasets -------------------------------------------------------------------------------------


def get_dataset(key: str) -> Dataset:
    """Raises DatasetNotFound, also for a key that no dataset can have."""
    if _WORD.fullmatch(key) and len(key) <= 256:
        dataset = Dataset.objects.filter(dataset_key=key).first()
        if dataset is not None:
            return dataset
    raise DatasetNotFound(key)


def check_identity(*, name: Any, version: Any, description: Any = "") -> str:
    """The dataset key of a name and version. Raises InvalidDataset, or DatasetExists when the key
    is taken."""
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
    """Raises InvalidDataset."""
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

    Raises InvalidDataset, UnknownTraces (naming the ids), DatasetExists.
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
    for batch in _batches(ids, READ_BATCH):
        traces = Trace.objects.in_bulk(batch)
        for trace_id in batch:
            trace = traces.get(trace_id)
            if trace is None:
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
        for batch in _batches(ids, WRITE_BATCH):
            keep_from_imports(Q(pk__in=batch))
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
    until it is complete. Raises DatasetExists."""
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
    _insert_rows(DatasetItem, ["dataset", "trace", "position", "split"], rows)


# --- Export ---------------------------------------------------------------------------------------


def export_lines(dataset: Dataset, *, in_full: bool = False) -> Iterator[bytes]:
    """The dataset's lines in its training format, or with everything that its examples say, in
    order, without examples whose content was erased. Read in short queries by position: constant
    memory, and no transaction stays open while a slow reader takes its time.
    """
    start = 0
    while True:
        chunk = list(
            DatasetItem.objects.filter(dataset_id=dataset.pk, position__gte=start)
            .select_related("trace")
            .order_by("position")[:READ_BATCH]
        )
        for item in chunk:
            if item.trace.erased_at is not None:
                continue
            yield (
                example_line(item.trace, item.split)
                if in_full
                else training_line(item.trace_id, item.trace, item.split)
            )
        if len(chunk) < READ_BATCH:
            return
        start = chunk[-1].position + 1


def export_parquet(dataset: Dataset) -> Iterator[bytes]:
    """A Parquet file with everything that the dataset's examples say, piece by piece. Raises
    NotHere."""
    if not parquet.is_installed():
        raise NotHere(f"Parquet needs a package that is not installed here: {parquet.INSTALL}")
    return parquet.write(export_lines(dataset, in_full=True), dataset.kind)


def write_jsonl(dataset: Dataset, path: Path) -> int:
    """Write the export to ``path``, which appears complete or not at all. Returns the number of
    lines. Raises OSError."""
    count = 0
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            for line in export_lines(dataset):
                file.write(line)
                count += 1
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return count
