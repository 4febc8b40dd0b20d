"""/metrics: for accounts, for addresses that the operator allows, and in local mode for this
machine."""

from collections.abc import Callable

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client

from tunixrt.models import ApiToken
from tunixrt.tests.clients import FAR_AWAY

pytestmark = pytest.mark.django_db
LOOPBACK = "127.0.0.1"


def ask(address: str = FAR_AWAY, **headers: str) -> int:
    return Client(REMOTE_ADDR=address, **headers).get("/metrics").status_code


def test_a_stranger_is_told_what_it_takes(remote_client: Client):
    answer = remote_client.get("/metrics")
    assert (answer.status_code, b"TUNIXRT_METRICS_ALLOW" in answer.content) == (403, True)


@pytest.mark.parametrize(
    "header", ["Token wrong", "Token", "Token a b", "Token \xff", "Bearer x", "x" * 10_000]
)
def test_what_is_no_token_opens_nothing(db: None, header: str):
    assert ask(HTTP_AUTHORIZATION=header) == 403


def test_a_token_of_an_active_account_opens(user: User, make_token: Callable[[User], str]):
    header = f"Token {make_token(user)}"
    assert ask(HTTP_AUTHORIZATION=header) == 200
    ApiToken.objects.all().delete()
    assert ask(HTTP_AUTHORIZATION=header) == 403


def test_a_login_opens(user: User, remote_client: Client):
    remote_client.force_login(user)
    assert remote_client.get("/metrics").status_code == 200


def test_loopback_opens_in_local_mode_only_for_every_account_of_the_machine(settings: LazySettings):
    assert ask(LOOPBACK) == 200
    assert ask(LOOPBACK, HTTP_X_FORWARDED_FOR="192.0.2.9") == 403
    settings.TUNIXRT_LOCAL_MODE = False
    assert ask(LOOPBACK) == 403


def test_allowed_addresses_open_and_a_proxy_does_not_lend_its_own(settings: LazySettings):
    settings.TUNIXRT_LOCAL_MODE = False
    settings.TUNIXRT_METRICS_ALLOW = ["198.51.100.0/24", "2001:db8::7"]
    assert [
        ask(address) for address in ("198.51.100.9", "2001:db8::7", "2001:db8::8", FAR_AWAY)
    ] == [200, 200, 403, 403]
    assert ask(FAR_AWAY, HTTP_X_FORWARDED_FOR="198.51.100.9") == 403
    settings.TUNIXRT_BEHIND_PROXY = True
    assert ask("198.51.100.1", HTTP_X_FORWARDED_FOR="192.0.2.9") == 403
    assert ask("198.51.100.1", HTTP_X_FORWARDED_FOR="198.51.100.9, 192.0.2.9") == 403
    assert ask("198.51.100.1", HTTP_X_FORWARDED_FOR="192.0.2.9, 198.51.100.9") == 200
