"""The API of evaluations."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from runs.execution.launching import launch_pending, wait_for
from runs.models import Look, Run
from runs.runfolder import names
from runs.services.reservations import run_folder
from runs.tests.conftest import Evaluate, Script
from tunixrt.roles import Role, set_role

pytestmark = pytest.mark.django_db
URL = "/api/tunix/evaluations"


@pytest.fixture
def post(api: APIClient, make_dataset, a_training_command):
    make_dataset("quiz", held_out=1)
    asked = {"dataset_key": "quiz-v1", "model_id": "preset:tiny-llama"}
    return lambda **fields: api.post(URL, asked | fields, format="json")


class TestSubmit:
    def test_the_smallest_request_has_the_defaults_of_the_contract(self, post):
        response = post()

        assert response.status_code == 202
        answer = response.json()
        assert answer["status"] == "pending"
        assert answer["questions"]["part"] == "held_out"
        assert answer["settings"]["temperature"] == 0 and answer["settings"]["samples"] == 1
        assert [one["name"] for one in answer["settings"]["scorers"]] == ["exact_match"]
        assert Run.objects.get().run_id.hex == answer["run_id"].replace("-", "")

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"samples": 0}, "samples"),
            ({"samples": 65, "temperature": 1.0}, "samples"),
            ({"samples": 5}, "samples"),
            ({"temperature": -1}, "temperature"),
            ({"top_p": 0}, "top_p"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"stop": []}, "stop"),
            ({"stop": ["a"] * 5}, "stop"),
            ({"scorers": []}, "scorers"),
            ({"scorers": [{"name": "gone"}]}, "scorers"),
            ({"system_prompt": ""}, "system_prompt"),
            ({"part": "train"}, "part"),
            ({"model_id": "run:x"}, "model_id"),
            ({"model_id": "../x"}, "model_id"),
            ({"baseline": "x"}, "baseline"),
            ({"outputs_from": "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11"}, "outputs_from"),
            ({"dry_run": True}, "dry_run"),
            ({"kind": "evaluate"}, "kind"),
            ({"learning_rate": 0.1}, "learning_rate"),
        ],
    )
    def test_what_is_wrong_is_named(self, post, fields: dict[str, Any], name: str):
        response = post(**fields)

        assert response.status_code == 400
        assert name in response.json()
        assert not Run.objects.exists() and not Look.objects.exists()

    def test_an_unknown_dataset_is_404(self, post):
        assert post(dataset_key="gone-v1").status_code == 404

    def test_a_repeated_request_is_answered_with_the_first(self, post):
        first, second = post(client_request_id="1"), post(client_request_id="1")

        assert first.json()["run_id"] == second.json()["run_id"]
        assert Look.objects.count() == 1

    def test_a_viewer_may_not(self, post, user):
        set_role(user=user, role=Role.VIEWER)
        assert post().status_code == 403

    def test_a_dry_run_of_it_says_what_is_wrong(self, api: APIClient, make_dataset):
        make_dataset("quiz")
        asked = {"kind": "evaluate", "dataset_key": "quiz-v1", "model_id": "preset:tiny-llama"}
        answer = api.post("/api/tunix/run", asked | {"part": "held_out"}, format="json").json()

        assert answer["status"] == "failed"
        assert "has no held-out example. Ask for part: all" in answer["message"]
        assert api.post("/api/tunix/run", asked, format="json").json()["status"] == "completed"
        assert not Look.objects.exists()


class TestRead:
    def test_an_evaluation_with_its_scores(self, api: APIClient, evaluate: Evaluate):
        run = evaluate({"exact_match": [1, 0]})

        answer = api.get(f"{URL}/{run.pk}").json()
        [score] = answer["scores"]
        assert (score["mean"], score["n"], score["standing"]) == (0.5, 40, "ranked")
        assert (answer["answered"], answer["total"], answer["complete"]) == (40, 40, True)
        assert answer["outputs_intact"] is True and answer["looks"] == 1
        assert answer["questions"]["size"] == 40

    def test_partial_scores_while_it_executes(self, api: APIClient, evaluate: Evaluate):
        run = evaluate(options={"upto": 10})
        Run.objects.filter(pk=run.pk).update(status="running", completed_at=None, exit_code=None)

        answer = api.get(f"{URL}/{run.pk}").json()
        assert [(one["n"], one["mean"]) for one in answer["scores"]] == [(10, 0.5)]

    def test_items_by_pages(self, api: APIClient, evaluate: Evaluate):
        run = evaluate()
        found, offset, page = [], 0, {}
        while offset is not None:
            page = api.get(f"{URL}/{run.pk}/items?limit=15&offset={offset}").json()
            found += page["data"]
            offset = page["next_offset"]

        assert [item["index"] for item in found] == list(range(40))
        assert found[0]["outputs"][0]["scores"] == {"exact_match": 1.0}
        assert page["intact"] is True and page["unreadable"] == 0

    def test_before_there_are_items(self, post, api: APIClient):
        run_id = post().json()["run_id"]
        page = api.get(f"{URL}/{run_id}/items").json()
        assert page == {"data": [], "next_offset": None, "unreadable": 0, "intact": None}

    def test_damaged_items_are_counted(self, api: APIClient, evaluate: Evaluate):
        run = evaluate()
        with open(run_folder(run) / names.ITEMS, "a") as file:
            file.write('{"hash": 1}\n[]\n{"torn')

        pages = api.get(f"{URL}/{run.pk}/items?limit=100").json()
        assert (len(pages["data"]), pages["unreadable"], pages["intact"]) == (40, 2, False)
        assert api.get(f"{URL}/{run.pk}").json()["scores"][0]["mean"] == 0.5

    def test_a_training_is_no_evaluation(self, api: APIClient, submit):
        assert api.get(f"{URL}/{submit().pk}").status_code == 404

    @pytest.mark.parametrize(
        "query", ["run_id=x", "limit=0", "date_from=x", "cursor=x", "kind=sft"]
    )
    def test_a_query_that_cannot_be_read_is_422(self, api: APIClient, query: str):
        assert api.get(f"{URL}?{query}").status_code == 422

    def test_the_list_by_dataset_model_and_pages(self, api: APIClient, evaluate: Evaluate):
        runs = [evaluate() for _ in range(3)]

        first = api.get(f"{URL}?dataset_key=quiz-v1&model_id=preset:tiny-llama&limit=2").json()
        cursor = first["pagination"]["next_cursor"]
        second = api.get(f"{URL}?limit=2&cursor={cursor}").json()
        ids = [one["run_id"] for one in first["data"] + second["data"]]
        assert ids == [str(run.pk) for run in reversed(runs)]
        assert api.get(f"{URL}?dataset_key=other").json()["data"] == []


class TestRuns:
    def test_each_checkpoint_of_a_run(
        self, api: APIClient, evaluate: Evaluate, scripted: Script, submit
    ):
        trained = evaluate_checkpoints(scripted, submit)
        answer = api.post(
            f"/api/tunix/runs/{trained.pk}/evaluate",
            {"dataset_key": "sums-v1", "step": "all", "client_request_id": "curve"},
            format="json",
        )

        assert answer.status_code == 202
        found = Run.objects.filter(kind="evaluate").order_by("created_at")
        assert [run.model_id for run in found] == [f"run:{trained.pk}@{step}" for step in (2, 4)]
        assert answer.json()["curve"] == [str(run.pk) for run in found]
        listed = api.get(f"{URL}?run_id={trained.pk}").json()["data"]
        assert len(listed) == 2
        newest = api.get(f"/api/tunix/runs/{trained.pk}/evaluation").json()
        assert newest["step"] == 4

    @pytest.mark.parametrize("step", [0, -1, True, "x", 1.5, None])
    def test_a_step_that_is_none(self, api: APIClient, scripted: Script, submit, step: Any):
        trained = evaluate_checkpoints(scripted, submit)
        address = f"/api/tunix/runs/{trained.pk}/evaluate"
        answer = api.post(address, {"dataset_key": "sums-v1", "step": step}, format="json")
        assert answer.status_code == 400

    def test_one_that_was_never_evaluated(self, api: APIClient, submit):
        assert api.get(f"/api/tunix/runs/{submit().pk}/evaluation").status_code == 404


def evaluate_checkpoints(scripted: Script, submit) -> Run:
    """A training that has left the checkpoints of steps 2 and 4."""
    scripted(["checkpoint", 2, 4])
    run = submit()
    launch_pending()
    run.refresh_from_db()
    return wait_for(run)
