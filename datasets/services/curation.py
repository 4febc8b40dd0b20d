"""What may change about a dataset once it is made: its description, licence and source, and whether
it is archived. None of it is part of the fingerprint. An example can be archived as well."""

from collections.abc import Sequence
from typing import Any, TypeVar

from django.contrib.admin.models import CHANGE
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from datasets.examples.schema import Errors
from datasets.models import Dataset, Trace
from datasets.services.datasets import MAX_LICENCE, MAX_SOURCE, check_origin, description_problem
from datasets.services.refusals import InvalidDataset
from tunixrt.audit import write_log_entry
from tunixrt.refusals import Conflict

EDITABLE = ("description", "licence", "source")
NOT_STATED = "not stated"

Archived = TypeVar("Archived", Dataset, Trace)


def edit_dataset(*, dataset: Dataset, changes: dict[str, Any], by: User) -> Dataset:
    """Change the fields of ``changes``, which are among EDITABLE; the others stay as they are now.
    Raise InvalidDataset."""
    errors: Errors = {name: ["Cannot be changed."] for name in changes if name not in EDITABLE}
    if "description" in changes and (problem := description_problem(changes["description"])):
        errors["description"] = [problem]
    try:
        check_origin(licence=changes.get("licence", ""), source=changes.get("source", ""))
    except InvalidDataset as refusal:
        errors |= refusal.errors
    if errors:
        raise InvalidDataset(errors)
    changed = [name for name, value in changes.items() if getattr(dataset, name) != value]
    if changed:
        with transaction.atomic():
            Dataset.objects.filter(pk=dataset.pk).update(
                **{name: changes[name] for name in changed}
            )
            write_log_entry(
                by=by,
                target=dataset,
                name=dataset.dataset_key,
                flag=CHANGE,
                message=f"changed {', '.join(changed)}",
            )
        for name in changed:
            setattr(dataset, name, changes[name])
    return dataset


def archive_dataset(*, dataset: Dataset, by: User) -> Dataset:
    """Hide a dataset from lists and refuse new runs on it. Change nothing if it is archived."""
    return _set_archived(dataset, dataset.dataset_key, True, by)


def restore_dataset(*, dataset: Dataset, by: User) -> Dataset:
    """Take a dataset out of the archive. Changes nothing if it is not archived."""
    return _set_archived(dataset, dataset.dataset_key, False, by)


def archive_trace(*, trace: Trace, by: User) -> Trace:
    """Hide an example from lists, and leave it out of new datasets that are made of stored
    examples. Change nothing if it is archived. Raise Conflict for one that was erased."""
    if Trace.objects.filter(pk=trace.pk, erased_at__isnull=False).exists():
        raise Conflict("The content of the example was erased; nothing is left to hide.")
    return _set_archived(trace, str(trace.pk), True, by)


def restore_trace(*, trace: Trace, by: User) -> Trace:
    """Take an example out of the archive. Changes nothing if it is not archived."""
    return _set_archived(trace, str(trace.pk), False, by)


def _set_archived(target: Archived, name: str, archived: bool, by: User) -> Archived:
    """Archive or restore. ``name`` is for the audit log, which outlives the content of an
    example."""
    with transaction.atomic():
        changed = (
            type(target)
            ._base_manager.filter(pk=target.pk, archived_at__isnull=archived)
            .update(archived_at=timezone.now() if archived else None)
        )
        if changed:
            write_log_entry(
                by=by,
                target=target,
                name=name,
                flag=CHANGE,
                message="archived" if archived else "taken out of the archive",
            )
    target.refresh_from_db(fields=["archived_at"])
    return target


def inherited_origin(parents: Sequence[Dataset]) -> dict[str, str]:
    """Return licence and source of a dataset made of ``parents``: what all of them say, or what
    each of them says, with its key."""
    return {
        "licence": _inherited([(each.dataset_key, each.licence) for each in parents], MAX_LICENCE),
        "source": _inherited([(each.dataset_key, each.source) for each in parents], MAX_SOURCE),
    }


def _inherited(said: list[tuple[str, str]], limit: int) -> str:
    values = list(dict.fromkeys(value for _, value in said))
    if len(values) < 2:
        return "".join(values)
    each = "; ".join(f"{value or NOT_STATED} ({key})" for key, value in said)
    together = "; ".join(value or NOT_STATED for value in values)
    several = f"{len(values)} different ones, see the {len(said)} datasets that it was made from"
    return next(text for text in (each, together, several) if len(text) <= limit)
