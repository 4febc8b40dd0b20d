"""Cancel, retry, delete and reorder in every status: the table of docs/reliability.md, through the
API."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from runs.execution.hosts import this_host
from runs.lifecycle import transition
from runs.models import ACTIVE, Run, RunStatus
from runs.services.annotations import set_priority
from runs.services.claiming import claim_run
from runs.services.finishing import finish_run
from runs.services.refusals import StateConflict
from runs.tests.conftest import Submit
from tunixrt.tests.plugin import ROOT

pytestmark = pytest.mark.django_db

# status: (cancel → code and status afterwards, retry of a training → code, delete → code); a dry
# run is retried once it has ended
TABLE: dict[str, tuple[tuple[int, str], int, int]] = {
    "pending": ((202, "cancelled"), 409, 409),
    "running": ((202, "cancelling"), 409, 409),
    "cancelling": ((202, "cancelling"), 409, 409),
    "completed": ((409, "completed"), 409, 200),
    "failed": ((409, "failed"), 202, 200),
    "timeout": ((409, "timeout"), 202, 200),
    "cancelled": ((409, "cancelled"), 202, 200),
}
each_status = pytest.mark.parametrize("status", TABLE)
each_mode = pytest.mark.parametrize("dry_run", [False, True], ids=["local", "dry-run"])


@pytest.fixture
def run(submit: Submit, status: str, dry_run: bool) -> Run:
    run = submit(dry_run=dry_run)
    if status in ("cancelled", "pending"):
        return (
            run
            if status == "pending"
            else finish_run(run=run, status=status, reason="x", by="test")
        )
    claim_run(run=run, host=this_host(), by="test")
    if status == "cancelling":
        return transition(run, RunStatus.CANCELLING, reason="x", by="test")
    if status not in ACTIVE:
        finish_run(
            run=run,
            status=status,
            reason="x",
            by="test",
            exit_code=0 if status == "completed" else None,
        )
    return run


def test_no_status_is_forgotten() -> None:
    assert list(TABLE) == list(RunStatus.values)


def test_the_documents_have_the_same_table() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    for status, ((code, after), retry, delete) in TABLE.items():
        cancel = f"{code}, `{after}`" if code == 202 else str(code)
        assert f"| `{status}` | {cancel} | {retry} | {delete} |" in text


@each_status
@each_mode
class TestInEveryStatus:
    def test_cancel(self, run: Run, status: str, api: APIClient) -> None:
        code, after = TABLE[status][0]

        answer = api.post(f"/api/tunix/runs/{run.pk}/cancel")

        assert answer.status_code == code
        run.refresh_from_db()
        assert run.status == after
        if code == 202:
            assert answer.json()["status"] == after
        else:
            assert f"it is {status}" in answer.json()["detail"]

    def test_retry(self, run: Run, status: str, dry_run: bool, api: APIClient) -> None:
        answer = api.post(f"/api/tunix/runs/{run.pk}/retry", {}, format="json")

        assert answer.status_code == (
            202 if dry_run and status == "completed" else TABLE[status][1]
        )
        retries = list(run.retries.all())
        if answer.status_code == 202:
            assert [str(retry.pk) for retry in retries] == [answer.json()["run_id"]]
            assert (retries[0].status, retries[0].attempt) == ("pending", 2)
        else:
            assert retries == []
            assert status in answer.json()["detail"]

    def test_delete(self, run: Run, status: str, api: APIClient) -> None:
        answer = api.delete(f"/api/tunix/runs/{run.pk}")

        assert answer.status_code == TABLE[status][2]
        run.refresh_from_db()
        assert (run.trashed_at is not None) == (answer.status_code == 200)
        assert run.status == status
        assert api.get(f"/api/tunix/runs/{run.pk}").status_code == (
            404 if answer.status_code == 200 else 200
        )
        if answer.status_code == 409:
            assert status in answer.json()["detail"]

    def test_reorder(self, run: Run, status: str, user: User) -> None:
        if status == "pending":
            set_priority(run=run, by=user, priority=5)
            assert Run.objects.get(pk=run.pk).priority == 5
            return
        with pytest.raises(StateConflict, match=status):
            set_priority(run=run, by=user, priority=5)
        assert Run.objects.get(pk=run.pk).priority == 0


@each_status
@each_mode
def test_what_is_deleted_can_be_asked_for_nothing(run: Run, status: str, api: APIClient) -> None:
    Run.objects.filter(pk=run.pk).update(trashed_at=run.created_at)
    answers: list[Any] = [
        api.post(f"/api/tunix/runs/{run.pk}/cancel"),
        api.post(f"/api/tunix/runs/{run.pk}/retry", {}, format="json"),
        api.post(f"/api/tunix/runs/{run.pk}/extend", {"max_steps": 1}, format="json"),
        api.delete(f"/api/tunix/runs/{run.pk}"),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404, 404]
