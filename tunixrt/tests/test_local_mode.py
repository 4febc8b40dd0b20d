"""Local mode: who is taken for the person at this machine, and who never is."""

import os
import socket

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from tunixrt.local_mode import local_user
from tunixrt.peers import PEER_UID, is_loopback, uid_of_peer
from tunixrt.tests.clients import NEARBY

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tunixrt.tests.urls")]

LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1"]
ELSEWHERE = [
    "192.0.2.1",
    "10.0.0.1",
    "0.0.0.0",
    "::",
    "2001:db8::1",
    "",
    "localhost",
    "127.0.0.1.example",
]


@pytest.mark.parametrize("address", LOOPBACK)
def test_a_request_from_this_machine_is_the_user_local(address: str):
    response = APIClient(**NEARBY | {"REMOTE_ADDR": address}).get("/api/echo")

    assert response.status_code == 200
    assert response.json() == {"user": "local"}


@pytest.mark.parametrize("address", ELSEWHERE)
def test_a_request_from_elsewhere_must_log_in(address: str):
    response = APIClient(**NEARBY | {"REMOTE_ADDR": address}).get("/api/echo")

    assert response.status_code == 401
    assert response.json() == {"detail": "Authentication credentials were not provided."}
    assert response["WWW-Authenticate"] == "Token"


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_behind_a_proxy_nobody_is_local(header: str):
    assert APIClient(**NEARBY).get("/api/echo", headers={header: "127.0.0.1"}).status_code == 401


def test_switched_off_nobody_is_local(settings):
    settings.TUNIXRT_LOCAL_MODE = False

    assert APIClient(**NEARBY).get("/api/echo").status_code == 401


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
    response = APIClient(**NEARBY).post("/api/echo", {"a": 1}, format="json", headers=headers)

    assert response.status_code == 403
    assert response.json() == {"detail": "This request comes from a page of another site."}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://testserver"},
    ],
)
def test_programs_and_our_own_pages_can_write(headers: dict[str, str]):
    response = APIClient(**NEARBY).post("/api/echo", {"a": 1}, format="json", headers=headers)

    assert response.json() == {"user": "local", "data": {"a": 1}}


def test_a_host_name_of_another_site_is_refused(settings):
    """DNS rebinding: a page's own name that suddenly means 127.0.0.1."""
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

    assert (
        APIClient(**NEARBY).get("/api/echo", headers={"Host": "rebound.example"}).status_code == 400
    )


def test_a_token_is_its_owner_from_anywhere(api_token: str):
    for address in ("127.0.0.1", "192.0.2.1"):
        response = APIClient(**NEARBY | {"REMOTE_ADDR": address}).get(
            "/api/echo", headers={"Authorization": f"Token {api_token}"}
        )
        assert response.json() == {"user": "somebody"}


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1"])
def test_a_wrong_token_is_401_also_on_this_machine(address: str):
    response = APIClient(**NEARBY | {"REMOTE_ADDR": address}).get(
        "/api/echo", headers={"Authorization": "Token 0123456789abcdef"}
    )

    assert response.status_code == 401
    assert response.json() == {"detail": "Invalid token."}


def test_a_session_needs_the_csrf_token_to_write(user: User):
    client = APIClient(enforce_csrf_checks=True, REMOTE_ADDR="192.0.2.1")
    client.force_login(user)

    assert client.get("/api/echo").json() == {"user": "somebody"}
    refused = client.post("/api/echo", {}, format="json")
    assert refused.status_code == 403
    assert refused.json()["detail"].startswith("CSRF Failed")


@pytest.mark.parametrize(
    ("address", "expected"), [*((a, True) for a in LOOPBACK), *((a, False) for a in ELSEWHERE)]
)
def test_is_loopback(address: str, expected: bool):
    assert is_loopback(address) is expected


def test_another_account_of_this_machine_is_refused_with_the_way_out():
    stranger = {"REMOTE_ADDR": "127.0.0.1", PEER_UID: os.getuid() + 1}

    answer = APIClient(**stranger).get("/api/echo")
    page = Client(**stranger).get("/page")

    assert (answer.status_code, page.status_code) == (403, 403)
    assert "TUNIXRT_LOCAL_MODE=false" in answer.json()["detail"]
    assert "TUNIXRT_LOCAL_MODE=false" in page.content.decode()


@pytest.mark.parametrize("uid", [None, -1])
def test_a_connection_whose_account_is_not_known_is_not_local(uid: int | None):
    assert APIClient(REMOTE_ADDR="127.0.0.1", **{PEER_UID: uid}).get("/api/echo").status_code == 403


def test_another_account_with_a_token_is_the_tokens_owner(api_token: str):
    client = APIClient(REMOTE_ADDR="127.0.0.1", headers={"Authorization": f"Token {api_token}"})
    assert client.get("/api/echo").json() == {"user": "somebody"}


def test_a_deactivated_local_user_is_out_at_once_and_a_deleted_one_is_made_anew(
    local_client: Client,
):
    assert local_client.get("/api/echo").json() == {"user": "local"}

    User.objects.filter(username="local").update(is_active=False)
    assert local_client.get("/api/echo").status_code == 401

    User.objects.filter(username="local").delete()
    assert (
        local_client.post("/api/echo", {"a": 1}, content_type="application/json").json()["user"]
        == "local"
    )


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_the_kernel_tells_whose_connection_it_is_while_it_is_open(
    family: socket.AddressFamily, host: str
):
    with socket.socket(family) as listening, socket.socket(family) as client:
        listening.bind((host, 0))
        listening.listen()
        client.connect(listening.getsockname())
        ends = [f"[{host}]:{end.getsockname()[1]}" for end in (client, listening)]
        accepted, _ = listening.accept()
        with accepted:
            assert uid_of_peer(*ends) == os.getuid()
            client.close()
            assert uid_of_peer(*ends) is None  # the kernel says root of a socket that nobody has


def test_nothing_is_known_of_a_connection_that_is_not_there():
    assert uid_of_peer("127.0.0.1:1", "127.0.0.1:2") is None
    assert uid_of_peer("somewhere", "127.0.0.1:2") is None


def test_a_token_decides_alone_who_asks_the_api(api_token: str):
    client = APIClient(**NEARBY)
    assert client.get("/api/echo", headers={"authorization": f"Token {api_token}"}).json() == {
        "user": "somebody"
    }
    for wrong in ("Token", "Token x", "token  x", "TOKEN a b"):
        assert client.get("/api/echo", headers={"authorization": wrong}).status_code == 401
    for other in ("Basic eDp4", "Tokenx", "Bearer x"):
        answer = client.get("/api/echo", headers={"authorization": other})
        assert answer.json() == {"user": "local"}


def test_a_token_on_a_page_changes_nothing(api_token: str):
    client = Client(**NEARBY, headers={"authorization": f"Token {api_token}"})
    assert client.get("/page").content == b"local"
