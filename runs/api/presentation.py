"""Runs as the API shows them."""

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any

from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, connection
from django.db.models import OuterRef, Subquery

from datasets.models import Dataset
from datasets.services.sealing import may_read_examples
from runs.models import Run, RunTag
from runs.queries.summaries import read_plan, without_texts
from runs.services.access import config_for, may_read_items
from runs.services.submission import run_warnings
from tunixrt.compiled import Compiled, as_key

STATUS_FIELDS = ("run_id", "name", "status", "queued_at", "started_at", "completed_at", "exit_code")
FULL_FIELDS = (
    "run_id", "name", "status", "kind", "mode", "dataset_key", "model_id", "output_dir",
    "exit_code", "stdout", "stderr", "duration_seconds", "started_at", "completed_at", "message",
    "created_at", "queued_at", "config", "priority", "attempt", "notes", "pinned",
    "timeout_seconds", "resume", "extend_from_step", "step", "total_steps", "last_loss", "summary",
    "client_request_id",
)  # fmt: skip
_NOBODY = uuid.UUID(int=0)


def full_answer(run: Run, reader: User) -> dict[str, Any]:
    """Return everything about a run that ``reader`` may see; ``POST`` and ``GET`` answer the
    same."""
    values = [getattr(run, name) for name in FULL_FIELDS]
    return (
        _full(values, reader, run.owner_id, may_read=_may_read(run, reader))
        | {"retry_of": run.retry_of_id, "resume_from": run.resume_from_id}
        | _related(run)
    )


def read_full(run_id: uuid.UUID, reader: User) -> dict[str, Any] | None:
    """Return the same for a run that has not been read; None where there is none, or in the
    trash."""
    key = as_key(Run, run_id)
    found = _full_rows().read(key)
    if not found:
        return None
    *values, retry_of, resume_from, owner_id, owner, host, sealed = found[0]
    tags = [name for (name,) in _tag_rows().read(key)]
    links = {"retry_of": retry_of, "resume_from": resume_from}
    may_read = not sealed or may_read_examples(reader, Dataset.objects.get(pk=sealed))
    answer = _full(values, reader, owner_id, may_read=may_read)
    return answer | links | {"owner": owner, "tags": tags, "host": host}


def _may_read(run: Run, reader: User) -> bool:
    """Return whether ``reader`` reads what the run wrote. Without the database a training in the
    request has just been let in, so its dataset was not sealed."""
    if not run.supervised:  # a dry run without a process looks at no example
        return True
    try:
        return may_read_items(reader, run)
    except (OperationalError, InterfaceError):
        connection.close()
        return run.trains


def _related(run: Run) -> dict[str, Any]:
    """Return what is in other tables. If the database was unavailable while a run was executed in
    the request, record its end first."""
    try:
        return {
            "owner": run.owner.get_username(),
            "tags": [name for (name,) in _tag_rows().read(as_key(Run, run.pk))],
            "host": run.host.name if run.host else None,
        }
    except (OperationalError, InterfaceError):
        connection.close()
        return {"owner": None, "tags": sorted(run.config.get("tags", [])), "host": None}


def read_short(run_id: uuid.UUID) -> dict[str, Any] | None:
    """Return what a poller needs, which is cheap; None where there is no such run, or in the
    trash."""
    found = _short_rows().read(as_key(Run, run_id))
    return _named(STATUS_FIELDS, found[0]) if found else None


@cache
def _full_rows() -> Compiled:
    runs = Run.objects.visible().filter(pk=_NOBODY)
    sealed = Dataset.objects.filter(dataset_key=OuterRef("dataset_key"), sealed_at__isnull=False)
    return Compiled(
        runs.values_list(
            *FULL_FIELDS,
            "retry_of_id",
            "resume_from_id",
            "owner_id",
            "owner__username",
            "host__name",
            Subquery(sealed.order_by().values("pk")),
        )
    )


@cache
def _short_rows() -> Compiled:
    return Compiled(Run.objects.visible().filter(pk=_NOBODY).values_list(*STATUS_FIELDS))


@cache
def _tag_rows() -> Compiled:
    return Compiled(RunTag.objects.filter(run=_NOBODY).order_by("name").values_list("name"))


def _full(values: Iterable[Any], reader: User, owner_id: int, *, may_read: bool) -> dict[str, Any]:
    answer = _named(FULL_FIELDS, values)
    if not may_read:
        answer |= without_texts(answer)
    facts = {name: answer[name] for name in ("summary", "config", "timeout_seconds", "queued_at")}
    return answer | {
        "config": config_for(reader, answer["config"], owner_id),
        "warnings": run_warnings(**facts),
        "plan": read_plan(answer["summary"]),
    }


def _named(names: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in zip(names, values, strict=True)}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return value
