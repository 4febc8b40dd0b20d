"""What dry runs and the pages of runs say of contamination: what is stored, never more."""

from collections.abc import Callable

import pytest
from django.test import Client
from rest_framework.test import APIClient

from datasets.comparison.overlaps import compute_overlap, sentence
from datasets.models import Dataset, Overlap
from runs.models import Run

NOT_YET = "Not computed yet: whether sets for evaluation overlap with this dataset."


@pytest.fixture
def overlap(dataset: Dataset, make_dataset: Callable[..., Dataset]) -> Overlap:
    """Another dataset with the same examples."""
    return compute_overlap(dataset, make_dataset(name="evals"), by=None)


def warnings(api: APIClient, dataset: Dataset) -> list[str]:
    sent = {"dataset_key": dataset.dataset_key, "model_id": "preset:tiny-llama"}
    found: list[str] = api.post("/api/tunix/run", sent, format="json").json()["warnings"]
    return found


def page_of_the_last_run(client: Client) -> str:
    run = Run.objects.latest("created_at")
    return client.get(f"/runs/{run.pk}").content.decode()


def test_not_computed_yet(api: APIClient, local_client: Client, dataset: Dataset) -> None:
    assert NOT_YET in warnings(api, dataset)
    assert not Overlap.objects.exists()
    assert NOT_YET in page_of_the_last_run(local_client)


def test_what_was_computed(
    api: APIClient, local_client: Client, dataset: Dataset, overlap: Overlap
) -> None:
    assert overlap.exact == 3
    assert sentence(overlap) in warnings(api, dataset)
    assert sentence(overlap) in page_of_the_last_run(local_client)


def test_a_clean_dataset_says_nothing(
    api: APIClient, dataset: Dataset, make_dataset: Callable[..., Dataset], overlap: Overlap
) -> None:
    Overlap.objects.update(exact=0, normalised=0, ngram=0)
    assert not [said for said in warnings(api, dataset) if "overlap" in said]
