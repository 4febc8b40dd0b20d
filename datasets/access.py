"""Look up datasets for a user and check permissions."""

from django.contrib.auth.models import User

from datasets.models import Dataset
from datasets.services import get_dataset
from tunixrt.roles import May, require


def get_dataset_for(user: User, key: str, *, may: May) -> Dataset:
    """Return the dataset. Raises DatasetNotFound, NotAllowed."""
    dataset = get_dataset(key)
    require(user, may, owner_id=dataset.created_by_id)
    return dataset
