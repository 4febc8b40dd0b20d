"""Imports: one making of a dataset each, within a request or by a process of its own; a comparison
of two datasets is work of the same kind.

Within a request (``import_file``) there is a row only while examples are stored. Of its own: a row
and the hidden dataset that holds the name are made first (``submit_file``), then an attendant
starts a process (datasets/imports/supervision.py), which calls ``work_on``. Whatever ends the
process, the next one continues: with the storing if the staging is complete, else with the reading.
"""

import contextlib
import errno
import logging
import os
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from django.conf import settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models.functions import Coalesce
from django.dispatch import Signal
from django.utils import timezone

from datasets.cleaning.derivation import derive
from datasets.cleaning.recipe import Recipe, check_parents
from datasets.comparison.overlaps import check_comparable, compute_overlap
from datasets.files import folders
from datasets.files.reading import Part, Readable
from datasets.imports import data_roots, hub, sources
from datasets.imports.importers import (
    NAMED_LINES,
    ImportRequest,
    LacksMapping,
    Progress,
    no_progress,
    read_parts,
    refuse_overlap,
)
from datasets.imports.mapping import lacks_mapping
from datasets.models import UNDER_WAY, Dataset, Import, ImportPhase, ImportState
from datasets.services.curation import inherited_origin
from datasets.services.datasets import describe, get_dataset, insert_dataset
from datasets.services.refusals import InvalidDataset
from datasets.storage.staging import Filling, NotComplete, Staging
from datasets.storage.storing import BATCH, BATCH_BYTES, discard, store, store_batch
from tunixrt.refusals import Conflict, Missing, NoRoom, Refusal, TooMany

logger = logging.getLogger("tunixrt.imports")

TOLD_SECONDS = 0.5  # between two notes of how far an import is
MAX_ATTEMPTS = 5  # starts without any progress
DATABASE_AWAY_SECONDS = 2.0
UNDER_WAY_MAX = 100  # imports of one account
DRAFTS_MAX = 20
DRAFT_LIFETIME = timedelta(days=1)
NO_DRAFT = "The import does not wait for a mapping, or not any more."
REMEMBERED = 50  # imports of a user with a mapping, the newest
PROBLEM_MAX = 10_000  # characters
_COPY_BYTES = 1024 * 1024

RECIPE, OVERLAP = "recipe", "overlap"  # types of sources, beside files

# Is sent when an import waits for a process; attendants listen.
submitted = Signal()


class Cancelled(Exception):
    """A user asked an import to end."""


class _Waits(Exception):
    """An import is a draft now: it waits for a mapping."""


# --- Within a request -----------------------------------------------------------------------------


def import_file(
    *,
    file: Readable,
    request: ImportRequest,
    file_name: str = "",
    named_lines: int | None = NAMED_LINES,
    web: bool = True,
    by: User | None,
) -> Dataset:
    """Store the examples of a file and a dataset of them: all of them or nothing.

    Args:
        web: a thread of the web server does it, which has a lower limit for what is compressed.
        file: read once, from where it stands to its end.
        file_name: where the data came from, for the provenance.
        named_lines: how many bad lines the error names; None: all.

    Raises:
        BadLines, ImportRefused, InvalidDataset, DatasetExists. OSError: no room.
    """
    request.check()
    row = _row_in_request(request, {"type": "upload", "file": file_name[:255]}, by)
    with _working_folder(row.id) as folder:
        staging = read_parts(
            [Part(file, file_name, in_request=web)],
            request=request,
            folder=folder,
            by=by,
            named_lines=named_lines,
        )
        return _store_all(row, staging, request, by)


def import_hub(
    *,
    asked: hub.HubRequest,
    request: ImportRequest,
    named_lines: int | None = NAMED_LINES,
    by: User | None,
) -> Dataset:
    """Fetch the data files of a Hub dataset, and store a dataset of their examples: all of them or
    nothing. Raise what ``import_file`` raises, HubRefused, and NotHere without the client of the
    Hub."""
    request.check()
    _check_parts(asked, request)
    source = hub.resolve(asked.as_source(), max_bytes=settings.TUNIXRT_UPLOAD_MAX_BYTES)
    row = _row_in_request(request, source, by)
    with _working_folder(row.id) as folder:
        _fetch_files(source, folder / folders.HUB, no_progress)
        row.source = source | {"fetched": True}
        staging = read_parts(
            sources.parts_of(source, folder),
            request=request,
            folder=folder,
            by=by,
            named_lines=named_lines,
            origin=sources.origin_of(source),
        )
        return _store_all(row, staging, request, by)


def _row_in_request(request: ImportRequest, source: dict[str, Any], by: User | None) -> Import:
    return Import(
        state=ImportState.RUNNING,
        phase=ImportPhase.STORING,
        in_request=True,
        dataset_key=request.dataset_key,
        source=source,
        request=request.as_json(),
        host=settings.TUNIX_HOST_NAME,
        started_at=timezone.now(),
        created_by=by,
    )


@contextlib.contextmanager
def _working_folder(import_id: uuid.UUID) -> Iterator[Path]:
    folder = folders.make_folder(import_id)
    lock = folders.try_lock(import_id)
    try:
        yield folder
    finally:
        folders.remove_folder(import_id, keep=(folders.SKIPPED,))
        if lock is not None:
            os.close(lock)


def _dataset_fields(request: ImportRequest, by: User | None) -> dict[str, Any]:
    return {
        "name": request.name,
        "version": request.version,
        "description": request.description,
        "licence": request.licence,
        "source": request.source,
        "by": by,
    }


def _store_all(row: Import, staging: Staging, request: ImportRequest, by: User | None) -> Dataset:
    if staging.summary.size <= BATCH and staging.path.stat().st_size <= BATCH_BYTES:
        return _store_at_once(row, staging, request, by)
    return _store_in_request(row, staging, request, by)


def _store_at_once(
    row: Import, staging: Staging, request: ImportRequest, by: User | None
) -> Dataset:
    """Store a dataset of one batch, which needs one transaction only."""
    with transaction.atomic():
        row.dataset = insert_dataset(
            **_dataset_fields(request, by),
            summary=staging.summary,
            provenance=staging.about["provenance"],
        )
        store_batch(
            list(staging.rows()),
            kind=staging.summary.kind,
            dataset_id=row.dataset.pk,
            import_id=row.id,
            by_id=by.pk if by else None,
            is_all=True,
        )
        _set_completed(row, staging)
        row.save(force_insert=True)
    return row.dataset


def _store_in_request(
    row: Import, staging: Staging, request: ImportRequest, by: User | None
) -> Dataset:
    with transaction.atomic():
        row.dataset = insert_dataset(**_dataset_fields(request, by))
        row.save(force_insert=True)
    try:
        _store(row, staging)
    except BaseException:
        _undo(row, staging)
        row.delete()
        raise
    return Dataset.objects.get(pk=row.dataset.pk)


# --- By a process of its own ----------------------------------------------------------------------


def submit_file(*, file: Readable, request: ImportRequest, file_name: str, by: User) -> Import:
    """Take a file and let a process import it. Raise what ``ImportRequest.check`` raises, Busy,
    TooMany, NoRoom."""
    row = _row_of(request, {"type": "upload", "file": file_name[:255]}, by)
    with _kept_folder(row.id) as folder:
        row.bytes_total = _take_over(file, folder / folders.SOURCE)
        _submit(row, request, by)
    return row


def submit_path(*, path: str, request: ImportRequest, by: User) -> Import:
    """Let a process import a file of the server, which is read where it is; a file of no known
    format becomes a draft. Raise what ``submit_file`` raises, and InvalidPath."""
    source = data_roots.describe(path)
    row = _row_of(request, source, by)
    row.bytes_total = source["bytes"]
    with _kept_folder(row.id) as folder:
        if lacks_mapping(source, folder, request):
            _refuse_too_many_drafts(by)
            row.state = ImportState.DRAFT
            row.save(force_insert=True)
        else:
            _submit(row, request, by)
    return row


def submit_hub(*, asked: hub.HubRequest, request: ImportRequest, by: User) -> Import:
    """Let a process fetch and import a dataset of the Hugging Face Hub. Raise what ``submit_file``
    raises, and NotHere without the client of the Hub."""
    row = _row_of(request, asked.as_source(), by)
    _check_parts(asked, request)
    with _kept_folder(row.id):
        _submit(row, request, by)
    return row


def _check_parts(asked: hub.HubRequest, request: ImportRequest) -> None:
    """Raise InvalidDataset if both the files and the share to hold out are given."""
    if asked.held_out_files and request.held_out is not None:
        reason = "The files that are held out are named; give one or the other."
        raise InvalidDataset({"held_out": [reason]})


def _row_of(request: ImportRequest, source: dict[str, Any], by: User) -> Import:
    request.check()
    _refuse_too_many(by)
    return Import(
        dataset_key=request.dataset_key,
        source=source,
        request=request.as_json(),
        created_by=by,
    )


def _refuse_too_many(by: User) -> None:
    if Import.objects.filter(created_by=by, state__in=UNDER_WAY).count() >= UNDER_WAY_MAX:
        raise TooMany(f"{UNDER_WAY_MAX} imports of yours are under way. Wait, or cancel some.")


@contextlib.contextmanager
def _kept_folder(import_id: uuid.UUID) -> Iterator[Path]:
    """Yield a new folder with its lock held, which stays unless something fails."""
    folder = folders.make_folder(import_id)
    lock = folders.try_lock(import_id)
    try:
        yield folder
    except OSError as error:
        folders.remove_folder(import_id)
        if error.errno == errno.ENOSPC:
            raise NoRoom("The server has no room for the file. Nothing was stored.") from error
        raise
    except BaseException:
        folders.remove_folder(import_id)
        raise
    finally:
        if lock is not None:
            os.close(lock)
    submitted.send(Import)


def _take_over(file: Readable, path: Path) -> int:
    """Put what is uploaded into the folder of the import. Return its bytes."""
    if isinstance(file, TemporaryUploadedFile) and file.tell() == 0:
        with contextlib.suppress(OSError):  # another file system
            os.link(file.temporary_file_path(), path)
            return path.stat().st_size
    with path.open("wb") as copy:
        while piece := file.read(_COPY_BYTES):
            copy.write(piece)
        copy.flush()
        os.fsync(copy.fileno())
    return path.stat().st_size


def keep_draft(*, file: Readable, request: ImportRequest, file_name: str, by: User) -> Import:
    """Keep a file until the user says what its columns mean. Raise as ``submit_file`` does."""
    request.check()
    _refuse_too_many_drafts(by)
    row = Import(
        state=ImportState.DRAFT,
        dataset_key=request.dataset_key,
        source={"type": "upload", "file": file_name[:255]},
        request=request.as_json(),
        created_by=by,
    )
    with _kept_folder(row.id) as folder:
        row.bytes_total = _take_over(file, folder / folders.SOURCE)
        row.save(force_insert=True)
    return row


def _refuse_too_many_drafts(by: User | None) -> None:
    drafts = Import.objects.filter(created_by=by, state=ImportState.DRAFT)
    if drafts.count() >= DRAFTS_MAX:
        raise TooMany(f"{DRAFTS_MAX} files of yours wait for a mapping. Import or cancel them.")


def submit_draft(*, row: Import, request: ImportRequest, by: User) -> Import:
    """Let a process import a draft, with its mapping. Raise as ``submit_file`` does, and Conflict
    when it is no draft any more."""
    request.check()
    _refuse_too_many(by)
    with transaction.atomic():
        dataset = insert_dataset(**_dataset_fields(request, by))
        taken = Import.objects.filter(pk=row.pk, state=ImportState.DRAFT).update(
            state=ImportState.PENDING,
            dataset=dataset,
            dataset_key=request.dataset_key,
            request=request.as_json(),
            ended_at=None,
        )
        if not taken:
            raise Conflict(NO_DRAFT)
    row.refresh_from_db()
    submitted.send(Import)
    return row


def remove_old_drafts() -> None:
    """Remove files that were never given a meaning. A draft is as old as it has been waiting."""
    drafts = Import.objects.filter(state=ImportState.DRAFT).annotate(
        waits_since=Coalesce("ended_at", "created_at")
    )
    for row in drafts.filter(waits_since__lt=timezone.now() - DRAFT_LIFETIME):
        _cancel_draft(row)


def _cancel_draft(row: Import) -> bool:
    cancelled = Import.objects.filter(pk=row.pk, state=ImportState.DRAFT).update(
        state=ImportState.CANCELLED, ended_at=timezone.now()
    )
    if cancelled:
        folders.remove_folder(row.pk)
    return bool(cancelled)


def _submit(row: Import, request: ImportRequest, by: User) -> None:
    with transaction.atomic():
        row.dataset = insert_dataset(**_dataset_fields(request, by))
        row.save(force_insert=True)


def submit_derivation(
    *,
    recipe: Recipe,
    parents: Sequence[Dataset],
    name: str,
    version: str,
    description: str = "",
    by: User,
) -> Import:
    """Let a process make a dataset of ``parents`` by ``recipe``. Raise InvalidRecipe,
    InvalidDataset, DatasetExists, Busy, TooMany, NoRoom."""
    check_parents(recipe, list(parents))
    origin = inherited_origin(parents)
    request = ImportRequest(
        name=name,
        version=version,
        description=description,
        licence=origin["licence"],
        source=origin["source"],
    )
    request.check()
    _refuse_too_many(by)
    row = Import(
        dataset_key=request.dataset_key,
        source={"type": RECIPE, "parents": [parent.dataset_key for parent in parents]},
        request=request.as_json() | {"recipe": recipe.as_json()},
        created_by=by,
    )
    with _kept_folder(row.id):
        _submit(row, request, by)
    return row


def submit_overlap(*, dataset: Dataset, other: Dataset, by: User) -> Import:
    """Let a process compare two datasets. Raise NothingToCompare, Busy, TooMany, NoRoom."""
    check_comparable(dataset, other)
    _refuse_too_many(by)
    row = Import(
        dataset_key=dataset.dataset_key,
        dataset=dataset,
        source={"type": OVERLAP, "other": other.dataset_key},
        created_by=by,
    )
    with _kept_folder(row.id):
        row.save(force_insert=True)
    return row


def work_on(import_id: uuid.UUID) -> None:
    """Do what is left of an import, whose lock the caller holds, to its end: completed, failed
    or cancelled then, or a draft that keeps its files. While the database is away, wait for it."""
    while True:
        try:
            row = Import.objects.select_related("created_by").get(pk=import_id)
            if row.state == ImportState.DRAFT:
                return
            if row.state in UNDER_WAY:
                _work_on(row)
            folders.remove_folder(row.id, keep=(folders.SKIPPED,))
            return
        except _Waits:
            return
        except (OperationalError, InterfaceError) as error:
            logger.warning("the database is away: %s", error)
            connection.close()
            time.sleep(DATABASE_AWAY_SECONDS)


def _work_on(row: Import) -> None:
    staging: Staging | None = None
    try:
        if row.phase == ImportPhase.STORING:
            staging = Staging(folders.folder_of(row.id) / folders.STAGING)
    except NotComplete:
        _undo(row, None, keep_name=True)
    if row.cancel_requested_at:
        _end(row, staging, ImportState.CANCELLED)
    elif row.in_request:
        _end(row, staging, ImportState.FAILED, "The server stopped while it stored the examples.")
    elif row.attempts > MAX_ATTEMPTS:
        _end(row, staging, ImportState.FAILED, _interrupted(row))
    else:
        try:
            if row.source.get("type") == OVERLAP:
                _compare(row)
                return
            staging = staging or _read(row)
            _store(row, staging)
        except Cancelled:
            _end(row, staging, ImportState.CANCELLED)
        except Refusal as refusal:
            _end(row, staging, ImportState.FAILED, refusal.detail, detail=_as_detail(refusal))
        except OSError as error:
            _end(row, staging, ImportState.FAILED, f"{error.strerror or error}.")


def _as_detail(refusal: Refusal) -> dict[str, Any]:
    """Return what the API answers to a request that is refused."""
    return {"detail": refusal.detail, **refusal.messages, **refusal.extra}


def _interrupted(row: Import) -> str:
    said = f"The process ended {MAX_ATTEMPTS} times without an answer."
    with contextlib.suppress(OSError):
        log = (folders.folder_of(row.id) / folders.LOG).read_bytes()[-2_000:]
        if lines := log.decode(errors="replace").replace("\x00", "").strip().splitlines():
            return f"{said} It said: {lines[-1][:500]}"
    return f"{said} Something else ended it, such as a lack of memory."


class _Told:
    """Notes how far an import is, and learns whether it is to end."""

    def __init__(self, row: Import):
        self._row = row
        self._due = 0.0

    def __call__(self, *, read: int, examples: int) -> None:
        if time.monotonic() < self._due:
            return
        _note(self._row, bytes_read=read, examples_read=examples)
        self._due = time.monotonic() + TOLD_SECONDS


def _note(row: Import, **progress: Any) -> None:
    """Record progress. Raise Cancelled."""
    for name, value in progress.items():
        setattr(row, name, value)
    rows = Import.objects.filter(pk=row.pk)
    if not rows.filter(cancel_requested_at=None).update(**progress):
        raise Cancelled


def _read(row: Import) -> Staging:
    row.phase = ImportPhase.READING
    _note(row, phase=row.phase, examples_stored=0)
    read = _derive if row.source.get("type") == RECIPE else _read_source
    staging = read(row, folders.folder_of(row.id))
    _note(
        row,
        phase=ImportPhase.STORING,
        attempts=0,
        bytes_read=row.bytes_total or row.bytes_read,
        examples_read=staging.summary.size,
        lines_skipped=staging.about["lines_skipped"],
    )
    return staging


def _fetch(row: Import, folder: Path, told: "_Told") -> None:
    """Fetch the files of a Hub dataset; the first attempt decides on the commit. Raise Cancelled,
    HubRefused, OSError."""
    if "commit" not in row.source:
        source = hub.resolve(row.source, max_bytes=settings.TUNIXRT_UPLOAD_MAX_BYTES)
        total = sum(file["bytes"] for file in source["data_files"])
        _note(row, source=source, bytes_total=total)
    _fetch_files(row.source, folder, told)
    _note(row, source=row.source | {"fetched": True}, bytes_read=0)


def _fetch_files(source: Mapping[str, Any], folder: Path, progress: Progress) -> None:
    """Fetch the files of a resolved source. Raise HubRefused, OSError."""
    limit = settings.TUNIXRT_UPLOAD_MAX_BYTES
    came = 0

    def received(count: int) -> None:
        nonlocal came
        came += count
        if came > limit:
            raise hub.HubRefused(
                f"The files have more than {limit:,} bytes (TUNIXRT_UPLOAD_MAX_BYTES)."
            )
        progress(read=came, examples=0)

    for file in source["data_files"]:
        hub.fetch(source, file["name"], folder, received)


def _read_source(row: Import, folder: Path) -> Staging:
    (folder / folders.SKIPPED).unlink(missing_ok=True)
    told = _Told(row)
    if row.source.get("type") == "hub":
        _fetch(row, folder / folders.HUB, told)
    try:
        return read_parts(
            sources.parts_of(row.source, folder),
            request=ImportRequest.from_json(row.request),
            folder=folder,
            by=row.created_by,
            progress=told,
            origin=sources.origin_of(row.source),
            may_wait=True,
        )
    except LacksMapping:
        _wait_for_mapping(row)


def _wait_for_mapping(row: Import) -> NoReturn:
    """Make a draft of an import, which gives its name back. Raise _Waits, or TooMany, Cancelled."""
    _refuse_too_many_drafts(row.created_by)
    assert row.dataset_id is not None
    with transaction.atomic():
        waits = Import.objects.filter(
            pk=row.pk, state__in=UNDER_WAY, cancel_requested_at=None
        ).update(
            state=ImportState.DRAFT,
            phase=ImportPhase.NONE,
            dataset=None,
            bytes_read=0,
            attempts=0,
            ended_at=timezone.now(),
        )
        if not waits:
            raise Cancelled
        Dataset.with_incomplete.filter(pk=row.dataset_id, complete=False).delete()
    raise _Waits


def _derive(row: Import, folder: Path) -> Staging:
    """Stage what a recipe makes of datasets."""
    parents = [get_dataset(key) for key in row.source["parents"]]
    told = _Told(row)
    with closing(Filling(folder / folders.STAGING)) as filling:
        derivation = derive(
            row.request["recipe"],
            parents,
            progress=lambda: told(read=0, examples=filling.size),
        )
        for example, split in derivation.examples():
            filling.kind = example.kind
            filling.add(example, split)
        provenance = derivation.provenance() | {"report": derivation.report(texts=False)}
        staging = filling.complete(
            held_out=None, about={"lines_skipped": 0, "provenance": provenance}
        )
    refuse_overlap(staging)
    return staging


def _compare(row: Import) -> None:
    _note(row, phase=ImportPhase.READING)
    told = _Told(row)
    assert row.dataset is not None
    compute_overlap(
        row.dataset,
        get_dataset(row.source["other"]),
        progress=lambda: told(read=0, examples=0),
        by=row.created_by,
    )
    Import.objects.filter(pk=row.pk).update(
        state=ImportState.COMPLETED, phase=ImportPhase.NONE, ended_at=timezone.now()
    )


def _store(row: Import, staging: Staging) -> None:
    """Store what is left of a staging, and show the dataset. Raise Cancelled."""
    assert row.dataset_id is not None
    store(
        staging,
        dataset_id=row.dataset_id,
        import_id=row.id,
        by_id=row.created_by_id,
        skip=row.examples_stored,
        stored=lambda count: _note(row, examples_stored=count, attempts=0),
    )
    with transaction.atomic():
        dataset = Dataset.with_incomplete.get(pk=row.dataset_id)
        describe(dataset, staging.summary)
        dataset.provenance = staging.about["provenance"]
        dataset.parents.set(Dataset.objects.filter(dataset_key__in=row.source.get("parents", ())))
        dataset.complete = True
        dataset.created_at = timezone.now()
        dataset.save()
        _set_completed(row, staging)
        if not Import.objects.filter(pk=row.pk, cancel_requested_at=None).update(
            **{name: getattr(row, name) for name in _AT_THE_END}
        ):
            raise Cancelled


_AT_THE_END = (
    *("state", "phase", "bytes_read", "examples_read", "examples_stored", "lines_skipped"),
    *("ended_at", "attempts"),
)


def _set_completed(row: Import, staging: Staging) -> None:
    row.state = ImportState.COMPLETED
    row.phase = ImportPhase.NONE
    row.examples_read = row.examples_stored = staging.summary.size
    row.bytes_read = row.bytes_total or row.bytes_read
    row.lines_skipped = staging.about["lines_skipped"]
    row.ended_at = timezone.now()


def _undo(row: Import, staging: Staging | None, *, keep_name: bool = False) -> None:
    if row.dataset_id is not None and row.source.get("type") != OVERLAP:
        discard(staging, dataset_id=row.dataset_id, import_id=row.id, keep_name=keep_name)
    row.examples_stored = 0
    if keep_name:
        Import.objects.filter(pk=row.pk).update(examples_stored=0)


def _end(
    row: Import,
    staging: Staging | None,
    state: ImportState,
    problem: str = "",
    *,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Remove what is stored, and say how the import ended."""
    _undo(row, staging)
    Import.objects.filter(pk=row.pk, state__in=UNDER_WAY).update(
        state=state,
        phase=ImportPhase.NONE,
        examples_stored=0,
        problem=problem[:PROBLEM_MAX],
        detail=dict(detail or {}),
        ended_at=timezone.now(),
        dataset=None,
    )


# --- What is asked of an import -------------------------------------------------------------------


@dataclass(frozen=True)
class ImportProgress:
    """How far an import is; ``percent`` is None while that is not known."""

    says: str
    percent: int | None
    is_under_way: bool


def import_progress(row: Import) -> ImportProgress:
    under_way = row.state in UNDER_WAY
    if not under_way:
        return ImportProgress("", None, under_way)
    if row.cancel_requested_at:
        return ImportProgress("Removing what is stored…", None, under_way)
    if row.phase == ImportPhase.STORING and row.examples_read:
        says = f"Storing: {row.examples_stored:,} of {row.examples_read:,} examples"
        return ImportProgress(says, 100 * row.examples_stored // row.examples_read, under_way)
    if row.phase == ImportPhase.READING:
        percent = min(100, 100 * row.bytes_read // row.bytes_total) if row.bytes_total else None
        if row.source.get("type") == "hub" and not row.source.get("fetched"):
            return ImportProgress("Fetching the files from the Hub", percent, under_way)
        return ImportProgress(
            f"Reading and checking: {row.examples_read:,} examples so far", percent, under_way
        )
    return ImportProgress("Waiting for a process", None, under_way)


def remembered_mapping(columns: Collection[str], by: User) -> ImportRequest | None:
    """Return what this user said about columns that are all present, the last time."""
    imports = Import.objects.filter(created_by=by, state=ImportState.COMPLETED)
    with_one = imports.filter(request__has_key="mapping")
    for kept in with_one.values_list("request", flat=True)[:REMEMBERED]:
        mapping = kept.get("mapping")
        if mapping and set(mapping.values()) <= set(columns):
            return ImportRequest.from_json(kept)
    return None


def cancel_import(*, row: Import, by: User) -> Import:
    """Ask an import to end; nothing of it stays. Raise Conflict when it has ended."""
    if _cancel_draft(row):
        row.refresh_from_db()
        return row
    asked = Import.objects.filter(
        pk=row.pk, state__in=UNDER_WAY, in_request=False, cancel_requested_at=None
    ).update(cancel_requested_at=timezone.now())
    row.refresh_from_db()
    if row.state not in UNDER_WAY:
        raise Conflict(f"The import is {row.state} already.")
    if row.in_request:
        raise Conflict("This import belongs to a request; it ends with it.")
    if asked:
        logger.info("%s cancels the import %s of %s", by, row.pk, row.dataset_key)
        submitted.send(Import)
    return row


def open_skipped(row: Import) -> BinaryIO:
    """Open the lines that an import has left out. Raise Missing."""
    try:
        return (folders.folder_of(row.pk) / folders.SKIPPED).open("rb")
    except OSError as error:
        raise Missing("No lines were left out, or they are not kept any more.") from error


def abandon_without_folder(row: Import) -> None:
    """End an import whose folder is gone, as after a restore."""
    row.refresh_from_db()
    if row.state not in UNDER_WAY:  # it has ended in the meantime, and its folder with it
        return
    _end(row, None, ImportState.FAILED, "The files of the import are gone. Import them again.")
