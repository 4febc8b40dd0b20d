"""A dry run in the request: checked first, then stored with its end in one transaction."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from datasets.models import Dataset
from runs.execution.dry_run import dry_run_in_request
from runs.lifecycle import Step, TransitionRefused, insert_ended
from runs.models import Counter, Run, RunEvent, RunNameKey, RunTag, WebhookDelivery
from runs.services.run_requests import clean_request
from runs.tests.launching import PATIENCE

URL = "/api/tunix/run"


@pytest.mark.django_db(transaction=True)
def test_it_takes_one_transaction_and_reads_each_thing_once(api: APIClient, body: dict[str, Any]):
    api.post(URL, body, format="json")  # compiles what is compiled once

    with CaptureQueriesContext(connection) as captured:
        assert api.post(URL, body | {"tags": ["a", "b"]}, format="json").status_code == 202

    asked = [" ".join(one["sql"].split()[:3]) for one in captured.captured_queries]
    assert len([one for one in asked if one.startswith("BEGIN")]) == 1
    written = [one for one in asked if one.startswith(("INSERT", "UPDATE", "DELETE"))]
    assert [one.split('"')[1] for one in written] == [
        "tunix_runs", "runs_runevent", "runs_counter", "runs_runtag", "runs_runnamekey",
    ]  # fmt: skip
    read = [one["sql"] for one in captured.captured_queries if one["sql"].startswith("SELECT")]
    assert len([sql for sql in read if 'FROM "datasets_dataset"' in sql]) == 1
    assert len(asked) <= 13


@pytest.mark.django_db
def test_its_life_is_told_by_events_and_counted(
    api: APIClient, body: dict[str, Any], user: User, settings: LazySettings
):
    settings.TUNIX_WEBHOOK_URL = "https://hooks.example/runs"

    answer = api.post(URL, body | {"tags": ["night"]}, format="json").json()

    run = Run.objects.get()
    assert (answer["status"], run.status, run.exit_code) == ("completed", "completed", 0)
    assert run.created_at <= run.started_at <= run.completed_at
    assert run.duration_seconds == (run.completed_at - run.started_at).total_seconds()
    assert run.disk_bytes == 0
    told = list(run.events.values_list("old", "new", "reason", "by"))
    assert told == [
        ("", "pending", "submitted", "somebody"),
        ("pending", "running", f"claimed by {settings.TUNIX_HOST_NAME}", "somebody"),
        ("running", "completed", run.message, "web"),
    ]
    moments = list(run.events.values_list("at", flat=True))
    assert moments == [run.created_at, run.started_at, run.completed_at]
    assert list(run.tags.values_list("name", flat=True)) == ["night"] == answer["tags"]
    assert RunNameKey.objects.filter(run=run).exists()
    counted = Counter.objects.filter(family="runs").values_list("label", "count")
    assert dict(counted) == {"completed|dry-run": 1}
    (delivery,) = WebhookDelivery.objects.all()
    assert (delivery.payload["status"], delivery.payload["exit_code"]) == ("completed", 0)


@pytest.mark.django_db
def test_one_that_fails_has_a_life_as_well_and_no_folder(
    api: APIClient, body: dict[str, Any], make_dataset: Callable[..., Dataset],
    settings: LazySettings,
):  # fmt: skip
    empty = make_dataset("none", size=0)

    answer = api.post(URL, body | {"dataset_key": empty.dataset_key}, format="json").json()

    run = Run.objects.get()
    assert (answer["status"], run.exit_code) == ("failed", None)
    assert "is empty" in run.message and run.stderr.startswith("error: Dataset")
    assert list(run.events.values_list("new", flat=True)) == ["pending", "running", "failed"]
    assert not (settings.TUNIX_OUTPUT_ROOT / str(run.pk)).exists()


@pytest.mark.django_db(transaction=True)
def test_the_same_request_many_times_at_once_leaves_one_run_and_one_folder(
    user: User, dataset: Dataset, settings: LazySettings
):
    asked = {
        "dataset_key": dataset.dataset_key,
        "model_id": "preset:tiny-llama",
        "client_request_id": "once",
    }
    barrier = threading.Barrier(6, timeout=PATIENCE)

    def post(_: int) -> tuple[str, bool]:
        try:
            barrier.wait()
            run, created = dry_run_in_request(request=clean_request(asked), by=user)
            return str(run.pk), created
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(post, range(6)))

    run = Run.objects.get()
    assert {pk for pk, _ in answers} == {str(run.pk)}
    assert sorted(created for _, created in answers) == [False] * 5 + [True]
    folders = [path.name for path in settings.TUNIX_OUTPUT_ROOT.iterdir() if path.name[0] != "."]
    assert folders == [str(run.pk)]
    assert (settings.TUNIX_OUTPUT_ROOT / str(run.pk) / "manifest.yaml").is_file()
    assert RunEvent.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_what_cannot_be_stored_leaves_nothing_behind(
    user: User, dataset: Dataset, settings: LazySettings
):
    """The account goes while its request is checked: no run, no event, nothing counted, no
    folder."""
    request = clean_request({"dataset_key": dataset.dataset_key, "model_id": "preset:tiny-llama"})
    gone = User.objects.get(pk=user.pk)
    user.delete()

    with pytest.raises(Exception, match=r"(?i)foreign key|violates"):
        dry_run_in_request(request=request, by=gone)

    assert not Run.objects.exists() and not RunTag.objects.exists()
    assert not RunEvent.objects.exists() and not Counter.objects.exists()
    assert not [path for path in settings.TUNIX_OUTPUT_ROOT.iterdir() if path.name[0] != "."]


@pytest.mark.django_db
class TestInsertEnded:
    """The table of steps holds for a life that is stored at once."""

    @pytest.mark.parametrize(
        "steps",
        [[], ["completed"], ["running"], ["running", "pending"], ["cancelled", "completed"],
         ["running", "completed", "failed"], ["running", "cancelled"]],
    )  # fmt: skip
    def test_no_other_steps(self, user: User, steps: list[str]):
        now = timezone.now()
        run = Run(dataset_key="a", model_id="m", mode="dry-run", owner=user, created_at=now,
                  started_at=now, completed_at=now, exit_code=0)  # fmt: skip
        submitted = Step("pending", "submitted", "test", now)

        with pytest.raises(TransitionRefused):
            insert_ended(
                run, submitted=submitted, steps=[Step(new, "", "test", now) for new in steps]
            )

        assert not Run.objects.exists() and not RunEvent.objects.exists()
        assert not Counter.objects.exists()
