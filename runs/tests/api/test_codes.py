"""The codes of the contract at every path of the runs API: always JSON with `detail`, never a
redirect, never a stack trace."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from rest_framework.test import APIClient

from runs.tests.conftest import Script, Submit

pytestmark = pytest.mark.django_db
RUN_ID = "0b7e1c1e-0000-4000-8000-00000000000a"
READ = [
    "/api/tunix/runs", f"/api/tunix/runs/{RUN_ID}", f"/api/tunix/runs/{RUN_ID}/status",
    f"/api/tunix/runs/{RUN_ID}/manifest", "/api/tunix/status",
]  # fmt: skip
WRITE = [
    "/api/tunix/run",
    *(f"/api/tunix/runs/{RUN_ID}/{action}" for action in ("cancel", "retry", "extend")),
]
FAR_AWAY = "192.0.2.1"


def is_an_error(response: HttpResponse, status: int) -> bool:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    assert isinstance(response.json()["detail"], str)
    assert response.json()["detail"]
    assert b"Traceback" not in response.content
    return True


class TestWhoMayCall:
    @pytest.mark.parametrize("path", READ)
    def test_reading_needs_a_login(self, path: str):
        response = APIClient(REMOTE_ADDR=FAR_AWAY).get(path)

        assert is_an_error(response, 401)
        assert response["WWW-Authenticate"] == "Token"

    @pytest.mark.parametrize("path", WRITE)
    def test_writing_needs_a_login(self, path: str):
        assert is_an_error(APIClient(REMOTE_ADDR=FAR_AWAY).post(path, {}, format="json"), 401)

    @pytest.mark.parametrize("method", ["patch", "delete"])
    def test_changing_needs_a_login(self, method: str):
        assert is_an_error(
            getattr(APIClient(REMOTE_ADDR=FAR_AWAY), method)(f"/api/tunix/runs/{RUN_ID}"), 401
        )

    @pytest.mark.parametrize(
        "header",
        [
            "Token wrong",
            "Token",
            "Token a b",
            "Basic dTpw",
            "Bearer x",
            "Token \xff",
            "Token " + "x" * 9000,
        ],
    )
    def test_a_wrong_authorization_is_401(self, header: str):
        assert is_an_error(
            APIClient(REMOTE_ADDR=FAR_AWAY).get("/api/tunix/runs", HTTP_AUTHORIZATION=header), 401
        )

    def test_a_token_is_its_owner(self, api_token: str, body: dict[str, Any], user: User):
        client = APIClient(REMOTE_ADDR=FAR_AWAY, HTTP_AUTHORIZATION=f"Token {api_token}")

        answer = client.post("/api/tunix/run", body, format="json").json()

        assert answer["owner"] == user.username

    def test_the_token_of_somebody_who_may_not_log_in_any_more_is_401(
        self, api_token: str, user: User
    ):
        user.is_active = False
        user.save()

        assert is_an_error(
            APIClient(REMOTE_ADDR=FAR_AWAY).get(
                "/api/tunix/runs", HTTP_AUTHORIZATION=f"Token {api_token}"
            ),
            401,
        )

    def test_a_session_reads_and_writes_with_its_csrf_token(self, user: User, body: dict[str, Any]):
        client = APIClient(enforce_csrf_checks=True, REMOTE_ADDR=FAR_AWAY)
        client.force_login(user)
        assert client.get("/api/tunix/runs").status_code == 200
        assert is_an_error(client.post("/api/tunix/run", body, format="json"), 403)
        assert is_an_error(client.delete(f"/api/tunix/runs/{RUN_ID}"), 403)

        client.cookies["csrftoken"] = "x" * 32
        response = client.post(
            "/api/tunix/run", body, format="json", headers={"X-CSRFToken": "x" * 32}
        )

        assert response.status_code == 202
        assert response.json()["owner"] == user.username

    def test_on_this_machine_nobody_needs_to_log_in(
        self, local_client: Client, body: dict[str, Any]
    ):
        response = local_client.post("/api/tunix/run", body, content_type="application/json")

        assert response.status_code == 202
        assert response.json()["owner"] == "local"

    def test_a_page_of_another_site_in_a_local_browser_cannot_start_anything(
        self, local_client: Client, body: dict[str, Any]
    ):
        response = local_client.post(
            "/api/tunix/run",
            body,
            content_type="application/json",
            headers={"Origin": "http://evil.example"},
        )

        assert is_an_error(response, 403)


@pytest.mark.parametrize("path", [*READ, *WRITE])
@pytest.mark.parametrize("tail", ["/", "//", "/x/y", ".json"])
def test_paths_are_exactly_as_written(api: APIClient, path: str, tail: str):
    for method in (api.get, api.post):
        response = method(path + tail)
        if tail == ".json" and path.endswith(RUN_ID):
            assert is_an_error(response, 422 if method == api.get else 405)
        else:
            assert is_an_error(response, 404)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/tunix/run", {"POST"}),
        ("/api/tunix/runs", {"GET"}),
        (f"/api/tunix/runs/{RUN_ID}", {"GET", "PATCH", "DELETE"}),
        (f"/api/tunix/runs/{RUN_ID}/status", {"GET"}),
        (f"/api/tunix/runs/{RUN_ID}/manifest", {"GET"}),
        (f"/api/tunix/runs/{RUN_ID}/cancel", {"POST"}),
        (f"/api/tunix/runs/{RUN_ID}/retry", {"POST"}),
        (f"/api/tunix/runs/{RUN_ID}/extend", {"POST"}),
        ("/api/tunix/status", {"GET"}),
    ],
)
def test_other_methods_are_405_and_options_names_the_right_ones(
    api: APIClient, path: str, allowed: set[str]
):
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
        assert is_an_error(api.generic(method, path), 405)
    named = api.options(path)["Allow"].replace(" ", "").split(",")
    assert set(named) - {"HEAD", "OPTIONS"} == allowed


@pytest.mark.parametrize("path", [*READ, *WRITE])
def test_a_type_that_nobody_writes_is_406(api: APIClient, path: str):
    method = api.post if path in WRITE else api.get
    assert is_an_error(method(path, headers={"Accept": "application/xml"}), 406)


class TestInABrowser:
    """DRF's browsable pages: every answer, errors included."""

    @pytest.mark.parametrize("path", [*READ, *WRITE])
    def test_every_path_has_a_page(self, local_client: Client, path: str):
        response = local_client.get(path, headers={"Accept": "text/html,*/*;q=0.8"})

        assert response.status_code in (200, 404, 405)
        assert response["Content-Type"] == "text/html; charset=utf-8"

    def test_a_run_is_shown(self, local_client: Client, run_dry: Callable[..., dict[str, Any]]):
        answer = run_dry(notes="<script>alert(1)</script>")

        response = local_client.get(
            f"/api/tunix/runs/{answer['run_id']}", headers={"Accept": "text/html"}
        )

        assert response.status_code == 200
        assert answer["run_id"] in response.content.decode()
        assert "<script>alert(1)</script>" not in response.content.decode()


def test_the_conflicts_of_a_state_are_409(
    api: APIClient, submit: Submit, scripted: Script, run_dry: Callable[..., dict[str, Any]]
):
    scripted()
    active, ended = submit().run_id, run_dry()["run_id"]

    assert is_an_error(api.delete(f"/api/tunix/runs/{active}"), 409)
    assert is_an_error(api.post(f"/api/tunix/runs/{active}/retry"), 409)
    assert is_an_error(api.post(f"/api/tunix/runs/{ended}/cancel"), 409)


@pytest.mark.parametrize("path", [*WRITE[1:], f"/api/tunix/runs/{RUN_ID}"])
def test_what_is_done_to_an_unknown_run_is_404(api: APIClient, path: str):
    method = api.post if path in WRITE else api.delete
    assert is_an_error(method(path), 404)


@pytest.mark.parametrize("path", WRITE)
def test_a_form_is_415_where_a_body_is_read(
    api: APIClient, path: str, run_dry: Callable[..., dict[str, Any]]
):
    path = path.replace(RUN_ID, run_dry()["run_id"])
    if not path.endswith("/cancel"):
        assert is_an_error(
            api.post(path, b"a=b", content_type="application/x-www-form-urlencoded"), 415
        )
        assert is_an_error(api.post(path, b"{", content_type="application/json"), 400)
