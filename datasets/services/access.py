"""Look up datasets, traces and imports for a user and check permissions."""

import uuid

from django.contrib.auth.models import User

from datasets.models import Dataset, Import, Trace
from datasets.services.datasets import get_dataset
from tunixrt.refusals import Missing
from tunixrt.roles import May, require


def get_dataset_for(user: User, key: str, *, may: May) -> Dataset:
    """Return the dataset. Raise DatasetNotFound, NotAllowed."""
    dataset = get_dataset(key)
    require(user, may, owner_id=dataset.created_by_id)
    return dataset


def get_trace_for(user: User, trace_id: uuid.UUID, *, may: May) -> Trace:
    """Return the example. Raise Missing, NotAllowed."""
    trace = Trace.objects.filter(pk=trace_id).first()
    if trace is None:
        raise Missing(f"Trace not found: {trace_id}")
    require(user, may, owner_id=trace.created_by_id)
    return trace


def get_import_for(user: User, import_id: uuid.UUID, *, may: May) -> Import:
    """Return the import. Raise Missing, NotAllowed."""
    row = Import.objects.select_related("dataset", "created_by").filter(pk=import_id).first()
    if row is None:
        raise Missing(f"Import not found: {import_id}")
    require(user, may, owner_id=row.created_by_id)
    return row
