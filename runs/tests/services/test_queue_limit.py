"""Nobody queues without end: an account has so many runs waiting, and then it is 429."""

from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from datasets.models import Dataset
from runs.models import Run, RunStatus
from runs.services import finishing, refusals, retrying
from runs.tests.conftest import Submit
from runs.tests.views.test_start import filled

QUEUE = "/api/tunix/run?mode=async"


@pytest.fixture(autouse=True)
def _two(settings: LazySettings) -> None:
    settings.TUNIX_QUEUED_PER_ACCOUNT = 2


def test_an_account_has_so_many_runs_waiting(
    api: APIClient, body: dict[str, Any], staff: User, submit: Submit
):
    first, _ = (api.post(QUEUE, body, format="json").json() for _ in range(2))

    refused = api.post(QUEUE, body, format="json")
    assert (refused.status_code, refused["Retry-After"]) == (429, "60")
    assert "You have 2 runs waiting, as many as an account may." in refused.json()["detail"]
    assert Run.objects.count() == 2

    submit(by=staff)  # others go on
    # and so does what needs no queue
    assert api.post("/api/tunix/run", body, format="json").status_code == 202
    api.post(f"/api/tunix/runs/{first['run_id']}/cancel")
    assert api.post(QUEUE, body, format="json").status_code == 202


def test_the_same_request_again_is_the_same_run(api: APIClient, body: dict[str, Any]):
    asked = body | {"client_request_id": "one"}
    first = api.post(QUEUE, asked, format="json").json()
    assert api.post(QUEUE, body, format="json").status_code == 202

    assert api.post(QUEUE, asked, format="json").json()["run_id"] == first["run_id"]


def test_a_retry_counts_unless_nobody_asked_for_it(user: User, submit: Submit):
    failed = submit()
    finishing.finish_run(run=failed, status=RunStatus.CANCELLED, reason="a test", by="test")
    submit(), submit()

    with pytest.raises(refusals.QueueFull):
        retrying.retry_run(run=failed, by=user)
    assert (
        retrying.submit_retry(failed, by=user, resume=True, automatic=True).status
        == RunStatus.PENDING
    )


def test_the_form_says_so(remote_client: Client, user: User, submit: Submit, dataset: Dataset):
    remote_client.force_login(user)
    submit(), submit()

    sent = filled(remote_client, "?dataset=sums-v1") | {"action": "dry-run", "run_async": "on"}
    answer = remote_client.post("/runs/new", sent)

    assert Run.objects.count() == 2
    assert (answer.status_code, answer["Retry-After"]) == (429, "60")
    assert "You have 2 runs waiting" in answer.content.decode()


def test_the_count_is_an_index_of_its_own(user: User):
    with CaptureQueriesContext(connection) as captured:
        plan = Run.objects.pending_of(user)[:1000].explain()

    assert captured.captured_queries
    if connection.vendor == "sqlite":  # PostgreSQL reads a table of no rows as it stands
        assert "ix_tunix_runs_waiting" in plan
