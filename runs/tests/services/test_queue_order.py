"""Which pending run is next: priority first, then age; operators may move them."""

import pytest
from django.contrib.auth.models import User
from django.db import transaction

from runs.models import Host, Run, RunStatus
from runs.services import cancelling, claiming
from runs.services.annotations import set_priority
from runs.services.claiming import next_pending
from runs.services.refusals import StateConflict
from runs.services.run_requests import InvalidRequest
from runs.tests.conftest import Submit


def order() -> list[Run]:
    with transaction.atomic():
        return next_pending(supervised=True, limit=10)


def test_priority_then_age(submit: Submit, user: User) -> None:
    first, second, urgent = submit(), submit(), submit(priority=5)
    assert order() == [urgent, first, second]
    set_priority(run=second, by=user, priority=10)
    assert order() == [second, urgent, first]
    assert second.events.last().reason == "priority 0 → 10"


def test_only_pending_runs_move(submit: Submit, user: User) -> None:
    run = cancelling.request_cancel(run=submit(), by=user)
    with pytest.raises(StateConflict, match="this one is cancelled"):
        set_priority(run=run, by=user, priority=1)


@pytest.mark.parametrize("priority", [-101, 101])
def test_priorities_have_a_range(submit: Submit, user: User, priority: int) -> None:
    with pytest.raises(InvalidRequest):
        set_priority(run=submit(), by=user, priority=priority)


def test_dry_runs_wait_in_a_line_of_their_own(submit: Submit) -> None:
    trainings, dry = [submit() for _ in range(3)], submit(dry_run=True)
    assert order() == trainings
    host = Host.objects.create(name="here")
    assert claiming.claim_dry_runs(host=host, limit=10, by="queue") == [dry]
    dry.refresh_from_db()
    assert (dry.status, dry.host) == (RunStatus.RUNNING, host)
    assert claiming.claim_dry_runs(host=host, limit=10, by="queue") == []
