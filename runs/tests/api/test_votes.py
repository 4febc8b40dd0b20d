"""The API of votes: blind for voters, with numbers for everybody."""

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from runs.models import Run, Vote, VoteRound
from runs.runfolder import names
from runs.services.deletion import trash_run
from runs.services.reservations import run_folder
from runs.tests.conftest import Evaluate
from tunixrt.roles import Role, set_role

pytestmark = pytest.mark.django_db
URL = "/api/tunix/votes"
MODELS = ("preset:tiny-llama", "HuggingFaceTB/SmolLM2-135M")


@pytest.fixture
def runs(evaluated: Evaluate) -> list[Run]:
    return [
        evaluated(options={"text": text}, model_id=model, name=f"named {text}")
        for text, model in zip(("one", "two"), MODELS, strict=True)
    ]


@pytest.fixture
def started(api: APIClient, runs: list[Run]) -> dict[str, Any]:
    sent = {"evaluations": [str(run.pk) for run in runs], "seed": 3}
    response = api.post(URL, sent, format="json")
    assert response.status_code == 201, response.content
    answer: dict[str, Any] = response.json()
    return answer


def test_from_the_start_to_a_dataset(api: APIClient, started: dict[str, Any], user: User):
    url = f"{URL}/{started['id']}"
    assert (started["size"], started["equal"], started["seed"]) == (40, 0, 3)
    assert [side["model_id"] for side in started["sides"]] == list(MODELS)

    for _ in range(3):
        asked = api.get(f"{url}/next").json()
        vote = {"question": asked["question"], "choice": str(1 + asked["outputs"].index("one"))}
        assert api.post(f"{url}/votes", vote, format="json").json() == vote
    asked = {}
    for choice in ("0", "s"):
        asked = api.get(f"{url}/next").json()
        vote = {"question": asked["question"], "choice": choice}
        assert api.post(f"{url}/votes", vote, format="json").status_code == 200
    assert (asked["done"], asked["total"], asked["gone"]) == (4, 40, 0)

    results = api.get(url).json()
    first, second = results["sides"]
    assert (first["wins"], second["wins"], results["ties"], results["decided"]) == (3, 0, 1, 4)
    assert first["win_rate"] == 1 - second["win_rate"] == 0.875
    [voter] = results["voter_counts"]
    assert (voter["voter"], voter["first"], voter["skip"]) == (user.username, 3, 1)
    assert api.get(URL).json()["data"][0]["votes"] == 5

    made = api.post(f"{url}/dataset", {"name": "liked", "version": "v1"}, format="json")
    assert (made.status_code, made.json()) == (
        201,
        {"dataset_key": "liked-v1", "size": 3, "left_out": {}},
    )
    assert api.get("/api/datasets/liked-v1").json()["kind"] == "preference"
    again = api.post(f"{url}/dataset", {"name": "liked", "version": "v1"}, format="json")
    assert again.status_code == 409


def test_what_a_voter_reads_names_no_model(
    api: APIClient, started: dict[str, Any], runs: list[Run]
):
    answer = api.get(f"{URL}/{started['id']}/next").content.decode()
    for run in runs:
        for telling in (run.model_id, run.name, str(run.pk), str(run.pk.hex)):
            assert telling not in answer


def test_researchers_vote_and_viewers_read_results(
    api: APIClient, started: dict[str, Any], user: User
):
    set_role(user=user, role=Role.VIEWER)
    url = f"{URL}/{started['id']}"
    question = "f" * 64

    assert api.get(url).status_code == api.get(URL).status_code == 200
    assert api.get(f"{url}/next").status_code == 403
    for path, body in (
        (f"{url}/votes", {"question": question, "choice": "1"}),
        (f"{url}/dataset", {"name": "a", "version": "b"}),
        (URL, {"evaluations": ["a", "b"]}),
    ):
        assert api.post(path, body, format="json").status_code == 403


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "evaluations"),
        ({"evaluations": []}, "evaluations"),
        ({"evaluations": ["a"]}, "evaluations"),
        ({"evaluations": ["a", "b", "c"]}, "evaluations"),
        ({"evaluations": ["a", 1]}, "evaluations"),
        ({"evaluations": [str(uuid4()), str(uuid4())]}, "evaluations"),
        ({"evaluations": ["a", "b"], "seed": -1}, "seed"),
        ({"evaluations": ["a", "b"], "seed": 2**31}, "seed"),
        ({"evaluations": ["a", "b"], "seed": True}, "seed"),
        ({"evaluations": ["a", "b"], "left": "a"}, "left"),
    ],
)
def test_a_round_that_cannot_be_is_refused(api: APIClient, body: dict[str, Any], field: str):
    response = api.post(URL, body, format="json")
    assert response.status_code == 400
    assert field in response.json()
    assert not VoteRound.objects.exists()


def test_a_vote_that_cannot_be_is_refused(api: APIClient, started: dict[str, Any]):
    url = f"{URL}/{started['id']}/votes"
    question = api.get(f"{URL}/{started['id']}/next").json()["question"]
    for body in ({}, {"question": question}, {"question": question, "choice": "3"},
                 {"question": question, "choice": 1}, {"question": 1, "choice": "1"},
                 {"question": "\x00", "choice": "1"}, [], None):  # fmt: skip
        assert api.post(url, body, format="json").status_code == 400
    strange = {"question": "f" * 64, "choice": "1"}
    assert api.post(url, strange, format="json").status_code == 404
    assert api.get(f"{URL}/{uuid4()}").status_code == 404
    assert api.get(f"{URL}/x").status_code == 422
    assert not Vote.objects.exists()


def test_a_vote_on_what_is_gone_is_refused(
    api: APIClient, started: dict[str, Any], runs: list[Run], user: User
):
    url = f"{URL}/{started['id']}"
    vote = {"question": api.get(f"{url}/next").json()["question"], "choice": "1"}
    (run_folder(runs[0]) / names.ITEMS).unlink()

    refused = api.post(f"{url}/votes", vote, format="json")
    assert (refused.status_code, "erased or changed" in refused.json()["detail"]) == (409, True)
    assert api.get(f"{url}/next").json()["gone"] == 40
    trash_run(run=runs[1], by=user)
    assert api.post(f"{url}/votes", vote, format="json").status_code == 409
    assert api.get(f"{url}/next").status_code == 409
    assert api.get(url).status_code == 200
    assert not Vote.objects.exists()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"name": "a b", "version": "v1"}, 400),
        ({"name": "a", "version": ""}, 400),
        ({"name": "a", "version": "v1", "per": "voter"}, 400),
        ({"name": "a", "version": "v1"}, 409),
    ],
)
def test_a_dataset_that_cannot_be_is_refused(
    api: APIClient, started: dict[str, Any], body: dict[str, Any], status: int
):
    assert api.post(f"{URL}/{started['id']}/dataset", body, format="json").status_code == status
