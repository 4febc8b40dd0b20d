"""Adding steps to a completed training: what is stored, what is refused, what retries of an
extension do."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from datasets.models import Dataset
from runs.execution.attending import attend
from runs.execution.hosts import this_host
from runs.execution.launching import launch_pending
from runs.models import Run, RunStatus
from runs.runfolder import names
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_run
from runs.services.deletion import trash_run
from runs.services.finishing import finish_run
from runs.services.output_root import root_problem
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.services.retrying import extend_run, retry_run
from runs.spec.manifest import parse_manifest
from runs.tests.conftest import Submit
from runs.tests.launching import wait_for
from runs.tests.leftovers import leave_checkpoints_of

pytestmark = pytest.mark.django_db


def end(run: Run, *steps: int, status: str = RunStatus.COMPLETED, lost: bool = False) -> Run:
    """Let a pending run start and end; its training has saved after ``steps``."""
    # before the first claim: later a root without its marker would be a stranger's
    assert root_problem() is None
    claim_run(run=run, host=this_host(), by="test")
    if run.mode == "local":
        leave_checkpoints_of(run, *steps)
    return finish_run(
        run=run,
        status=status,
        reason="x",
        by="test",
        exit_code=0 if status == RunStatus.COMPLETED else None,
        lost=lost,
    )


def manifest(run: Run) -> dict[str, Any]:
    launch_pending()
    return parse_manifest((run_folder(run) / names.MANIFEST).read_text())


@pytest.fixture
def completed(submit: Submit) -> Run:
    """A training of 10 steps, asked for with an own folder, tags and a request id."""
    return end(
        submit(output_dir="mine", num_epochs=7, max_steps=10, tags=["a"], client_request_id="once"),
        5,
        10,
    )


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ({"num_epochs": 2}, {"num_epochs": 2, "max_steps": None}),
        ({"max_steps": 500}, {"num_epochs": 7, "max_steps": 500}),
    ],
)
def test_it_is_a_new_run_from_the_last_checkpoint(
    completed: Run, api: APIClient, asked: dict[str, int], stored: dict[str, int | None]
) -> None:
    response = api.post(f"/api/tunix/runs/{completed.pk}/extend", asked, format="json")

    assert response.status_code == 202
    answer = response.json()
    assert (answer["status"], answer["retry_of"], answer["attempt"]) == ("pending", None, 1)
    assert (answer["resume"], answer["resume_from"], answer["extend_from_step"]) == (
        True,
        str(completed.pk),
        10,
    )
    assert (
        answer["config"] == completed.config | {"output_dir": None, "name": answer["name"]} | stored
    )
    assert (answer["output_dir"], answer["tags"]) == (answer["run_id"], ["a"])
    assert api.get(f"/api/tunix/runs/{answer['run_id']}").json()["extend_from_step"] == 10
    run = Run.objects.get(pk=answer["run_id"])
    written = manifest(run)
    assert written["resume_from"] == str(run_folder(completed) / names.CHECKPOINTS)
    assert written["extend_from_step"] == 10
    assert {name: written["training"][name] for name in stored} == stored


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "non_field_errors"),
        ({"num_epochs": 1, "max_steps": 1}, "non_field_errors"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"num_epochs": 101}, "num_epochs"),
        ({"num_epochs": "2"}, "num_epochs"),
        ({"num_epochs": 1.5}, "num_epochs"),
        ({"num_epochs": True}, "num_epochs"),
        ({"num_epochs": None}, "num_epochs"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": -1}, "max_steps"),
        ({"max_steps": 10**9}, "max_steps"),
        ({"max_steps": None, "num_epochs": 1}, "max_steps"),
        ({"num_epochs": 1, "learning_rate": 0.1}, "learning_rate"),
        ([], "non_field_errors"),
        ("much", "non_field_errors"),
    ],
)
def test_a_bad_amount_is_400_and_named(
    completed: Run, api: APIClient, asked: Any, field: str
) -> None:
    response = api.post(f"/api/tunix/runs/{completed.pk}/extend", asked, format="json")
    assert response.status_code == 400
    assert list(response.json()) == ["detail", field]
    assert Run.objects.count() == 1


@pytest.mark.parametrize(
    "status",
    [
        RunStatus.PENDING,
        RunStatus.RUNNING,
        RunStatus.FAILED,
        RunStatus.TIMEOUT,
        RunStatus.CANCELLED,
    ],
)
def test_only_a_completed_training_is_extended(submit: Submit, api: APIClient, status: str) -> None:
    run = submit()
    if status == RunStatus.RUNNING:
        claim_run(run=run, host=this_host(), by="test")
    elif status == RunStatus.CANCELLED:
        request_cancel(run=run, by=run.owner)
    elif status != RunStatus.PENDING:
        end(run, 5, status=status)

    response = api.post(f"/api/tunix/runs/{run.pk}/extend", {"max_steps": 1}, format="json")

    assert response.status_code == 409
    assert f"this one is {status}." in response.json()["detail"]


def test_a_dry_run_is_not_extended(submit: Submit, api: APIClient) -> None:
    run = end(submit(dry_run=True))
    response = api.post(f"/api/tunix/runs/{run.pk}/extend", {"max_steps": 1}, format="json")
    assert response.status_code == 409
    assert response.json() == {"detail": "A dry run trains nothing, so there is nothing to extend."}


def test_without_a_checkpoint_there_is_nothing_to_extend(completed: Run, api: APIClient) -> None:
    shutil.rmtree(run_folder(completed) / names.CHECKPOINTS)
    response = api.post(f"/api/tunix/runs/{completed.pk}/extend", {"max_steps": 1}, format="json")
    assert response.status_code == 409
    assert "no checkpoint left" in response.json()["detail"]


def test_checkpoints_that_cannot_be_read_are_not_taken_for_none(
    completed: Run, api: APIClient
) -> None:
    """A file system that fails says something else than one without checkpoints: here a name longer
    than it takes."""
    Run.objects.filter(pk=completed.pk).update(output_dir="x" * 300)
    response = api.post(f"/api/tunix/runs/{completed.pk}/extend", {"max_steps": 1}, format="json")
    assert response.status_code == 409
    assert "cannot be read right now (File name too long)" in response.json()["detail"]


def test_what_is_extended_stays_until_the_extension_has_ended(completed: Run, user: User) -> None:
    extension = extend_run(run=completed, by=user, max_steps=5)
    with pytest.raises(StateConflict, match=str(extension.pk)):
        trash_run(run=completed, by=user)
    end(extension, 15)
    trash_run(run=completed, by=user)


def test_a_completed_training_is_not_retried(completed: Run, api: APIClient) -> None:
    for body in ({}, {"resume": False}):
        response = api.post(f"/api/tunix/runs/{completed.pk}/retry", body, format="json")
        assert response.status_code == 409
        assert "Extend it" in response.json()["detail"]


class TestRetries:
    @pytest.fixture
    def extension(self, completed: Run, user: User) -> Run:
        return extend_run(run=completed, by=user, max_steps=20)

    def test_it_goes_on_with_its_own_checkpoint_and_schedule(
        self, extension: Run, user: User
    ) -> None:
        retry = retry_run(run=end(extension, 12, status="failed"), by=user)
        assert (retry.resume_from, retry.extend_from_step) == (extension, 10)
        assert manifest(retry)["extend_from_step"] == 10

    def test_one_that_died_before_it_saved_begins_with_what_it_extends(
        self, completed: Run, extension: Run, user: User
    ) -> None:
        retry = retry_run(run=end(extension, status="failed"), by=user)
        assert (retry.resume_from, retry.extend_from_step) == (completed, 10)

    def test_from_scratch_is_the_checkpoint_that_it_extends(
        self, completed: Run, extension: Run, user: User
    ) -> None:
        retry = retry_run(run=end(extension, 12, status="failed"), by=user, resume=False)
        assert (retry.resume_from, retry.extend_from_step) == (completed, 10)
        again = retry_run(run=end(retry, 14, status="failed"), by=user)
        assert again.resume_from == retry

    def test_without_what_it_extends_it_is_not_retried(
        self, completed: Run, extension: Run, api: APIClient
    ) -> None:
        end(extension, status="failed")
        shutil.rmtree(run_folder(completed) / names.CHECKPOINTS / "10")  # 5 is left, and of no use
        response = api.post(f"/api/tunix/runs/{extension.pk}/retry")
        assert response.status_code == 409
        assert (
            "The checkpoint of step 10 that this run extends is gone." in response.json()["detail"]
        )

    def test_a_lost_one_that_cannot_be_retried_says_why(self, submit: Submit, user: User) -> None:
        first = end(submit(auto_retry=1), 10)
        extension = extend_run(run=first, by=user, max_steps=5)
        shutil.rmtree(run_folder(first) / names.CHECKPOINTS)
        end(extension, status="failed", lost=True)
        assert extension.message.startswith("x It is not tried again: The checkpoint of step 10")
        assert not extension.retries.exists()

    def test_a_waiting_one_whose_checkpoint_is_gone_fails_and_says_so(
        self, completed: Run, extension: Run
    ) -> None:
        shutil.rmtree(run_folder(completed) / names.CHECKPOINTS / "10")
        launch_pending()
        extension.refresh_from_db()
        assert extension.status == "failed"
        assert "no longer has the checkpoint" in extension.message

    def test_an_extension_is_extended(self, extension: Run, user: User) -> None:
        second = extend_run(run=end(extension, 30), by=user, num_epochs=1)
        assert (second.resume_from, second.extend_from_step) == (extension, 30)


class TestPage:
    def test_the_button_starts_an_extension(self, completed: Run, local_client: Client) -> None:
        page = local_client.get(f"/runs/{completed.pk}").content.decode()
        assert 'data-testid="extend"' in page
        assert 'data-testid="retry"' not in page
        assert "A new run from the checkpoint of step 10" in page

        form = {"amount": "2", "unit": "num_epochs"}
        page = local_client.post(f"/runs/{completed.pk}/extend", form, follow=True).content.decode()

        assert f"This run extends {str(completed.pk)[:8]} from step 10." in page
        assert "a training of 10 steps" in page
        assert "data-live-chain" in page
        extension = completed.heirs.get()
        assert (extension.config["num_epochs"], extension.config["max_steps"]) == (2, None)
        page = local_client.get(f"/runs/{completed.pk}").content.decode()
        assert f'data-testid="extended-by" href="/runs/{extension.pk}"' in page

    @pytest.mark.parametrize(
        ("form", "words"),
        [
            ({"amount": "", "unit": "num_epochs"}, "as a whole number"),
            ({"amount": "1.5", "unit": "num_epochs"}, "as a whole number"),
            ({"amount": "٣", "unit": "num_epochs"}, "as a whole number"),
            ({"amount": "0", "unit": "max_steps"}, "must be at least 1"),
            ({"amount": "9" * 5000, "unit": "max_steps"}, "must be at most"),
            ({"amount": "1", "unit": "learning_rate"}, "Unknown field"),
            ({}, "as a whole number"),
        ],
    )
    def test_a_bad_amount_is_said(
        self, completed: Run, local_client: Client, form: dict[str, str], words: str
    ) -> None:
        assert (
            words
            in local_client.post(f"/runs/{completed.pk}/extend", form, follow=True).content.decode()
        )
        assert Run.objects.count() == 1

    def test_without_a_checkpoint_it_says_so(self, completed: Run, local_client: Client) -> None:
        shutil.rmtree(run_folder(completed) / names.CHECKPOINTS)
        page = local_client.get(f"/runs/{completed.pk}").content.decode()
        assert "No checkpoint of this run is left to train on from." in page
        assert "extend-start" not in page

    def test_others_are_not_offered_it(self, submit: Submit, local_client: Client) -> None:
        for run in (end(submit(), 5, status="failed"), end(submit(dry_run=True)), submit()):
            assert (
                'data-testid="extend"' not in local_client.get(f"/runs/{run.pk}").content.decode()
            )

    def test_the_history_offers_no_retry_of_a_completed_training(
        self, completed: Run, local_client: Client
    ) -> None:
        assert f"/runs/{completed.pk}/retry" not in local_client.get("/").content.decode()


@pytest.mark.tunix
@pytest.mark.django_db(transaction=True)
def test_with_the_real_training_program(
    submit: Submit, user: User, make_dataset: Callable[..., Dataset]
) -> None:
    def trained(run: Run) -> Run:
        launch_pending()
        wait_for(lambda: attend() == 0, "the end")
        run.refresh_from_db()
        assert run.status == "completed", run.stderr
        return run

    settings = {"max_seq_length": 128, "batch_size": 2, "exact_match_examples": 0}
    first = trained(
        submit(dataset_key=make_dataset("few", size=6).dataset_key, num_epochs=1, **settings)
    )

    extension = trained(extend_run(run=first, by=user, max_steps=4))

    assert (extension.step, extension.total_steps, extension.summary["extended_from_step"]) == (
        7,
        7,
        3,
    )
    lines = [
        json.loads(line)
        for line in (run_folder(extension) / names.METRICS).read_text().splitlines()
    ]
    assert [line["step"] for line in lines if "loss" in line.get("values", {})] == [4, 5, 6, 7]
