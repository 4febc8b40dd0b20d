"""Headers that every answer carries."""

import re

import pytest
from django.test import Client

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tunixrt.tests.urls")]


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/404",
        "/api/echo",
        "/api/no-such-route",
        "/healthz",
        "/login",
        "/admin/login/",
    ],
)
def test_every_answer_is_fenced_in(local_client: Client, path: str):
    headers = local_client.get(path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]


def test_over_tls_browsers_are_told_to_stay_there(local_client: Client, settings):
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 31_536_000

    assert local_client.get("/page")["Location"] == "https://testserver/page"
    assert re.match(
        "max-age=31536000", local_client.get("/page", secure=True)["Strict-Transport-Security"]
    )
    assert local_client.get("/healthz").status_code == 200  # a load balancer asks without TLS


def test_cookies_are_kept_from_scripts_and_other_sites(remote_client: Client, user, settings):
    user.set_password("a long enough pass phrase")
    user.save(update_fields=["password"])
    settings.SESSION_COOKIE_SECURE = True

    response = remote_client.post(
        "/login", {"username": "somebody", "password": "a long enough pass phrase"}
    )

    cookie = response.cookies["sessionid"]
    assert cookie["httponly"] and cookie["secure"]
    assert cookie["samesite"] == "Lax"
