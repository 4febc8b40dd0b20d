"""Look up datasets, traces and imports for a user and check permissions."""

import uuid
from collections.abc import Sequence

from django.contrib.auth.models import User

from datasets.models import Dataset, Import, Trace
from datasets.services.datasets import get_dataset
from datasets.services.sealing import (
    may_read_sealed,
    may_read_trace,
    require_examples,
    sealed_among,
)
from tunixrt.refusals import Missing
from tunixrt.roles import May, require

REASONS_SEALED = "The reasons may quote examples of a sealed dataset."


def get_dataset_for(user: User, key: str, *, may: May) -> Dataset:
    """Return the dataset, whose examples ``user`` may not read perhaps. Raise DatasetNotFound,
    NotAllowed."""
    dataset = get_dataset(key)
    require(user, may, owner_id=dataset.created_by_id)
    return dataset


def get_readable_dataset(user: User, key: str) -> Dataset:
    """Return the dataset whose examples ``user`` is about to read. Raise DatasetNotFound,
    SealedExamples."""
    dataset = get_dataset(key)
    require_examples(user, dataset)
    return dataset


def get_trace_for(user: User, trace_id: uuid.UUID, *, may: May) -> Trace:
    """Return the example. To all but operators there is no sealed one. Raise Missing,
    NotAllowed."""
    trace = Trace.objects.filter(pk=trace_id).first()
    if trace is None or not may_read_trace(user, trace):
        raise Missing(f"Trace not found: {trace_id}")
    require(user, may, owner_id=trace.created_by_id)
    return trace


def get_import_for(user: User, import_id: uuid.UUID, *, may: May) -> Import:
    """Return the import, without reasons that the user may not read. Raise Missing,
    NotAllowed."""
    row = Import.objects.select_related("dataset", "created_by").filter(pk=import_id).first()
    if row is None:
        raise Missing(f"Import not found: {import_id}")
    require(user, may, owner_id=row.created_by_id)
    hide_reasons(user, [row])
    return row


def hide_reasons(user: User, rows: Sequence[Import]) -> None:
    """Take the reasons why imports failed, which quote lines, from those of sealed datasets, unless
    ``user`` reads these."""
    telling = [row for row in rows if row.problem or row.detail]
    if not telling or may_read_sealed(user):
        return
    sealed = sealed_among(row.dataset_key for row in telling)
    for row in telling:
        if row.dataset_key in sealed:
            row.problem, row.detail = REASONS_SEALED, {}


def require_lines(user: User, row: Import) -> None:
    """Raise SealedExamples unless ``user`` reads the lines of the file that an import reads."""
    dataset = Dataset.objects.filter(dataset_key=row.dataset_key).first()
    if dataset is not None:
        require_examples(user, dataset)
