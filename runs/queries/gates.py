"""Baselines and checks, as API and command read them."""

from uuid import UUID

from runs.models import Baseline, GateCheck
from runs.services.gates import CheckNotFound

BASELINES_MAX = 1_000


def list_baselines() -> list[Baseline]:
    """Return baselines by name."""
    found = Baseline.objects.select_related("evaluation").order_by("name")
    return list(found[:BASELINES_MAX])


def find_check(check_id: UUID) -> GateCheck:
    """Return a check. Raise CheckNotFound."""
    check = GateCheck.objects.filter(pk=check_id).first()
    if check is None:
        raise CheckNotFound(check_id)
    return check
