"""Look up runs for a user: whether the run exists, whether the user has permission, and which
fields are hidden from them."""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from django.contrib.auth.models import User

from datasets.models import Dataset
from datasets.services.sealing import may_read_examples
from runs.models import Run, RunQuerySet
from runs.services.refusals import RunGone
from tunixrt.api.query import parse_uuid
from tunixrt.refusals import Missing, NotAllowed
from tunixrt.roles import May, Role, may_see_secrets, require, user_role

Answer = TypeVar("Answer")


class RunNotFound(Missing):
    def __init__(self, run_id: UUID):
        super().__init__(f"Run not found: {run_id}")


def get_run_for(
    user: User, run_id: str | UUID, *, may: May, runs: RunQuerySet | None = None
) -> Run:
    """Return the run if it exists, is not in the trash, and ``user`` may perform the action.

    Raises:
        InvalidQuery: ``run_id`` is no UUID.
        RunNotFound, NotAllowed.
    """
    chosen = Run.objects.visible() if runs is None else runs
    run = read_run_for(user, run_id, lambda key: chosen.filter(pk=key).first())
    if may is not May.READ:
        require(user, may, owner_id=run.owner_id)
    return run


def read_run_for(user: User, run_id: str | UUID, read: Callable[[UUID], Answer | None]) -> Answer:
    """Return the same for reading without the model: all accounts may. Raise InvalidQuery,
    RunNotFound."""
    key = run_id if isinstance(run_id, UUID) else parse_uuid(run_id, "run_id")
    found = read(key)
    if found is None:
        raise RunNotFound(key)
    return found


class SealedItems(Missing):
    """What was asked for of a run may quote examples of a sealed dataset."""

    def __init__(self, key: str):
        super().__init__(
            f"Dataset {key} is sealed: only operators read its examples, and what a run on it wrote"
            " of them."
        )


def may_read_items(user: User, run: Run) -> bool:
    """Return whether ``user`` reads the examples that a run was given, and what it wrote, which may
    quote them. Of a sealed dataset the look is written into the audit log."""
    dataset = sealed_dataset(run)
    return dataset is None or may_read_examples(user, dataset)


def require_items(user: User, run: Run) -> None:
    """Raise SealedItems unless ``user`` reads the examples that a run was given."""
    if not may_read_items(user, run):
        raise SealedItems(run.dataset_key)


def sealed_dataset(run: Run) -> Dataset | None:
    """Return the dataset of a run if it is sealed."""
    rows = Dataset.objects.filter(dataset_key=run.dataset_key, sealed_at__isnull=False)
    return rows.only("dataset_key", "sealed_at").first()


def require_priority(user: User, priority: int) -> None:
    """Raise NotAllowed if ``user`` may not put a run before those of others."""
    if priority > 0 and (role := user_role(user)) < Role.OPERATOR:
        raise NotAllowed(
            f"A priority above 0 takes the role {Role.OPERATOR.label}; your account has the role"
            f" {role.label}. Use 0 or less."
        )


def config_for(user: User, config: dict[str, Any], owner_id: int | None) -> dict[str, Any]:
    """Return a run's request as ``user`` may see it: of another's webhook no more than the host."""
    address = config.get("webhook_url")
    if not address or may_see_secrets(user, owner_id):
        return config
    return config | {"webhook_url": mask_address(address)}


def mask_address(address: str) -> str:
    """Return the host of an address, and a mark for what may hold a key."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}/…" if parts.hostname else "…"


def reread(run: Run, fields: list[str] | None = None) -> None:
    """Reload a run. Raise RunGone if it has been purged meanwhile."""
    try:
        run.refresh_from_db(fields=fields)
    except Run.DoesNotExist:
        raise RunGone(f"Run not found: {run.run_id}. It has just been deleted.") from None
