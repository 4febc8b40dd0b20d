"""Runs on sealed datasets: none trains, evaluations do."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from datasets.models import Dataset
from datasets.services.sealing import seal_datasets
from runs.execution.launching import launch_pending, wait_for
from runs.models import Host, Run
from runs.services import retrying
from runs.services.claiming import claim_run
from runs.services.finishing import finish_run
from runs.services.refusals import DatasetSealed
from runs.services.reservations import run_folder
from runs.tests.conftest import Evaluate, Script, Submit
from tunixrt.roles import Role, set_role

pytestmark = pytest.mark.django_db
ASKED = {"dataset_key": "sums-v1", "model_id": "preset:tiny-llama"}
REFUSED = "Dataset sums-v1 is sealed: models are evaluated on it, and no run trains on it."


@pytest.fixture
def operator(db: None) -> User:
    account = User.objects.create_user("operator")
    set_role(user=account, role=Role.OPERATOR)
    return account


def seal(dataset: Dataset, operator: User) -> None:
    seal_datasets(datasets=[dataset], by=operator)


@pytest.mark.parametrize("query", ["", "?mode=async"])
@pytest.mark.parametrize("fields", [{}, {"preflight": "full"}, {"dry_run": False}])
def test_no_run_trains_on_it(
    dataset: Dataset,
    operator: User,
    api: APIClient,
    a_training_command: None,
    query: str,
    fields: dict[str, object],
):
    seal(dataset, operator)
    for account in (None, operator):
        if account:
            api.force_authenticate(account)
        answer = api.post(f"/api/tunix/run{query}", ASKED | fields, format="json")
        assert (answer.status_code, answer.json()["detail"]) == (409, REFUSED)
    assert not Run.objects.exists()


def test_the_form_says_so(dataset: Dataset, operator: User, client: Client):
    seal(dataset, operator)
    client.force_login(operator)
    answer = client.post("/runs/new", ASKED | {"action": "dry-run"})
    assert answer.status_code >= 400
    assert not Run.objects.exists()


def test_no_retry_trains_on_it_not_even_an_automatic_one(
    dataset: Dataset, operator: User, submit: Submit
):
    run = submit(auto_retry=1, dry_run=False)
    seal(dataset, operator)
    claim_run(run=run, host=Host.objects.create(name="h"), by="test")
    run = finish_run(run=run, status="failed", reason="It is lost.", by="test", lost=True)
    assert run.message == f"It is lost. It is not tried again: {REFUSED}"
    with pytest.raises(DatasetSealed):
        retrying.retry_run(run=run, by=operator)
    assert Run.objects.count() == 1


def test_one_that_waits_while_it_is_sealed_is_not_started(
    dataset: Dataset, operator: User, submit: Submit, scripted: Script
):
    scripted(["put", "started", "yes"])
    run = submit(dry_run=False)
    seal(dataset, operator)
    launch_pending()
    run.refresh_from_db()
    assert (run.status, run.message) == ("failed", REFUSED)
    assert not (run_folder(run) / "started").exists()


def test_models_are_evaluated_on_it_by_researchers(
    evaluate: Evaluate, make_dataset, user: User, operator: User, api: APIClient
):
    seal(make_dataset("quiz", size=40, prompt="quiz {}?"), operator)
    run = evaluate()
    assert (run.status, run.owner) == ("completed", user)
    answer = api.get(f"/api/tunix/evaluations/{run.pk}").json()
    assert answer["scores"][0]["mean"] == 0.5 and answer["complete"]
    items = api.get(f"/api/tunix/evaluations/{run.pk}/items")
    assert items.status_code == 404
    assert items.json()["detail"].startswith("Dataset quiz-v1 is sealed: only operators read")
    board = api.get(f"/api/tunix/leaderboards/{answer['questions']['key']}")
    assert board.json()["data"][0]["run_id"] == str(run.pk)


def test_what_a_failed_one_says_may_quote_examples_and_is_in_the_log_alone(
    scripted: Script, make_dataset, operator: User, submit: Submit, api: APIClient
):
    dataset = make_dataset("quiz", size=40, prompt="quiz {}?")
    seal(dataset, operator)
    said = "tunix: unexpected TemplateError: quiz 7?"
    scripted(["leave", 3, said])
    run = submit(dataset_key="quiz-v1", kind="evaluate", dry_run=False)
    launch_pending()
    run.refresh_from_db()
    run = wait_for(run)
    assert run.status == "failed"
    assert said not in run.message and "an operator reads it in the log" in run.message
    answer = api.get(f"/api/tunix/runs/{run.pk}").content.decode()
    assert "quiz 7" not in answer
    api.force_authenticate(operator)
    assert said in api.get(f"/api/tunix/runs/{run.pk}").json()["stderr"]
