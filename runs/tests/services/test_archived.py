"""Runs and datasets in the archive: no new run, old ones continue."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from datasets.models import Dataset
from datasets.services.curation import archive_dataset, restore_dataset
from runs.services.refusals import DatasetArchived
from runs.services.run_requests import clean_request
from runs.services.submission import check_submittable
from runs.tests.conftest import Submit
from runs.views.start import dataset_choices

pytestmark = pytest.mark.django_db
ASKED = {"dataset_key": "sums-v1", "model_id": "preset:tiny-llama"}


def test_a_new_run_on_an_archived_dataset_is_refused_with_the_reason(
    dataset: Dataset, user: User, api: APIClient, client: Client
) -> None:
    archive_dataset(dataset=dataset, by=user)
    for query in ("", "?mode=async"):
        answer = api.post(f"/api/tunix/run{query}", ASKED, format="json")
        assert answer.status_code == 409, answer.content
        assert "Dataset sums-v1 is archived since" in answer.json()["detail"]
    assert dataset_choices("") == []
    restore_dataset(dataset=dataset, by=user)
    assert [key for key, _ in dataset_choices("")] == ["sums-v1"]
    assert api.post("/api/tunix/run", ASKED, format="json").status_code == 202


def test_what_was_let_in_before_continues(dataset: Dataset, user: User, submit: Submit) -> None:
    run = submit(client_request_id="mine")
    archive_dataset(dataset=dataset, by=user)
    assert submit(client_request_id="mine").pk == run.pk  # the same request gets its run
    request = clean_request(ASKED)
    with pytest.raises(DatasetArchived):
        check_submittable(request=request, queued=True)
    assert check_submittable(request=request, queued=True, automatic=True) == dataset
