"""Local mode: who is taken for the person at this machine, and who never is."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from tunixrt.local_mode import is_loopback, local_user

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tunixrt.tests.urls")]

LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1"]
ELSEWHERE = ["192.0.2.1", "10.0.0.1", "0.0.0.0", "::", "2001:db8::1", "", "localhost", "127.0.0.1.example"]


@pytest.mark.parametrize("address", LOOPBACK)
def test_a_request_from_this_machine_is_the_user_local(address: str):
    response = APIClient(REMOTE_ADDR=address).get("/api/echo")

    assert response.status_code == 200
    assert response.json() == {"user": "local"}


@pytest.mark.parametrize("address", ELSEWHERE)
def test_a_request_from_elsewhere_must_log_in(address: str):
    response = APIClient(REMOTE_ADDR=address).get("/api/echo")

    assert response.status_code == 401
    assert response.json() == {"detail": "Authentication credentials were not provided."}
    assert response["WWW-Authenticate"] == "Token"


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_behind_a_proxy_nobody_is_local(header: str):
    assert APIClient(REMOTE_ADDR="127.0.0.1").get("/api/echo", headers={header: "127.0.0.1"}).status_code == 401


def test_switched_off_nobody_is_local(settings):
    settings.LOCAL_MODE = False

    assert APIClient(REMOTE_ADDR="127.0.0.1").get("/api/echo").status_code == 401


def test_pages_know_the_local_user_and_nobody_else(local_client: Client, remote_client: Client):
    assert local_client.get("/page").content == b"local"
    assert remote_client.get("/page").content == b""


def test_a_login_goes_before_local_mode(local_client: Client, user: User):
    local_client.force_login(user)

    assert local_client.get("/page").content == b"somebody"
    assert local_client.get("/api/echo").json() == {"user": "somebody"}


def test_a_dead_session_cookie_does_not_lock_the_person_out(local_client: Client):
    local_client.cookies["sessionid"] = "ended-long-ago"

    assert local_client.get("/page").content == b"local"


def test_the_local_user_is_one_person_who_cannot_log_in_with_a_password():
    first, second = local_user(), local_user()

    assert first.pk == second.pk
    assert first.is_staff and first.is_superuser
    assert not first.has_usable_password()
    assert not Client().login(username="local", password="!")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "http://testserver:8001"},
        {"Origin": "null"},
    ],
)
def test_a_page_of_another_site_cannot_write(headers: dict[str, str]):
    response = APIClient(REMOTE_ADDR="127.0.0.1").post("/api/echo", {"a": 1}, format="json", headers=headers)

    assert response.status_code == 403
    assert response.json() == {"detail": "This request comes from a page of another site."}


@pytest.mark.parametrize(
    "headers", [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://testserver"}]
)
def test_programs_and_our_own_pages_can_write(headers: dict[str, str]):
    response = APIClient(REMOTE_ADDR="127.0.0.1").post("/api/echo", {"a": 1}, format="json", headers=headers)

    assert response.json() == {"user": "local", "data": {"a": 1}}


def test_a_host_name_of_another_site_is_refused(settings):
    """DNS rebinding: a page's own name that suddenly means 127.0.0.1."""
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

    assert APIClient(REMOTE_ADDR="127.0.0.1").get("/api/echo", headers={"Host": "rebound.example"}).status_code == 400


def test_a_token_is_its_owner_from_anywhere(api_token: str):
    for address in ("127.0.0.1", "192.0.2.1"):
        response = APIClient(REMOTE_ADDR=address).get("/api/echo", headers={"Authorization": f"Token {api_token}"})
        assert response.json() == {"user": "somebody"}


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1"])
def test_a_wrong_token_is_401_also_on_this_machine(address: str):
    response = APIClient(REMOTE_ADDR=address).get("/api/echo", headers={"Authorization": "Token 0123456789abcdef"})

    assert response.status_code == 401
    assert response.json() == {"detail": "Invalid token."}


def test_a_session_needs_the_csrf_token_to_write(user: User):
    client = APIClient(enforce_csrf_checks=True, REMOTE_ADDR="192.0.2.1")
    client.force_login(user)

    assert client.get("/api/echo").json() == {"user": "somebody"}
    refused = client.post("/api/echo", {}, format="json")
    assert refused.status_code == 403
    assert refused.json()["detail"].startswith("CSRF Failed")


@pytest.mark.parametrize(("address", "expected"), [*((a, True) for a in LOOPBACK), *((a, False) for a in ELSEWHERE)])
def test_is_loopback(address: str, expected: bool):
    assert is_loopback(address) is expected
