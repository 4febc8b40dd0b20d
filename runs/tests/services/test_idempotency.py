"""The same client_request_id again: the first run, nothing new, also when the requests arrive at
the same moment."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from rest_framework.test import APIClient

from runs.models import Run, RunEvent
from runs.tests.conftest import Script
from runs.tests.launching import PATIENCE

URL = "/api/tunix/run"
AT_ONCE = 50
Answer = dict[str, Any]


@pytest.fixture
def post(api: APIClient, body: Answer) -> Callable[..., Any]:
    def send(headers: dict[str, str] | None = None, query: str = "", **fields: Any) -> Any:
        return api.post(URL + query, body | fields, format="json", headers=headers or {})

    return send


@pytest.mark.django_db
class TestOneAfterTheOther:
    @pytest.mark.parametrize(
        ("headers", "fields"),
        [
            ({}, {"client_request_id": "once"}),
            ({"X-Client-Request-Id": "once"}, {}),
            ({"Idempotency-Key": "once"}, {}),
            ({"Idempotency-Key": "once"}, {"client_request_id": None}),
        ],
    )
    def test_the_first_run_is_returned(self, post, headers: dict[str, str], fields: Answer):
        first, second = (post(headers=headers, **fields) for _ in range(2))

        assert (first.status_code, second.status_code) == (202, 202)
        assert first.json() == second.json()
        assert first.json()["client_request_id"] == "once"
        assert Run.objects.count() == 1

    def test_body_and_headers_mean_the_same(self, post):
        answers = [
            post(client_request_id="once").json(),
            post(headers={"X-Client-Request-Id": "once"}).json(),
            post(headers={"Idempotency-Key": "once"}).json(),
        ]

        assert len({answer["run_id"] for answer in answers}) == 1

    @pytest.mark.parametrize(
        ("headers", "fields"),
        [
            ({"Idempotency-Key": "b"}, {"client_request_id": "a"}),
            ({"X-Client-Request-Id": "b"}, {"client_request_id": "a"}),
            ({"X-Client-Request-Id": "b", "Idempotency-Key": "c"}, {}),
        ],
    )
    def test_two_ids_in_one_request_are_400(self, post, headers: dict[str, str], fields: Answer):
        """Which of them is repeated? Taking one would start the run again for the other."""
        response = post(headers=headers, **fields)

        assert response.status_code == 400
        assert "different ids" in response.json()["client_request_id"][0]
        assert Run.objects.count() == 0

    def test_the_same_id_twice_is_one(self, post):
        ids = {"X-Client-Request-Id": "a", "Idempotency-Key": "a"}

        assert post(headers=ids, client_request_id="a").json()["client_request_id"] == "a"

    def test_the_id_of_a_run_in_the_trash_is_409(self, post, api: APIClient):
        run_id = post(client_request_id="once").json()["run_id"]
        assert api.delete(f"/api/tunix/runs/{run_id}").status_code == 200

        response = post(client_request_id="once")

        assert response.status_code == 409
        assert f"has been deleted (run {run_id})" in response.json()["detail"]

    def test_the_default_kind_by_name_is_the_same_request(self, post):
        first = post(client_request_id="once").json()

        assert post(client_request_id="once", kind="sft").json()["run_id"] == first["run_id"]

    def test_another_body_is_409_naming_the_first_run(self, post):
        first = post(client_request_id="once").json()

        response = post(client_request_id="once", num_epochs=4)

        assert response.status_code == 409
        assert response.json() == {
            "detail": (
                f"client_request_id 'once' was used for another request (run {first['run_id']})."
            )
        }
        assert Run.objects.count() == 1

    @pytest.mark.parametrize(
        "fields",
        [
            {"num_epochs": 3},
            {"output_dir": None},
            {"tags": []},
            {"dry_run": True},
            {"output_dir": ""},
        ],
    )
    def test_saying_a_default_is_the_same_body(self, post, fields: Answer):
        assert (
            post(client_request_id="once").json()["run_id"]
            == post(client_request_id="once", **fields).json()["run_id"]
        )

    def test_a_bad_body_is_400_before_anything_is_looked_up(self, post):
        post(client_request_id="once")

        assert post(client_request_id="once", num_epochs=0).status_code == 400

    def test_queued_and_not_queued_are_the_same_request(self, post):
        first = post(client_request_id="once", query="?mode=async").json()

        assert post(client_request_id="once").json()["run_id"] == first["run_id"]
        assert first["status"] == "pending"

    def test_ids_belong_to_their_person(self, post, body: Answer, staff: User):
        mine = post(client_request_id="once").json()
        other = APIClient(REMOTE_ADDR="192.0.2.1")
        other.force_authenticate(staff)

        theirs = other.post(URL, body | {"client_request_id": "once"}, format="json").json()

        assert mine["run_id"] != theirs["run_id"]

    def test_without_an_id_every_request_is_a_new_run(self, post):
        assert post().json()["run_id"] != post().json()["run_id"]

    @pytest.mark.parametrize("key", ["k", "k" * 255, "ü ✓"])
    def test_an_id_has_1_to_255_characters(self, post, key: str):
        assert post(client_request_id=key).json()["client_request_id"] == key

    @pytest.mark.parametrize("key", ["", "k" * 256, 7, [], "a\nb"])
    def test_another_id_is_400(self, post, key: Any):
        assert list(post(client_request_id=key).json()) == ["detail", "client_request_id"]

    def test_a_header_is_held_to_the_same_limits(self, post):
        assert list(post(headers={"Idempotency-Key": "k" * 256}).json()) == [
            "detail",
            "client_request_id",
        ]

    def test_an_unknown_dataset_leaves_no_trace_of_the_id(self, post):
        assert post(client_request_id="once", dataset_key="no").status_code == 404
        assert post(client_request_id="once").status_code == 202

    def test_the_folder_of_the_first_run_does_not_stand_in_the_way(self, post, scripted: Script):
        scripted(["say", "hello"])
        fields = {"client_request_id": "once", "dry_run": False, "output_dir": "mine"}

        first, second = post(**fields), post(**fields)

        assert first.json()["run_id"] == second.json()["run_id"]
        assert second.json()["status"] == "completed"


@pytest.mark.django_db(transaction=True)
class TestAtTheSameMoment:
    def rush(self, user: User, url: str, data: bytes) -> list[tuple[int, Answer]]:
        barrier = threading.Barrier(AT_ONCE, timeout=PATIENCE)
        # A server loads its middleware before it lets anybody in; django-prometheus needs that.
        APIClient().get("/healthz")

        def one(_: int) -> tuple[int, Answer]:
            client = APIClient(REMOTE_ADDR="192.0.2.1")
            client.force_authenticate(user)
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                barrier.wait()
                response = client.generic("POST", url, data, "application/json")
                return response.status_code, response.json()
            finally:
                connection.close()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, range(AT_ONCE)))

    @pytest.mark.parametrize("query", ["", "?mode=async"])
    def test_fifty_dry_runs_are_one(self, user: User, body: Answer, query: str):
        answers = self.rush(
            user, URL + query, json.dumps(body | {"client_request_id": "once"}).encode()
        )

        assert [status for status, _ in answers] == [202] * AT_ONCE
        assert len({answer["run_id"] for _, answer in answers}) == 1
        assert Run.objects.count() == 1
        assert RunEvent.objects.filter(new="pending").count() == 1

    def test_fifty_trainings_are_one(self, user: User, body: Answer, scripted: Script, output_root):
        scripted(["say", "hello"], ["steps", 5, 0.01])
        asked = body | {"client_request_id": "once", "dry_run": False, "output_dir": "mine"}

        answers = self.rush(user, URL, json.dumps(asked).encode())

        assert [status for status, _ in answers] == [202] * AT_ONCE
        assert len({answer["run_id"] for _, answer in answers}) == 1
        run = Run.objects.get()
        assert run.status == "completed"
        assert (output_root / "mine" / "stdout.log").read_text() == "hello\n"
        assert [answer["status"] for _, answer in answers].count("completed") >= 1
