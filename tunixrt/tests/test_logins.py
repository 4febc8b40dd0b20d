"""Login attempts are limited for an account from an address, and for an address; and recorded
without end to the record."""

import re
from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tunixrt.client_address import client_network, lies_in
from tunixrt.models import LoginAttempts
from tunixrt.tests.clients import FAR_AWAY

pytestmark = pytest.mark.django_db
RIGHT = "the right pass phrase"
PAGES = ["/login", "/admin/login/"]


@pytest.fixture(autouse=True)
def _quick_hashes(settings: LazySettings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.TUNIXRT_LOGIN_ATTEMPTS, settings.TUNIXRT_LOGIN_ATTEMPTS_PER_ADDRESS = 3, 8


@pytest.fixture
def somebody(user: User) -> User:
    user.set_password(RIGHT)
    user.save()
    return user


def log_in(
    password: str = "a wrong one",
    name: str = "somebody",
    address: str = FAR_AWAY,
    page: str = "/login",
    **more: str,
):
    return Client(REMOTE_ADDR=address, **more).post(page, {"username": name, "password": password})


def assert_refused(answer: HttpResponse) -> None:
    assert answer.status_code == 429
    assert 800 < int(answer["Retry-After"]) <= 900
    assert "Too many attempts to log in. Try again in 15 minutes." in answer.content.decode()


@pytest.mark.parametrize("page", PAGES)
def test_after_some_failures_not_even_the_right_password_is_looked_at(somebody: User, page: str):
    for _ in range(3):
        assert log_in(page=page).status_code == 200

    with CaptureQueriesContext(connection) as captured:
        assert_refused(log_in(RIGHT, page=page))
    assert not [query for query in captured.captured_queries if "auth_user" in query["sql"]]

    for other in PAGES:
        assert_refused(log_in(RIGHT, page=other))


def test_the_same_account_elsewhere_and_others_here_go_on(somebody: User):
    User.objects.create_user("another", password=RIGHT)
    for _ in range(4):
        log_in()

    assert log_in(RIGHT, address="192.0.2.2").status_code == 302
    assert log_in(RIGHT, name="another").status_code == 302


def test_a_login_takes_its_failures_back(somebody: User):
    for _ in range(5):
        for _ in range(2):
            assert log_in().status_code == 200
        assert log_in(RIGHT).status_code == 302
        # the address's own limit is not in question
        LoginAttempts.objects.exclude(count=0).filter(count__gte=6).update(count=0)


def test_an_address_that_tries_many_names_is_refused(somebody: User):
    for number in range(8):
        assert log_in(name=f"name-{number}").status_code == 200
    assert_refused(log_in(name="one-more"))
    assert_refused(log_in(RIGHT))


def test_unknown_names_are_counted_like_known_ones(db: None):
    for _ in range(3):
        assert log_in(name="nobody-here").status_code == 200
    assert_refused(log_in(name="nobody-here"))


def test_after_the_span_of_time_everything_is_forgotten(somebody: User):
    for _ in range(4):
        log_in()
    LoginAttempts.objects.update(until=timezone.now() - timedelta(seconds=1))

    assert log_in(RIGHT).status_code == 302
    assert not LoginAttempts.objects.filter(count__gt=0).exists()


def test_one_ipv6_network_is_one_address(somebody: User):
    for host in range(3):
        log_in(address=f"2001:db8::{host + 1}")
    assert_refused(log_in(RIGHT, address="2001:db8::ffff"))
    assert log_in(RIGHT, address="2001:db8:0:1::1").status_code == 302


def test_x_forwarded_for_counts_only_behind_a_proxy_and_only_its_last_entry(
    somebody: User, settings: LazySettings
):
    for number in range(3):
        log_in(HTTP_X_FORWARDED_FOR=f"198.51.100.{number}")
    assert_refused(log_in(HTTP_X_FORWARDED_FOR="198.51.100.9"))

    settings.TUNIXRT_BEHIND_PROXY = True
    for number in range(3):
        log_in(HTTP_X_FORWARDED_FOR=f"203.0.113.{number}, 198.51.100.1")
    assert_refused(log_in(HTTP_X_FORWARDED_FOR="203.0.113.9, 198.51.100.1"))
    assert log_in(RIGHT, HTTP_X_FORWARDED_FOR="198.51.100.2").status_code == 302


def test_names_that_nobody_can_have_are_failures_like_others(db: None):
    for name in ("x" * 5000, "a\x00b", "\ud800", "😀"):
        assert log_in(name=name.encode("utf-8", "replace").decode()).status_code == 200


def test_failures_are_in_the_audit_log_and_cannot_fill_it(somebody: User, settings: LazySettings):
    settings.TUNIXRT_LOGIN_ATTEMPTS_PER_ADDRESS = settings.TUNIXRT_LOGIN_ATTEMPTS = 1000
    for _ in range(25):
        log_in()
    for _ in range(3):
        log_in(name="nobody-here")

    said = list(
        LogEntry.objects.order_by("id").values_list(
            "user__username", "object_repr", "change_message"
        )
    )
    assert said == [
        ("somebody", "somebody", f"failed login from {FAR_AWAY}"),
        ("somebody", "somebody", f"10 failed logins within 15 minutes, the last from {FAR_AWAY}"),
    ]


def test_no_row_holds_a_name_or_an_address(somebody: User):
    log_in()
    for row in LoginAttempts.objects.all():
        assert re.fullmatch("[0-9a-f]{64}", row.bucket)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("", ""), ("unix:", "unix:"),
        ("x" * 1000, "x" * 64),
    ],
)  # fmt: skip
def test_what_tells_one_client_from_another(address: str, network: str):
    assert client_network(address) == network


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("198.51.100.7", True), ("::ffff:198.51.100.7", True), ("203.0.113.5", True),
        ("203.0.113.6", False), ("2001:db8::5", True), ("", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_networks_hold_their_addresses(address: str, inside: bool):
    assert lies_in(address, ["198.51.100.0/24", "203.0.113.5", "2001:db8::/32"]) is inside


def change_password(browser: Client, old: str, new: str = "another right pass phrase"):
    return browser.post(
        "/password", {"old_password": old, "new_password1": new, "new_password2": new}
    )


@pytest.fixture
def browser(somebody: User) -> Client:
    """Somebody's browser, in which they are logged in."""
    client = Client(REMOTE_ADDR=FAR_AWAY)
    client.force_login(somebody)
    return client


def test_guesses_of_the_old_password_count_like_logins(browser: Client, somebody: User):
    for _ in range(2):
        assert change_password(browser, "a wrong one").status_code == 200
    assert log_in().status_code == 200

    assert_refused(change_password(browser, RIGHT))
    assert_refused(log_in(RIGHT))
    somebody.refresh_from_db()
    assert somebody.check_password(RIGHT)
    assert LogEntry.objects.filter(change_message__contains="failed login").exists()


def test_the_right_old_password_takes_wrong_ones_back(browser: Client, somebody: User):
    for _ in range(2):
        for _ in range(2):
            change_password(browser, "a wrong one")
        assert change_password(browser, RIGHT, "short").status_code == 200
    assert change_password(browser, RIGHT).status_code == 302


def test_the_admin_has_no_other_page_for_it(operator: Client):
    answer = operator.get("/admin/password_change/")

    assert (answer.status_code, answer["Location"]) == (302, "/password")
