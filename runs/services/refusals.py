"""The refusals of the services."""

from datasets.models import Dataset
from tunixrt.refusals import Conflict, Missing, NotHere, TooMany

SEALED = "Dataset {} is sealed: models are evaluated on it, and no run trains on it."


class RuntimeUnavailable(NotHere):
    """No host that could take the run has the training runtime."""


class IdempotencyConflict(Conflict):
    """The same client_request_id came with a different body."""


class DatasetArchived(Conflict):
    """No new run is started on a dataset in the archive."""

    def __init__(self, dataset: Dataset):
        assert dataset.archived_at is not None
        super().__init__(
            f"Dataset {dataset.dataset_key} is archived since {dataset.archived_at:%Y-%m-%d}: take"
            " it out of the archive, or choose another version."
        )


class DatasetSealed(Conflict):
    """No run trains on a sealed dataset."""

    def __init__(self, key: str):
        super().__init__(SEALED.format(key))


class StateConflict(Conflict):
    """What was asked cannot be done to a run in its status."""


class OutputRootAway(StateConflict):
    """Whether there is a checkpoint cannot be told right now: the output root is away."""


class RunGone(Missing):
    """A run was purged while something was done with it."""


class QueueFull(TooMany):
    """The account has reached its limit of pending runs."""
