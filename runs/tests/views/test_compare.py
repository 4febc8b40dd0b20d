"""The compare page: only what differs, what came of it, the same data or not; as a page and as
CSV."""

import csv
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from datasets.models import Dataset
from runs.models import Host, Run
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_run
from runs.services.deletion import trash_run
from runs.services.finishing import finish_run
from runs.services.measurements import take_in_metrics
from runs.services.reservations import run_folder
from runs.tests.conftest import Submit

pytestmark = pytest.mark.usefixtures("a_training_command")


@pytest.fixture
def train(submit: Submit) -> Callable[..., Run]:
    """Stores a training that has ended with these losses."""
    host = Host.objects.create(name="a-host")

    def make(*losses: float, summary: dict[str, Any] | None = None, **fields: Any) -> Run:
        run = submit(**fields)
        claim_run(run=run, host=host, by="test")
        folder = run_folder(run)
        folder.mkdir(parents=True)
        lines = [
            json.dumps({"time": 1.0, "step": step, "values": {"loss": loss}})
            for step, loss in enumerate(losses)
        ]
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        take_in_metrics(run, folder)
        finish_run(
            run=run,
            status="completed",
            reason="over",
            by="test",
            exit_code=0,
            summary=summary or {},
        )
        return run

    return make


def address(*runs: Run) -> str:
    return "ids=" + ",".join(str(run.pk) for run in runs)


def test_only_for_somebody_logged_in(remote_client: Client) -> None:
    assert remote_client.get("/runs/compare").status_code == 302
    assert remote_client.get("/runs/compare.csv").status_code == 302


def test_shows_differences_results_and_the_best(
    local_client: Client, train: Callable[..., Run]
) -> None:
    one = train(
        4.0,
        1.0,
        2.0,
        learning_rate=1e-4,
        tags=["a"],
        summary={"exact_match_after": 0.5, "tokens_per_second": 900},
    )
    two = train(5.0, 0.5, learning_rate=3e-4, notes="other", summary={"exact_match_after": 0.75})
    response = local_client.get(f"/runs/compare?{address(two, one)}")
    comparison = response.context["comparison"]
    assert comparison.runs == [two, one]
    assert [(line.label, line.values) for line in comparison.configuration] == [
        ("learning_rate", [3e-4, 1e-4])
    ]
    results = {
        line.label: (line.values, set(line.best))
        for line in comparison.results
        if line.label != "Duration (s)"
    }
    assert results == {
        "Loss first": ([5.0, 4.0], set()),
        "Loss last": ([0.5, 2.0], {0}),
        "Loss lowest": ([0.5, 1.0], {0}),
        "Exact match after": ([0.75, 0.5], {0}),
        "Tokens/s": ([None, 900], set()),
    }
    page = response.content.decode()
    assert "Every run has the same data" in page
    assert page.count("(best)") == 3
    assert f'href="/runs/{one.pk}"' in page


def test_the_form_of_the_list_leads_here(local_client: Client, train: Callable[..., Run]) -> None:
    one, two = train(1.0), train(2.0)
    response = local_client.get("/runs/compare", {"ids": [one.pk, two.pk], "next": "/"})
    assert response.context["comparison"].runs == [one, two]
    assert response.context["comparison"].configuration == []
    assert "All runs have the same configuration" in response.content.decode()


def test_other_data_are_pointed_out(
    local_client: Client, train: Callable[..., Run], make_dataset: Callable[..., Dataset]
) -> None:
    one = train(1.0)
    two = train(2.0, dataset_key=make_dataset("other", size=2).dataset_key)
    page = local_client.get(f"/runs/compare?{address(one, two)}").content.decode()
    assert "differ in their data" in page
    assert "dataset_key" in page


def test_a_run_that_is_gone_is_said(local_client: Client, train: Callable[..., Run]) -> None:
    one, two, three = train(1.0), train(2.0), train(3.0)
    trash_run(run=three, by=three.owner)
    assert "1 of the runs in this address is no longer there" in (
        local_client.get(f"/runs/compare?{address(one, two, three)}").content.decode()
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "0 are chosen"),
        (f"ids={uuid.UUID(int=1)}", "1 is chosen"),
        ("ids=" + ",".join(str(uuid.UUID(int=number)) for number in range(21)), "21 are chosen"),
        (f"ids={uuid.UUID(int=1)},{uuid.UUID(int=2)}", "Fewer than two"),
        ("ids=1,2", "does not name runs"),
    ],
)
def test_what_cannot_be_compared_is_422(local_client: Client, query: str, said: str) -> None:
    page = local_client.get(f"/runs/compare?{query}")
    assert page.status_code == 422
    assert said in page.content.decode()
    file = local_client.get(f"/runs/compare.csv?{query}")
    assert file.status_code == 422
    assert said in file.content.decode()


def test_csv_has_a_line_for_each_run(local_client: Client, train: Callable[..., Run]) -> None:
    one, two = train(4.0, 2.0, learning_rate=1e-4), train(3.0, 1.0, learning_rate=3e-4)
    Run.objects.filter(pk=two.pk).update(model_id="=HYPERLINK(evil)")
    response = local_client.get(f"/runs/compare.csv?{address(one, two)}")
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"] == 'attachment; filename="runs.csv"'
    rows = list(csv.DictReader(response.content.decode().splitlines()))
    assert [(row["run_id"], row["learning_rate"], row["Loss last"]) for row in rows] == [
        (str(one.pk), "0.0001", "2.0"),
        (str(two.pk), "0.0003", "1.0"),
    ]
    assert rows[1]["model_id"] == "'=HYPERLINK(evil)"
    assert rows[0]["fingerprint"] == Dataset.objects.get().fingerprint


@pytest.mark.parametrize("count", [2, 4])
def test_costs_the_same_queries_for_any_number_of_runs(
    local_client: Client,
    submit: Submit,
    django_assert_num_queries: DjangoAssertNumQueries,
    count: int,
) -> None:
    runs = [request_cancel(run=(run := submit()), by=run.owner) for _ in range(count)]
    local_client.get("/")
    with django_assert_num_queries(4):  # the local user, the runs, their losses, their datasets
        assert local_client.get(f"/runs/compare?{address(*runs)}").status_code == 200
